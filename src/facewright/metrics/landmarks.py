"""Errors of facial landmarks, (..., K, 2) pixel coordinates against the truth, and of head pose, (..., 3) degrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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

    `normaliser` (one length, or one per face) takes the place of the inter-ocular distance: `box_size` is that of
    AFLW2000-3D and Menpo profiles, `box_diagonal` that of COFW-68 and of faces at any angle.
    """
    return float(face_errors(predicted, truth, normaliser=normaliser).mean())


def face_errors(predicted: ArrayLike, truth: ArrayLike, *, normaliser: ArrayLike | None = None) -> NDArray[np.float64]:
    """The normalised mean error of each face, (...), of which `nme` is the mean. Raises UsageError as it does."""
    lengths = interocular(truth) if normaliser is None else np.asarray(normaliser, float)
    if np.any(lengths <= 0):
        raise UsageError("the length that normalises landmark errors must be positive")
    return np.asarray(_distances(predicted, truth).mean(-1) / lengths)


def box_size(points: ArrayLike) -> NDArray[np.float64]:
    """Geometric mean of the sides of the upright box around points (..., K, 2)."""
    return np.asarray(np.sqrt(np.ptp(np.asarray(points, float), axis=-2).prod(-1)))


def box_diagonal(points: ArrayLike) -> NDArray[np.float64]:
    """Diagonal of the upright box around points (..., K, 2)."""
    return np.asarray(np.linalg.norm(np.ptp(np.asarray(points, float), axis=-2), axis=-1))


def cumulative_errors(errors: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The cumulative error distribution: for each threshold the share of faces whose error is at most that."""
    ordered = np.sort(_some_errors(errors))
    return np.asarray(np.searchsorted(ordered, np.asarray(thresholds, float), side="right") / len(ordered))


def failure_rate(errors: ArrayLike, threshold: float = 0.1) -> float:
    """Share of faces whose normalised error is above the threshold (0.08 for 300-W, 0.1 for WFLW)."""
    return float(1 - cumulative_errors(errors, threshold))


def cumulative_error_auc(errors: ArrayLike, threshold: float = 0.1) -> float:
    """Area under the cumulative error distribution from 0 to the threshold, as a share of the best possible.

    Exact: the curve is a step function, so a face of error e below the threshold t adds (t − e) / t.
    """
    if threshold <= 0:
        raise UsageError(f"the threshold of a cumulative error curve must be positive, not {threshold}")
    return float(np.clip(1 - _some_errors(errors) / threshold, 0, None).mean())


class PoseError(NamedTuple):
    """Mean absolute errors in degrees; `mean` is that of the three."""

    yaw: float
    pitch: float
    roll: float
    mean: float


def pose_error(predicted: ArrayLike, truth: ArrayLike, *, limit: float = 99.0) -> PoseError:
    """Mean absolute error of yaw, pitch and roll, (..., 3) Euler angles in degrees in one and the same convention.

    Differences go the short way round the circle. Faces whose true angles are not all within ±`limit` are left out, as
    is usual on AFLW2000-3D since Hopenet. UsageError when no face is left or the shapes differ.
    """
    p, t = (np.asarray(angles, float).reshape(-1, 3) for angles in (predicted, truth))
    if p.shape != t.shape:
        raise UsageError(f"poses must be two equal arrays (..., 3), got {np.shape(predicted)} and {np.shape(truth)}")
    counted = (np.abs(t) <= limit).all(1)
    if not counted.any():
        raise UsageError(f"no face has all its true angles within {limit:g} degrees")
    errors = np.abs((p - t + 180) % 360 - 180)[counted].mean(0)
    yaw, pitch, roll = (float(e) for e in errors)
    return PoseError(yaw, pitch, roll, float(errors.mean()))


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


def _some_errors(errors: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(errors, float).ravel()
    if len(values) == 0:
        raise UsageError("there are no errors to count")
    return values
