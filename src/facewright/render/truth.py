"""What is known exactly about a rendered face: landmarks and whether they are seen, part labels, mouth and eyes.

Points are pixels with their centres at integers; "left" and "right" of points are the picture's, for a face seen from
the front. Of classes, `l_` and `r_` are the subject's, as in CelebAMask-HQ.
Part names are those of CelebAMask-HQ with two more that other data sets tell apart: `teeth` (part of its mouth) and
`occluder` (hands and things in front of the face, its background).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .appearance import CELEBAMASK
from .morphable import EYES_68, five_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .morphable import MorphableData
    from .rasteriser import Projected

CELEBAMASK_19 = CELEBAMASK
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

TOLERANCE = 0.0015  # metres that a point may lie behind a surface and still be seen
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
        raise UsageError("classes must be CELEBAMASK_19, EASYPORTRAIT_9 or LAPA_11 of facewright.render.truth")
    table = tables[names]
    return np.array([names.index("background" if n == "background" else table[n]) for n in LABELS], np.uint8)


def label_of_part(part: str) -> int:
    """Index into `LABELS` of a part's name. Raises UsageError for names that are not there."""
    if part not in LABELS:
        raise UsageError(f"no face part is called {part!r}; choose from {', '.join(LABELS)}")
    return LABELS.index(part)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Landmarks on the picture: `xy` (K, 2) pixels, `visible` (K,) whether nothing lies in front and it is inside."""

    xy: NDArray[np.float32]
    visible: NDArray[np.bool_]


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


def landmarks98(landmarks68: Tensor, pupils: Tensor) -> Tensor:
    """(N, 98, K) points in the order of WFLW from (N, 68, K) landmarks and (N, 2, K) pupils, left eye first."""
    return torch.cat([torch.from_numpy(weights98()).to(landmarks68) @ landmarks68, pupils], 1)


def pupil_vertices(data: MorphableData) -> NDArray[np.int64]:
    """(2,) the foremost vertex of each eyeball at rest, the picture's left eye first.

    Raises UsageError where the model has no two eyeballs.
    """
    if len(data.eyeballs) != 2:
        raise UsageError(f"the face model {data.name} has {len(data.eyeballs)} eyeballs; pupils need two")
    balls = [data.vertices_of(ball) for ball in data.eyeballs]
    foremost = [ball[data.mean[ball, 2].argmax()] for ball in balls]
    return np.array(sorted(foremost, key=lambda v: float(data.mean[v, 0])))


def seen(points: Projected, screen: Projected, triangles: Tensor, size: tuple[int, int], tolerance: float) -> Tensor:
    """(K,) bool: which of the points (1, K) lie inside the picture of `size` (width, height) with nothing in front.

    Every triangle of the projected surface (1, V) is compared at the very place of the point, so the answer does not
    depend on the resolution. A point hidden by less than `tolerance` model units counts as seen.
    """
    xy, depth = points.xy[0], points.depth[0]
    corners = screen.xy[0][triangles]
    low, high = corners.amin(1), corners.amax(1)
    (x, y), (left, top), (right, bottom) = (values.T[..., None] for values in (xy, low, high))
    near = (x >= left.T) & (x <= right.T) & (y >= top.T) & (y <= bottom.T)
    point, triangle = torch.nonzero(near, as_tuple=True)
    a, b, c = (corners[triangle] - xy[point, None]).unbind(1)
    weights = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], -1)
    area = weights.sum(-1, keepdim=True)
    weights = torch.where(area != 0, weights / area, -1.0)
    nearness = (weights / screen.depth[0][triangles[triangle]]).sum(-1)
    before = (weights >= 0).all(-1) & (nearness > 1 / (depth[point] - tolerance).clamp_min(1e-6))
    hidden = torch.zeros(len(xy), dtype=torch.bool).index_put((point[before],), torch.tensor(True))
    inside = (xy >= -0.5).all(1) & (xy < torch.tensor(size) - 0.5).all(1) & (depth > 0)
    return inside & ~hidden


def five(points68: Points) -> Points:
    """The five points of `Face.points5`; an eye, the mean of its contour, is visible if half of its contour is."""
    xy = five_points(torch.from_numpy(points68.xy)[None])[0].numpy()
    shown = torch.from_numpy(points68.visible.astype(np.float32))[None, :, None]
    return Points(xy, five_points(shown)[0, :, 0].numpy() >= 0.5)


def eye_openings(landmarks68: Tensor) -> tuple[float, float]:
    """Height over width of both eyes' openings (68, 3 or 2 coordinates), left first: 0 closed, about 0.3 open."""
    left, right = (_opening(landmarks68[start:end], (1, 5), (2, 4), (0, 3)) for start, end in EYES_68)
    return left, right


def mouth_opening(landmarks68: Tensor) -> float:
    """Gap between the lips over the width of the mouth's inside (68, 3 or 2 coordinates)."""
    return _opening(landmarks68[60:68], (1, 7), (3, 5), (0, 4))


def _opening(points: Tensor, first: tuple[int, int], second: tuple[int, int], ends: tuple[int, int]) -> float:
    gaps = [float((points[i] - points[j]).norm()) for i, j in (first, second, ends)]
    return (gaps[0] + gaps[1]) / 2 / max(gaps[2], 1e-9)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
