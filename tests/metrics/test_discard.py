"""Error versus discard: both conventions against counting, the areas by hand, and what must hold for any quality."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facewright.errors import UsageError
from facewright.metrics.discard import (
    DiscardCurve,
    error_versus_discard,
    genuine_discard,
    pair_quality,
    partial_auc,
    threshold_at_fnmr,
)

GENUINE = np.array([0.1, 0.9, 0.2, 0.8, 0.7, 0.6, 0.9, 0.8, 0.7, 0.9])  # two of ten below 0.5


def matches(number: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and a quality that tells something: genuine scores fall with it."""
    rng = np.random.default_rng(seed)
    same = rng.random(number) < 0.5
    quality = rng.random(number)
    return rng.normal(np.where(same, 0.2 + 0.4 * quality, 0.0), 0.12), same, quality


def test_a_pair_is_as_good_as_its_worse_picture() -> None:
    assert pair_quality([1, 5, 3], [2, 4, 3]).tolist() == [1, 4, 3]


def test_genuine_discard_by_hand() -> None:
    curve = genuine_discard(GENUINE, np.arange(10), 0.5)
    assert curve.discard.tolist() == pytest.approx(np.arange(10) / 10)
    assert curve.fnmr.tolist() == pytest.approx([2 / 10, 1 / 9, 1 / 8, 0, 0, 0, 0, 0, 0, 0])
    area = 0.1 * (2 / 10 + 1 / 9 + 1 / 8)
    assert partial_auc(curve, max_discard=1) == pytest.approx(area)
    assert partial_auc(curve, max_discard=0.25) == pytest.approx(0.1 * (2 / 10 + 1 / 9) + 0.05 / 8)
    assert partial_auc(curve, max_discard=0.25, normalise=True) == pytest.approx(
        (0.1 * (2 / 10 + 1 / 9) + 0.05 / 8) / (0.2 * 0.25)
    )


def test_the_unavoidable_area_is_that_below_the_falling_line() -> None:
    """From 0.2 down to 0 at 0.2: 0.02 in all, 0.015 of it before 0.1."""
    curve = genuine_discard(GENUINE, np.arange(10), 0.5)
    for end, unavoidable in ((1.0, 0.02), (0.2, 0.02), (0.1, 0.015)):
        plain = partial_auc(curve, max_discard=end)
        assert partial_auc(curve, max_discard=end, subtract_oracle=True) == pytest.approx(plain - unavoidable)


