"""Every face of some photos before and after, to be looked at: input, the 256 px restorer, FaceDetail.

    python -m reproductions.facedetail.look PHOTO_OR_FOLDER … -o local/look [--weights FOLDER] [--fidelity 1]

Writes sheets of up to eight faces each; they show real people, so OUTPUT is a folder of your own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facewright import create, detect, read
from facewright.geometry.resample import crop_face

from .evaluate import inside_of

ROWS = 8
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Sheets of restored faces.")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights")
    parser.add_argument("--fidelity", type=float, default=1.0)
    options = parser.parse_args()
    files = [f for p in options.photos for f in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    model: Any = create("facedetail", pretrained=options.weights or True)
    frgp: Any = create("frgp", pretrained=True)
    small = inside_of(frgp.restore)
    options.output.mkdir(parents=True, exist_ok=True)
    lines = []
    for file in (f for f in files if f.suffix.lower() in SUFFIXES):
        rgb = read(file).rgb()
        for number, face in enumerate(detect(file)):
            crop = crop_face(rgb, face.points5, 512).image
            outputs, estimates = model.restore_with_estimate(crop[None], fidelity=options.fidelity)
            lines.append(np.hstack([crop, small(crop[None])[0], outputs[0]]))
            seen = estimates[0]
            print(
                f"{len(lines) - 1}: {file.name} face {number}, eyes {face.eye_distance:.0f} px, "
                f"detail {seen.detail:.3f}, structure {seen.structure:.2f}, PSNR {seen.psnr:.1f}, "
                f"noise {seen.noise_sigma:.1f}, reduced {seen.downscale:.1f}"
            )
    for start in range(0, len(lines), ROWS):
        sheet = np.vstack(lines[start : start + ROWS])
        cv2.imwrite(str(options.output / f"look-{start // ROWS:02d}.png"), sheet[..., ::-1])


if __name__ == "__main__":
    main()
