"""One-to-one verification: the ten-fold protocol, ROC and DET, operating points with intervals.

Scores are similarities, higher means more alike, and a pair is accepted when its score is at or above the threshold.
The ten-fold protocol alone keeps its published form: squared distances, accepted when strictly below the threshold.
FAR (also FMR, FPR) is the share of impostor pairs accepted, TAR (also VAL, TPR) the share of genuine pairs accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Interval = tuple[float, float]

FARS = (1e-2, 1e-3, 1e-4)
ACCURACY_GRID = np.arange(0, 4, 0.01)
VALIDATION_GRID = np.arange(0, 4, 0.001)


@dataclass(frozen=True, slots=True, eq=False)
class FoldAccuracy:
    """Accuracy and chosen distance threshold of every fold, each (folds,)."""

    accuracies: Floats
    thresholds: Floats

    @property
    def mean(self) -> float:
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Population standard deviation over the folds, as papers report it."""
        return float(self.accuracies.std())


@dataclass(frozen=True, slots=True, eq=False)
class FoldValidation:
    """VAL, reached FAR and distance threshold of every fold, each (folds,)."""

    values: Floats
    fars: Floats
    thresholds: Floats

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def std(self) -> float:
        return float(self.values.std())


def squared_distances(a: ArrayLike, b: ArrayLike) -> Floats:
    """(N,) squared Euclidean distances in [0, 4] between (N, D) embeddings brought to unit length."""
    x, y = _unit(a), _unit(b)
    if x.shape != y.shape:
        raise UsageError(f"embeddings differ in shape: {x.shape} and {y.shape}")
    return np.asarray(((x - y) ** 2).sum(-1))


def fold_accuracy(
    distances: ArrayLike, same: ArrayLike, *, folds: int = 10, thresholds: ArrayLike = ACCURACY_GRID
) -> FoldAccuracy:
    """Accuracy by k-fold cross-validation, as published for LFW, CFP-FP, AgeDB-30, CALFW, CPLFW (insightface).

    `distances` (N,) are squared, of unit vectors, in the order of the published pairs: folds are runs of that order
    and must not be shuffled. Of `thresholds`, ascending, the first that is best on the other folds judges a fold.
    XQLFW's own script takes cosine distances and thresholds np.arange(0, 2, 0.001).
    """
    d, y = check_pairs(distances, same)
    grid = np.asarray(thresholds, np.float64)
    accuracies, chosen = [], []
    for training, test in _folds(len(d), folds):
        correct = _below(d[training & y], grid) - _below(d[training & ~y], grid)
        threshold = grid[np.argmax(correct)]
        accuracies.append(np.mean((d[test] < threshold) == y[test]))
        chosen.append(threshold)
    return FoldAccuracy(np.array(accuracies), np.array(chosen))


