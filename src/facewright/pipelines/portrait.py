"""What a parsed portrait is good for: other backgrounds, calmer skin, whiter teeth (EasyPortrait, arXiv 2304.13509).

Every function takes an (H, W, 3) uint8 RGB picture and a soft mask (H, W) of what it is about, float in [0, 1], and
returns a new uint8 picture. Where the change has no weight (outside skin and teeth; on the person for backgrounds)
pixels keep their bits. All raise UsageError for pictures and masks of other shapes or types, and for strengths outside
[0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

SKIN_RADIUS, SKIN_CONTRAST = 0.012, 0.05
"""Blemishes to smooth: up to this share of the picture's longer side, of less contrast than this share of white."""
_LEAST_TEETH_LIGHT, _LIGHTER, _KEPT_YELLOW = 0.35, 0.2, 0.3


@dataclass(frozen=True, slots=True, eq=False)
class PortraitMasks:
    """Soft masks (H, W) float32 in [0, 1] of the whole person, of skin (without brows, eyes and lips), and of teeth."""

    person: NDArray[np.float32]
    skin: NDArray[np.float32]
    teeth: NDArray[np.float32]

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], classes: Sequence[str]) -> PortraitMasks:
        """From probabilities (C, H, W) of a parser whose classes have these names; a class it lacks has mask 0."""
        return cls(
            person=1 - class_mask(probabilities, classes, ("background",)),
            skin=class_mask(probabilities, classes, ("skin", "nose")),
            teeth=class_mask(probabilities, classes, ("teeth",)),
        )


def class_mask(
    probabilities: NDArray[np.float32], classes: Sequence[str], names: Collection[str]
) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1]: the probability that a pixel is of one of the named classes."""
    if probabilities.ndim != 3 or len(probabilities) != len(classes):
        raise UsageError(f"probabilities must be ({len(classes)}, H, W), not {probabilities.shape}")
    chosen = [index for index, name in enumerate(classes) if name in names]
    return np.asarray(np.clip(probabilities[chosen].sum(0), 0, 1), np.float32)


def remove_background(image: NDArray[np.uint8], person: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W, 4) RGBA: the picture with the person's mask as its opacity; colours are not premultiplied."""
    _check(image, person)
    opacity = np.rint(person * 255).clip(0, 255).astype(np.uint8)
    return np.dstack([image, opacity])


def replace_background(
    image: NDArray[np.uint8], person: NDArray[np.floating], backdrop: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The person before another picture (h, w, 3) uint8, which is scaled to cover and cut in its middle."""
    _check(image, person)
    if backdrop.ndim != 3 or backdrop.shape[2] != 3 or backdrop.dtype != np.uint8 or not backdrop.size:
        raise UsageError(f"the new background must be uint8 (H, W, 3), not {backdrop.dtype} {backdrop.shape}")
    return _mixed(image, _covering(backdrop, *image.shape[:2]).astype(np.float32), 1 - person)


def blur_background(
    image: NDArray[np.uint8], person: NDArray[np.floating], *, strength: float = 0.5
) -> NDArray[np.uint8]:
    """The background out of focus; `strength` 1 is a blur of 5 % of the picture's longer side.

    Only background is averaged, so that the person leaves no halo of its colours.
    """
    _check(image, person, strength)
    sigma = 0.05 * strength * max(image.shape[:2])
    if sigma < 0.1:
        return image.copy()
    weight = (1 - person).astype(np.float32)
    light = cv2.GaussianBlur(image.astype(np.float32) * weight[..., None], (0, 0), sigma)
    share = np.asarray(cv2.GaussianBlur(weight, (0, 0), sigma))[..., None]
    blurred = np.where(share > 1e-4, light / np.maximum(share, 1e-4), image)
    return _mixed(image, blurred, weight)


def smooth_skin(image: NDArray[np.uint8], skin: NDArray[np.floating], *, strength: float = 0.5) -> NDArray[np.uint8]:
    """Small blemishes of low contrast evened out by a guided filter (He, Sun, Tang, ECCV 2010); edges stay.

    `strength` 1 takes all of the filter's result, 0.5 half of it.
    """
    _check(image, skin, strength)
    radius = max(1, round(SKIN_RADIUS * max(image.shape[:2])))
    calm = _guided(image.astype(np.float32), radius, (SKIN_CONTRAST * 255) ** 2)
    return _mixed(image, calm, skin * strength)


def whiten_teeth(image: NDArray[np.uint8], teeth: NDArray[np.floating], *, strength: float = 0.5) -> NDArray[np.uint8]:
    """Teeth less yellow and a little lighter, in CIE Lab: b* down by up to 70 %, L* up by a fifth of what white lacks.

    Shadow between teeth stays as dark as it is.
    """
    _check(image, teeth, strength)
    unit = np.asarray(image, np.float32) / np.float32(255)
    light, green_red, blue_yellow = np.moveaxis(np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2LAB), np.float32), -1, 0)
    lit = np.clip((light / 100 - _LEAST_TEETH_LIGHT) / _LEAST_TEETH_LIGHT, 0, 1)
    lighter = light + _LIGHTER * (100 - light) * lit
    paler = np.where(blue_yellow > 0, blue_yellow * (1 - (1 - _KEPT_YELLOW) * lit), blue_yellow)
    white = cv2.cvtColor(np.dstack([lighter, green_red, paler]).astype(np.float32), cv2.COLOR_LAB2RGB)
    return _mixed(image, np.asarray(white, np.float32) * 255, teeth * strength)


def _mixed(image: NDArray[np.uint8], changed: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The change by its weight; pixels of weight 0 keep their bits."""
    out = image.copy()
    share = weight[..., None]
    mixed = np.rint(image + share * (changed - image)).clip(0, 255).astype(np.uint8)
    np.copyto(out, mixed, where=share > 0)
    return out


def _guided(image: NDArray[np.float32], radius: int, noise: float) -> NDArray[np.float32]:
    """Guided filter of a picture by itself, channel by channel: means where the variance is under `noise`."""

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(values, (2 * radius + 1, 2 * radius + 1)), np.float32)

    average = mean(image)
    variance = np.maximum(mean(image * image) - average * average, 0)
    slope = np.asarray(variance / (variance + noise), np.float32)
    return np.asarray(mean(slope) * image + mean(average * (1 - slope)), np.float32)


def _covering(backdrop: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of a picture, scaled so that it just fills (height, width)."""
    scale = max(height / backdrop.shape[0], width / backdrop.shape[1])
    high, wide = (max(side, round(scale * old)) for side, old in zip((height, width), backdrop.shape))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(backdrop, (wide, high), interpolation=how), np.uint8)
    top, left = (high - height) // 2, (wide - width) // 2
    return scaled[top : top + height, left : left + width]


def _check(image: NDArray[np.uint8], mask: NDArray[np.floating], strength: float = 1.0) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(f"a portrait must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if mask.shape != image.shape[:2] or not np.issubdtype(mask.dtype, np.floating):
        raise UsageError(f"a mask must be float {image.shape[:2]}, not {mask.dtype} {mask.shape}")
    if not 0 <= mask.min() <= mask.max() <= 1 or not 0 <= strength <= 1:
        raise UsageError("masks and strengths must lie in 0..1")
