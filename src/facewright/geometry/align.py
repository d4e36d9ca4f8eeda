"""Templates, similarity fits, crops, and pasting a crop back so that nothing outside its mask changes.

Templates are five points (picture's left eye, right eye, nose tip, left and right mouth corner) normalised to the
unit square of the crop, so one template serves every crop size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UsageError
from ..face import FaceCrop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


_BORDER_FADE = 0.06  # share of the crop's side


def _template(size: float, points: list[tuple[float, float]]) -> NDArray[np.float64]:
    return np.asarray(points, dtype=np.float64) / size


TEMPLATES: dict[str, NDArray[np.float64]] = {
    # FFHQ geometry at 512, as used by GFPGAN, CodeFormer and RestoreFormer (facexlib)
    "ffhq": _template(
        512,
        [
            (192.98138, 239.94708),
            (318.90277, 240.1936),
            (256.63416, 314.01935),
            (201.26117, 371.41043),
            (313.08905, 371.15118),
        ],
    ),
    # ArcFace geometry at 112, as used by insightface, AdaFace, SFace
    "arcface": _template(
        112,
        [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    ),
}

TEMPLATES_3: dict[str, NDArray[np.float64]] = {
    # eyes and the middle of the mouth; steadier than five points on profiles (facexlib)
    "ffhq": _template(512, [(192.0, 240.0), (319.0, 240.0), (257.0, 371.0)]),
}


def template_points(name: str, size: int = 1) -> NDArray[np.float64]:
    """The (5, 2) points of a named template for a crop of `size` pixels."""
    if name not in TEMPLATES:
        raise UsageError(f"unknown alignment template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name] * size


def fit_similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """The (2, 3) similarity (rotation, scale, shift; no mirror) that best takes `source` to `target` points.

    Least squares in closed form (Umeyama 1991). Raises ValueError when the source points coincide.
    """
    src, dst = np.asarray(source, np.float64), np.asarray(target, np.float64)
    src_mean, dst_mean = src.mean(0), dst.mean(0)
    src_centred, dst_centred = src - src_mean, dst - dst_mean
    spread = float((src_centred**2).sum())
    if spread < 1e-12:
        raise ValueError("cannot fit a similarity: the source points coincide")
    cos = float((src_centred * dst_centred).sum()) / spread
    sin = float((src_centred[:, 0] * dst_centred[:, 1] - src_centred[:, 1] * dst_centred[:, 0]).sum()) / spread
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, dst_mean - linear @ src_mean])


def fit_similarity_robust(
    source: NDArray[np.floating], target: NDArray[np.floating], *, tolerance: float = 0.15
) -> NDArray[np.float64]:
    """`fit_similarity` without the worst point, when that point alone disagrees with the others.

    A point is dropped if its residual, under the fit of all other points, exceeds `tolerance` of the target's extent
    and the other points agree among themselves to within half of that. One wrong landmark (an eye behind glasses, a
    hidden mouth corner) then no longer turns the crop; noise of 2 % of the eye distance never triggers it.
    """
    src, dst = np.asarray(source, np.float64), np.asarray(target, np.float64)
    best = fit_similarity(src, dst)
    if len(src) < 4:
        return best
    limit = tolerance * float(np.ptp(dst, axis=0).max())
    ratio = 1.0
    for left_out in range(len(src)):
        keep = np.arange(len(src)) != left_out
        fit = fit_similarity(src[keep], dst[keep])
        residual = np.linalg.norm(transform_points(fit, src) - dst, axis=1)
        inner = float(residual[keep].max())
        if residual[left_out] > limit and inner < limit / 2 and inner / residual[left_out] < ratio:
            best, ratio = fit, inner / float(residual[left_out])
    return best


def transform_points(matrix: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Apply a (2, 3) affine to (..., 2) points."""
    m = np.asarray(matrix, np.float64)
    return np.asarray(points, np.float64) @ m[:, :2].T + m[:, 2]


def invert(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """The inverse of a (2, 3) affine."""
    m = np.asarray(matrix, np.float64)
    inverse = np.linalg.inv(m[:, :2])
    return np.column_stack([inverse, -inverse @ m[:, 2]])


def scale_source(matrix: NDArray[np.floating], factor: float) -> NDArray[np.float64]:
    """The photo→crop matrix for the same photo resized by `factor` (pixel centres at integers)."""
    shift = (1 / factor - 1) / 2
    to_original = np.array([[1 / factor, 0, shift], [0, 1 / factor, shift], [0, 0, 1]])
    return np.asarray(matrix @ to_original, np.float64)


def align_matrix(points5: NDArray[np.floating], size: int, template: str = "ffhq") -> NDArray[np.float64]:
    """Photo→crop similarity that puts five landmarks on a named template."""
    return fit_similarity_robust(points5, template_points(template, size))


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
    return np.asarray(_low_pass(region, 1 / scale), np.uint8), shifted


def _low_pass(image: NDArray[Any], shrink: float) -> NDArray[Any]:
    """The picture without the detail that sampling every `shrink` pixels would turn into false patterns."""
    if shrink <= 1.2:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(shrink**2 - 1)))


def _inside(matrix: NDArray[np.float64], size: int, width: int, height: int) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[0:size, 0:size]
    points = transform_points(invert(matrix), np.stack([xs, ys], -1))
    inside: NDArray[np.bool_] = (
        (points[..., 0] >= -0.5)
        & (points[..., 0] < width - 0.5)
        & (points[..., 1] >= -0.5)
        & (points[..., 1] < height - 0.5)
    )
    return inside


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
    difference = _low_pass(difference, shrink)
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
