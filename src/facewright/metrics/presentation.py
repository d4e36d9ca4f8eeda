"""Error rates of presentation attack detection by ISO/IEC 30107-3, and the older ones that papers report.

They are the same for attacks shown to a camera, for forgeries and for morphs (where ISO/IEC 20059 says MACER and
BSCER). Scores say how much a presentation looks like an attack, higher means more (MADation's are high for bona fide:
turn them around first); it is classified as an attack when its score is at or above the threshold. APCER, the share of
attacks classified as bona fide, is stated for every species of attack by itself; the worst species counts. BPCER is
the share of bona fide presentations classified as attacks.
Presentations without a decision (NaN) count in neither, but in the non-response rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy.stats import beta

from ..errors import UsageError
from .verification import roc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Words = NDArray[np.str_]
    Interval = tuple[float, float]

BONA_FIDE = "live"
"""The species of presentations that are no attack."""

EerStyle = Literal["exact", "convex", "grid", "nearest"]
_GRID = 10_001


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Rates at one threshold.

    apcer: of every species. bpcer. apnrr, bpnrr: shares of attacks (of every species) and of bona fide presentations
    without a decision. counts: decided presentations of every species, `BONA_FIDE` among them.
    """

    threshold: float
    apcer: Mapping[str, float]
    bpcer: float
    apnrr: Mapping[str, float]
    bpnrr: float
    counts: Mapping[str, int]

    @property
    def worst_species(self) -> str:
        """The species with the largest APCER, the first in the alphabet of several."""
        return max(sorted(self.apcer), key=lambda name: self.apcer[name])

    @property
    def worst_apcer(self) -> float:
        """The APCER of the attack level: that of its worst species."""
        return self.apcer[self.worst_species]

    @property
    def acer(self) -> float:
        """Mean of the worst APCER and BPCER. A habit of competitions; the standard wants both by themselves."""
        return (self.worst_apcer + self.bpcer) / 2


def error_rates(scores: ArrayLike, species: ArrayLike, threshold: float) -> ErrorRates:
    """Rates of (N,) scores of presentations of (N,) species at a threshold.

    Raises UsageError where there are no attacks or no bona fide presentations, or none with a decision.
    """
    s, kinds = _checked(scores, species)
    decided = ~np.isnan(s)
    attacks = sorted(set(kinds.tolist()) - {BONA_FIDE})
    for name in (BONA_FIDE, *attacks):
        if not (decided & (kinds == name)).any():
            raise UsageError(f"no presentation of species {name!r} has a decision")
    accepted = {name: float((s[decided & (kinds == name)] < threshold).mean()) for name in (BONA_FIDE, *attacks)}
    silent = {name: float((~decided[kinds == name]).mean()) for name in (BONA_FIDE, *attacks)}
    counts = {name: int((decided & (kinds == name)).sum()) for name in (BONA_FIDE, *attacks)}
    return ErrorRates(
        float(threshold),
        {name: accepted[name] for name in attacks},
        1 - accepted[BONA_FIDE],
        {name: silent[name] for name in attacks},
        silent[BONA_FIDE],
        counts,
    )


def hter(scores: ArrayLike, attack: ArrayLike, threshold: float) -> float:
    """Half total error rate: mean of the shares of attacks accepted and of bona fide rejected, species pooled."""
    s, y = _decided(scores, attack)
    return float(((s[y] < threshold).mean() + (s[~y] >= threshold).mean()) / 2)


@dataclass(frozen=True, slots=True)
class EqualErrors:
    """Equal error rate and the threshold it is met at."""

    rate: float
    threshold: float


