"""Numbers of audits: rates with intervals, thresholds, and templates that are turned."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics.attacks import Rate, accepted, pair_scores, secret_rotation, thresholds


def test_a_rate_by_hand() -> None:
    rate = Rate.of([True, False, True, False])
    assert (rate.count, rate.total, rate.share) == (2, 4, 0.5)
    low, high = rate.interval
    assert low == pytest.approx(0.0676, abs=1e-3)  # Clopper and Pearson's exact interval of 2 in 4
    assert high == pytest.approx(0.9324, abs=1e-3)
    assert str(Rate(0, 0)) == "not measured"
    assert Rate(0, 0).to_dict()["interval"] == [0, 1]


def test_pairs_are_all_pairs() -> None:
    embeddings = np.array([[1.0, 0], [0, 1], [0.6, 0.8]])
    scores, same = pair_scores(embeddings, ["a", "b", "a"])
    assert scores.tolist() == [0, 0.6, 0.8]
    assert same.tolist() == [False, True, False]


def test_a_threshold_is_only_taken_from_enough_impostors() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.uniform(0, 0.5, 600), [0.9]])
    same = np.append(np.zeros(600, bool), True)
    found = thresholds(scores, same, {})
    assert list(found) == [1e-2]  # 600 pairs let expect 6 false matches, and 0.6 at the stricter rate
    assert (scores[:600] >= found[1e-2]).sum() == 6
    assert thresholds(scores, same, {1e-3: 0.7})[1e-3] == 0.7
    with pytest.raises(UsageError, match="more people"):
        thresholds(scores[-100:], same[-100:], {})


def test_made_faces_are_compared_with_their_own_reference() -> None:
    made, reference = np.eye(3), np.array([[1.0, 0, 0], [0, 0, 1], [0, 0, 1]])
    assert accepted(made, reference, {1e-2: 0.5})[1e-2] == Rate(2, 3)


def test_a_secret_rotation_keeps_similarities_among_its_own() -> None:
    turn = secret_rotation(8, 0)
    assert np.allclose(turn @ turn.T, np.eye(8))
    x = np.random.default_rng(1).normal(size=(2, 8))
    assert np.isclose((x[0] @ turn.T) @ (x[1] @ turn.T), x[0] @ x[1])
    assert not np.allclose(x @ turn.T, x)
    assert not np.allclose(turn, secret_rotation(8, 1))
