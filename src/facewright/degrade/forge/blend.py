"""How one picture is put into another: feathered or by Poisson's equation, with the colours of what is around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from .regions import feathered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Mask = NDArray[np.float32]

Finish = Literal["feather", "poisson"]
FEATHER = 0.06
"""Width of the seam of a feathered blend, as a share of the picture's side."""


def transfer_colour(source: Image, target: Image, mask: Mask) -> Image:
    """The source with the mean and the spread that the target has under a mask, per channel of Lab (Reinhard 2001).

    Both are (H, W, 3) uint8 RGB; statistics are taken where the mask (H, W) exceeds ½. An empty mask changes nothing.
    """
    inside = mask > 0.5
    if not inside.any():
        return source
    labs = [cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32) for picture in (source, target)]
    (mean, spread), (wanted, wanted_spread) = ((lab[inside].mean(0), lab[inside].std(0)) for lab in labs)
    gain = np.clip(wanted_spread / np.maximum(spread, 1.0), 0.5, 2.0)
    moved = (labs[0] - mean) * gain + wanted
    return np.asarray(cv2.cvtColor(np.clip(moved + 0.5, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB), np.uint8)


def blend(target: Image, source: Image, mask: Mask, finish: Finish = "feather") -> tuple[Image, Mask]:
    """Put the source into the target where the mask says; the picture and the mask that was really used.

    Poisson keeps the source's gradients and takes the colours of the seam from the target (Pérez et al., 2003).
    """
    if finish == "poisson":
        return _poisson(target, source, mask)
    soft = feathered(mask, FEATHER * target.shape[0])
    return mix(target, source, soft), soft


def mix(target: Image, source: Image, alpha: Mask) -> Image:
    """Linear blend by an (H, W) weight of the source."""
    weight = alpha[..., None]
    mixed = target.astype(np.float32) * (1 - weight) + source.astype(np.float32) * weight
    return np.asarray((mixed + 0.5).clip(0, 255), np.uint8)


def _poisson(target: Image, source: Image, mask: Mask) -> tuple[Image, Mask]:
    inside = (mask > 0.5).astype(np.uint8)
    inside[:2], inside[-2:], inside[:, :2], inside[:, -2:] = 0, 0, 0, 0  # the solver needs a seam all around
    if not inside.any():
        return target.copy(), np.zeros_like(mask)
    x, y, width, height = cv2.boundingRect(inside)
    centre = (x + width // 2, y + height // 2)
    cloned = cv2.seamlessClone(source, target, inside * 255, centre, cv2.NORMAL_CLONE)
    # what OpenCV writes outside the mask is rounded anew
    return np.where(inside[..., None] > 0, cloned, target).astype(np.uint8), inside.astype(np.float32)
