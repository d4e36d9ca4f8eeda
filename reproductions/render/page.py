"""A page of a hundred renders, drawn at random and not chosen: what is still unreal?

    python -m reproductions.render.page --model path/to/FaceXModel --write docs/images/renders.jpg

Without `--model` the package's own coarse face is drawn. Backgrounds are made up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from facewright.io.image import save_rgb
from facewright.render import Renderer, SceneSampler
from facewright.render.jobs import load_model

COLUMNS, ROWS = 10, 10


def main() -> None:
    options = argparse.ArgumentParser(description="A page of random renders.")
    options.add_argument("--model", default="coarse")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--size", type=int, default=192)
    options.add_argument("--write", type=Path, default=Path("renders.jpg"))
    chosen = options.parse_args()
    data = load_model(chosen.model)
    sampler, renderer = SceneSampler(data, chosen.seed, size=chosen.size), Renderer(data)
    cells = []
    for index in range(COLUMNS * ROWS):
        picture = renderer.render(sampler.scene(index)).rgb
        cells.append(np.asarray(cv2.resize(picture, (144, 144), interpolation=cv2.INTER_AREA), np.uint8))
        if (index + 1) % COLUMNS == 0:
            print(f"{index + 1} of {COLUMNS * ROWS}", flush=True)
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    save_rgb(np.vstack(rows), chosen.write, overwrite=True, quality=72)


if __name__ == "__main__":
    main()