def fold_validation(
    distances: ArrayLike,
    same: ArrayLike,
    *,
    far: float = 1e-3,
    folds: int = 10,
    thresholds: ArrayLike = VALIDATION_GRID,
) -> FoldValidation:
    """VAL@FAR by k-fold cross-validation: the threshold reaches `far` on the other folds, by linear interpolation.

    Inputs as in `fold_accuracy`. Where several thresholds have that FAR the largest counts; where none reaches it the
    threshold is 0, which accepts nothing. Raises UsageError when a fold holds only one kind of pair.
    """
    d, y = check_pairs(distances, same)
    grid = np.asarray(thresholds, np.float64)
    values, fars, chosen = [], [], []
    for training, test in _folds(len(d), folds):
        impostors = d[training & ~y]
        if not (len(impostors) and (test & y).any() and (test & ~y).any()):
            raise UsageError(
                "VAL@FAR needs genuine and impostor pairs in every fold: keep the published order of pairs"
            )
        rates = _below(impostors, grid) / len(impostors)
        threshold = np.interp(far, rates, grid) if rates[-1] >= far else 0.0
        values.append(np.mean(d[test & y] < threshold))
        fars.append(np.mean(d[test & ~y] < threshold))
        chosen.append(threshold)
    return FoldValidation(np.array(values), np.array(fars), np.array(chosen))


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """Error rates at every distinct score, strictest first; the first threshold lies just above all scores.

    `thresholds`, `far` and `tar` are (T,): the shares of impostor and genuine pairs with scores at or above.
    """

    thresholds: Floats
    far: Floats
    tar: Floats

    @property
    def frr(self) -> Floats:
        """Share of genuine pairs rejected (also FNMR, FNR); with `far` the points of the DET curve."""
        return 1 - self.tar

    @property
    def auc(self) -> float:
        """Area under the ROC curve."""
        return float(np.trapezoid(self.tar, self.far))

    @property
    def eer(self) -> float:
        """Equal error rate: where FAR and FRR cross, linear between the two points around it."""
        gap = self.far - self.frr
        after = int(np.argmax(gap >= 0))
        before = after - 1
        part = -gap[before] / (gap[after] - gap[before])
        return float(self.far[before] + part * (self.far[after] - self.far[before]))

    def threshold_at(self, far: float) -> float:
        """The smallest observed score whose FAR is at most `far`."""
        return float(self.thresholds[self.index_at(far)])

    def tar_at(self, far: float) -> float:
        """TAR at that threshold: the largest TAR whose FAR is at most `far`."""
        return float(self.tar[self.index_at(far)])

    def tar_at_nearest(self, far: float) -> float:
        """TAR at the corner of the curve whose FAR is nearest to `far`, the larger FAR of two (insightface, IJB-B/C).

        FAR may thus exceed what is asked, most of all with few impostors. Published IJB tables are made this way.
        """
        bends = (np.abs(np.diff(self.far, 2)) > 1e-12) | (np.abs(np.diff(self.tar, 2)) > 1e-12)
        corners = np.flatnonzero(np.concatenate([[True], bends, [True]]))[::-1]
        return float(self.tar[corners[np.argmin(np.abs(self.far[corners] - far))]])

    def index_at(self, far: float) -> int:
        """Which point of the curve that is."""
        if not 0 <= far <= 1:
            raise UsageError(f"a false accept rate must be between 0 and 1, not {far}")
        return int(np.searchsorted(self.far, far * (1 + 1e-9), side="right")) - 1


