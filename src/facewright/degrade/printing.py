"""What film, print and scanner do to a picture: grain, the dots of a printing screen, and sharpening.

Pictures are (H, W, 3) float32 RGB in [0, 1]; nothing is random beyond the seeds of the records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .colour import luma

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .record import Grain, Halftone, Sharpening

_SCREEN_TURN = np.pi / 6  # between the screens of two inks, so that their dots do not beat
_DOT_EDGE = 0.18  # softness of a dot's edge, in tone


def add_grain(image: NDArray[np.float32], grain: Grain) -> NDArray[np.float32]:
    """Grey noise in clumps, strongest in the mid-tones."""
    noise = np.random.default_rng(grain.seed).standard_normal(image.shape[:2], dtype=np.float32)
    if grain.size > 0.2:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain.size), np.float32)
        noise /= max(float(noise.std()), 1e-6)
    tone = luma(image)
    strength = np.float32(grain.sigma / 255) * (np.float32(0.5) + 2 * tone * (1 - tone))
    return np.clip(image + strength * noise[..., None], 0, 1).astype(np.float32)


def screen(image: NDArray[np.float32], halftone: Halftone) -> NDArray[np.float32]:
    """The picture in dots whose area follows the tone, blended with itself."""
    source = np.repeat(luma(image), 3, axis=2) if halftone.grey else image
    turns = (0.0, 0.0, 0.0) if halftone.grey else (0.0, _SCREEN_TURN, 2 * _SCREEN_TURN)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    out = np.empty_like(image)
    for channel, turn in enumerate(turns):
        cos, sin = np.cos(halftone.angle + turn), np.sin(halftone.angle + turn)
        frequency = np.float32(2 * np.pi / halftone.pitch)
        u, v = frequency * (columns * cos + rows * sin), frequency * (rows * cos - columns * sin)
        threshold = np.float32(0.5) + np.float32(0.25) * (np.cos(u) + np.cos(v))
        out[..., channel] = np.clip((source[..., channel] - threshold) / np.float32(2 * _DOT_EDGE) + 0.5, 0, 1)
    if halftone.grey:  # the colour of a tinted print stays
        out = np.clip(image + (out - source), 0, 1)
    return np.asarray(image + np.float32(halftone.ink) * (out - image), np.float32)


def sharpen(image: NDArray[np.float32], sharpening: Sharpening) -> NDArray[np.float32]:
    """Unsharp masking, with the bright and dark seams it leaves along edges."""
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), sharpening.sigma), np.float32)
    return np.clip(image + np.float32(sharpening.amount) * (image - soft), 0, 1).astype(np.float32)
