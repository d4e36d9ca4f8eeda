"""Search among templates in memory: exact for small galleries, sketches with exact re-ranking for large ones.

A sketch is the signs of random projections of a template. Two unit vectors at angle θ differ in each sign with
probability θ/π (Charikar 2002, section 3), so whoever could be the same person differs in few bits, by a known
distribution; projections that are orthogonal in groups spread less (Ji et al. 2012, super-bit LSH). Scanning the
sketches reads 48 bytes per person where exact search reads the whole template, and only those within the bound are
compared exactly.

Cell and graph indices (IVF, HNSW) were not chosen: templates of different people are spread almost evenly over the
sphere, where cells have to be opened by the hundred to find a hard match, and a graph takes minutes to build and keeps
links to who is deleted. Sketches need no training, are made and dropped row by row, and never touch the disk, so
there is no copy of a face in them to delete or to encrypt.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX_FROM = 100_000
"""Number of templates from which sketches are used."""

HARDEST_MATCH = 0.4
"""The index finds matches of this cosine or more with probability `RECALL`; below it lie other people."""

RECALL = 0.995
SKETCH_WORDS = 6
SKETCH_BITS = 64 * SKETCH_WORDS
_EXACT_ROWS = 1 << 14
_SCAN_ROWS = 1 << 17

Hits = list[tuple[int, float]]
"""(number of the template, cosine), best first."""


class Templates:
    """Unit vectors by number, searchable by cosine."""

    def __init__(self, dimension: int, *, index_from: int = INDEX_FROM) -> None:
        self._index_from = index_from
        self._projection = _projection(dimension)
        self._limit = _most_bits(HARDEST_MATCH, RECALL)
        self._ids = np.empty(0, np.int64)
        self._vectors = np.empty((0, dimension), np.float32)
        self._sketches = np.empty((SKETCH_WORDS, 0), np.uint64)
        self._rows: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def indexed(self) -> bool:
        """Whether search goes through the sketches."""
        return len(self) >= self._index_from

    def put(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace (N,) distinct templates by (N, D) unit vectors."""
        was_indexed = self.indexed
        rows = np.fromiter((self._rows.setdefault(int(i), len(self._rows)) for i in ids), np.int64, len(ids))
        self._reserve(len(self))
        self._ids[rows], self._vectors[rows] = ids, vectors
        if self.indexed:
            self._sketch(rows if was_indexed else np.arange(len(self)))

    def keep(self, ids: NDArray[np.int64]) -> None:
        """Forget every template that is not among these."""
        count = len(self)
        kept = np.flatnonzero(np.isin(self._ids[:count], ids))
        self._ids, self._vectors = self._ids[kept], self._vectors[kept]
        self._sketches = np.ascontiguousarray(self._sketches[:, kept])
        self._rows = {int(i): row for row, i in enumerate(self._ids)}

    def search(self, queries: NDArray[np.float32], k: int) -> list[Hits]:
        """The `k` templates (fewer if there are fewer) of largest cosine for every row of (N, D) unit queries."""
        return [self._by_sketch(query, k) for query in queries] if self.indexed else self.search_exactly(queries, k)

    def search_exactly(self, queries: NDArray[np.float32], k: int) -> list[Hits]:
        """As `search`, by comparing with every template."""
        best_scores = np.empty((len(queries), 0), np.float32)
        best_rows = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self), _EXACT_ROWS):
            stop = min(start + _EXACT_ROWS, len(self))
            scores = queries @ self._vectors[start:stop].T
            columns = _largest(scores, k)
            best_scores = np.hstack([best_scores, np.take_along_axis(scores, columns, 1)])
            best_rows = np.hstack([best_rows, columns + start])
        return [self._hits(rows, scores, k) for rows, scores in zip(best_rows, best_scores, strict=True)]

    def measure_recall(self, probes: int = 200, *, cosine: float = HARDEST_MATCH, seed: int = 0) -> float:
        """How often `search` and `search_exactly` agree on the best match, over random probes.

        Each probe is a random template turned until its cosine with itself is `cosine`: as hard as a true match gets.
        """
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(self), min(probes, len(self)), replace=False)
        queries = turned(self._vectors[rows], cosine, rng)
        exact = self.search_exactly(queries, 1)
        return float(np.mean([a[0][0] == b[0][0] for a, b in zip(self.search(queries, 1), exact, strict=True)]))

    def _by_sketch(self, query: NDArray[np.float32], k: int) -> Hits:
        rows = self._near(_signs(query[None] @ self._projection)[:, 0])
        if len(rows) < k:
            return self.search_exactly(query[None], k)[0]
        scores = self._vectors[rows] @ query
        best = _largest(scores[None], k)[0]
        return self._hits(rows[best], scores[best], k)

    def _near(self, sketch: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rows whose sketch differs from this one in few enough bits."""
        found = []
        for start in range(0, len(self), _SCAN_ROWS):
            stop = min(start + _SCAN_ROWS, len(self))
            distance = np.zeros(stop - start, np.uint16)
            for word, stored in zip(sketch, self._sketches, strict=True):
                distance += np.bitwise_count(stored[start:stop] ^ word)
            found.append(np.flatnonzero(distance <= self._limit) + start)
        return np.concatenate(found)

    def _hits(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Hits:
        ids = self._ids[rows]
        order = np.lexsort((ids, -scores))[:k]
        return [(int(ids[i]), float(scores[i])) for i in order]

    def _reserve(self, count: int) -> None:
        capacity = len(self._ids)
        if count > capacity:
            more = max(count, capacity * 3 // 2) - capacity
            self._ids = np.concatenate([self._ids, np.empty(more, np.int64)])
            self._vectors = np.concatenate([self._vectors, np.empty((more, self._vectors.shape[1]), np.float32)])
            self._sketches = np.hstack([self._sketches, np.empty((SKETCH_WORDS, more), np.uint64)])

    def _sketch(self, rows: NDArray[np.int64]) -> None:
        for start in range(0, len(rows), _EXACT_ROWS):
            part = rows[start : start + _EXACT_ROWS]
            self._sketches[:, part] = _signs(self._vectors[part] @ self._projection)


def turned(vectors: NDArray[np.float32], cosine: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, D) unit vectors turned in random directions until their cosine with themselves is `cosine`."""
    aside = rng.standard_normal(vectors.shape, dtype=np.float32)
    aside -= (aside * vectors).sum(1, keepdims=True) * vectors
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return np.asarray(cosine * vectors + np.sqrt(1 - cosine**2) * aside, np.float32)


def _most_bits(cosine: float, probability: float) -> int:
    """The number of bits in which vectors of that cosine differ at most, with that probability."""
    share = float(np.arccos(cosine)) / np.pi
    spread = (SKETCH_BITS * share * (1 - share)) ** 0.5
    return int(np.ceil(SKETCH_BITS * share + spread * NormalDist().inv_cdf(probability)))


def _projection(dimension: int) -> NDArray[np.float32]:
    """(D, bits) directions, orthonormal in groups of at most D."""
    rng = np.random.default_rng(0)
    groups = [np.linalg.qr(rng.standard_normal((dimension, dimension)))[0] for _ in range(-(-SKETCH_BITS // dimension))]
    return np.ascontiguousarray(np.hstack(groups)[:, :SKETCH_BITS], np.float32)


def _signs(projected: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(N, bits) numbers to their signs packed into (words, N)."""
    return np.ascontiguousarray(np.packbits(projected > 0, axis=1).view(np.uint64).T)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(N, min(k, M)) columns of the largest of (N, M) scores, in no order."""
    if k >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, -k, axis=1)[:, -k:]
