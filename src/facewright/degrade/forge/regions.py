"""Parts of a face as masks, from 68 landmarks (iBUG order)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from ...errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.float32]
    Points = NDArray[np.floating]

Region = Literal["left eye", "right eye", "nose", "mouth", "inner face", "face"]
"""Left and right are the picture's. `inner face` ends at brows and mouth, `face` at the contour and above the brows."""

BROWS, NOSE = slice(17, 27), slice(27, 36)
LEFT_EYE, RIGHT_EYE, MOUTH = slice(36, 42), slice(42, 48), slice(48, 60)
FOREHEAD = 0.55
"""How far above the brows the forehead's points lie, in distances from the brows to the base of the nose."""
_POINTS: dict[Region, tuple[slice, ...]] = {
    "left eye": (LEFT_EYE, slice(17, 22)),
    "right eye": (RIGHT_EYE, slice(22, 27)),
    "nose": (NOSE,),
    "mouth": (MOUTH,),
    "inner face": (slice(17, 68),),
}
_MARGIN: dict[Region, float] = {"left eye": 0.08, "right eye": 0.08, "nose": 0.12, "mouth": 0.14}
"""How far an edit of a part reaches beyond its landmarks, in eye distances."""


def eye_distance(points68: Points) -> float:
    """Pixels between the centres of the eyes."""
    return float(np.hypot(*(points68[RIGHT_EYE].mean(0) - points68[LEFT_EYE].mean(0))))


def with_forehead(points68: Points) -> NDArray[np.float64]:
    """(76, 2): the 68 landmarks and eight above the brows, where landmarks end."""
    points = np.asarray(points68, np.float64)
    brows = points[BROWS]
    up = brows.mean(0) - points[33]
    taper = np.sin(np.linspace(0.35, np.pi - 0.35, 8))[:, None]
    along = np.linspace(0, 9, 8)
    base = np.column_stack([np.interp(along, np.arange(10), brows[:, axis]) for axis in (0, 1)])
    return np.concatenate([points, base + FOREHEAD * taper * up])


def region_points(points68: Points, region: Region) -> NDArray[np.float64]:
    """The landmarks that bound a part."""
    if region == "face":
        return with_forehead(points68)
    if region not in _POINTS:
        raise UsageError(f"unknown region {region!r}; choose from face, {', '.join(_POINTS)}")
    return np.concatenate([np.asarray(points68[part], np.float64) for part in _POINTS[region]])


def region_mask(points68: Points, region: Region, shape: tuple[int, int]) -> Mask:
    """(H, W) of 0 and 1: the convex hull of a part's landmarks, with a margin around eyes, nose and mouth."""
    mask = np.zeros(shape, np.float32)
    hull = cv2.convexHull(region_points(points68, region).astype(np.float32)).round().astype(np.int32)
    cv2.fillConvexPoly(mask, hull, 1.0)
    reach = round(_MARGIN.get(region, 0.0) * eye_distance(points68))
    if reach > 0:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        return np.asarray(cv2.dilate(mask, kernel), np.float32)
    return mask


def union(points68: Points, regions: tuple[Region, ...], shape: tuple[int, int]) -> Mask:
    """The parts together."""
    masks = [region_mask(points68, region, shape) for region in regions]
    return np.maximum.reduce(masks) if masks else np.zeros(shape, np.float32)


def feathered(mask: Mask, width: float) -> Mask:
    """A mask that falls from 1 inside to 0 at its edge over `width` pixels; nothing outside it is touched."""
    if width <= 0:
        return mask
    inside = (mask > 0.5).astype(np.uint8)
    framed = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.asarray(np.clip(distance / width, 0, 1), np.float32)
