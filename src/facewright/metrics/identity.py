"""How much two pictures show the same person, by any recogniser. Always name the recogniser beside the number.

The literature reports the same angle in three units: cosine (IDS), degrees (Deg.), radians (IDD).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..tasks.recognise import Embedder


def cosine(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Cosine of the angle between (..., D) embeddings, of any length but zero; in [-1, 1]."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape:
        raise UsageError(f"embeddings differ in shape: {x.shape} and {y.shape}")
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    if np.any(lengths == 0):
        raise UsageError("an embedding of length zero has no direction")
    return np.asarray(np.clip((x * y).sum(-1) / lengths, -1, 1))


def identity_similarity(embedder: Embedder, a: Any, b: Any) -> NDArray[np.float64]:
    """IDS: (N,) cosines between the embeddings of (N, S, S, 3) uint8 RGB crops `a` and `b`; higher is closer."""
    return cosine(embedder.embed(a), embedder.embed(b))


def identity_degrees(embedder: Embedder, a: Any, b: Any) -> NDArray[np.float64]:
    """Deg.: (N,) angles in degrees between the embeddings of crops `a` and `b`; 0 is the same face."""
    return np.degrees(identity_radians(embedder, a, b))


def identity_radians(embedder: Embedder, a: Any, b: Any) -> NDArray[np.float64]:
    """IDD: the angle in radians."""
    return np.asarray(np.arccos(identity_similarity(embedder, a, b)))
