"""What an attack on a recogniser achieved, in numbers: success attack rates, match rates, and their intervals.

A success attack rate (SAR) is the share of attacked people whom the target recogniser accepts in a made face, at a
threshold of the target's own; it is to be read beside the share of genuine photos that are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .presentation import clopper_pearson
from .verification import roc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

FMRS = (1e-2, 1e-3)
"""False match rates at which attacks are judged."""
LEAST_EXPECTED = 5
"""False matches that the pairs must let expect for a threshold to be taken from them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`."""

    count: int
    total: int

    @classmethod
    def of(cls, happened: ArrayLike) -> Rate:
        """How many of (N,) booleans are true."""
        flags = np.asarray(happened, bool)
        return cls(int(flags.sum()), flags.size)

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies by 95 % (Clopper and Pearson)."""
        return clopper_pearson(self.count, self.total) if self.total else (0.0, 1.0)

    def __str__(self) -> str:
        if not self.total:
            return "not measured"
        low, high = self.interval
        return f"{100 * self.share:.0f} % ({100 * low:.0f} to {100 * high:.0f})"

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "total": self.total,
            "share": round(self.share, 4) if self.total else 0.0,
            "interval": [round(end, 4) for end in self.interval],
        }


def pair_scores(embeddings: Floats, people: Sequence[str]) -> tuple[Floats, NDArray[np.bool_]]:
    """Cosines of all pairs of unit embeddings (N, D), (N (N − 1) / 2,), and which are of one person."""
    first, second = np.triu_indices(len(people), 1)
    names = np.asarray(people)
    return np.einsum("nd,nd->n", embeddings[first], embeddings[second]), names[first] == names[second]


def thresholds(scores: Floats, same: NDArray[np.bool_], known: Mapping[float, float]) -> dict[float, float]:
    """The similarity from which two pictures match, at each of `FMRS`.

    `known` ones, of a calibration, come first; else it is measured on zero-effort impostors if there are enough to
    expect `LEAST_EXPECTED` of them to match. UsageError where no rate has a threshold.
    """
    found = dict(known)
    impostors = int((~same).sum())
    for fmr in FMRS:
        if fmr not in found and fmr * impostors >= LEAST_EXPECTED:
            found[fmr] = float(roc(scores, same).threshold_at(fmr))
    if not found:
        raise UsageError(
            f"{impostors} pairs of different people say nothing of a false match rate of {max(FMRS):g}; "
            f"give photos of more people"
        )
    return {fmr: found[fmr] for fmr in FMRS if fmr in found}


def accepted(made: Floats, reference: Floats, limits: Mapping[float, float]) -> dict[float, Rate]:
    """How many rows of unit embeddings (N, D) match their references (N, D) at each false match rate."""
    cosines = np.einsum("nd,nd->n", made, reference)
    return {fmr: Rate.of(cosines >= limit) for fmr, limit in limits.items()}


def secret_rotation(dim: int, seed: int) -> Floats:
    """A random orthogonal matrix (D, D), by which stored templates are turned and which no thief of them knows."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return np.asarray(q * np.sign(np.diag(r)), np.float64)
