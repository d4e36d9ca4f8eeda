"""Calibration: Cllr and its minimum by hand, both maps against scikit-learn, reliability, the record that ships."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from facewright.errors import UsageError, WeightsError
from facewright.metrics.calibration import (
    AffineLlr,
    ScoreCalibration,
    cllr,
    cllr_min,
    fit_affine,
    fit_isotonic,
    posterior,
    reliability,
)


def normal_scores(number: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of equal spread: the true LLR is affine, (μ₁ − μ₀)/σ² · (s − middle)."""
    rng = np.random.default_rng(seed)
    same = rng.random(number) < 0.3
    return rng.normal(np.where(same, 0.5, 0.1), 0.2), same


def test_saying_nothing_costs_one_bit() -> None:
    assert cllr(np.zeros(5), [True, False, True, False, False]) == pytest.approx(1)


def test_cllr_by_hand() -> None:
    """LLR ln 3 for a genuine and −ln 7 for an impostor pair: log2 (4/3) and log2 (8/7)."""
    expected = (np.log2(4 / 3) + np.log2(8 / 7)) / 2
    assert cllr([np.log(3), -np.log(7)], [True, False]) == pytest.approx(expected)
    assert cllr([np.inf, -np.inf], [True, False]) == 0
    assert cllr([-np.inf, -1.0], [True, False]) == np.inf
    assert cllr([800.0, 800.0], [True, False]) == pytest.approx(400 / np.log(2))


def test_both_kinds_weigh_alike_in_cllr() -> None:
    values, same = np.array([1.0, -2.0, 0.5]), np.array([True, False, False])
    times = [1, 5, 5]
    assert cllr(np.repeat(values, times), np.repeat(same, times)) == pytest.approx(cllr(values, same))


def test_least_cost_by_hand() -> None:
    """impostor, genuine, impostor, genuine: the middle two are pooled to LLR 0, the ends are certain."""
    scores, same = [1.0, 2, 3, 4], [False, True, False, True]
    assert fit_isotonic(scores, same)(scores).tolist() == pytest.approx([-np.inf, 0, 0, np.inf])
    assert cllr_min(scores, same) == pytest.approx(0.5)
    assert cllr_min([1.0, 2, 3, 4], [False, False, True, True]) == 0
    assert cllr_min([1.0, 1.0, 1.0], [False, True, True]) == pytest.approx(1)
    assert cllr_min([4.0, 3, 2, 1], [False, False, True, True]) == pytest.approx(1)


def test_isotonic_map_equals_scikit_learn() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    scores, same = normal_scores(600)
    scores = np.round(scores, 2)
    expected = isotonic.IsotonicRegression().fit(scores, same).predict(scores)
    found = expit(fit_isotonic(scores, same)(scores) + logit(same.mean()))
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_isotonic_map_holds_between_and_beyond_the_scores() -> None:
    steps = fit_isotonic([1.0, 2, 3, 4, 5, 6], [False, True, False, False, True, True])
    assert np.all(np.diff(steps([1.5, 2.5, 3.5, 4.9])) >= 0)
    assert steps(2.5) == steps(2.0)
    assert steps(0.0) == steps(1.0)
    assert steps(9.0) == steps(6.0)


def test_no_rising_map_costs_less_than_the_minimum() -> None:
    scores, same = normal_scores(20000)
    least = cllr_min(scores, same)
    assert least < cllr(fit_affine(scores, same)(scores), same) < least + 0.01
    assert least <= min(cllr(a * scores + b, same) for a in (5, 10, 15) for b in (-4, -3, -2))
    assert cllr_min(np.exp(scores), same) == pytest.approx(least)


def test_affine_map_of_normal_scores_is_the_true_one() -> None:
    llr = fit_affine(*normal_scores(40000), regularisation=0)
    assert llr.scale == pytest.approx(0.4 / 0.04, rel=0.05)
    assert -llr.offset / llr.scale == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("prior", [0.5, 0.1])
def test_affine_map_equals_scikit_learn(prior: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    scores, same = normal_scores(500)
    weights = np.where(same, prior / same.sum(), (1 - prior) / (~same).sum())
    model = linear.LogisticRegression(C=1 / 0.003, tol=1e-12, max_iter=10000)
    model.fit(scores[:, None], same, sample_weight=weights)
    found = fit_affine(scores, same, prior=prior, regularisation=0.003)
    assert found.scale == pytest.approx(model.coef_[0, 0], rel=1e-4)
    assert found.offset == pytest.approx(model.intercept_[0] - logit(prior), rel=1e-4)


def test_affine_map_is_where_the_gradient_vanishes() -> None:
    scores, same = normal_scores(300)
    found = fit_affine(scores, same, regularisation=0.01)

    def cost(scale: float, offset: float) -> float:
        return cllr(scale * scores + offset, same) * np.log(2) + 0.01 * scale**2 / 2

    best = cost(found.scale, found.offset)
    assert all(
        cost(found.scale + a, found.offset + b) > best for a, b in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01))
    )


