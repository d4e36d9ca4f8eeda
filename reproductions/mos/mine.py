"""Collect what the detector mistakes for faces in training pictures: `mine.py --weights FOLDER --output mined.npz`.

The crops become negatives of the second look's training (option `mined` of `facewright.data.detection:Crops`). Only
people and backgrounds of the training split are looked at.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import cv2
import numpy as np

from facewright.data.detection import FaceSource, labelled_face, load_backgrounds, visible_share
from facewright.systems.detect import refiner
from facewright.systems.detect.mos import MOS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FACTORS = (1.0, 2.0, 3.0)


def pictures(root: str | None, count: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64] | None]]:
    """Training pictures with the box of their one face, or None."""
    for background in load_backgrounds("train", root):
        yield background, None
    source = FaceSource("train", root)
    rows = source.rows[0]
    for row in rows[:: max(1, len(rows) // count)]:
        face = labelled_face(source.collections[0], int(row))
        yield face.image, face.box


def false_alarms(
    model: MOS, image: NDArray[np.uint8], box: NDArray[np.float64] | None, factor: float, threshold: float
) -> Iterator[NDArray[np.uint8]]:
    """Upright crops of the detections of an enlarged picture that do not touch its face."""
    large = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)
    for face in model.detect(large, threshold=threshold):
        found = face.scaled(1 / factor).box
        if box is None or max(visible_share(found, tuple(box)), visible_share(box, tuple(found))) < 0.3:
            yield refiner.cut(large, refiner.crop_matrix(face.points5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="folder, file or name of weights; the shipped ones when left out")
    parser.add_argument("--root", help="folder of the labelled collections (else FACEWRIGHT_DATA)")
    parser.add_argument("--output", default="mined.npz")
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--threshold", type=float, default=0.25)
    args = parser.parse_args()
    model = MOS.from_pretrained(args.weights)
    crops = []
    for number, (image, box) in enumerate(pictures(args.root, args.photos)):
        factors = FACTORS if box is None else FACTORS[number % 3 :][:1]
        for factor in factors:
            crops += list(false_alarms(model, image, box, factor, args.threshold))
    np.savez_compressed(args.output, crops=np.stack(crops))
    print(f"{len(crops)} crops in {args.output}")


if __name__ == "__main__":
    main()
