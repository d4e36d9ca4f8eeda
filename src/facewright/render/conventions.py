"""What the labels and points of faces are called, and how sets of them translate: nothing here needs a renderer.

"Left" and "right" of points are the picture's, for a face seen from the front. Of classes, `l_` and `r_` are the
subject's, as in CelebAMask-HQ. Part names are those of CelebAMask-HQ with two more that other data sets tell apart:
`teeth` (part of its mouth) and `occluder` (hands and things in front of the face, its background).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EYES_68 = ((36, 42), (42, 48))
"""First and last point of each eye among the 68 of iBUG, the picture's left one first."""
CELEBAMASK_19 = (
    *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
"""Classes in the order of the labels of CelebAMask-HQ (Lee et al., MaskGAN, 2020)."""
LABELS = (*CELEBAMASK_19, "teeth", "occluder")
EASYPORTRAIT_9 = ("background", "person", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "lips", "teeth")
"""EasyPortrait, first version (Kvanchiani et al., arXiv 2304.13509)."""
LAPA_11 = (*("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair"),)
"""LaPa (Liu et al., A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing, 2020)."""

_TO_EASYPORTRAIT = dict.fromkeys(LABELS, "person") | {name: name for name in EASYPORTRAIT_9 if name in LABELS}
_TO_EASYPORTRAIT |= {"nose": "skin", "u_lip": "lips", "l_lip": "lips"}
_TO_LAPA = dict.fromkeys(LABELS, "background") | {name: name for name in LAPA_11 if name in LABELS}
_TO_LAPA |= {"eye_g": "skin", "teeth": "mouth"}
_TO_CELEBAMASK = {name: name for name in CELEBAMASK_19} | {"teeth": "mouth", "occluder": "background"}

POINTS = 98
_BROW_DROP = 0.25  # of the distance from brow to eye: how far the lower edge of a brow lies below the upper one
_FROM_68 = {
    **{2 * i: i for i in range(17)},
    **{33 + i: 17 + i for i in range(5)},
    **{42 + i: 22 + i for i in range(5)},
    **{51 + i: 27 + i for i in range(9)},
    60: 36,
    61: 37,
    63: 38,
    64: 39,
    65: 40,
    67: 41,
    68: 42,
    69: 43,
    71: 44,
    72: 45,
    73: 46,
    75: 47,
    **{76 + i: 48 + i for i in range(20)},
}
_BETWEEN = {
    **{2 * i + 1: (i, i + 1) for i in range(16)},
    62: (37, 38),
    66: (40, 41),
    70: (43, 44),
    74: (46, 47),
}


def class_table(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """(21,) for each of `LABELS` its index in one of the three sets of classes.

    Where a data set has no class of its own: EasyPortrait counts glasses, ears, hair, neck, clothes, things held before
    the face and the mouth's inside (except teeth) to the person; LaPa sees skin through glasses, and takes ears, neck,
    clothes and hats for background. Raises UsageError for other names.
    """
    tables = {CELEBAMASK_19: _TO_CELEBAMASK, EASYPORTRAIT_9: _TO_EASYPORTRAIT, LAPA_11: _TO_LAPA}
    if names not in tables:
        raise UsageError("classes must be CELEBAMASK_19, EASYPORTRAIT_9 or LAPA_11 of facewright.render.conventions")
    table = tables[names]
    return np.array([names.index("background" if n == "background" else table[n]) for n in LABELS], np.uint8)


def label_of_part(part: str) -> int:
    """Index into `LABELS` of a part's name. Raises UsageError for names that are not there."""
    if part not in LABELS:
        raise UsageError(f"no face part is called {part!r}; choose from {', '.join(LABELS)}")
    return LABELS.index(part)


@lru_cache(maxsize=1)
def weights98() -> NDArray[np.float32]:
    """(96, 68) how the 98 points of WFLW (Wu et al., Look at Boundary, 2018) follow from the 68 of iBUG.

    The last two, the pupils, are not in it: they come from the eyeballs. 68 points are the same; contour and eyes have
    further points halfway between two neighbours; the lower edge of a brow, which the 68 lack, is the line between two
    points of its upper edge, lowered by a quarter of the way to the eye.
    """
    weights = np.zeros((POINTS - 2, 68), np.float32)
    for target, source in _FROM_68.items():
        weights[target, source] = 1
    for target, pair in _BETWEEN.items():
        weights[target, list(pair)] = 0.5
    for first, brow, (start, end) in ((38, (21, 20, 19, 18, 17), EYES_68[0]), (47, (26, 25, 24, 23, 22), EYES_68[1])):
        for step in range(4):
            weights[first + step, list(brow[step : step + 2])] += 0.5 * (1 - _BROW_DROP)
            weights[first + step, start:end] += _BROW_DROP / (end - start)
    return weights


def visible98(visible68: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(96,) a point between two landmarks is visible if both are; eyes do not count for brows."""
    taken = weights98() > _BROW_DROP / 2
    return np.asarray((taken <= visible68).all(1))
