"""Fréchet distance between two sets of pictures, through any embedding (FID when that is Inception's)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStatistics:
    """Mean (D,) and unbiased covariance (D, D) of `count` feature vectors."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, features: ArrayLike) -> Self:
        """From (N, D) features, N ≥ 2."""
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or len(values) < 2:
            raise UsageError(f"statistics need (N, D) features with N ≥ 2, got shape {values.shape}")
        return cls(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)), len(values))

    @classmethod
    def embedded(cls, embed: Callable[[Any], Any], batches: Iterable[Any]) -> Self:
        """From batches of pictures, embedded by `embed` (batch to (n, D) array or tensor)."""
        features = [_numpy(embed(batch)) for batch in batches]
        if not features:
            raise UsageError("no pictures to compute statistics of")
        return cls.of(np.concatenate(features))


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |μa−μb|² + tr(Σa + Σb − 2(Σa Σb)^½) (Heusel et al. 2017).

    The trace of the root is taken from the symmetric Σa^½ Σb Σa^½, which stays real for singular covariances.
    """
    ma, mb = np.atleast_1d(np.asarray(mean_a, float)), np.atleast_1d(np.asarray(mean_b, float))
    ca, cb = np.atleast_2d(np.asarray(cov_a, float)), np.atleast_2d(np.asarray(cov_b, float))
    if ma.shape != mb.shape or ca.shape != cb.shape:
        raise UsageError(f"Fréchet distance of unequal dimensions {ma.shape} and {mb.shape}")
    root = _symmetric_root(ca)
    cross = np.linalg.eigvalsh(root @ cb @ root)
    trace_root = np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(0.0, ((ma - mb) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * trace_root))


def frechet_from_statistics(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance of two sets of features given by their statistics."""
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def frechet_from_features(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance of two sets of (N, D) features. Biased upwards for small N: compare equal N only."""
    return frechet_from_statistics(FeatureStatistics.of(a), FeatureStatistics.of(b))


def _symmetric_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def _numpy(features: Any) -> NDArray[np.float64]:
    values = features.detach().cpu().numpy() if hasattr(features, "detach") else features
    return np.asarray(values, dtype=np.float64)
