"""Which pixels of a face crop are restored: an oval from the landmarks, and of that only what a parser takes for face.

Hair, glasses, hats, hands and background keep their pixels; the hair of the crop can be asked for. Where the parser
sees hardly any face in the oval it is not believed: crops can be so damaged that nothing can be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..geometry.paste import border_fade, face_mask
from ..geometry.resample import resampled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..tasks.analyse import Parser

_PAIRS = ("eye", "brow", "ear")
FACE_PARTS = {
    *(f"{side}_{part}" for side in "lr" for part in _PAIRS),
    *("skin", "nose", "u_lip", "l_lip", "lips", "mouth", "teeth", "neck"),
}
LEAST_FACE = 0.4
_LENS = 0.35  # eye distances around an eye in which a lens is looked for
_GLASSES = 0.45  # mean probability there from which there is one
_EDGE = 1 / 64  # of the crop: softness of the border between face and hair


def restoring_masks(
    crops: Sequence[NDArray[np.uint8]],
    faces: Sequence[Face],
    parser: Parser | None,
    *,
    hair: bool = False,
) -> list[NDArray[np.float32]]:
    """Masks (S, S) float32 in [0, 1] of (S, S, 3) uint8 RGB crops and the faces in them, in their pixels.

    Without a parser these are ovals. With `hair` also all hair in the crop, fading out at the crop's border.
    """
    if parser is None or len(crops) == 0:
        return [face_mask(face.points5, len(crop)) for crop, face in zip(crops, faces)]
    side, own = len(crops[0]), parser.preprocess.size
    if own and side > own:  # a parser tells no more from a larger crop, and masks are soft
        small = [face.scaled(own / side) for face in faces]
        masks = restoring_masks([resampled(crop, own) for crop in crops], small, parser, hair=hair)
        return [
            np.asarray(cv2.resize(mask, (side, side), interpolation=cv2.INTER_LINEAR), np.float32) for mask in masks
        ]
    ovals = [face_mask(face.points5, len(crop)) for crop, face in zip(crops, faces)]
    probabilities = parser.probabilities(np.stack(crops), faces=faces)
    parts = _summed(probabilities, parser, FACE_PARTS)
    worn = _summed(probabilities, parser, {"eye_g"})
    parts = np.stack([part if _on_both_eyes(g, face) else part + g for part, g, face in zip(parts, worn, faces)])
    masks = [_within(oval, part) for oval, part in zip(ovals, parts)]
    if not hair:
        return masks
    hairs = _summed(probabilities, parser, {"hair"})
    return [_with_hair(mask, oval, face, strands) for mask, oval, face, strands in zip(masks, ovals, parts, hairs)]


def _summed(probabilities: NDArray[np.float32], parser: Parser, parts: set[str]) -> NDArray[np.float32]:
    """(N, C, S, S) probabilities to those of being any of `parts`, (N, S, S)."""
    chosen = [number for number, name in enumerate(parser.classes) if name in parts]
    return np.asarray(probabilities[:, chosen].sum(1), np.float32)


def _on_both_eyes(glasses: NDArray[np.float32], face: Face) -> bool:
    """Whether what a parser takes for glasses (S, S) lies on both eyes: on one of them it is that eye, badly seen."""
    rows, columns = np.indices(glasses.shape)
    reach = max(1.0, _LENS * face.eye_distance)
    lenses = [np.hypot(columns - x, rows - y) <= reach for x, y in face.points5[:2]]
    return all(lens.any() and float(glasses[lens].mean()) >= _GLASSES for lens in lenses)


def _within(oval: NDArray[np.float32], part: NDArray[np.float32]) -> NDArray[np.float32]:
    if float((oval * part).sum()) < LEAST_FACE * float(oval.sum()):
        return oval
    return np.asarray(oval * _sure(part), np.float32)


def _with_hair(
    mask: NDArray[np.float32], oval: NDArray[np.float32], face: NDArray[np.float32], hair: NDArray[np.float32]
) -> NDArray[np.float32]:
    """In the oval face and hair are one part, so that no seam of the damaged picture stays between them."""
    inside = oval * _sure(face + hair)
    around = border_fade(len(mask)) * _sure(hair)
    return np.asarray(np.maximum.reduce([mask, inside, around]), np.float32)


def _sure(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """A soft edge on the part's side: a pixel that is rather something else stays as it is."""
    soft = cv2.GaussianBlur(part, (0, 0), max(0.5, _EDGE * len(part)))
    return np.asarray(np.clip(2 * soft - 0.5, 0, 1), np.float32)
