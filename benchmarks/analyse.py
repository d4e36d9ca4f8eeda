"""Speed and memory of landmarks, parsing and the whole analysis of a photo; ratios are measured within one run.

python -m benchmarks.analyse --threads 2 [--write]
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.io.image import read
from facewright.loading import create, load_analyser
from facewright.pipelines.demo import astronaut
from facewright.pipelines.traits import TraitReader
from facewright.processors import processors
from facewright.tasks.card import cards
from reproductions import common

from .restore import best, group_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from facewright.io.image import Photo
    from facewright.pipelines.analyse import Analyser, FaceAnalysis
    from facewright.systems.base import System

FACES = 8
TRAITS = ("fpage", "lnet_anet", "mlcr")


def has_weights(slug: str) -> bool:
    """Whether a system comes with weights; one that does not is timed with fresh ones, which costs the same."""
    return bool(cards()[slug].checkpoints)


def row(title: str, model: System, shipped: Callable[[np.ndarray], object], side: int) -> str:
    """Milliseconds a face: shipped alone and in a batch, and the same weights in plain float32."""
    crops = np.stack([np.roll(astronaut()[:256, 96:352], 3 * i, 1) for i in range(FACES)])
    crops = np.stack([np.asarray(cv2.resize(c, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for c in crops])
    plain: Any = create(model.slug, pretrained=True).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    image = plain.normalise(crops).contiguous()

    def eager() -> object:
        with torch.no_grad():
            return [plain(face[None]) for face in image]

    loop = 1000 * best(lambda: [shipped(c[None]) for c in crops]) / FACES
    batch = 1000 * best(lambda: shipped(crops)) / FACES
    slow = 1000 * best(eager) / FACES
    return f"| {title} | {slow:.1f} | {loop:.1f} | {batch:.1f} | {slow / loop:.1f} |"


def traits_of(analyser: Analyser, photo: Photo, found: list[FaceAnalysis]) -> list[str]:
    """What age, attributes, action units and expressions of a photo's faces cost beside the rest, for a page."""
    rgb, faces = photo.rgb(), [replace(face.face, pose=face.pose) for face in found]
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
    calls = {name: partial(reader.read, rgb, faces) for name, reader in readers.items()}
    ratios = together(lambda: analyser(photo), calls)
    return [
        "",
        "Processor time with age, attributes, action units and expression of the same faces, as multiples of the time",
        "without them (medians of rounds that measure all of these one after the other, so that other work on the",
        "machine weighs on all alike):",
        "",
        "| what is read | times |",
        "|---|---:|",
        *(f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()),
        "",
    ]


def together(
    base: Callable[[], object], calls: Mapping[str, Callable[[], object]], rounds: int = 9
) -> dict[str, float]:
    """(base + call) / base of each call's processor time, the median of rounds."""

    def spent(call: Callable[[], object]) -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    for call in (base, *calls.values()):
        call()
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        without = spent(base)
        for name, call in calls.items():
            ratios[name].append(1 + spent(call) / without)
    return {name: float(np.median(values)) for name, values in ratios.items()}


def main() -> None:
    options = common.options(__doc__, quick="", arms=False, threads=processors())
    chosen = options.parse_args()
    common.begin(chosen)
    landmarker: Any = create("facewarp", pretrained=True)
    landmarker.mirror = False
    parser: Any = create("segface", pretrained=True)
    rows = [
        row("landmarks, one view", landmarker, landmarker.landmarks, landmarker.preprocess.size),
        row("parsing", parser, parser.parse, parser.preprocess.size),
    ]
    analyser, photo = load_analyser(), read(group_photo())
    found = analyser(photo)
    seconds = best(lambda: analyser(photo))
    rgb, faces = photo.rgb(), [face.face for face in found]
    shares = {
        "detection": best(lambda: analyser.detector.detect(rgb)),
        "68 landmarks": best(lambda: analyser.landmarker.locate(rgb, faces)),
    }
    shares["parsing and masks"] = seconds - sum(shares.values())
    text = "\n".join(
        [
            "# Speed of the analysis",
            "",
            "```",
            f"python -m benchmarks.analyse --threads {chosen.threads} --write",
            "```",
            "",
            f"Milliseconds a face ({FACES} faces; median of nine), {chosen.threads} threads.",
            "",
            "| network | plain float32, one by one | as shipped, one by one | as shipped, batch | ratio one by one |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            f"A photo of {photo.width} × {photo.height} with {len(found)} faces found, warm: {1000 * seconds:.0f} ms",
            f"({', '.join(f'{name} {1000 * value:.0f}' for name, value in shares.items())}).",
            *traits_of(analyser, photo, found),
            f"Peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB.",
            "",
        ]
    )
    networks = ["mos", "facewarp", "segface", *filter(has_weights, TRAITS)]
    common.finish(chosen, "analyse-speed", text, networks, people=False, given=f"--threads {chosen.threads}")


if __name__ == "__main__":
    main()
