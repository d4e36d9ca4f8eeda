"""One-to-many identification: closed-set rank rates and open-set detection and identification.

`similarity` is (P, G), probes by gallery entries, higher means more alike. Entries of one identity stand together: an
identity's score is that of its best entry, and ranks count identities. Ties count against the probe, so a recogniser
that gives everybody the same score recognises nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .verification import roc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class OpenSetCurve:
    """Open-set rates at every distinct score, strictest first; arrays (T,).

    `fpir` is the share of non-mated probes whose best score is at or above the threshold, `tpir` (also DIR) the share
    of mated probes whose own identity is within the asked rank and at or above it; FNIR is 1 − `tpir`.
    """

    thresholds: Floats
    fpir: Floats
    tpir: Floats

    def tpir_at(self, fpir: float) -> float:
        """The largest TPIR whose FPIR is at most `fpir`."""
        return float(self.tpir[self._index(fpir)])

    def threshold_at(self, fpir: float) -> float:
        """The smallest observed score whose FPIR is at most `fpir`."""
        return float(self.thresholds[self._index(fpir)])

    def _index(self, fpir: float) -> int:
        if not 0 <= fpir <= 1:
            raise UsageError(f"a false positive identification rate must be between 0 and 1, not {fpir}")
        return int(np.searchsorted(self.fpir, fpir * (1 + 1e-9), side="right")) - 1


def cmc(similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike) -> Floats:
    """Cumulative match characteristic (identities in the gallery,): entry k − 1 is the rank-k rate.

    Raises UsageError when a probe's identity is not in the gallery: that search is an open-set one.
    """
    search = _Search.of(similarity, probe_ids, gallery_ids)
    if not search.mated.all():
        missing = np.asarray(probe_ids)[~search.mated][0]
        raise UsageError(f"closed-set search, but probe identity {missing!s} is not in the gallery")
    hits = np.bincount(search.ranks - 1, minlength=search.scores.shape[1])
    return np.asarray(np.cumsum(hits) / len(search.ranks))


def rank_rate(similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike, rank: int = 1) -> float:
    """Share of probes whose identity is among the `rank` best."""
    rates = cmc(similarity, probe_ids, gallery_ids)
    if not 1 <= rank <= len(rates):
        raise UsageError(f"rank {rank} is not within the {len(rates)} identities of the gallery")
    return float(rates[rank - 1])


def open_set_curve(
    similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike, *, rank: int = 1
) -> OpenSetCurve:
    """Open-set rates of one gallery as NIST defines them (FRVT 1:N); probes not in the gallery are the non-mated ones.

    Raises UsageError unless there are mated and non-mated probes.
    """
    search = _Search.of(similarity, probe_ids, gallery_ids)
    if not 0 < search.mated.sum() < len(search.mated):
        raise UsageError("open-set rates need probes inside and outside the gallery; one kind is missing")
    credited = np.where(search.ranks <= rank, search.own, -np.inf)
    alarms = search.scores[~search.mated].max(axis=1)
    rates = roc(np.concatenate([credited, alarms]), np.repeat([True, False], [len(credited), len(alarms)]))
    reachable = rates.thresholds > -np.inf
    return OpenSetCurve(rates.thresholds[reachable], rates.far[reachable], rates.tar[reachable])


def dir_at_fpir(galleries: Iterable[OpenSetCurve], fpir: float) -> float:
    """DIR at a FPIR averaged over galleries, each at its own threshold: IJB-B reports S1 and S2, IJB-C G1 and G2 so."""
    return float(np.mean([curve.tpir_at(fpir) for curve in galleries]))


def insightface_tpir(similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike, fpir: float) -> float:
    """What insightface's IJB 1:N script calls TPIR@FPIR; not the open-set rate of the standard.

    All Q probes are mated and identities enrolled once. The threshold is the ⌈Q·`fpir`⌉-th largest of all non-mated
    scores pooled, and a probe counts when its mated score exceeds it, whatever its rank. Raises UsageError otherwise.
    """
    search = _Search.of(similarity, probe_ids, gallery_ids)
    if not search.mated.all() or search.scores.shape[1] != np.asarray(gallery_ids).size:
        raise UsageError("insightface's TPIR needs every probe mated and every identity enrolled once")
    if not 0 < fpir <= 1 or search.scores.shape[1] < 2:
        raise UsageError("insightface's TPIR needs a rate above 0, at most 1, and two identities or more")
    others = np.delete(search.scores.ravel(), np.arange(len(search.own)) * search.scores.shape[1] + search.columns)
    place = math.ceil(len(search.own) * fpir)
    return float(np.mean(search.own > np.partition(others, -place)[-place]))


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """`scores` (P, I) by identity, `mated` (P,); `columns`, `own` score and `ranks` (M,) of the mated probes."""

    scores: Floats
    mated: NDArray[np.bool_]
    columns: NDArray[np.int64]
    own: Floats
    ranks: NDArray[np.int64]

    @classmethod
    def of(cls, similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike) -> _Search:
        values, probes, gallery = np.asarray(similarity, np.float64), np.asarray(probe_ids), np.asarray(gallery_ids)
        if values.shape != (len(probes), len(gallery)) or not values.size:
            raise UsageError(f"similarity {values.shape} does not fit {len(probes)} probes and {len(gallery)} entries")
        if np.isnan(values).any():
            raise UsageError("a similarity is not a number: an embedding failed")
        order = np.argsort(gallery, kind="stable")
        names, starts = np.unique(gallery[order], return_index=True)
        scores = np.maximum.reduceat(values[:, order], starts, axis=1)
        mated = np.isin(probes, names)
        columns = np.searchsorted(names, probes[mated])
        own = scores[mated, columns]
        return cls(scores, mated, columns, own, (scores[mated] >= own[:, None]).sum(axis=1))
