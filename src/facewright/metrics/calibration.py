"""From a recogniser's score to evidence: log-likelihood ratios, their cost, reliability, and what ships with a model.

A log-likelihood ratio (LLR, natural logarithm) says how much likelier a score is for one person than for two; with a
prior it gives a probability. Cllr (Brümmer and du Preez, "Application-independent evaluation of speaker detection",
2006) is its cost in bits: 0 is perfect, 1 is what saying nothing costs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import UsageError, WeightsError
from .verification import FARS, OperatingPoint, check_pairs, operating_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AffineLlr:
    """LLR = `scale` · score + `offset`, the map of logistic regression."""

    scale: float
    offset: float

    def __call__(self, scores: ArrayLike) -> Floats:
        return np.asarray(self.scale * np.asarray(scores, np.float64) + self.offset)


@dataclass(frozen=True, slots=True, eq=False)
class IsotonicLlr:
    """A rising step function through observed `scores` (K,) and their LLR `values` (K,), infinite at clean ends.

    Between two observed scores the lower one's value holds; below all, the lowest.
    """

    scores: Floats
    values: Floats

    def __call__(self, scores: ArrayLike) -> Floats:
        below = np.searchsorted(self.scores, np.asarray(scores, np.float64), side="right") - 1
        return np.asarray(self.values[np.maximum(below, 0)])


def fit_affine(scores: ArrayLike, same: ArrayLike, *, prior: float = 0.5, regularisation: float = 1e-4) -> AffineLlr:
    """Affine calibration by logistic regression in which both kinds of pair weigh by `prior`, whatever their number.

    Minimises the mean logistic loss in nats at `prior` plus ½·`regularisation`·scale², which keeps the scale finite
    when the scores separate both kinds completely. Raises UsageError when one kind is missing.
    """
    from scipy.optimize import minimize  # takes long to load, and only fitting needs it

    s, y = _both_kinds(scores, same)
    if not 0 < prior < 1 or regularisation < 0:
        raise UsageError("a prior must be strictly between 0 and 1, and a regularisation must not be negative")
    weights = np.where(y, prior / y.sum(), (1 - prior) / (~y).sum())
    inputs = np.stack([s, np.ones_like(s)], axis=1)
    sign = np.where(y, 1.0, -1.0)
    penalty = np.diag([regularisation, 0.0])

    def loss(w: Floats) -> float:
        return float(weights @ np.logaddexp(0, -sign * (inputs @ w)) + w @ penalty @ w / 2)

    def gradient(w: Floats) -> Floats:
        return np.asarray(inputs.T @ (weights * (_probability(inputs @ w) - y)) + penalty @ w)

    def curvature(w: Floats) -> Floats:
        p = _probability(inputs @ w)
        return np.asarray(inputs.T * (weights * p * (1 - p)) @ inputs + penalty)

    start = np.array([0.0, _log_odds(prior)])
    found = minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-10})
    return AffineLlr(float(found.x[0]), float(found.x[1] - _log_odds(prior)))


def fit_isotonic(scores: ArrayLike, same: ArrayLike) -> IsotonicLlr:
    """The rising map of scores to LLR that fits these pairs best (pool adjacent violators); equal scores stay equal.

    It has as many parameters as steps: on the pairs it was fitted to it measures the best possible (`cllr_min`), on
    others it needs many pairs.
    """
    from scipy.optimize import isotonic_regression

    s, y = _both_kinds(scores, same)
    levels, place = np.unique(s, return_inverse=True)
    counts = np.bincount(place)
    posterior = isotonic_regression(np.bincount(place, weights=y) / counts, weights=counts).x
    return IsotonicLlr(levels, np.asarray(_log_odds(posterior) - _log_odds(y.mean())))


def posterior(llr: ArrayLike, prior: float = 0.5) -> Floats:
    """Probability of one person, given LLRs and the probability before the comparison."""
    if not 0 < prior < 1:
        raise UsageError(f"a prior must be strictly between 0 and 1, not {prior}")
    return _probability(np.asarray(llr, np.float64) + _log_odds(prior))


def _probability(log_odds: ArrayLike) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, np.negative(log_odds))))


def _log_odds(probability: ArrayLike) -> Floats:
    """Infinite for 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probability) - np.log1p(np.negative(probability)))


