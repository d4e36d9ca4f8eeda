"""Cumulative errors, other normalisers and pose: pinned to examples worked by hand and to numerical integration."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics.landmarks import (
    box_diagonal,
    box_size,
    cumulative_error_auc,
    cumulative_errors,
    face_errors,
    failure_rate,
    nme,
    pose_error,
)

FIVE = np.array([[10.0, 10.0], [50.0, 10.0], [30.0, 30.0], [14.0, 40.0], [46.0, 40.0]])
MOVED = FIVE + np.array([3.0, 4.0])
ERRORS = [0.02, 0.05, 0.09, 0.30]


def test_box_normalisers_by_hand() -> None:
    assert box_size(FIVE) == pytest.approx(np.sqrt(40 * 30))
    assert box_diagonal(FIVE) == pytest.approx(50)
    assert nme(MOVED, FIVE, normaliser=box_diagonal(FIVE)) == pytest.approx(0.1)
    assert nme(MOVED, FIVE, normaliser=box_size(FIVE)) == pytest.approx(5 / np.sqrt(1200))


def test_errors_of_single_faces_average_to_the_nme() -> None:
    truth = np.stack([FIVE, 2 * FIVE])
    errors = face_errors(truth + np.array([3.0, 4.0]), truth)
    np.testing.assert_allclose(errors, [5 / 40, 5 / 80])
    assert errors.mean() == pytest.approx(nme(truth + np.array([3.0, 4.0]), truth))


def test_cumulative_curve_and_failures_by_hand() -> None:
    np.testing.assert_allclose(cumulative_errors(ERRORS, [0.01, 0.05, 0.1, 1.0]), [0, 0.5, 0.75, 1])
    assert failure_rate(ERRORS, 0.08) == pytest.approx(0.5)
    assert failure_rate(ERRORS, 0.05) == pytest.approx(0.5)  # an error of just the threshold is none
    assert failure_rate(ERRORS) == pytest.approx(0.25)


def test_area_under_the_curve_by_hand_and_by_integration() -> None:
    assert cumulative_error_auc(ERRORS, 0.1) == pytest.approx((0.8 + 0.5 + 0.1 + 0) / 4)
    errors = np.random.default_rng(0).gamma(3, 0.02, 400)
    x = np.linspace(0, 0.08, 200_001)
    area = np.trapezoid(cumulative_errors(errors, x), x) / 0.08
    assert cumulative_error_auc(errors, 0.08) == pytest.approx(area, abs=1e-5)
    assert cumulative_error_auc([0.0, 0.0]) == 1
    assert cumulative_error_auc([0.5]) == 0


def test_pose_errors_by_hand() -> None:
    truth = np.array([[10.0, 0.0, 0.0], [-30.0, 10.0, 5.0]])
    predicted = np.array([[14.0, -2.0, 1.0], [-32.0, 12.0, 8.0]])
    assert pose_error(predicted, truth) == pytest.approx((3, 2, 2, 7 / 3))


def test_pose_errors_go_the_short_way_round() -> None:
    assert pose_error([[0.0, 0, 179]], [[0.0, 0, -179]], limit=180) == pytest.approx((0, 0, 2, 2 / 3))


def test_faces_beyond_the_limit_do_not_count() -> None:
    truth = np.array([[0.0, 0, 0], [0, 0, 120]])
    predicted = np.array([[1.0, 1, 1], [90, 90, 90]])
    assert pose_error(predicted, truth) == pytest.approx((1, 1, 1, 1))
    with pytest.raises(UsageError, match="within 99 degrees"):
        pose_error(predicted[1:], truth[1:])


def test_unusable_errors_are_refused() -> None:
    with pytest.raises(UsageError, match="no errors"):
        failure_rate([])
    with pytest.raises(UsageError, match="must be positive"):
        cumulative_error_auc(ERRORS, 0)
    with pytest.raises(UsageError, match="equal arrays"):
        pose_error(np.zeros((2, 3)), np.zeros((1, 3)))