def roc(scores: ArrayLike, same: ArrayLike, weights: ArrayLike | None = None) -> Roc:
    """ROC of (N,) similarity scores whose pairs are genuine where `same` is true; `weights` (N,) count pairs.

    Raises UsageError for scores that are not numbers and when either kind of pair is missing.
    """
    s, y = check_pairs(scores, same)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-s, kind="stable")
    s, y, w = s[order], y[order], w[order]
    ends = np.append(np.flatnonzero(s[1:] != s[:-1]), len(s) - 1)
    accepted = [np.concatenate([[0.0], np.cumsum(np.where(kind, w, 0))[ends]]) for kind in (~y, y)]
    if accepted[0][-1] == 0 or accepted[1][-1] == 0:
        raise UsageError("a ROC needs genuine and impostor pairs; one kind is missing")
    far, tar = (counts / counts[-1] for counts in accepted)
    return Roc(np.concatenate([[np.nextafter(s[0], np.inf)], s[ends]]), far, tar)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a threshold on the score costs: TAR at a FAR of at most `far`.

    `measured_far` is the share of the `impostors` pairs accepted. The intervals are None where identities were not
    known.
    """

    far: float
    threshold: float
    tar: float
    measured_far: float
    impostors: int
    threshold_interval: Interval | None = None
    tar_interval: Interval | None = None

    @property
    def resolved(self) -> bool:
        """Whether there were impostors enough for one of them to be accepted; else the point is a guess."""
        return self.far * self.impostors >= 1


def operating_points(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike | None = None,
    *,
    fars: Sequence[float] = FARS,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[OperatingPoint, ...]:
    """Thresholds and TAR at every FAR, with intervals by `bootstrap_interval` when `identities` (N, 2) are given."""
    curve = roc(scores, same)
    chosen = [curve.index_at(far) for far in fars]
    impostors = int((~np.asarray(same, bool)).sum())

    def statistic(resampled: Roc) -> list[list[float]]:
        return [[resampled.threshold_at(far), resampled.tar_at(far)] for far in fars]

    intervals: list[tuple[Interval | None, Interval | None]] = [(None, None)] * len(fars)
    if identities is not None:
        low, high = bootstrap_interval(
            statistic, scores, same, identities, replicates=replicates, confidence=confidence, seed=seed
        )
        intervals = [((lo[0], hi[0]), (lo[1], hi[1])) for lo, hi in zip(low.tolist(), high.tolist())]
    return tuple(
        OperatingPoint(
            far=far,
            threshold=float(curve.thresholds[index]),
            tar=float(curve.tar[index]),
            measured_far=float(curve.far[index]),
            impostors=impostors,
            threshold_interval=threshold_interval,
            tar_interval=tar_interval,
        )
        for far, index, (threshold_interval, tar_interval) in zip(fars, chosen, intervals)
    )


def bootstrap_interval(
    statistic: Callable[[Roc], ArrayLike],
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Percentile interval (low, high) of any numbers taken from a ROC, by resampling identities, not pairs.

    Pairs that share a person are not independent, so resampling pairs gives intervals that are too narrow. An identity
    drawn m times counts its genuine pairs m times, its impostor pairs with one drawn n times m·n times (vertex
    bootstrap). `identities` (N, 2) names both sides of every pair; both arrays have the shape of the statistic.
    """
    s, y = check_pairs(scores, same)
    values = [np.asarray(statistic(roc(s, y, w)), float) for w in _resampled(identities, y, replicates, seed)]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.stack(values), [tail, 100 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def template_features(
    features: ArrayLike, templates: ArrayLike, media: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Template ids (T,) ascending and unit features (T, D) from (N, D) image features, as insightface pools IJB-B/C.

    The mean of the images of one medium (a video counts once), then the sum over the media of a template, then unit
    length. Features come in unnormalised, mirror image added and multiplied by the detector's score, so that poor
    images weigh less.
    """
    x, template, medium = np.asarray(features, np.float64), np.asarray(templates), np.asarray(media)
    if not len(x) == len(template) == len(medium):
        raise UsageError(f"{len(x)} features, {len(template)} templates and {len(medium)} media do not belong together")
    order = np.lexsort((medium, template))
    template, medium = template[order], medium[order]
    starts = np.flatnonzero(np.r_[True, (template[1:] != template[:-1]) | (medium[1:] != medium[:-1])])
    means = np.add.reduceat(x[order], starts) / np.diff(np.r_[starts, len(x)])[:, None]
    ids, firsts = np.unique(template[starts], return_index=True)
    return ids.astype(np.int64), _unit(np.add.reduceat(means, firsts))


def check_pairs(scores: ArrayLike, same: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """(N,) scores and labels as arrays; raises UsageError when they do not fit or a score is not a number."""
    s, y = np.asarray(scores, np.float64), np.asarray(same, dtype=bool)
    if s.ndim != 1 or s.shape != y.shape or not len(s):
        raise UsageError(f"scores and labels must be two lists of one length, got {s.shape} and {y.shape}")
    if np.isnan(s).any():
        raise UsageError(f"score {int(np.isnan(s).argmax())} is not a number: an embedding failed")
    return s, y


def _unit(embeddings: ArrayLike) -> Floats:
    values = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    if np.any(lengths == 0):
        raise UsageError("an embedding of length zero has no direction")
    return np.asarray(values / lengths)


def _folds(number: int, folds: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks of the training and the test pairs of each fold: consecutive runs, the first ones longer by one."""
    if not 2 <= folds <= number:
        raise UsageError(f"{number} pairs cannot be split into {folds} folds")
    for run in np.array_split(np.arange(number), folds):
        test = np.zeros(number, dtype=bool)
        test[run] = True
        yield ~test, test


def _below(distances: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """How many distances lie strictly below each threshold."""
    return np.searchsorted(np.sort(distances), thresholds, side="left").astype(np.int64)


def _resampled(
    identities: ArrayLike, same: NDArray[np.bool_], replicates: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Weights of the pairs in each replicate; draws without a genuine or without an impostor pair are repeated."""
    names, codes = np.unique(np.asarray(identities), return_inverse=True)
    codes = codes.reshape(-1, 2)
    if len(codes) != len(same):
        raise UsageError(f"{len(codes)} pairs of identities for {len(same)} pairs")
    contradiction = (codes[:, 0] == codes[:, 1]) != same
    if contradiction.any():
        raise UsageError(f"pair {int(contradiction.argmax())} is labelled against its identities")
    rng = np.random.default_rng(seed)
    made = 0
    while made < replicates:
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        weights = np.where(same, drawn[codes[:, 0]], drawn[codes[:, 0]] * drawn[codes[:, 1]])
        if weights[same].any() and weights[~same].any():
            made += 1
            yield weights
