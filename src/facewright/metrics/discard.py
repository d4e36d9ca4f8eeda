"""Error versus discard (EDC, also ERC): how fast false non-matches go when the pairs of lowest quality are left out.

A pair is as good as its worse picture. Two conventions are in use, and their numbers do not compare:

- threshold fixed once (ISO/IEC 29794-1; Schlett et al., "Considerations on the Evaluation of Biometric Quality
  Assessment Algorithms", 2023): a share of the genuine pairs is discarded, FNMR is a step function of that share, and
  genuine pairs of one quality leave together, so their order cannot matter;
- threshold refitted (face image quality papers such as CR-FIQA, 2023): a share of all pairs is discarded in steps of
  5 %, and what is left sets its own threshold; pairs of one quality leave in their given order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import UsageError
from .verification import check_pairs, roc

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

REFIT_GRID = np.arange(0, 0.98, 0.05)


@dataclass(frozen=True, slots=True, eq=False)
class DiscardCurve:
    """False non-match rate after discarding; `discard` and `fnmr` are (R,), `discard` starts at 0 and ascends.

    Between points the rate holds its last value ("previous") or is drawn straight ("linear").
    """

    discard: Floats
    fnmr: Floats
    interpolation: Literal["previous", "linear"]


def pair_quality(first: ArrayLike, second: ArrayLike) -> Floats:
    """(N,) quality of pairs from that of their two pictures: the lower one."""
    return np.minimum(np.asarray(first, np.float64), np.asarray(second, np.float64))


def error_versus_discard(
    scores: ArrayLike, same: ArrayLike, quality: ArrayLike, *, fmr: float = 1e-3, refit_threshold: bool = False
) -> DiscardCurve:
    """FNMR over the discarded share, from (N,) similarity scores, labels and pair qualities (higher is better).

    With the threshold fixed it is the smallest score whose FMR over all impostors is at most `fmr`, and scores at it
    match. With `refit_threshold` it is the score whose FMR is nearest to `fmr` among the pairs left, and only scores
    above it match (so the published code does); the curve ends where either kind of pair runs out.
    """
    s, y = check_pairs(scores, same)
    q = np.asarray(quality, np.float64)
    if q.shape != s.shape or np.isnan(q).any():
        raise UsageError(f"every one of the {len(s)} pairs needs a quality that is a number")
    if not y.any() or y.all():
        raise UsageError("error versus discard needs genuine and impostor pairs; one kind is missing")
    if refit_threshold:
        return _refitted(s, y, q, fmr)
    return genuine_discard(s[y], q[y], roc(s, y).threshold_at(fmr))


def genuine_discard(scores: ArrayLike, quality: ArrayLike, threshold: float) -> DiscardCurve:
    """FNMR of genuine pairs at a given threshold over the discarded share of them; `scores`, `quality` are (N,)."""
    s, q = np.asarray(scores, np.float64), np.asarray(quality, np.float64)
    order = np.argsort(q, kind="stable")
    errors = (s < threshold)[order]
    left = len(s) - np.arange(len(s))
    rates = np.cumsum(errors[::-1])[::-1] / left
    starts = np.flatnonzero(np.r_[True, np.diff(q[order]) > 0])
    return DiscardCurve(starts / len(s), rates[starts], "previous")


def threshold_at_fnmr(scores: ArrayLike, fnmr: float) -> float:
    """The largest genuine score that, as a threshold, rejects at most the share `fnmr` of the genuine `scores`."""
    if not 0 <= fnmr < 1:
        raise UsageError(f"a starting error must be between 0 and 1, not {fnmr}")
    ordered = np.sort(np.asarray(scores, np.float64))
    return float(ordered[int(fnmr * len(ordered) * (1 + 1e-9))])


def partial_auc(
    curve: DiscardCurve,
    *,
    max_discard: float | None = None,
    normalise: bool = False,
    subtract_oracle: bool = False,
) -> float:
    """Area under an EDC up to `max_discard` (None: to its last point); lower is better.

    `subtract_oracle` takes away the area below max(0, FNMR at 0 − r), the line no discarding of genuine pairs beats.
    `normalise` divides by FNMR at 0 times the range, so that a quality that helps nothing has 1 (before subtraction).
    Raises UsageError when the curve ends earlier, and when there is no error to normalise by.
    """
    end = float(curve.discard[-1]) if max_discard is None else max_discard
    start_error = float(curve.fnmr[0])
    if not 0 <= end <= 1 or (curve.interpolation == "linear" and end > curve.discard[-1]):
        raise UsageError(f"no area up to {end}: the curve ends at a discarded share of {curve.discard[-1]:.2f}")
    area = _area(curve, end)
    if subtract_oracle:
        area -= (start_error**2 - max(0.0, start_error - end) ** 2) / 2
    if normalise:
        if start_error * end == 0:
            raise UsageError("there is no error or no range to normalise by; report the plain area")
        area /= start_error * end
    return area


def _area(curve: DiscardCurve, end: float) -> float:
    inside = curve.discard < end
    x = np.append(curve.discard[inside], end)
    if curve.interpolation == "previous":
        return float(np.diff(x) @ curve.fnmr[inside])
    return float(np.trapezoid(np.interp(x, curve.discard, curve.fnmr), x))


def _refitted(s: Floats, y: NDArray[np.bool_], q: Floats, fmr: float) -> DiscardCurve:
    order = np.argsort(q, kind="stable")
    rates: list[float] = []
    for share in REFIT_GRID:
        kept = order[int(share * len(s)) :]
        genuine, impostors = s[kept][y[kept]], s[kept][~y[kept]]
        if not len(genuine) or not len(impostors):
            break
        rates.append(float(np.mean(genuine <= _nearest_threshold(genuine, impostors, fmr))))
    return DiscardCurve(REFIT_GRID[: len(rates)], np.array(rates), "linear")


def _nearest_threshold(genuine: Floats, impostors: Floats, fmr: float) -> float:
    """The observed score whose FMR is nearest to `fmr`; the lowest of several."""
    candidates = np.unique(np.concatenate([genuine, impostors]))
    accepted = len(impostors) - np.searchsorted(np.sort(impostors), candidates, side="left")
    rates = accepted / len(impostors)
    return float(candidates[np.argmin(np.abs(rates - fmr))])