def eer(scores: ArrayLike, attack: ArrayLike, style: EerStyle = "exact") -> EqualErrors:
    """Equal error rate of (N,) scores; the threshold is an observed score except in "grid".

    exact: where the ROC, linear between its points, meets both rates equal; the threshold is that of the nearer point.
    convex: the same of the ROC's convex hull, which a mixture of two thresholds reaches (ROCCH-EER).
    grid: of 10 001 thresholds in [0, 1] the last with the least difference, and the mean of both rates there (SSDG,
    DLIF, FLIP, Hyp-OC). nearest: the false alarm rate of the ROC's point with the least difference, the first of
    several (DeepfakeBench).
    """
    s, y = _decided(scores, attack)
    if style == "grid":
        grid = np.linspace(0, 1, _GRID)
        missed, alarms = (_below(s[y], grid), 1 - _below(s[~y], grid))
        gap = np.abs(missed - alarms)
        index = len(grid) - 1 - int(np.argmin(gap[::-1]))
        return EqualErrors(float((missed[index] + alarms[index]) / 2), float(grid[index]))
    curve = roc(s, y)
    gap = np.abs(curve.frr - curve.far)
    index = int(np.argmin(gap))
    threshold = float(curve.thresholds[index])
    if style == "nearest":
        return EqualErrors(float(curve.far[index]), threshold)
    if style == "convex":
        return EqualErrors(_crossing(*_hull(curve.far, curve.frr)), threshold)
    if style != "exact":
        raise UsageError(
            f"no style of equal error rate is called {style!r}; there are: {', '.join(get_args(EerStyle))}"
        )
    return EqualErrors(curve.eer, threshold)


def hter_dev(
    scores: ArrayLike, attack: ArrayLike, development_scores: ArrayLike, development_attack: ArrayLike
) -> tuple[float, float]:
    """HTER at the threshold of the equal error rate of a development set, and that threshold: what can be deployed."""
    threshold = eer(development_scores, development_attack).threshold
    return hter(scores, attack, threshold), threshold


def hter_oracle(scores: ArrayLike, attack: ArrayLike, style: EerStyle = "exact") -> float:
    """HTER at the equal error threshold of the test set itself, as many papers report it. It cannot be deployed."""
    return hter(scores, attack, eer(scores, attack, style).threshold)


def auc(scores: ArrayLike, attack: ArrayLike) -> float:
    """Area under the ROC curve; 1 where every attack scores above every bona fide presentation."""
    s, y = _decided(scores, attack)
    return roc(s, y).auc


def threshold_at_bpcer(scores: ArrayLike, attack: ArrayLike, bpcer: float) -> float:
    """The smallest threshold, an observed score or one above all, at which BPCER is at most `bpcer`."""
    s, y = _decided(scores, attack)
    curve = roc(s, y)
    return float(curve.thresholds[curve.index_at(bpcer)])


def threshold_at_apcer(scores: ArrayLike, species: ArrayLike, apcer: float) -> float:
    """The largest threshold at which the APCER of every species is at most `apcer`: an observed score."""
    s, kinds = _checked(scores, species)
    if not 0 <= apcer < 1:
        raise UsageError(f"an APCER must be at least 0 and below 1, not {apcer}")
    found = []
    for name in set(kinds.tolist()) - {BONA_FIDE}:
        ordered = np.sort(s[(kinds == name) & ~np.isnan(s)])
        found.append(ordered[int(np.floor(apcer * len(ordered) + 1e-9))])
    if not found:
        raise UsageError("there are no attacks")
    return float(min(found))


def bpcer_at_apcer(scores: ArrayLike, species: ArrayLike, apcer: float) -> float:
    """BPCER at the threshold where the worst species' APCER is at most `apcer` (BPCER10, 20, 100 of the standard)."""
    return error_rates(scores, species, threshold_at_apcer(scores, species, apcer)).bpcer


def bpcer_at_nearest_apcer(scores: ArrayLike, attack: ArrayLike, apcer: float) -> tuple[float, float]:
    """(BPCER, the APCER really reached) where APCER is nearest to the wanted one, as morph papers have it.

    Species are pooled. APCER may exceed what is asked. The smallest threshold wins where two are as near.
    """
    curve = roc(*_decided(scores, attack))
    index = _last_nearest(curve.frr, apcer)
    return float(curve.far[index]), float(curve.frr[index])


