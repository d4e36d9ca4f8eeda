"""Putting a changed crop back so that nothing outside its mask changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .resample import low_pass
from .similarity import invert, scale_source, transform_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..face import FaceCrop

_BORDER_FADE = 0.06  # share of the crop's side


@dataclass(frozen=True, slots=True, eq=False)
class FacePatch:
    """What restoring one face changes in a photo.

    `box` is (x0, y0, x1, y1) in whole pixels; `change` (h, w, 3) float32 is added to the sRGB photo (grey levels of
    255); `mask` (h, w) float32 in [0, 1] says how much of it, and is 0 outside the face.
    """

    box: tuple[int, int, int, int]
    change: NDArray[np.float32]
    mask: NDArray[np.float32]


def face_mask(points5: NDArray[np.floating], size: int, *, feather: float = 0.3) -> NDArray[np.float32]:
    """A soft oval over the face, (size, size) in [0, 1], from five points in crop pixels.

    It covers brow to chin and cheek to cheek and leaves most hair, ears and background alone; `feather` is the width
    of its soft edge as a share of its radius. It reaches 0 before the crop ends, so that a long face leaves no seam.
    """
    points = np.asarray(points5, np.float64)
    eyes, mouth = points[:2].mean(0), points[3:5].mean(0)
    down = mouth - eyes
    length = float(np.hypot(*down))
    if length < 1e-6:
        return np.zeros((size, size), np.float32)
    down /= length
    across = np.array([down[1], -down[0]])
    eye_distance = float(np.hypot(*(points[1] - points[0])))
    half_width, half_height = max(1.3 * eye_distance, 1.1 * length), 1.62 * length
    centre = eyes + 0.42 * length * down
    ys, xs = np.mgrid[0:size, 0:size]
    offset = np.stack([xs, ys], -1) - centre
    u, v = offset @ across / half_width, offset @ down / half_height
    radius = (np.abs(u) ** 2.4 + np.abs(v) ** 2.4) ** (1 / 2.4)
    return np.asarray(_smooth((1 - radius) / feather), np.float32) * border_fade(size)


def border_fade(size: int) -> NDArray[np.float32]:
    """A mask (size, size) of ones that falls to 0 at the border of a crop."""
    ys, xs = np.mgrid[0:size, 0:size]
    to_border = np.minimum(np.minimum(xs, ys), size - 1 - np.maximum(xs, ys)) / (_BORDER_FADE * size)
    return np.asarray(_smooth(to_border), np.float32)


def _smooth(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """0 below 0, 1 above 1, and a cubic without kinks between."""
    t = np.clip(values, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def face_patch(
    crop: FaceCrop, restored: NDArray[np.uint8], mask: NDArray[np.float32], shape: tuple[int, int], scale: float = 1.0
) -> FacePatch | None:
    """The change a restored crop makes to a photo of `shape` (height, width).

    Only the *difference* between restored and original crop travels back, so detail of the photo finer than the crop
    survives and an unchanged crop changes nothing. `scale` is the photo's enlargement since the crop was cut. None
    when the mask does not touch the photo.
    """
    matrix = scale_source(crop.matrix, scale)
    box = _mask_box(mask, matrix, shape)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    difference = restored.astype(np.float32) - crop.image.astype(np.float32)
    difference *= crop.valid[..., None]
    to_box = invert(matrix)
    to_box[:, 2] -= (x0, y0)
    shrink = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    difference = low_pass(difference, shrink)
    size = (x1 - x0, y1 - y0)
    change = cv2.warpAffine(difference, to_box, size, flags=cv2.INTER_CUBIC if shrink < 1 else cv2.INTER_LINEAR)
    soft = np.clip(cv2.warpAffine(mask, to_box, size, flags=cv2.INTER_LINEAR), 0, 1)
    return FacePatch(box, np.asarray(change, np.float32), np.asarray(soft, np.float32))


def _mask_box(
    mask: NDArray[np.float32], matrix: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    ys, xs = np.nonzero(mask > 0)
    if len(ys) == 0:
        return None
    corners = np.array(
        [(x, y) for x in (xs.min() - 1, xs.max() + 1) for y in (ys.min() - 1, ys.max() + 1)], dtype=np.float64
    )
    moved = transform_points(invert(matrix), corners)
    x0, y0 = np.maximum(np.floor(moved.min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(moved.max(0)) + 1, (shape[1], shape[0])).astype(int)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 > x0 and y1 > y0 else None


def paste_patch(image: NDArray[np.uint8], patch: FacePatch, strength: float = 1.0) -> NDArray[np.uint8]:
    """A copy of an (H, W, 3) RGB photo with a patch applied; pixels where its mask is 0 keep their bits."""
    out = image.copy()
    x0, y0, x1, y1 = patch.box
    region = out[y0:y1, x0:x1]
    weight = (patch.mask * strength)[..., None]
    changed = np.clip(region + weight * patch.change + 0.5, 0, 255).astype(np.uint8)
    np.copyto(region, changed, where=weight > 0)
    return out
