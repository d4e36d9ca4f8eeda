"""Measures of where a forgery was found, of morphs, and of attacks on recognisers.

How often attacks are missed and bona fide pictures suspected is measured as for every presentation attack, in
`facewright.metrics.presentation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

# --- places -----------------------------------------------------------------------------------------------------------


def coss(found: ArrayLike, truth: ArrayLike) -> float:
    """Cosine of two maps as vectors (FakeLocator); NaN where one is empty, so that real pictures are told apart."""
    a, b = _maps(found, truth)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / length) if length > 0 else float("nan")


def iou_and_f1(found: ArrayLike, truth: ArrayLike, threshold: float = 0.5) -> tuple[float, float]:
    """Intersection over union, and F1, of a map above a threshold and a truth above ½; NaN where both are empty."""
    a, b = _maps(found, truth)
    said, true = a > threshold, b > 0.5
    both, either = float((said & true).sum()), float((said | true).sum())
    if not either:
        return float("nan"), float("nan")
    return both / either, 2 * both / (both + either)


def pixel_accuracy(found: ArrayLike, truth: ArrayLike, threshold: float = 0.5) -> float:
    """Share of pixels on the right side (DFFD's PBCA)."""
    a, b = _maps(found, truth)
    return float(((a > threshold) == (b > 0.5)).mean())


def inverse_intersection(found: ArrayLike, truth: ArrayLike, threshold: float = 0.1) -> float:
    """DFFD's IINC, 0 for a perfect map to 1: it also judges maps that are, or should be, empty.

    With shares of the picture I (both), U (either), M (said) and T (true): (2 − I/M − I/T) / (3 − U).
    """
    a, b = _maps(found, truth)
    said, true = a > threshold, b > threshold
    union = float((said | true).mean())
    if not said.any() or not true.any():
        return 0.0 if said.any() == true.any() else 1 / (3 - union)
    both = float((said & true).mean())
    return (2 - both / float(said.mean()) - both / float(true.mean())) / (3 - union)


def pointed(found: ArrayLike, truth: ArrayLike, reach: int = 0) -> bool:
    """The pointing game: whether the map's maximum lies on the truth, or within `reach` pixels of it."""
    a, b = _maps(found, truth)
    y, x = np.unravel_index(int(np.argmax(a)), a.shape)
    part = b[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    return bool((part > 0.5).any())


# --- morphs and attacks on recognisers --------------------------------------------------------------------------------


def mmpmr(similarities: ArrayLike, threshold: float) -> float:
    """Share of morphs that match everybody they were made of: the least of (N, S) similarities exceeds a threshold."""
    return float((_contributors(similarities).min(1) > threshold).mean())


def prodavg_mmpmr(attempts: Sequence[Sequence[ArrayLike]], threshold: float) -> float:
    """The mean over morphs of the product of each contributor's share of matching attempts (Scherhag et al., 2017).

    `attempts` holds for every morph and every contributor the similarities to that person's probes.
    """
    if not attempts:
        raise UsageError("there is no morph to measure")
    shares = [[float((np.asarray(probes) > threshold).mean()) for probes in morph] for morph in attempts]
    return float(np.mean([np.prod(each) for each in shares]))


def rmmr(mmpmr: float, fnmr: float) -> float:
    """Relative morph match rate: how far morphs match, seen against how far people match themselves."""
    return 1 + mmpmr - (1 - fnmr)


def morphing_attack_potential(matches: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """MAP (R, C) of ISO/IEC 20059: share of morphs that all contributors match in ≥ r attempts at ≥ c recognisers.

    `matches` maps a recogniser to (N, S, R) flags: morph, contributor, attempt.
    """
    tables = [np.asarray(table, bool) for table in matches.values()]
    if not tables or any(table.ndim != 3 or table.shape != tables[0].shape for table in tables):
        raise UsageError("every recogniser needs flags (morphs, contributors, attempts) of one shape")
    attempts = tables[0].shape[2]
    counts = np.stack([table.sum(2).min(1) for table in tables])  # the contributor who matches least often
    return np.array(
        [[((counts >= r).sum(0) >= c).mean() for c in range(1, len(tables) + 1)] for r in range(1, attempts + 1)]
    )


def success_rate(similarities: ArrayLike, threshold: float) -> float:
    """SAR: share of attacks whose similarity to a reference of the person exceeds the attacked system's threshold."""
    return float((_some(similarities, "attack") > threshold).mean())


def threshold_at_fmr(impostors: ArrayLike, fmr: float) -> float:
    """The smallest score of an impostor that at most a share `fmr` of them exceeds."""
    values = np.sort(_some(impostors, "impostor"))[::-1]
    return float(values[min(int(fmr * len(values)), len(values) - 1)])


def _some(scores: ArrayLike, what: str) -> Floats:
    values = np.asarray(scores, np.float64).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise UsageError(f"there must be at least one finite score of {what} pictures")
    return values


def _maps(found: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise UsageError(f"a map and its truth must be of one size (H, W), not {a.shape} and {b.shape}")
    return a, b


def _contributors(similarities: ArrayLike) -> Floats:
    values = np.asarray(similarities, np.float64)
    if values.ndim != 2 or not values.size:
        raise UsageError(f"similarities of morphs to those they show are (N, S), not {values.shape}")
    return values
