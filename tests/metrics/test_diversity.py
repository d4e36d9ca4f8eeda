"""How different made faces are: by hand, and what a collapse looks like."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics.diversity import mean_distance, precision_and_recall, same_person_share


def test_share_of_pairs_by_hand() -> None:
    """Three of one person and one other: three of six pairs."""
    vectors = np.array([[1, 0], [1, 0], [0.96, 0.28], [0, 1]])
    assert same_person_share(vectors, 0.9) == pytest.approx(0.5)
    assert same_person_share(vectors, 0.97) == pytest.approx(1 / 6)
    assert same_person_share(vectors, 1.01) == 0


def test_mean_distance_by_hand() -> None:
    assert mean_distance([[0, 0], [3, 4], [0, 0]]) == pytest.approx(10 / 3)


def test_precision_and_recall_by_hand() -> None:
    """On a line: real points at 0, 1, 2, 3, each reaching its next neighbour; made ones at 1.4, 1.5 and far away."""
    real, made = np.array([[0.0], [1], [2], [3]]), np.array([[1.4], [1.5], [50]])
    precision, recall = precision_and_recall(real, made, neighbours=1)
    assert precision == pytest.approx(2 / 3)
    assert recall == pytest.approx(0.5)  # the lonely one at 50 reaches 48.5 far
    assert precision_and_recall(real, np.array([[1.4], [1.5], [1.6]]), neighbours=1)[1] == 0


def test_a_collapsed_generator_has_precision_but_no_recall() -> None:
    rng = np.random.default_rng(0)
    real, good = rng.normal(size=(2, 300, 8))
    collapsed = 0.1 * rng.normal(size=(300, 8))
    assert min(precision_and_recall(real, good)) > 0.6
    precision, recall = precision_and_recall(real, collapsed)
    assert precision > 0.9
    assert recall < 0.05
    assert mean_distance(collapsed) < 0.2 * mean_distance(good)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(UsageError, match="N ≥ 2"):
        same_person_share(np.ones((1, 4)), 0.5)
    with pytest.raises(UsageError, match="3 neighbours"):
        precision_and_recall(np.ones((3, 2)), np.ones((9, 2)))
    with pytest.raises(UsageError, match=r"\(N, D\)"):
        mean_distance(np.ones(3))
