"""Colour changes of a degraded picture; (H, W, 3) float32 RGB in [0, 1] in and out.

Brightness, contrast, saturation and hue follow the usual photometric definitions (blend with black, with the mean
grey, with the pixel's grey; rotation of the HSV hue).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

JITTER_STEPS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True, slots=True)
class ColourChange:
    """Drawn colour changes, applied in the order of the fields; the jitter steps in the order `steps`.

    `shift` is added to R, G, B. `brightness`, `contrast` and `saturation` are factors (1 changes nothing); `hue` is
    a rotation in turns (0 changes nothing).
    """

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    grey: bool = False
    steps: tuple[str, ...] = ()
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if unknown := set(self.steps) - set(JITTER_STEPS):
            raise UsageError(f"unknown colour steps {sorted(unknown)}; choose from {', '.join(JITTER_STEPS)}")


def change_colour(image: NDArray[np.float32], change: ColourChange) -> NDArray[np.float32]:
    """Apply drawn colour changes; clips to [0, 1] after each."""
    out = image
    if any(change.shift):
        out = np.clip(out + np.array(change.shift, dtype=np.float32), 0, 1)
    if change.grey:
        out = to_grey(out)
    for step in change.steps:
        out = _jitter(out, step, change)
    return out


def to_grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """BT.601 grey of the picture, in three equal channels."""
    return np.repeat(luma(image), 3, axis=2)


def luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 1) BT.601 luma."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None])


def _jitter(image: NDArray[np.float32], step: str, change: ColourChange) -> NDArray[np.float32]:
    if step == "brightness":
        return _blend(image, np.zeros(1, dtype=np.float32), change.brightness)
    if step == "contrast":
        return _blend(image, luma(image).mean(keepdims=True), change.contrast)
    if step == "saturation":
        return _blend(image, luma(image), change.saturation)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * change.hue) % 360
    return np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1)


def _blend(image: NDArray[np.float32], other: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    return np.clip(np.float32(factor) * image + np.float32(1 - factor) * other, 0, 1)
