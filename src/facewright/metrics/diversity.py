"""How different made faces are from each other, and how much of what real faces look like they cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def same_person_share(embeddings: ArrayLike, threshold: float) -> float:
    """The share of all pairs of (N, D) unit embeddings with a cosine of at least `threshold`, N ≥ 2.

    With the threshold at which a recogniser takes two strangers for one person once in a hundred, photos of as many
    people give about 0.01; a generator that makes the same few people over and over gives more.
    """
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise UsageError(f"pairs need (N, D) embeddings with N ≥ 2, got shape {vectors.shape}")
    first, second = np.triu_indices(len(vectors), 1)
    return float((np.einsum("nd,nd->n", vectors[first], vectors[second]) >= threshold).mean())


def mean_distance(features: ArrayLike) -> float:
    """The mean Euclidean distance of all pairs of (N, D) features, N ≥ 2."""
    distances = _distances(*(_features(features),) * 2)
    return float(distances[np.triu_indices(len(distances), 1)].mean())


def precision_and_recall(real: ArrayLike, made: ArrayLike, *, neighbours: int = 3) -> tuple[float, float]:
    """Which share of the made (M, D) features lies among the real (N, D) ones, and the other way round.

    A point is among others when it is no farther from one of them than that one's `neighbours`-th nearest of its own
    kind (Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019).
    """
    a, b = _features(real), _features(made)
    if min(len(a), len(b)) <= neighbours:
        raise UsageError(f"{neighbours} neighbours need more than as many points of each kind")
    between = _distances(a, b)
    real_reach, made_reach = (np.sort(_distances(x, x), axis=1)[:, neighbours] for x in (a, b))
    precision = (between <= real_reach[:, None]).any(0).mean()
    recall = (between <= made_reach[None]).any(1).mean()
    return float(precision), float(recall)


def _features(values: ArrayLike) -> NDArray[np.float64]:
    features = np.asarray(values, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UsageError(f"features are (N, D) with N ≥ 2, not {features.shape}")
    return features


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)))
