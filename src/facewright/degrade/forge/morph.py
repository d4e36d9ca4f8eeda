"""Face morphs by landmarks: two faces warped to one shape and blended, whole or pasted into one of them.

The usual recipe of morphing tools: 68 landmarks, eight above the brows and eight on the frame; a Delaunay triangulation
of the wanted shape; an affine map for every triangle; a blend by `alpha`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np
from scipy.spatial import Delaunay

from ...errors import UsageError
from .blend import blend, mix, transfer_colour
from .record import Forgery, check_points
from .regions import region_mask, with_forehead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Points = NDArray[np.floating]

MorphFinish = Literal["whole", "hull-feather", "hull-poisson", "hull-colour"]
ERODE = 0.02
"""By how much of the picture's side a pasted hull is smaller than the face."""


def control_points(points68: Points, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(84, 2): 68 landmarks, eight above the brows, and corners and middles of the frame."""
    bottom, right = shape[0] - 1, shape[1] - 1
    frame = [
        (x, y) for y in (0, bottom / 2, bottom) for x in (0, right / 2, right) if (x, y) != (right / 2, bottom / 2)
    ]
    points = with_forehead(points68)
    return np.concatenate([np.clip(points, 0, [right, bottom]), np.array(frame, np.float64)])


def warp(image: Image, source: NDArray[np.float64], target: NDArray[np.float64]) -> Image:
    """The picture with its `source` points (N, 2) moved to `target` points, piecewise affine, bilinear.

    The triangulation is that of the target, which must cover the picture.
    """
    height, width = image.shape[:2]
    mesh = Delaunay(target)
    ys, xs = np.mgrid[0:height, 0:width]
    pixels = np.column_stack([xs.ravel(), ys.ravel()]).astype(np.float64)
    triangle = mesh.find_simplex(pixels, tol=1e-6)
    transform = mesh.transform[triangle]
    first = np.einsum("nij,nj->ni", transform[:, :2], pixels - transform[:, 2])
    weights = np.column_stack([first, 1 - first.sum(1)])
    places = np.einsum("nk,nkd->nd", weights, source[mesh.simplices[triangle]])
    places = np.where((triangle < 0)[:, None] | ~np.isfinite(places), pixels, places).astype(np.float32)
    x, y = (places[:, axis].reshape(height, width) for axis in (0, 1))
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def morph(
    first: Image,
    first_points: Points,
    second: Image,
    second_points: Points,
    *,
    alpha: float = 0.5,
    finish: MorphFinish = "whole",
    parents: tuple[str, str] = ("first", "second"),
) -> Forgery:
    """A face between two, of pictures of one size.

    `alpha` is the second's share of shape and colours. `whole` blends everything, with ghosts around the head; the
    others warp only the first's shape into itself and paste the blended face into the first: with a feathered seam, by
    Poisson's equation, or feathered after the colours were matched.
    """
    check_points(first, first_points)
    check_points(second, second_points)
    if first.shape != second.shape:
        raise UsageError(f"a morph needs pictures of one size, not {first.shape[:2]} and {second.shape[:2]}")
    if finish not in get_args(MorphFinish):
        raise UsageError(f"unknown finish {finish!r}; choose from {', '.join(get_args(MorphFinish))}")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha {alpha} is not between 0 and 1")
    shape = first.shape[:2]
    ends = [control_points(points, shape) for points in (first_points, second_points)]
    wanted = (1 - alpha) * ends[0] + alpha * ends[1]
    if finish == "whole":
        warped = [warp(image, points, wanted) for image, points in zip((first, second), ends)]
        blended = mix(warped[0], warped[1], np.full(shape, alpha, np.float32))
        return Forgery(blended, np.ones(shape, np.float32), "morph-whole", parents)
    own, other = warp(first, ends[0], wanted), warp(second, ends[1], wanted)
    hull = _eroded(region_mask(wanted[:68], "face", shape))
    if finish == "hull-colour":
        other = transfer_colour(other, own, hull)
    face = mix(own, other, np.full(shape, alpha, np.float32))
    image, mask = blend(own, face, hull, "poisson" if finish == "hull-poisson" else "feather")
    return Forgery(image, mask, f"morph-{finish}", parents)


def _eroded(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    reach = max(1, round(ERODE * mask.shape[0]))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.erode(mask, kernel), np.float32)
