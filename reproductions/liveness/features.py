"""Features of baselines and of leak checks: textures by local binary patterns, the background, and the file itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from facewright.data.presentation import FoundFrames

    Floats = NDArray[np.float64]
    Images = NDArray[np.uint8]

_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def _uniform() -> NDArray[np.int64]:
    """Place of every pattern of 8 bits: the 58 with two changes at most around the circle, and one for all others."""
    changes = [sum((p >> i & 1) != (p >> (i + 1) % 8 & 1) for i in range(8)) for p in range(256)]
    place = np.full(256, 58)
    place[[p for p in range(256) if changes[p] <= 2]] = np.arange(58)
    return place


_PLACE = _uniform()


def binary_patterns(crops: Images, inside: NDArray[np.bool_] | None = None) -> Floats:
    """(N, S, S, 3) uint8 RGB to shares of the 59 patterns in Y, Cr and Cb, (N, 177): colour textures
    (Boulkenafet et al., ICIP 2015). With `inside` (S, S) only of pixels that are in it with all their neighbours."""
    if inside is None:
        inside = np.ones(crops.shape[1:3], bool)
    whole = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    found = np.empty((len(crops), 3, 59))
    for row, crop in enumerate(crops):
        for channel, plane in enumerate(cv2.split(cv2.cvtColor(crop, cv2.COLOR_RGB2YCrCb))):
            inner = plane[1:-1, 1:-1]
            pattern = np.zeros(inner.shape, np.uint8)
            for bit, (y, x) in enumerate(_AROUND):
                moved = plane[1 + y : plane.shape[0] - 1 + y, 1 + x : plane.shape[1] - 1 + x]
                pattern |= (moved >= inner).astype(np.uint8) << bit
            found[row, channel] = np.bincount(_PLACE[pattern[whole]], minlength=59) / whole.sum()
    return found.reshape(len(crops), -1)


def backgrounds(root: Path, found: FoundFrames, rows: NDArray[np.int64], side: int = 24) -> Floats:
    """Frames with the face and what is near it painted grey, small, as numbers (M, 3·side²)."""
    out = []
    for row in rows:
        frame = np.asarray(cv2.imread(str(root / str(found.frames[row]))))
        x0, y0, x1, y1 = found.boxes[row]
        across, down = 0.4 * (x1 - x0), 0.4 * (y1 - y0)
        top, left = max(0, int(y0 - down)), max(0, int(x0 - across))
        frame[top : int(y1 + down), left : int(x1 + across)] = 128
        out.append(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA).ravel() / 255)
    return np.array(out)


def files(root: Path, found: FoundFrames, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Width and height (M, 2), and what the codec leaves: bytes and quantisation tables (M, 3)."""
    sizes, codec = [], []
    for row in rows:
        data = (root / str(found.frames[row])).read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            tables = [float(np.mean(table)) for table in picture.quantization.values()]  # type: ignore[attr-defined]
            sizes.append(picture.size)
        codec.append([np.log(len(data)), tables[0], tables[-1]])
    return np.array(sizes, float), np.array(codec)
