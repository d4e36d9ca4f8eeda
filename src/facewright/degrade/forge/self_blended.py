"""Self-blended images (Shiohara and Yamasaki, CVPR 2022): a face blended with a changed copy of itself.

Nothing but the traces of blending tells such a picture from a real one, so a detector that is taught with them looks
for these traces and not for one generator's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .blend import mix
from .record import Forgery, check_points
from .regions import Region, union

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Mask = NDArray[np.float32]
    Points = NDArray[np.floating]

HULLS: tuple[tuple[Region, ...], ...] = (
    ("face",),
    ("inner face",),
    ("left eye", "right eye"),
    ("left eye", "right eye", "nose"),
    ("mouth",),
    ("nose", "mouth"),
    ("left eye", "right eye", "nose", "mouth"),
)
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
_SHIFT_X, _SHIFT_Y, _SCALE = 0.03, 0.015, (0.95, 1 / 0.95)
_ELASTIC, _ELASTIC_SIGMA = 50.0, 7.0


def self_blended(image: Image, points68: Points, rng: Generator, *, parent: str = "self") -> Forgery:
    """A self-blended copy of an (H, W, 3) uint8 RGB face of about 256 px."""
    check_points(image, points68)
    shape = image.shape[:2]
    mask = union(points68, HULLS[int(rng.integers(len(HULLS)))], shape)
    source, target = image, image
    if rng.random() < 0.5:
        source = changed(image, rng)
    else:
        target = changed(image, rng)
    source, mask = _moved(source, mask, rng)
    mask = softened(mask, rng) * np.float32(RATIOS[int(rng.integers(len(RATIOS)))])
    return Forgery(mix(target, source, mask), mask, "self-blended", (parent,))


def changed(image: Image, rng: Generator) -> Image:
    """The colours, and then the sharpness, of a picture changed as the paper's source-target generator does."""
    x = image.astype(np.float32)
    if rng.random() < 0.3:
        x += rng.uniform(-20, 20, 3).astype(np.float32)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(np.clip(x, 0, 255) / np.float32(255), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-15, 15)) % 360
        hsv[..., 1:] = np.clip(hsv[..., 1:] + rng.uniform(-0.15, 0.15, 2).astype(np.float32), 0, 1)
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255)
    if rng.random() < 0.5:
        x = (x - 127.5) * np.float32(1 + rng.uniform(-0.1, 0.1)) + np.float32(127.5 + 255 * rng.uniform(-0.1, 0.1))
    out = np.clip(x + 0.5, 0, 255).astype(np.uint8)
    return _coarser(out, rng) if rng.random() < 0.5 else _sharper(out, rng)


def _coarser(image: Image, rng: Generator) -> Image:
    factor = int(rng.choice((2, 4)))
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _sharper(image: Image, rng: Generator) -> Image:
    strong = image.astype(np.float32) * 2 - cv2.GaussianBlur(image, (0, 0), 1).astype(np.float32)
    return mix(
        image, np.clip(strong, 0, 255).astype(np.uint8), np.full(image.shape[:2], rng.uniform(0.2, 0.5), np.float32)
    )


def _moved(image: Image, mask: Mask, rng: Generator) -> tuple[Image, Mask]:
    """Picture and mask shifted and scaled a little, the mask's edge also bent."""
    height, width = mask.shape
    scale = rng.uniform(*_SCALE)
    shift = (rng.uniform(-_SHIFT_X, _SHIFT_X) * width, rng.uniform(-_SHIFT_Y, _SHIFT_Y) * height)
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, 0, scale)
    matrix[:, 2] += shift
    image = np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.uint8)
    mask = np.asarray(cv2.warpAffine(mask, matrix, (width, height)), np.float32)
    field = rng.uniform(-1, 1, (2, height, width)).astype(np.float32)
    dx, dy = (cv2.GaussianBlur(part, (0, 0), _ELASTIC_SIGMA) * np.float32(_ELASTIC) for part in field)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    return image, np.asarray(cv2.remap(mask, xs + dx, ys + dy, cv2.INTER_LINEAR), np.float32)


def softened(mask: Mask, rng: Generator) -> Mask:
    """A hard mask blurred twice with random widths, as the paper does: its seam lies inside the hard one."""
    height, width = mask.shape
    side = int(rng.integers(192, 257))
    small = cv2.resize(mask, (side, side))
    small = cv2.GaussianBlur(small, (_odd(rng), _odd(rng)), 0)
    small = np.asarray(np.where(small < small.max(initial=0), np.float32(0), small), np.float32)
    small = cv2.GaussianBlur(small, (_odd(rng), _odd(rng)), float(rng.uniform(5, 46)))
    peak = max(float(small.max(initial=0)), 1e-6)
    return np.asarray(cv2.resize(np.asarray(small / peak, np.float32), (width, height)), np.float32)


def _odd(rng: Generator) -> int:
    return 2 * int(rng.integers(2, 13)) + 1
