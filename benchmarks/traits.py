"""What age, attributes, action units and expressions add to the time of analysing a photo with four faces.

python -m benchmarks.traits --threads 2 [--write]

Ratios of processor time, each from rounds that measure everything one after the other: other work on the machine, which
spoils milliseconds, weighs on all alike.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from facewright.io.image import read
from facewright.loading import create, load_analyser
from facewright.pipelines.traits import TraitReader
from facewright.processors import processors
from facewright.tasks.card import cards
from reproductions import common

from .restore import group_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRAITS = ("fpage", "lnet_anet", "mlcr")
ROUNDS = 9
MOST = 1.3
"""Times the analysis without traits, which all of them together may take."""


def has_weights(slug: str) -> bool:
    """Whether a system comes with weights; one that does not is timed with fresh ones, which costs the same."""
    return bool(cards()[slug].checkpoints)


def together(base: Callable[[], object], calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """(base + call) / base of each call's processor time, of every round."""

    def spent(call: Callable[[], object]) -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    for call in (base, *calls.values()):
        call()
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        without = spent(base)
        for name, call in calls.items():
            ratios[name].append(1 + spent(call) / without)
    return ratios


def main() -> None:
    chosen = common.options(__doc__, quick="", arms=False, threads=processors()).parse_args()
    common.begin(chosen)
    analyser, photo = load_analyser(), read(group_photo())
    found = analyser(photo)
    faces = [replace(face.face, pose=face.pose) for face in found]
    networks: list[Any] = [
        create(slug, pretrained=True) if has_weights(slug) else create(slug, preset="compact") for slug in TRAITS
    ]
    age, attributes, actions = networks
    readers = {
        "all of them": TraitReader(age, attributes, actions),
        "age": TraitReader(age=age),
        "attributes": TraitReader(attributes=attributes),
        "action units and expression": TraitReader(actions=actions),
    }
    calls = {name: partial(reader.read, photo.rgb(), faces) for name, reader in readers.items()}
    ratios = together(lambda: analyser(photo), calls)
    middle = {name: float(np.median(values)) for name, values in ratios.items()}
    everything = middle["all of them"]
    fresh = [slug for slug in TRAITS if not has_weights(slug)]
    lines = [
        "# Time of age, attributes, action units and expression",
        "",
        "```",
        f"python -m benchmarks.traits --threads {chosen.threads} --write",
        "```",
        "",
        f"Processor time of analysing a photo of {photo.width} × {photo.height} with {len(found)} faces and of reading",
        "these from the faces found, as multiples of that of the analysis alone (detection, landmarks, pose, masks):",
        f"medians of {ROUNDS} rounds, and their range.",
        "",
        *common.table(
            ["what is read", "times", "range"],
            [
                [name, f"{middle[name]:.2f}", f"{min(values):.2f} to {max(values):.2f}"]
                for name, values in ratios.items()
            ],
        ),
        "",
        *([f"Without weights in the package, and timed with fresh ones: {', '.join(fresh)}.", ""] if fresh else []),
        common.verdict(f"everything costs at most {MOST} times", everything <= MOST, f"{everything:.2f}"),
    ]
    networks_measured = ["mos", "facewarp", "segface", *filter(has_weights, TRAITS)]
    common.finish(chosen, "traits-speed", lines, networks_measured, people=False, given=f"--threads {chosen.threads}")


if __name__ == "__main__":
    main()
