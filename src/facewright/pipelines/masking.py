"""Which pixels of a face crop are restored: an oval from the landmarks, and of that only what a parser takes for face.

Hair, glasses, hats, hands and background keep their pixels. Where the parser sees hardly any face in the oval it is
not believed: crops can be so damaged that nothing can be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..align import face_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..systems.base import Parser

_PAIRS = ("eye", "brow", "ear")
FACE_PARTS = {
    *(f"{side}_{part}" for side in "lr" for part in _PAIRS),
    *("skin", "nose", "u_lip", "l_lip", "lips", "mouth", "teeth", "neck"),
}
LEAST_FACE = 0.4
_EDGE = 1 / 64  # of the crop: softness of the border between face and hair


def restoring_masks(
    crops: Sequence[NDArray[np.uint8]], points5: Sequence[NDArray[np.floating]], parser: Parser | None
) -> list[NDArray[np.float32]]:
    """Masks (S, S) float32 in [0, 1] of (S, S, 3) uint8 RGB crops on the parser's template with points (5, 2) in them.

    Without a parser these are ovals.
    """
    ovals = [face_mask(points, len(crop)) for crop, points in zip(crops, points5)]
    if parser is None or not ovals:
        return ovals
    chosen = [number for number, name in enumerate(parser.classes) if name in FACE_PARTS]
    parts = parser.probabilities(np.stack(crops))[:, chosen].sum(1)
    return [_within(oval, part) for oval, part in zip(ovals, parts)]


def _within(oval: NDArray[np.float32], part: NDArray[np.float32]) -> NDArray[np.float32]:
    if float((oval * part).sum()) < LEAST_FACE * float(oval.sum()):
        return oval
    soft = cv2.GaussianBlur(part, (0, 0), max(0.5, _EDGE * len(part)))
    sure = np.clip(2 * soft - 0.5, 0, 1)  # a pixel that is rather something else stays as it is
    return np.asarray(oval * sure, np.float32)
