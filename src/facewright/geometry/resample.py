"""Cutting crops out of photos: low-passed where they shrink it, bicubic where they enlarge it.

Which crop a network sees is said by `facewright.geometry.crop.CropSpec`; here are its pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..face import FaceCrop
from .crop import align_matrix
from .similarity import fit_similarity, invert, scale_source, transform_points
from .templates import template_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def crop_face(image: NDArray[np.uint8], points5: NDArray[np.floating], size: int, template: str = "ffhq") -> FaceCrop:
    """Cut a face out of an (H, W, 3) RGB photo, turned and scaled to a template."""
    return crop_by_matrix(image, align_matrix(points5, size, template), size, template)


def crop_by_matrix(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int, template: str = "ffhq"
) -> FaceCrop:
    """Cut the crop a (2, 3) photo→crop matrix describes.

    A crop that shrinks the photo is area-averaged first (no aliasing); one that enlarges it is bicubic. Beyond the
    photo's border the picture is mirrored, and `valid` is false there.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    region, to_crop = _shrunk_region(image, matrix, size, scale)
    flags = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
    # OpenCV 5 never returns from mirroring a picture that is one pixel wide
    border = cv2.BORDER_REFLECT_101 if min(region.shape[:2]) > 1 else cv2.BORDER_REPLICATE
    out = cv2.warpAffine(region, to_crop, (size, size), flags=flags, borderMode=border)
    valid = _inside(matrix, size, image.shape[1], image.shape[0])
    return FaceCrop(np.ascontiguousarray(out), np.asarray(matrix, np.float64), template, valid)


def stretched_crop(image: NDArray[np.uint8], part: tuple[int, int, int, int], size: int) -> FaceCrop:
    """A part (x0, y0, x1, y1) of a photo, ends exclusive, resized to a square, whatever its proportions; bilinear."""
    x0, y0, x1, y1 = part
    out = cv2.resize(image[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)
    scale = size / np.array([x1 - x0, y1 - y0], np.float64)
    shift = (0.5 - np.array([x0, y0])) * scale - 0.5  # the corner of a pixel stays a corner
    matrix = np.column_stack([np.diag(scale), shift])
    return FaceCrop(np.asarray(out, np.uint8), matrix, "", np.ones((size, size), bool))


def _shrunk_region(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of the photo under the crop, low-passed when the crop shrinks it.

    It is averaged by a whole factor and smoothed for what remains of the reduction.
    """
    height, width = image.shape[:2]
    corners = transform_points(invert(matrix), np.array([[0, 0], [size, 0], [0, size], [size, size]]) - 0.5)
    margin = 4 + int(np.ceil(2 / scale))
    x0, y0 = (max(0, int(v) - margin) for v in np.floor(corners.min(0)))
    x1, y1 = (int(v) + margin for v in np.ceil(corners.max(0)))
    x1, y1 = min(width, x1), min(height, y1)
    if x1 - x0 < 1 or y1 - y0 < 1:
        x0, y0, x1, y1 = 0, 0, width, height
    region = image[y0:y1, x0:x1]
    shifted = matrix @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]])
    factor = int(1 / scale)
    if factor > 1 and min(region.shape[:2]) >= 2 * factor:
        rows, cols = region.shape[0] // factor * factor, region.shape[1] // factor * factor
        small = cv2.resize(region[:rows, :cols], (cols // factor, rows // factor), interpolation=cv2.INTER_AREA)
        region, shifted, scale = np.asarray(small, np.uint8), scale_source(shifted, 1 / factor), scale * factor
    return np.asarray(low_pass(region, 1 / scale), np.uint8), shifted


def low_pass(image: NDArray[Any], shrink: float) -> NDArray[Any]:
    """The picture without the detail that sampling every `shrink` pixels would turn into false patterns."""
    if shrink <= 1.2:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(shrink**2 - 1)))


def _inside(matrix: NDArray[np.float64], size: int, width: int, height: int) -> NDArray[np.bool_]:
    def there(points: NDArray[np.float64]) -> NDArray[np.bool_]:
        x, y = points[..., 0], points[..., 1]
        return np.asarray((x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5))

    back, last = invert(matrix), size - 1.0
    if there(transform_points(back, np.array([[0, 0], [last, 0], [0, last], [last, last]]))).all():
        return np.ones((size, size), bool)  # with its corners the whole crop is in the photo
    ys, xs = np.mgrid[0:size, 0:size]
    return there(transform_points(back, np.stack([xs, ys], -1)))


def recut(
    crops: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], template: str, size: int, source: str = "ffhq"
) -> NDArray[np.uint8]:
    """Crops (S, S, 3) aligned by the template `source` to (N, size, size, 3) aligned by another.

    For a network that wants other crops than those at hand, such as a recogniser after a restorer. What lies outside
    the crop is filled as by `crop_by_matrix`.
    """
    matrix = fit_similarity(template_points(source, len(crops[0])), template_points(template, size))
    return np.stack([crop_by_matrix(crop, matrix, size, template).image for crop in crops])


def resampled(crop: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square (S, S, 3) crop at another side, by averaging when it shrinks."""
    if crop.shape[0] == side:
        return crop
    method = cv2.INTER_AREA if side < crop.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (side, side), interpolation=method), np.uint8)
