"""Errors of facial landmarks: (..., K, 2) pixel coordinates against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

OUTER_EYES = {5: (0, 1), 68: (36, 45), 98: (60, 72)}
"""Points whose distance normalises the error, by number of points: eye centres of 5, outer eye corners of the rest."""


def landmark_distance(predicted: ArrayLike, truth: ArrayLike) -> float:
    """LMD: mean Euclidean distance in pixels over all points and faces."""
    return float(_distances(predicted, truth).mean())


def nme(predicted: ArrayLike, truth: ArrayLike, *, normaliser: ArrayLike | None = None) -> float:
    """Normalised mean error: per face the mean distance over the inter-ocular distance of the truth, then averaged.

    `normaliser` (one length, or one per face) takes the place of the inter-ocular distance.
    """
    lengths = interocular(truth) if normaliser is None else np.asarray(normaliser, float)
    if np.any(lengths <= 0):
        raise UsageError("the length that normalises landmark errors must be positive")
    return float((_distances(predicted, truth).mean(-1) / lengths).mean())


def interocular(points: ArrayLike) -> NDArray[np.float64]:
    """Distance between the eyes of (..., K, 2) points, K of 5, 68 (iBUG) or 98 (WFLW); shape (...)."""
    values = np.asarray(points, float)
    number = values.shape[-2]
    if number not in OUTER_EYES:
        raise UsageError(f"inter-ocular distance is defined for {sorted(OUTER_EYES)} points, not {number}")
    left, right = OUTER_EYES[number]
    return np.asarray(np.linalg.norm(values[..., left, :] - values[..., right, :], axis=-1))


def _distances(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    p, t = np.asarray(predicted, float), np.asarray(truth, float)
    if p.shape != t.shape or p.ndim < 2 or p.shape[-1] != 2:
        raise UsageError(f"landmarks must be two equal arrays (..., K, 2), got {p.shape} and {t.shape}")
    return np.asarray(np.linalg.norm(p - t, axis=-1))