def test_pairs_of_one_quality_leave_together() -> None:
    quality = np.array([1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    curve = genuine_discard(GENUINE, quality, 0.5)
    assert curve.discard.tolist() == [0, 0.4]
    assert curve.fnmr.tolist() == [0.2, 0]


def test_the_fixed_threshold_comes_from_all_impostors() -> None:
    scores = np.concatenate([GENUINE, np.arange(100) / 200])
    same = np.arange(110) < 10
    quality = np.concatenate([np.arange(10), np.zeros(100)])
    curve = error_versus_discard(scores, same, quality, fmr=0.01)  # 0.495: one of a hundred
    expected = genuine_discard(GENUINE, np.arange(10), 0.495)
    assert curve.fnmr.tolist() == expected.fnmr.tolist()
    assert curve.interpolation == "previous"
    lenient = error_versus_discard(scores, same, quality, fmr=0.8)  # 0.1: nobody is rejected at it
    assert lenient.fnmr.max() == 0


def test_refitted_curve_equals_the_published_steps() -> None:
    """Stepwise: keep, sort, the score whose FMR is nearest, the share of genuine scores not strictly above it."""
    scores, same, quality = matches(900)
    for fmr in (1e-2, 1e-3):
        curve = error_versus_discard(scores, same, quality, fmr=fmr, refit_threshold=True)
        order = np.argsort(quality, kind="stable")
        for share, found in zip(np.arange(0, 0.98, 0.05), curve.fnmr, strict=True):
            kept = order[int(share * 900) :]
            genuine, impostor = scores[kept][same[kept]], scores[kept][~same[kept]]
            levels = sorted({*genuine.tolist(), *impostor.tolist()})
            threshold = min(levels, key=lambda t: (abs(np.mean(impostor >= t) - fmr), t))
            assert found == pytest.approx(1 - np.mean(genuine > threshold))
        trapezes = sum((a + b) / 2 * 0.05 for a, b in zip(curve.fnmr, curve.fnmr[1:]))
        assert partial_auc(curve) == pytest.approx(trapezes)


def test_refitting_ends_where_pairs_run_out() -> None:
    scores, same = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    curve = error_versus_discard(scores, same, [1, 2, 3, 4], fmr=0.1, refit_threshold=True)
    assert len(curve.discard) == 10  # at one half all impostors are gone
    with pytest.raises(UsageError, match=r"ends at a discarded share of 0\.45"):
        partial_auc(curve, max_discard=0.6)


def test_ties_of_quality_leave_in_the_given_order_when_refitting() -> None:
    scores, same, _ = matches(200)
    ranks = error_versus_discard(scores, same, np.arange(200), fmr=0.05, refit_threshold=True)
    equal = error_versus_discard(scores, same, np.ones(200), fmr=0.05, refit_threshold=True)
    assert equal.fnmr.tolist() == ranks.fnmr.tolist()


def test_linear_areas_are_cut_where_asked() -> None:
    curve = DiscardCurve(np.array([0, 0.5, 1.0]), np.array([0.4, 0.2, 0.0]), "linear")
    assert partial_auc(curve) == pytest.approx(0.2)
    assert partial_auc(curve, max_discard=0.25) == pytest.approx(0.25 * (0.4 + 0.3) / 2)
    assert partial_auc(curve, subtract_oracle=True) == pytest.approx(0.2 - 0.08)


def test_starting_error_chooses_the_threshold() -> None:
    assert threshold_at_fnmr(GENUINE, 0.2) == 0.6
    assert threshold_at_fnmr(GENUINE, 0.19) == 0.2
    assert threshold_at_fnmr(GENUINE, 0) == 0.1
    curve = genuine_discard(GENUINE, np.arange(10), threshold_at_fnmr(GENUINE, 0.2))
    assert curve.fnmr[0] == 0.2


genuine_pairs = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(genuine_pairs, st.randoms(use_true_random=False))
def test_no_quality_beats_the_oracle(pairs: list[tuple[bool, int]], random: object) -> None:
    scores = np.array([float(ok) for ok, _ in pairs])
    quality = np.array([q for _, q in pairs], float)
    oracle = genuine_discard(scores, scores * 100 + np.arange(len(scores)) / 100, 0.5)
    curve = genuine_discard(scores, quality, 0.5)
    at = np.searchsorted(oracle.discard, curve.discard + 1e-9, side="right") - 1
    assert np.all(oracle.fnmr[at] <= curve.fnmr + 1e-12)
    for end in (0.1, 0.3, 1.0):
        best, found = (partial_auc(c, max_discard=end, subtract_oracle=True) for c in (oracle, curve))
        assert -1e-12 <= best <= found + 1e-12
    order = np.arange(len(scores))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = genuine_discard(scores[order], quality[order], 0.5)
    assert shuffled.discard.tolist() == curve.discard.tolist()
    assert shuffled.fnmr.tolist() == curve.fnmr.tolist()


def test_a_constant_quality_is_flat() -> None:
    scores, same, _ = matches()
    curve = error_versus_discard(scores, same, np.full(len(scores), 3.0), fmr=0.01)
    assert curve.discard.tolist() == [0]
    assert partial_auc(curve, max_discard=0.3, normalise=True) == pytest.approx(1)
    random = np.random.default_rng(1).random(len(scores))
    flat = error_versus_discard(scores, same, random, fmr=0.01)
    assert partial_auc(flat, max_discard=0.3, normalise=True) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("refit", [False, True])
def test_a_telling_quality_lowers_the_error(refit: bool) -> None:
    scores, same, quality = matches()
    areas = [
        partial_auc(error_versus_discard(scores, same, q, fmr=0.01, refit_threshold=refit), max_discard=0.3)
        for q in (quality, np.random.default_rng(0).random(len(scores)), -quality)
    ]
    assert areas[0] < 0.9 * areas[1]
    assert areas[1] < 0.95 * areas[2]


def test_impossible_requests_are_refused() -> None:
    scores, same, quality = matches(50)
    with pytest.raises(UsageError, match="needs a quality"):
        error_versus_discard(scores, same, quality[:-1])
    with pytest.raises(UsageError, match="one kind is missing"):
        error_versus_discard(scores, np.ones(50, bool), quality)
    with pytest.raises(UsageError, match="no error"):
        partial_auc(genuine_discard([1.0, 1], [1, 2], 0.5), max_discard=0.3, normalise=True)
