"""A restorer's change, taken further where it draws structure.

A network trained on the error of its answer gives the mean of all that could be there. Where an eyelid may lie a pixel
higher or lower, the mean has a softer one than either, and what was restored is hardly seen. Taking the change somewhat
further costs next to nothing in error (a quadratic is flat at its lowest point) and shows. This is done only where the
change adds detail and the face has structure: eyes, brows, lips, hair. On skin the same would raise blotches, and where
noise was taken away, it would be put back with the opposite sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Map = NDArray[np.float32]

GAIN = 0.7
"""How much of its change is added where a face has structure and nothing of it showed."""
FLAT = 9.0
"""Grey levels: standard deviation of brightness nearby at which half of that is added."""

_NEAR = 3.0  # pixels of a 512 px crop: σ within which brightness varies by structure
_AROUND = 6.0  # the same within which detail before and after is compared
_NOISE = 0.7  # σ that takes off what single pixels say
_LITTLE = 0.5  # energy of the Laplacian that counts as none


def emphasised(before: Picture, after: Picture, gain: float = GAIN) -> Picture:
    """An (S, S, 3) uint8 RGB crop that was restored, with its change to `before` taken further where it shows.

    `gain` 0 gives `after` itself. S is about 512, the size to which the distances belong.
    """
    if gain == 0:
        return after
    weight = cv2.multiply(_added_detail(before, after), _structure(after))
    change = cv2.subtract(after, before, dtype=cv2.CV_32F)
    return np.asarray(cv2.add(after, change * (gain * weight[..., None]), dtype=cv2.CV_8U), np.uint8)


def _added_detail(before: Picture, after: Picture) -> Map:
    """(S, S), 0…1: the share of the detail nearby that was not there before; 0 where there is less than before."""
    was, now = _energy(before), _energy(after)
    return np.clip(1 - (was + _LITTLE) / (now + _LITTLE), 0, 1)


def _energy(crop: Picture) -> Map:
    smooth = cv2.GaussianBlur(_luma(crop), (0, 0), _NOISE)
    return _smoothed(cv2.Laplacian(smooth, cv2.CV_32F) ** 2, _AROUND)


def _structure(crop: Picture) -> Map:
    """(S, S), 0…1: how much the brightness varies nearby."""
    luma = _luma(crop)
    variance = np.maximum(_smoothed(luma * luma, _NEAR) - _smoothed(luma, _NEAR) ** 2, 0)
    return np.asarray(variance / (variance + FLAT**2), np.float32)


def _luma(crop: Picture) -> Map:
    return cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _smoothed(values: Map, sigma: float) -> Map:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
