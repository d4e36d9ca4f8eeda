"""Measures of detectors of forgeries and morphs, of morphs themselves, and of attacks on recognisers.

Scores say how likely a picture is an attack: higher is more suspicious. Published tools differ (MADation's score is
high for bona fide), so turn theirs around first. Names are those of ISO/IEC 30107-3 and 20059: an APCER (for morphs
MACER) is the share of attacks taken for bona fide, a BPCER (BSCER) the share of bona fide pictures taken for attacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

EerStyle = Literal["convex", "nearest", "root"]


# --- decisions --------------------------------------------------------------------------------------------------------


def apcer_by_species(scores: ArrayLike, species: Sequence[str], threshold: float) -> dict[str, float]:
    """Share of the attacks of every species with a score below a threshold: they pass for bona fide."""
    values, names = np.asarray(scores, np.float64), np.asarray(species)
    if len(values) != len(names) or not len(values):
        raise UsageError(f"{len(values)} scores of attacks do not fit {len(names)} names of species")
    return {str(name): float((values[names == name] < threshold).mean()) for name in np.unique(names)}


def bpcer(scores: ArrayLike, threshold: float) -> float:
    """Share of bona fide pictures whose score reaches a threshold: they are taken for attacks."""
    return float((_some(scores, "bona fide") >= threshold).mean())


def acer(attacks: ArrayLike, species: Sequence[str], bona_fide: ArrayLike, threshold: float) -> float:
    """Half of BPCER and the worst species' APCER. The standard wants both reported; competitions report this."""
    return (max(apcer_by_species(attacks, species, threshold).values()) + bpcer(bona_fide, threshold)) / 2


def error_rates(attacks: ArrayLike, bona_fide: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(thresholds, APCER, BPCER) at every score that occurs and at infinity, thresholds rising."""
    bad, good = np.sort(_some(attacks, "attack")), np.sort(_some(bona_fide, "bona fide"))
    thresholds = np.append(np.unique(np.concatenate([bad, good])), np.inf)
    missed = np.searchsorted(bad, thresholds, "left") / len(bad)
    alarmed = 1 - np.searchsorted(good, thresholds, "left") / len(good)
    return thresholds, missed, alarmed


def bpcer_at_apcer(attacks: ArrayLike, bona_fide: ArrayLike, apcer: float) -> tuple[float, float]:
    """(BPCER, the APCER really reached) at the point whose APCER is nearest to a wanted one, as morph papers have it.

    The smallest threshold wins where two are as near.
    """
    _, missed, alarmed = error_rates(attacks, bona_fide)
    at = int(np.argmin(np.abs(missed - apcer)))
    return float(alarmed[at]), float(missed[at])


def apcer_at_bpcer(attacks: ArrayLike, bona_fide: ArrayLike, bpcer: float) -> tuple[float, float]:
    """(APCER, the BPCER really reached) at the point whose BPCER is nearest; the smallest threshold wins."""
    _, missed, alarmed = error_rates(attacks, bona_fide)
    at = int(np.argmin(np.abs(alarmed - bpcer)))
    return float(missed[at]), float(alarmed[at])


def equal_error_rate(attacks: ArrayLike, bona_fide: ArrayLike, *, style: EerStyle = "convex") -> float:
    """The rate at which as many attacks are missed as bona fide pictures are alarmed.

    `convex`: where the lower convex hull of the error curve meets the diagonal, which a mixture of two thresholds
    reaches. `nearest`: BPCER at the threshold where the two are nearest, as DeepfakeBench and morph papers have it.
    `root`: linear interpolation of the error curve itself.
    """
    if style not in get_args(EerStyle):
        raise UsageError(f"unknown style {style!r} of equal error rate; choose from {', '.join(get_args(EerStyle))}")
    _, missed, alarmed = error_rates(attacks, bona_fide)
    if style == "nearest":
        return float(alarmed[int(np.argmin(np.abs(missed - alarmed)))])
    x, y = (missed, alarmed) if style == "root" else _hull(missed, alarmed)
    return _crossing(x, y)


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
    """Where a curve that begins above the diagonal and ends below it crosses it, linear between points."""
    after = int(np.argmax(x >= y))
    if x[after] == y[after] or after == 0:
        return float(x[after])
    above, below = y[after - 1] - x[after - 1], x[after] - y[after]
    share = above / (above + below)
    return float(x[after - 1] + share * (x[after] - x[after - 1]))


def auc(attacks: ArrayLike, bona_fide: ArrayLike) -> float:
    """Probability that an attack scores higher than a bona fide picture; ties count half."""
    bad, good = _some(attacks, "attack"), np.sort(_some(bona_fide, "bona fide"))
    below, up_to = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    return float((below + up_to).mean() / (2 * len(good)))


def by_video(scores: ArrayLike, videos: Sequence[str]) -> dict[str, float]:
    """Mean score of the frames of every video, as DeepfakeBench has it; frames without a face must be left out."""
    values, names = np.asarray(scores, np.float64), np.asarray(videos)
    if len(values) != len(names):
        raise UsageError(f"{len(values)} scores do not fit {len(names)} names of videos")
    return {str(name): float(values[names == name].mean()) for name in np.unique(names)}


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
