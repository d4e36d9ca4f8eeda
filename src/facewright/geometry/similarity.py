"""Similarities and affine maps of the plane as (2, 3) matrices, and how points follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
