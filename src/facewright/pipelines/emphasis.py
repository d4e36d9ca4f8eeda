"""A restorer's change, taken further where it draws structure.

A network trained on the error of its answer gives the mean of all that could be there. Where an eyelid may lie a pixel
higher or lower, the mean has a softer one than either, and what was restored is hardly seen. Taking the change somewhat
further costs next to nothing in error (a quadratic is flat at its lowest point) and shows. This is done only where the
change adds detail and the face has structure: eyes, brows, lips, hair. On skin the same would raise what is left of
grain, and where noise was taken away, it would be put back with the opposite sign.
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

_CELL = 4  # pixels: what is known of the surroundings of a pixel changes slowly, and is kept for cells of this side
_NEAR = 0.7  # cells of a 512 px crop: σ within which brightness varies by structure
_AROUND = 1.5  # the same within which detail before and after is compared
_NOISE = 0.7  # pixels: σ that takes off what single ones say
_LITTLE = 0.5  # energy of the Laplacian that counts as none


def emphasised(before: Picture, after: Picture, gain: float = GAIN) -> Picture:
    """An (S, S, 3) uint8 RGB crop that was restored, with its change to `before` taken further where it shows.

    `gain` 0 gives `after` itself. S is about 512, the size to which the distances belong.
    """
    if gain == 0:
        return after
    was, now = _luma(before), _luma(after)
    weight = gain * _added_detail(was, now) * _structure(now)
    weights = cv2.resize(weight, after.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    change = cv2.subtract(after, before, dtype=cv2.CV_32F)
    return np.asarray(cv2.add(after, cv2.multiply(change, cv2.merge([weights] * 3)), dtype=cv2.CV_8U), np.uint8)


def _added_detail(was: Map, now: Map) -> Map:
    """Of cells, 0…1: the share of the detail nearby that was not there before; 0 where there is less than before."""
    return np.asarray(np.clip(1 - (_energy(was) + _LITTLE) / (_energy(now) + _LITTLE), 0, 1), np.float32)


def _energy(luma: Map) -> Map:
    detail = cv2.Laplacian(cv2.GaussianBlur(luma, (0, 0), _NOISE), cv2.CV_32F)
    return _mean(np.square(detail, dtype=np.float32), _AROUND)


def _structure(luma: Map) -> Map:
    """Of cells, 0…1: how much the brightness varies nearby."""
    variance = np.maximum(_mean(np.square(luma), _NEAR) - _mean(luma, _NEAR) ** 2, 0)
    return np.asarray(variance / (variance + FLAT**2), np.float32)


def _luma(crop: Picture) -> Map:
    return cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _mean(values: Map, sigma: float) -> Map:
    """(S, S) to means of cells and what is around them."""
    size = -(-values.shape[1] // _CELL), -(-values.shape[0] // _CELL)
    return np.asarray(cv2.GaussianBlur(cv2.resize(values, size, interpolation=cv2.INTER_AREA), (0, 0), sigma))