def test_separated_scores_have_a_finite_map() -> None:
    llr = fit_affine([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert 10 < llr.scale < 200
    assert llr(0.5) == pytest.approx(0, abs=0.01)
    assert fit_affine([0.3, 0.3], [True, False]).scale == pytest.approx(0)


def test_posterior_joins_evidence_and_prior() -> None:
    assert posterior(0.0, 0.2) == pytest.approx(0.2)
    assert posterior(np.log(4), 0.2) == pytest.approx(0.5)
    assert posterior([-np.inf, np.inf]).tolist() == [0, 1]


def test_reliability_by_hand() -> None:
    """Two bins: 0.2 and 0.4 with one of two, 0.5 and 0.9 with two of two."""
    diagram = reliability([0.2, 0.4, 0.5, 0.9], [True, False, True, True], bins=2)
    assert diagram.stated.tolist() == pytest.approx([0.3, 0.7])
    assert diagram.observed.tolist() == [0.5, 1]
    assert diagram.counts.tolist() == [2, 2]
    assert diagram.ece == pytest.approx(0.25)
    assert reliability([0.0, 1.0], [False, True]).ece == 0


def test_reliability_equals_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    scores, same = normal_scores()
    stated = posterior(fit_affine(scores, same)(scores), same.mean())
    observed, mean = calibration.calibration_curve(same, stated, n_bins=15)
    diagram = reliability(stated, same, bins=15)
    assert diagram.observed.tolist() == pytest.approx(observed.tolist())
    assert diagram.stated.tolist() == pytest.approx(mean.tolist())
    assert diagram.counts.sum() == len(same)


def test_calibrated_probabilities_are_reliable_and_distorted_ones_are_not() -> None:
    scores, same = normal_scores(20000)
    held_out, truth = normal_scores(20000, seed=1)
    llr = fit_affine(scores, same)(held_out)
    assert reliability(posterior(llr, truth.mean()), truth).ece < 0.02
    assert reliability(posterior(3 * llr, truth.mean()), truth).ece > 0.03
    assert cllr(llr, truth) < cllr(3 * llr, truth)


@pytest.fixture(scope="module")
def measured() -> ScoreCalibration:
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(50), 4)
    identities = np.concatenate([np.stack([own, own], 1), np.stack(np.triu_indices(50, 1), 1)])
    same = identities[:, 0] == identities[:, 1]
    scores = rng.normal(np.where(same, 0.6, 0.05), 0.15)
    details: dict[str, Any] = {
        "recogniser": "toy",
        "sha256": "ab" * 32,
        "measured_on": "invented pairs",
        "replicates": 50,
    }
    return ScoreCalibration.measure(scores, same, identities, **details)


def test_a_calibration_survives_json(measured: ScoreCalibration) -> None:
    text = measured.to_json()
    assert ScoreCalibration.from_json(text) == measured
    assert json.loads(text)["points"][0]["far"] == 0.01
    bare = replace(measured, points=tuple(replace(p, tar_interval=None) for p in measured.points))
    assert ScoreCalibration.from_json(bare.to_json()) == bare


def test_a_calibration_knows_thresholds_and_evidence(measured: ScoreCalibration) -> None:
    assert (measured.genuine, measured.impostors) == (200, 1225)
    thresholds = [measured.point(far).threshold for far in (1e-2, 1e-3, 1e-4)]
    assert thresholds == sorted(thresholds)
    assert [measured.point(far).resolved for far in (1e-2, 1e-3, 1e-4)] == [True, True, False]
    low, high = measured.point(1e-2).threshold_interval or (0.0, 0.0)
    assert low <= thresholds[0] <= high
    assert measured.probability(0.325) == pytest.approx(0.5, abs=0.1)
    assert measured.probability(0.6, prior=1e-6) < measured.probability(0.6)
    with pytest.raises(UsageError, match=r"FAR of 0.01, 0.001, 0.0001, not 0.05"):
        measured.point(0.05)


def test_a_calibration_belongs_to_its_weights(measured: ScoreCalibration) -> None:
    measured.check("ab" * 32)
    with pytest.raises(WeightsError, match="cdcdcdcdcdcd"):
        measured.check("cd" * 32)


@pytest.mark.parametrize("damage", ["{", "[]", '{"llr": {}}', '{"llr": {"scale": 1, "offset": 0}, "points": [{}]}'])
def test_a_damaged_calibration_is_refused(damage: str) -> None:
    with pytest.raises(WeightsError, match=r"toy.json is not a score calibration"):
        ScoreCalibration.from_json(damage, source="toy.json")


def test_impossible_calibrations_are_refused() -> None:
    with pytest.raises(UsageError, match="one kind is missing"):
        fit_affine([0.1, 0.2], [True, True])
    with pytest.raises(UsageError, match="prior"):
        fit_affine([0.1, 0.2], [True, False], prior=1.0)
    with pytest.raises(UsageError, match="prior"):
        posterior(0.0, 0.0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        reliability([0.5, 1.5], [True, False])
    assert AffineLlr(2.0, 1.0)([0.0, 1.0]).tolist() == [1, 3]
