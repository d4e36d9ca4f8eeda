"""Measures of forensics on examples that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics.forensics import (
    coss,
    inverse_intersection,
    iou_and_f1,
    mmpmr,
    morphing_attack_potential,
    pixel_accuracy,
    pointed,
    prodavg_mmpmr,
    rmmr,
    success_rate,
    threshold_at_fmr,
)


def maps() -> tuple[np.ndarray, np.ndarray]:
    found, truth = np.zeros((4, 4)), np.zeros((4, 4))
    found[0, 0], found[0, 1] = 0.9, 0.6
    truth[0, 1:3] = 1
    return found, truth


def test_maps_against_masks() -> None:
    found, truth = maps()
    assert iou_and_f1(found, truth) == (1 / 3, 0.5)
    assert coss(found, truth) == pytest.approx(0.6 / (np.hypot(0.9, 0.6) * np.sqrt(2)))
    assert pixel_accuracy(found, truth) == 14 / 16
    assert not pointed(found, truth)
    assert pointed(found, truth, reach=1)
    assert inverse_intersection(found, truth) == pytest.approx((2 - 0.5 - 0.5) / (3 - 3 / 16))


def test_empty_maps() -> None:
    found, truth = maps()
    nothing = np.zeros((4, 4))
    assert np.isnan(coss(nothing, truth))
    assert np.isnan(iou_and_f1(nothing, nothing)[0])
    assert iou_and_f1(nothing, truth) == (0.0, 0.0)
    assert inverse_intersection(nothing, nothing) == 0.0
    assert inverse_intersection(found, nothing) == pytest.approx(1 / (3 - 2 / 16))
    with pytest.raises(UsageError, match="one size"):
        coss(found, truth[:2])


def test_morphs_count_when_everybody_matches() -> None:
    similarities = [[0.6, 0.5], [0.7, 0.2], [0.5, 0.5], [0.9, 0.41]]
    assert mmpmr(similarities, 0.4) == 0.75
    assert mmpmr(similarities, 0.5) == 0.0  # exceeds, not reaches
    assert rmmr(0.75, 0.05) == pytest.approx(0.8)
    assert prodavg_mmpmr([[[0.6, 0.1], [0.6, 0.6]], [[0.1], [0.9]]], 0.5) == 0.25
    with pytest.raises(UsageError):
        mmpmr([0.5, 0.6], 0.4)


def test_attack_potential_over_attempts_and_recognisers() -> None:
    first = np.array([[[1, 1], [1, 0]], [[1, 1], [1, 1]]], bool)  # least matching contributor: 1 and 2 attempts
    second = np.array([[[0, 0], [1, 1]], [[1, 0], [1, 0]]], bool)  # 0 and 1
    table = morphing_attack_potential({"a": first, "b": second})
    assert table.tolist() == [[1.0, 0.5], [0.5, 0.0]]


def test_success_at_the_attacked_systems_threshold() -> None:
    impostors = np.arange(100) / 100
    threshold = threshold_at_fmr(impostors, 0.01)
    assert (impostors > threshold).mean() == 0.01
    assert success_rate([0.99, 0.98, 0.5], threshold) == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="finite"):
        success_rate([np.nan], 0.5)
