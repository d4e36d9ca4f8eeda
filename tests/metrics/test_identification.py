"""Identification: worked examples of closed and open sets, and the two meanings of TPIR@FPIR kept apart."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics.identification import cmc, dir_at_fpir, insightface_tpir, open_set_curve, rank_rate

GALLERY = ["ann", "ben", "cat"]
MATED = np.array(
    [
        [0.9, 0.2, 0.1],  # ann, rank 1
        [0.5, 0.4, 0.3],  # ben, rank 2
        [0.8, 0.7, 0.6],  # cat, rank 3
        [0.1, 0.2, 0.7],  # cat, rank 1
    ]
)
PEOPLE = ["ann", "ben", "cat", "cat"]
STRANGERS = np.array([[0.3, 0.1, 0.2], [0.1, 0.75, 0.2], [0.4, 0.2, 0.1], [0.2, 0.1, 0.15]])


def open_set() -> tuple[np.ndarray, list[str], list[str]]:
    return np.concatenate([MATED, STRANGERS]), [*PEOPLE, "dan", "eve", "fay", "gus"], GALLERY


def test_cmc_by_hand() -> None:
    assert cmc(MATED, PEOPLE, GALLERY).tolist() == [0.5, 0.75, 1]
    assert rank_rate(MATED, PEOPLE, GALLERY) == 0.5
    assert rank_rate(MATED, PEOPLE, GALLERY, 2) == 0.75


def test_entries_of_one_person_stand_together() -> None:
    """Ben's second entry is the best for ben's probe; ann's two entries do not push him to rank 3."""
    similarity = np.array([[0.6, 0.5, 0.1, 0.55]])
    assert cmc(similarity, ["ben"], ["ann", "ann", "ben", "ben"]).tolist() == [0, 1]
    assert cmc(similarity, ["ben"], ["ann", "cat", "ben", "ben"]).tolist() == [0, 1, 1]


def test_equal_scores_recognise_nobody() -> None:
    assert cmc(np.full((3, 3), 0.5), GALLERY, GALLERY).tolist() == [0, 0, 1]


def test_order_of_the_gallery_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    similarity, probes, gallery = rng.normal(size=(50, 20)), rng.integers(0, 8, 50), np.arange(20) % 8
    order = rng.permutation(20)
    assert np.array_equal(cmc(similarity, probes, gallery), cmc(similarity[:, order], probes, gallery[order]))


def test_closed_set_means_closed() -> None:
    with pytest.raises(UsageError, match="dan is not in the gallery"):
        cmc(MATED, ["ann", "ben", "cat", "dan"], GALLERY)
    with pytest.raises(UsageError, match="does not fit"):
        cmc(MATED, PEOPLE, GALLERY[:2])
    with pytest.raises(UsageError, match="rank 4"):
        rank_rate(MATED, PEOPLE, GALLERY, 4)


def test_open_set_by_hand() -> None:
    """Strangers' best scores are 0.75, 0.4, 0.3, 0.2; the mates at rank 1 are at 0.9 and 0.7."""
    curve = open_set_curve(*open_set())
    assert curve.tpir_at(0) == 0.25
    assert curve.threshold_at(0) == 0.9
    assert curve.tpir_at(0.25) == 0.5
    assert curve.threshold_at(0.25) == 0.7
    assert curve.tpir_at(1) == 0.5  # a mate at rank 2 is never a hit, whatever the threshold


def test_a_larger_rank_admits_more_mates() -> None:
    curve = open_set_curve(*open_set(), rank=3)
    assert curve.tpir_at(0.25) == 0.75  # 0.9, 0.7 and 0.6 above 0.4
    assert curve.tpir_at(0.5) == 1  # 0.4 too


def test_open_set_rates_equal_counting() -> None:
    rng = np.random.default_rng(1)
    gallery = np.arange(30)
    probes = np.concatenate([rng.integers(0, 30, 120), np.arange(100, 160)])
    similarity = rng.normal(size=(180, 30))
    similarity[np.arange(120), probes[:120]] += 2
    curve = open_set_curve(similarity, probes, gallery)
    best = similarity.argmax(1)
    for threshold, fpir, tpir in zip(curve.thresholds[1:], curve.fpir[1:], curve.tpir[1:]):
        reported = similarity.max(1) >= threshold
        assert fpir == pytest.approx(reported[120:].mean())
        assert tpir == pytest.approx((reported[:120] & (best[:120] == probes[:120])).mean())


def test_galleries_are_averaged_at_their_own_thresholds() -> None:
    first = open_set_curve(*open_set())
    similarity, probes, gallery = open_set()
    second = open_set_curve(similarity + 5, probes, gallery, rank=3)
    assert dir_at_fpir([first, second], 0.25) == pytest.approx((0.5 + 0.75) / 2)


def test_open_set_needs_both_kinds_of_probe() -> None:
    with pytest.raises(UsageError, match="one kind is missing"):
        open_set_curve(MATED, PEOPLE, GALLERY)


def test_insightface_variant_by_hand() -> None:
    """Non-mated scores from the top: 0.8, 0.7, 0.5, 0.3 …; mated: 0.9, 0.4, 0.6, 0.7."""
    assert insightface_tpir(MATED, PEOPLE, GALLERY, 0.25) == 0.25  # the first: above 0.8
    assert insightface_tpir(MATED, PEOPLE, GALLERY, 0.3) == 0.25  # ⌈1.2⌉ = 2: above 0.7, not at it
    assert insightface_tpir(MATED, PEOPLE, GALLERY, 0.75) == 0.75  # the third: above 0.5, rank 3 counts too


def test_insightface_variant_is_not_the_standard_one() -> None:
    """Pooling asks the non-mated scores of mated probes, the standard asks the strangers; it also ignores the rank."""
    assert open_set_curve(*open_set()).tpir_at(0.25) == 0.5
    assert insightface_tpir(MATED, PEOPLE, GALLERY, 0.25) == 0.25
    assert open_set_curve(*open_set()).tpir_at(0.75) == 0.5
    assert insightface_tpir(MATED, PEOPLE, GALLERY, 0.75) == 0.75


def test_insightface_variant_refuses_what_it_does_not_define() -> None:
    with pytest.raises(UsageError, match="every probe mated"):
        insightface_tpir(*open_set(), 0.1)
    with pytest.raises(UsageError, match="enrolled once"):
        insightface_tpir(MATED, ["ann"] * 4, ["ann", "ann", "ben"], 0.1)
    with pytest.raises(UsageError, match="above 0"):
        insightface_tpir(MATED, PEOPLE, GALLERY, 0.0)
