"""Which pictures of people are compared with which: the pairs of verification tests, drawn with a fixed seed.

All functions take `subjects` (N,), the person of every picture, and return indices into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of pictures: indices `first` and `second`, and whether they show the `same` person; all (P,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]

    @classmethod
    def of(cls, genuine: NDArray[np.int64], impostor: NDArray[np.int64]) -> Pairs:
        """Genuine pairs (G, 2), then impostor pairs (I, 2)."""
        both = np.concatenate([genuine, impostor])
        return cls(both[:, 0], both[:, 1], np.arange(len(both)) < len(genuine))

    @classmethod
    def joined(cls, folds: list[Pairs]) -> Pairs:
        """Several runs of pairs in a row."""
        first, second, same = (np.concatenate([getattr(f, name) for f in folds]) for name in cls.__slots__)
        return cls(first, second, same)


def verification_pairs(
    subjects: NDArray[np.int64], *, folds: int = FOLDS, per_fold: int = 300, per_person: int = 20, seed: int = 0
) -> Pairs:
    """Balanced pairs as LFW has them: `folds` runs of equal length, half of each genuine, nobody in two runs.

    Genuine pairs take turns through the people of a fold, at most `per_person` of each, so that much-photographed
    people do not decide; folds shrink to what the scarcest can give.
    """
    rng = np.random.default_rng(seed)
    runs = _people_of_folds(subjects, folds, rng)
    genuine = [_in_turns(subjects, people, per_person, rng) for people in runs]
    count = min(per_fold // 2, *(len(pairs) for pairs in genuine))
    return Pairs.joined(
        [Pairs.of(found[:count], _of_two_people(subjects, people, count, rng)) for people, found in zip(runs, genuine)]
    )


def exhaustive_pairs(
    subjects: NDArray[np.int64], indices: NDArray[np.int64], *, folds: int = FOLDS, per_fold: int, seed: int = 0
) -> Pairs:
    """Balanced folds as `verification_pairs` has them, but drawn evenly from all pairs among the pictures `indices`.

    For people with about as many pictures each, of whom nobody can outweigh the others.
    """
    rng = np.random.default_rng(seed)
    found = []
    for people in _people_of_folds(subjects[indices], folds, rng):
        pool = indices[np.isin(subjects[indices], people)]
        pairs = _all_pairs(pool)
        same = subjects[pairs[:, 0]] == subjects[pairs[:, 1]]
        found.append([pairs[rng.permutation(np.flatnonzero(kind))] for kind in (same, ~same)])
    count = min(per_fold // 2, *(len(genuine) for genuine, _ in found))
    return Pairs.joined([Pairs.of(genuine[:count], impostor[:count]) for genuine, impostor in found])


def many_pairs(subjects: NDArray[np.generic], *, per_person: int = 40, impostors: int = 60_000, seed: int = 0) -> Pairs:
    """Pairs for error rates and calibration: all genuine ones, at most `per_person` of a person, and random impostors.

    There are no folds, and up to `impostors` pairs of two people, with repetitions.
    """
    rng = np.random.default_rng(seed)
    genuine = [_some(_all_pairs(np.flatnonzero(subjects == one)), per_person, rng) for one in np.unique(subjects)]
    drawn = rng.integers(0, len(subjects), (2 * impostors, 2))
    return Pairs.of(np.concatenate(genuine), drawn[subjects[drawn[:, 0]] != subjects[drawn[:, 1]]][:impostors])


def _people_of_folds(subjects: NDArray[np.int64], folds: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    return np.array_split(rng.permutation(np.unique(subjects)), folds)


def _all_pairs(pictures: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2) all pairs of different pictures, each once."""
    a, b = np.triu_indices(len(pictures), 1)
    return np.stack([pictures[a], pictures[b]], 1)


def _some(pairs: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return pairs[rng.permutation(len(pairs))[:most]]


def _in_turns(
    subjects: NDArray[np.int64], people: NDArray[np.int64], per_person: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Genuine pairs (n, 2), the first pair of everybody before the second of anybody."""
    ranked: list[tuple[int, float, list[int]]] = []
    for person in people:
        chosen = _some(_all_pairs(np.flatnonzero(subjects == person)), per_person, rng)
        ranked += [(turn, float(rng.random()), pair) for turn, pair in enumerate(chosen.tolist())]
    return np.array([pair for _, _, pair in sorted(ranked)], np.int64).reshape(-1, 2)


def _of_two_people(
    subjects: NDArray[np.int64], people: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Impostor pairs (count, 2): two people, and a picture of each."""
    pairs = np.empty((count, 2), np.int64)
    for k in range(count):
        for side, person in enumerate(rng.choice(people, 2, replace=False)):
            pairs[k, side] = rng.choice(np.flatnonzero(subjects == person))
    return pairs
