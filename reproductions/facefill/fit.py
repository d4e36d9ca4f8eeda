"""Fit the embedded FaceFill: two minutes on one core.

    python -m facewright.data.people embed ROOT -o FOUND
    python -m facewright.data.highres ROOT FOUND -o local/faces.npz
    python -m reproductions.facefill.fit local/faces.npz -o runs/facefill

Faces of the training side alone; those of which the photo shows less than most of the crop are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from facewright.data.highres import open_packed
from facewright.systems.inpaint.facefill.fitting import fit
from facewright.systems.inpaint.facefill.network import FaceFillConfig

LEAST_SHOWN = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("faces", type=Path, help="file made by facewright.data.highres")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    config = FaceFillConfig.compact()
    faces = open_packed(options.faces, "train")
    crops = []
    for number in range(len(faces)):
        image, shown = faces.face(number)
        if shown.mean() >= LEAST_SHOWN:
            crops.append(cv2.resize(image, (config.size, config.size), interpolation=cv2.INTER_AREA))
    model = fit(np.stack(crops).astype(np.uint8), config)
    model.save_pretrained(options.output)
    print(f"{options.output}: {len(crops)} faces, {config.directions} directions")


if __name__ == "__main__":
    main()
