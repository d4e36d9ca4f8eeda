"""What is known exactly about a rendered face: landmarks and whether they are seen, part labels, mouth and eyes.

Points are pixels with their centres at integers; "left" and "right" of points are the picture's, for a face seen from
the front. Names of parts and orders of points: `conventions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .conventions import EYES_68, weights98
from .morphable import five_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .morphable import MorphableData
    from .rasteriser import Projected

TOLERANCE = 0.0015  # metres that a point may lie behind a surface and still be seen


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Landmarks on the picture: `xy` (K, 2) pixels, `visible` (K,) whether nothing lies in front and it is inside."""

    xy: NDArray[np.float32]
    visible: NDArray[np.bool_]


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