def cllr(llr: ArrayLike, same: ArrayLike) -> float:
    """Cost of (N,) LLRs in bits, genuine and impostor pairs weighing alike; infinite for certainty that was wrong."""
    values, y = _both_kinds(llr, same)
    genuine, impostor = np.logaddexp(0, -values[y]).mean(), np.logaddexp(0, values[~y]).mean()
    return float((genuine + impostor) / (2 * np.log(2)))


def cllr_min(scores: ArrayLike, same: ArrayLike) -> float:
    """The least Cllr any rising map of these scores has: what is lost by discrimination alone.

    `cllr` minus this is what is lost by calibration.
    """
    return cllr(fit_isotonic(scores, same)(scores), same)


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityDiagram:
    """Per filled bin, (B,): mean stated probability, observed frequency of one person, number of pairs."""

    stated: Floats
    observed: Floats
    counts: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of stated and observed over all pairs."""
        return float(np.average(np.abs(self.stated - self.observed), weights=self.counts))


def reliability(probabilities: ArrayLike, same: ArrayLike, *, bins: int = 10) -> ReliabilityDiagram:
    """Reliability of (N,) stated probabilities in `bins` equal parts of [0, 1]; a value on an edge goes up."""
    p, y = check_pairs(probabilities, same)
    if bins < 1 or p.min() < 0 or p.max() > 1:
        raise UsageError("reliability needs probabilities between 0 and 1 and one bin or more")
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p, side="right")
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    stated, observed = (np.bincount(place, weights=v, minlength=bins)[filled] / counts[filled] for v in (p, y))
    return ReliabilityDiagram(stated, observed, counts[filled])


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """What a recogniser's cosine means, measured once and shipped with its weights.

    `recogniser` and `sha256` name the weights it belongs to, `measured_on` the pairs; `llr` maps a score to evidence,
    `points` are the thresholds at the asked FARs with their intervals.
    """

    recogniser: str
    sha256: str
    measured_on: str
    genuine: int
    impostors: int
    llr: AffineLlr
    points: tuple[OperatingPoint, ...]

    @classmethod
    def measure(
        cls,
        scores: ArrayLike,
        same: ArrayLike,
        identities: ArrayLike | None,
        *,
        recogniser: str,
        sha256: str,
        measured_on: str,
        fars: Sequence[float] = FARS,
        replicates: int = 1000,
    ) -> Self:
        """Calibrate on (N,) scores of people the recogniser never saw; `identities` (N, 2) give the intervals."""
        s, y = _both_kinds(scores, same)
        points = operating_points(s, y, identities, fars=fars, replicates=replicates)
        return cls(recogniser, sha256, measured_on, int(y.sum()), int((~y).sum()), fit_affine(s, y), points)

    def probability(self, scores: ArrayLike, prior: float = 0.5) -> Floats:
        """Probability of one person behind each score, given the probability before the comparison."""
        return posterior(self.llr(scores), prior)

    def point(self, far: float) -> OperatingPoint:
        """The operating point at a FAR; raises UsageError naming those there are."""
        for point in self.points:
            if np.isclose(point.far, far, rtol=1e-6):
                return point
        known = ", ".join(f"{point.far:g}" for point in self.points)
        raise UsageError(f"{self.recogniser} is calibrated at a FAR of {known}, not {far:g}")

    def check(self, sha256: str) -> None:
        """Raise WeightsError unless the recogniser's weights are the ones measured."""
        if sha256 != self.sha256:
            raise WeightsError(
                f"the calibration of {self.recogniser} was measured with weights {self.sha256[:12]}…, "
                f"not {sha256[:12]}…: measure it again for these weights"
            )

    def to_json(self) -> str:
        """Plain JSON text; `from_json` gives the same record back."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "calibration") -> Self:
        """The record of `to_json`; raises WeightsError naming `source` when the text is damaged or incomplete."""
        try:
            values = json.loads(text)
            values["llr"] = AffineLlr(**values["llr"])
            values["points"] = tuple(_point(**point) for point in values["points"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(
                f"{source} is not a score calibration ({error}); download it again with its weights"
            ) from error


def _point(
    threshold_interval: Sequence[float] | None, tar_interval: Sequence[float] | None, **values: Any
) -> OperatingPoint:
    return OperatingPoint(
        **values, threshold_interval=_interval(threshold_interval), tar_interval=_interval(tar_interval)
    )


def _interval(ends: Sequence[float] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    low, high = ends
    return float(low), float(high)


def _both_kinds(scores: ArrayLike, same: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    s, y = check_pairs(scores, same)
    if not y.any() or y.all():
        raise UsageError("calibration needs genuine and impostor pairs; one kind is missing")
    return s, y
