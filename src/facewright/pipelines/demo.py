"""The demonstration: a real public-domain photo, an aged copy of it, and a collage of four faces, all restored.

The photo is scikit-image's `astronaut`, Eileen Collins photographed by NASA (public domain).
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..degrade import degrade_photo
from ..errors import OutputError
from ..io.image import read, save_rgb
from ..tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from .restore import RestoreResult

PORTRAIT_CROP = (slice(0, 400), slice(40, 440))
COLLAGE_TILE = 300


def astronaut() -> NDArray[np.uint8]:
    """The public-domain portrait, (512, 512, 3) uint8 RGB."""
    from skimage import data

    return np.asarray(data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]


def small_photo() -> NDArray[np.uint8]:
    """The portrait as a small web picture: less than half its size, slightly noisy, JPEG-compressed."""
    shrunk = np.asarray(cv2.resize(astronaut(), (230, 230), interpolation=cv2.INTER_AREA), np.uint8)
    return degrade_photo(shrunk, "mild", seed=5, face_size=126)[0]


def aged_photo() -> NDArray[np.uint8]:
    """The portrait as an old print: faded, scratched, soft, grainy."""
    aged, _ = degrade_photo(astronaut(), "old-photo", seed=3, face_size=280)
    return aged


def collage() -> NDArray[np.uint8]:
    """Four faces, each damaged, turned and scaled in another way."""
    portrait = astronaut()[PORTRAIT_CROP]
    tiles = []
    for index, (angle, scale, preset) in enumerate(
        [(0, 1.0, "vqfr"), (12, 0.8, "severe"), (-8, 0.6, "old-photo"), (5, 0.45, "mild")]
    ):
        source = portrait[:, ::-1] if index % 2 else portrait
        centre = (source.shape[1] / 2, source.shape[0] / 2)
        matrix = cv2.getRotationMatrix2D(centre, angle, scale * COLLAGE_TILE / source.shape[0])
        matrix = matrix + np.column_stack([np.zeros((2, 2)), COLLAGE_TILE / 2 - np.array(centre)])
        tile = cv2.warpAffine(
            source, matrix, (COLLAGE_TILE, COLLAGE_TILE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
        )
        face_size = 280 * scale * COLLAGE_TILE / source.shape[0]
        tiles.append(degrade_photo(np.asarray(tile, np.uint8), preset, seed=13 + index, face_size=face_size)[0])
    return np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])


def run_demo(folder: Path) -> Iterator[str]:
    """Restore the three pictures into a folder; yields what to tell the user, line by line."""
    from ..loading import load_pipeline

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    start = time.perf_counter()
    pipeline = load_pipeline()
    yield f"networks loaded in {time.perf_counter() - start:.2f} s: {', '.join(pipeline.models)}"
    pictures = {"photo": astronaut(), "small": small_photo(), "aged": aged_photo(), "collage": collage()}
    report = {}
    for name, pixels in pictures.items():
        save_rgb(pixels, folder / f"{name}.png", overwrite=True)
        options = RestoreOptions(upscale=2 if name == "small" else 1, old_photo=name == "aged")
        result = pipeline(read(folder / f"{name}.png"), options)
        result.save(folder / f"{name}_restored.png", overwrite=True)
        result.compare().save(folder / f"{name}_before_after.png", overwrite=True)
        report[name] = result.report()
        yield f"{name}: {describe(result)}"
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    yield f"pictures, before/after sheets and report.json are in {folder} ({time.perf_counter() - start:.1f} s in all)"


def describe(result: RestoreResult) -> str:
    """The summary and how long each stage took."""
    stages = ", ".join(f"{stage} {seconds * 1000:.0f} ms" for stage, seconds in result.seconds.items())
    return f"{result.summary} ({stages})"
