"""Speed and memory of landmarks, parsing and the whole analysis of a photo; ratios are measured within one run.

python -m benchmarks.analyse --threads 2 [--write]
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.io.image import read
from facewright.loading import create, load_analyser
from facewright.pipelines.demo import astronaut
from facewright.processors import processors
from reproductions import common

from .restore import best, group_photo

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.systems.base import System

FACES = 8


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
            f"Peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB.",
            "",
        ]
    )
    common.finish(
        chosen, "analyse-speed", text, ["mos", "facewarp", "segface"], people=False, given=f"--threads {chosen.threads}"
    )


if __name__ == "__main__":
    main()