def apcer_at_nearest_bpcer(scores: ArrayLike, attack: ArrayLike, bpcer: float) -> tuple[float, float]:
    """(APCER, the BPCER really reached) where BPCER is nearest to the wanted one; the smallest threshold wins."""
    curve = roc(*_decided(scores, attack))
    index = _last_nearest(curve.far, bpcer)
    return float(curve.frr[index]), float(curve.far[index])


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a rate; with no error in N trials its end is about 3/N."""
    if not 0 <= errors <= trials or trials < 1:
        raise UsageError(f"{errors} errors in {trials} trials are not possible")
    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else float(beta.ppf(tail, errors, trials - errors + 1))
    high = 1.0 if errors == trials else float(beta.ppf(1 - tail, errors + 1, trials - errors))
    return low, high


def client_bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    clients: ArrayLike,
    *,
    replicates: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a number by resampling clients, because frames and videos of one are not independent.

    `statistic` is given indices of presentations: all those of every drawn client, as often as it was drawn. Draws for
    which it is not finite or raises UsageError (a kind is missing) are left out; UsageError if all are.
    """
    names, codes = np.unique(np.asarray(clients), return_inverse=True)
    rows = [np.flatnonzero(codes == i) for i in range(len(names))]
    rng, values = np.random.default_rng(seed), []
    for _ in range(replicates):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(names), size=len(names))])
        try:
            value = statistic(drawn)
        except UsageError:
            continue
        if np.isfinite(value):
            values.append(value)
    if not values:
        raise UsageError("no resample of clients has what the number needs")
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def by_video(scores: ArrayLike, videos: ArrayLike) -> tuple[Words, Floats, NDArray[np.int64]]:
    """Names of the videos, the mean of their frames' scores (NaN left out), and the index of each one's first frame."""
    s = np.asarray(scores, np.float64)
    names, first, codes = np.unique(np.asarray(videos), return_index=True, return_inverse=True)
    there = ~np.isnan(s)
    sums, counts = np.bincount(codes, np.where(there, s, 0)), np.bincount(codes, there)
    means = np.divide(sums, counts, out=np.full(len(names), np.nan), where=counts > 0)
    return names, means, first.astype(np.int64)


def _checked(scores: ArrayLike, species: ArrayLike) -> tuple[Floats, Words]:
    s, kinds = np.asarray(scores, np.float64), np.asarray(species, np.str_)
    if s.ndim != 1 or s.shape != kinds.shape or not len(s):
        raise UsageError(f"scores and species must be two lists of one length, got {s.shape} and {kinds.shape}")
    if set(kinds.tolist()) <= {BONA_FIDE} or BONA_FIDE not in kinds:
        raise UsageError("error rates need attacks and bona fide presentations; one kind is missing")
    return s, kinds


def _decided(scores: ArrayLike, attack: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    s, y = np.asarray(scores, np.float64), np.asarray(attack, bool)
    if s.ndim != 1 or s.shape != y.shape:
        raise UsageError(f"scores and labels must be two lists of one length, got {s.shape} and {y.shape}")
    s, y = s[~np.isnan(s)], y[~np.isnan(s)]
    if not y.any() or y.all():
        raise UsageError("error rates need attacks and bona fide presentations; one kind is missing")
    return s, y


def _below(scores: Floats, thresholds: Floats) -> Floats:
    return np.asarray(np.searchsorted(np.sort(scores), thresholds, side="left") / len(scores))


def _last_nearest(values: Floats, wanted: float) -> int:
    return len(values) - 1 - int(np.argmin(np.abs(values[::-1] - wanted).round(12)))


def _hull(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The lower convex hull of points with x rising and y falling."""
    kept: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist()):
        while len(kept) > 1 and _turn(kept[-2], kept[-1], point) <= 0:
            kept.pop()
        kept.append(point)
    hull = np.array(kept)
    return hull[:, 0], hull[:, 1]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _crossing(x: Floats, y: Floats) -> float:
    """Where a curve from (0, 1) to (1, 0) crosses the diagonal, linear between points."""
    after = int(np.argmax(x >= y))
    above, below = y[after - 1] - x[after - 1], x[after] - y[after]
    return float(x[after - 1] + above / (above + below) * (x[after] - x[after - 1]))
