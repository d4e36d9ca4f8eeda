"""Embeddings per second of the shipped recogniser against the same weights in plain float32.

    python -m benchmarks.recognise --write

Both forms run in turn in one process, on crops that are cut already; the better of several runs counts. The mirror
image is part of the work in both.
"""

from __future__ import annotations

import resource
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from facewright.systems.recognise.distilledface.network import DistilledFace
from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BATCHES = (1, 32)


def plain(model: DistilledFace, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a user gets from the network without any care: float32, NCHW, batch norms apart."""
    with torch.inference_mode():
        x = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float().sub(127.5).div(127.5)
        out = model.backbone(torch.cat([x, x.flip(3)]))
        summed = out[: len(crops)] + out[len(crops) :]
        return torch.nn.functional.normalize(summed, dim=1).numpy()


def best_of(runs: int, *calls: Callable[[], object]) -> list[float]:
    """Least seconds of each call; the calls take turns so that a busy machine slows all alike."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    for _ in range(runs):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=2)
    options = parser.parse_args()
    common.begin(options)
    shipped = DistilledFace.from_pretrained()
    eager = DistilledFace.from_pretrained().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    rows = []
    for count in BATCHES:
        crops = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)
        fast, slow = best_of(40 if count == 1 else 12, partial(shipped.embed, crops), partial(plain, eager, crops))
        agreement = float((shipped.embed(crops) * plain(eager, crops)).sum(1).min())
        rows.append(f"| {count} | {count / fast:.0f} | {count / slow:.0f} | {slow / fast:.1f} | {agreement:.4f} |")
        print(rows[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = [
        "# Speed of the recogniser",
        "",
        "Made by `python -m benchmarks.recognise`.",
        "",
        f"Embeddings (with the mirror image) per second on {options.threads} threads; best of several, in",
        f"one process with a peak of {peak:.0f} MiB. *Cosine* is the worst agreement of the two forms.",
        "",
        "| batch | shipped | float32 eager | ratio | cosine |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]
    common.finish(options, "recognise-speed", lines, ["distilledface"], people=False)


if __name__ == "__main__":
    main()
