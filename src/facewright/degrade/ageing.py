"""What time does to a print or a strip of film: fading, a sepia tone, grain, scratches and dust.

Every drawn value is in the record, the marks are drawn from its seed: the same record gives the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .colour import luma

if TYPE_CHECKING:
    from numpy.typing import NDArray

Range = tuple[float, float]

SEPIA_SHADOW = np.array([0.16, 0.11, 0.07], dtype=np.float32)
SEPIA_LIGHT = np.array([1.0, 0.94, 0.80], dtype=np.float32)
FADED_BLACK, FADED_WHITE = 0.22, 0.90
SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class AgeingRange:
    """Ranges from which an ageing is drawn; see `Ageing` for the meaning of each."""

    sepia: Range = (0.6, 1.0)
    fade: Range = (0.2, 0.7)
    vignette: Range = (0.0, 0.35)
    grain: Range = (4, 12)
    scratches: Range = (3, 12)
    dust: Range = (20, 90)


@dataclass(frozen=True, slots=True)
class Ageing:
    """One drawn ageing.

    `sepia`, `fade` (lost contrast) and `vignette` (darker corners) in [0, 1]; `grain` is its standard deviation in
    grey levels of 255; `scratches` and `dust` count the marks, placed by `seed`.
    """

    sepia: float
    fade: float
    vignette: float
    grain: float
    scratches: int
    dust: int
    seed: int


def sample_ageing(ranges: AgeingRange, rng: np.random.Generator) -> Ageing:
    """Draw one ageing."""

    def draw(bounds: Range) -> float:
        return float(rng.uniform(*bounds))

    def count(bounds: Range) -> int:
        return int(rng.integers(int(bounds[0]), int(bounds[1]), endpoint=True))

    return Ageing(
        sepia=draw(ranges.sepia),
        fade=draw(ranges.fade),
        vignette=draw(ranges.vignette),
        grain=draw(ranges.grain),
        scratches=count(ranges.scratches),
        dust=count(ranges.dust),
        seed=int(rng.integers(2**31)),
    )


def age(image: NDArray[np.float32], ageing: Ageing) -> NDArray[np.float32]:
    """Age a (H, W, 3) float RGB picture in [0, 1]; returns the same shape and range."""
    rng = np.random.default_rng(ageing.seed)
    out = _sepia(image, ageing.sepia)
    out = _fade(out, ageing.fade)
    out = out * _vignette(out.shape[:2], ageing.vignette)
    out = out + _grain(out.shape[:2], ageing.grain, rng)
    out = _marked(out, _scratches(out.shape[:2], ageing.scratches, rng), FADED_WHITE)
    out = _marked(out, _dust(out.shape[:2], ageing.dust, rng), 0.15)
    return np.clip(out, 0, 1).astype(np.float32)


def _sepia(image: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    grey = luma(image)
    toned = SEPIA_SHADOW + grey * (SEPIA_LIGHT - SEPIA_SHADOW)
    return np.asarray(image + np.float32(amount) * (toned - image))


def _fade(image: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    faded = FADED_BLACK + image * (FADED_WHITE - FADED_BLACK)
    return np.asarray(image + np.float32(amount) * (faded - image))


def _vignette(shape: tuple[int, ...], amount: float) -> NDArray[np.float32]:
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    radius2 = (y[:, None] ** 2 + x[None, :] ** 2) / 2
    return np.asarray((1 - np.float32(amount) * radius2**2)[..., None])


def _grain(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Grain is grey and slightly clumped: white noise, softened, brought back to its standard deviation."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 0.7)
    return np.asarray((noise * (sigma / 255 / max(float(noise.std()), 1e-6)))[..., None], dtype=np.float32)


def _scratches(shape: tuple[int, ...], number: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Long, thin, nearly vertical lines that wander a little, as transport through rollers leaves them."""
    height, width = shape
    mask = np.zeros(shape, dtype=np.uint8)
    for _ in range(number):
        length = rng.uniform(0.15, 1.0) * height
        y = rng.uniform(-0.1, 1.0) * height + np.linspace(0, length, 12)
        x = rng.uniform(0, width) + np.cumsum(rng.normal(0, 0.004 * width, 12))
        points = np.round(np.stack([x, y], 1) * 2**SUBPIXEL_BITS).astype(np.int32)
        strength = int(rng.integers(70, 200))
        thickness = max(1, round(min(shape) * rng.uniform(0.0005, 0.003)))
        cv2.polylines(mask, [points], False, strength, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask.astype(np.float32)[..., None] / np.float32(255)


def _dust(shape: tuple[int, ...], number: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Specks and short curled hairs."""
    side = min(shape)
    mask = np.zeros(shape, dtype=np.uint8)
    for _ in range(number):
        centre = rng.uniform((0, 0), (shape[1], shape[0]))
        strength = int(rng.integers(90, 255))
        if rng.random() < 0.85:
            axes = np.maximum(1, side * rng.uniform(0.0008, 0.004, 2)).round().astype(int)
            cv2.ellipse(
                mask,
                tuple(int(v) for v in centre),
                (int(axes[0]), int(axes[1])),
                float(rng.uniform(0, 180)),
                0,
                360,
                strength,
                -1,
                cv2.LINE_AA,
            )
            continue
        bend = np.cumsum(rng.normal(0, 0.5, 14)) + rng.uniform(0, 2 * np.pi)
        step = side * rng.uniform(0.002, 0.005)
        curl = centre + np.cumsum(np.stack([np.cos(bend), np.sin(bend)], 1) * step, axis=0)
        points = np.round(curl * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(mask, [points], False, strength, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask.astype(np.float32)[..., None] / np.float32(255)


def _marked(image: NDArray[np.float32], mask: NDArray[np.float32], tone: float) -> NDArray[np.float32]:
    return np.asarray(image + mask * (np.float32(tone) - image))
