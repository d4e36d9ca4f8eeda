"""Verification: the published ten-fold protocol, ROC numbers, intervals over identities, template pooling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from facewright.errors import UsageError
from facewright.metrics.verification import (
    bootstrap_interval,
    fold_accuracy,
    fold_validation,
    operating_points,
    roc,
    squared_distances,
    template_features,
)


def toy_pairs() -> tuple[np.ndarray, np.ndarray]:
    """60 pairs in ten folds of three genuine (distance 0.505) and three impostor pairs (1.505)."""
    same = np.tile([True, True, True, False, False, False], 10)
    return np.where(same, 0.505, 1.505), same


def overlapping(number: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores in steps of 0.01, so that there are ties."""
    rng = np.random.default_rng(seed)
    same = rng.random(number) < 0.4
    return np.round(rng.normal(np.where(same, 0.45, 0.1), 0.15), 2), same


def random_distances(number: int = 640, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = np.arange(number) // 32 % 2 == 0
    return np.clip(rng.normal(np.where(same, 0.9, 1.7), 0.4), 0, 4), same


def test_distances_are_those_of_unit_vectors() -> None:
    a, b = np.array([[3.0, 0], [0, 2]]), np.array([[0, 7.0], [0, -1]])
    assert squared_distances(a, b).tolist() == pytest.approx([2, 4])
    with pytest.raises(UsageError, match="length zero"):
        squared_distances(a, b * 0)
    with pytest.raises(UsageError, match="shape"):
        squared_distances(a, b[:1])


def test_separable_pairs_are_all_right_and_the_first_best_threshold_is_taken() -> None:
    result = fold_accuracy(*toy_pairs())
    assert result.mean == 1
    assert result.std == 0
    assert result.thresholds == pytest.approx(np.full(10, 0.51))


def test_an_error_counts_in_its_own_fold() -> None:
    distances, same = toy_pairs()
    distances[3] = 0.2  # an impostor pair of the first fold
    result = fold_accuracy(distances, same)
    assert result.accuracies.tolist() == pytest.approx([5 / 6] + [1] * 9)
    assert result.mean == pytest.approx((5 / 6 + 9) / 10)
    assert result.std == pytest.approx(np.std([5 / 6] + [1] * 9))


def test_a_distance_at_the_threshold_is_rejected() -> None:
    distances, same = np.tile([0.5, 1.0], 10), np.tile([True, False], 10)
    assert fold_accuracy(distances, same, thresholds=[0.5]).mean == 0.5
    assert fold_accuracy(distances, same, thresholds=[1.0]).mean == 1.0
    assert fold_accuracy(distances, same, thresholds=[1.001]).mean == 0.5


def test_the_threshold_never_sees_its_own_fold() -> None:
    same = np.tile([True, False], 10)
    distances = np.where(same, 0.5, 1.5)
    distances[:2] = [2.5, 3.5]  # a first fold that no threshold of the others fits
    result = fold_accuracy(distances, same)
    assert result.thresholds[0] == pytest.approx(0.51)
    assert result.accuracies[0] == 0.5


def test_ten_folds_equal_a_plain_loop_over_scikit_learn_folds() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    distances, same = random_distances(637)
    grid = np.arange(0, 4, 0.01)
    expected = []
    for train, test in selection.KFold(10, shuffle=False).split(distances):
        accuracy = [np.mean((distances[train] < t) == same[train]) for t in grid]
        expected.append(np.mean((distances[test] < grid[int(np.argmax(accuracy))]) == same[test]))
    assert fold_accuracy(distances, same).accuracies.tolist() == pytest.approx(expected, abs=1e-12)


def test_shuffled_pairs_give_another_number() -> None:
    distances, same = random_distances()
    order = np.random.default_rng(0).permutation(len(same))
    changed = fold_accuracy(distances[order], same[order]).accuracies
    assert not np.array_equal(fold_accuracy(distances, same).accuracies, changed)


def test_val_at_far_of_evenly_spread_impostors() -> None:
    """Impostors evenly over [1, 2): FAR reaches 10 % at 1.1, which half the genuine pairs are below."""
    per_fold = 100
    impostors = 1 + (np.arange(per_fold) + 0.5) / per_fold
    genuine = np.where(np.arange(per_fold) % 2 == 0, 0.7, 1.15)
    distances = np.tile(np.concatenate([genuine, impostors]), 10)
    same = np.tile(np.repeat([True, False], per_fold), 10)
    result = fold_validation(distances, same, far=0.1)
    assert result.thresholds == pytest.approx(np.full(10, 1.1), abs=0.006)
    assert result.mean == 0.5
    assert result.fars == pytest.approx(np.full(10, 0.1))
    assert result.std == 0


def test_val_at_an_unreachable_far_accepts_nothing() -> None:
    distances, same = toy_pairs()
    result = fold_validation(np.where(same, distances, 5.0), same)
    assert result.mean == 0
    assert result.thresholds.tolist() == [0] * 10


def test_folds_are_checked() -> None:
    distances, same = toy_pairs()
    with pytest.raises(UsageError, match="published order"):
        fold_validation(distances, np.sort(same))
    with pytest.raises(UsageError, match="9 pairs"):
        fold_accuracy(distances[:9], same[:9])
    with pytest.raises(UsageError, match="score 5 is not a number"):
        fold_accuracy(np.where(np.arange(60) == 5, np.nan, distances), same)


def test_roc_by_hand() -> None:
    curve = roc([0.9, 0.8, 0.8, 0.3, 0.1], [True, True, False, True, False])
    assert curve.thresholds[1:].tolist() == [0.9, 0.8, 0.3, 0.1]
    assert curve.thresholds[0] > 0.9
    assert curve.far.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.tar.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert curve.frr.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    assert curve.auc == pytest.approx(0.5 * (1 / 3 + 2 / 3) / 2 + 0.5)
    assert (curve.threshold_at(0.49), curve.tar_at(0.49)) == (0.9, pytest.approx(1 / 3))
    assert (curve.threshold_at(0.5), curve.tar_at(0.5)) == (0.3, 1)


def test_roc_and_det_equal_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    scores, same = overlapping()
    weights = np.random.default_rng(1).integers(0, 4, len(scores))
    far, tar, thresholds = reference.roc_curve(same, scores, drop_intermediate=False)
    curve = roc(scores, same)
    assert curve.far.tolist() == pytest.approx(far.tolist(), abs=1e-12)
    assert curve.tar.tolist() == pytest.approx(tar.tolist(), abs=1e-12)
    assert curve.thresholds[1:].tolist() == thresholds[1:].tolist()
    assert curve.auc == pytest.approx(reference.roc_auc_score(same, scores), abs=1e-12)
    weighted = reference.roc_auc_score(same, scores, sample_weight=weights)
    assert roc(scores, same, weights).auc == pytest.approx(weighted, abs=1e-12)
    det_far, det_frr, _ = reference.det_curve(same, scores)
    points = {(round(a, 9), round(b, 9)) for a, b in zip(curve.far, curve.frr)}
    assert {(round(a, 9), round(b, 9)) for a, b in zip(det_far, det_frr)} <= points


def test_nearest_far_equals_the_published_search() -> None:
    """scikit-learn's thinned curve, turned around, nearest FPR: what makes the IJB tables."""
    reference = pytest.importorskip("sklearn.metrics")
    scores, same = overlapping(700)
    far, tar, _ = reference.roc_curve(same, scores)
    curve = roc(scores, same)
    for asked in (1e-4, 1e-3, 1e-2, 0.037, 0.1, 0.5):
        expected = tar[::-1][np.argmin(np.abs(far[::-1] - asked))]
        assert curve.tar_at_nearest(asked) == pytest.approx(expected, abs=1e-12)
    assert curve.tar_at_nearest(1e-4) >= curve.tar_at(1e-4)


def test_eer_and_auc_of_two_normal_distributions() -> None:
    """Shifted by d: EER Φ(−d/2), AUC Φ(d/√2)."""
    quantiles = ndtri((np.arange(20000) + 0.5) / 20000)
    for shift in (1.0, 3.0):
        curve = roc(np.concatenate([quantiles + shift, quantiles]), np.repeat([True, False], 20000))
        assert curve.eer == pytest.approx(ndtr(-shift / 2), abs=1e-4)
        assert curve.auc == pytest.approx(ndtr(shift / np.sqrt(2)), abs=1e-4)
        assert curve.tar_at(1e-2) == pytest.approx(ndtr(shift + ndtri(1e-2)), abs=1e-3)


def test_eer_by_hand_and_by_root_finding() -> None:
    assert roc([4.0, 3, 2, 1], [True, False, True, False]).eer == 0.5
    assert roc([4.0, 3, 2, 1], [True, True, False, False]).eer == 0
    assert roc([1.0, 1.0], [True, False]).eer == 0.5
    curve = roc(*overlapping())
    expected = brentq(lambda x: 1 - x - interp1d(curve.far, curve.tar)(x), 0, 1)
    assert curve.eer == pytest.approx(expected, abs=1e-9)


def test_rates_do_not_depend_on_the_scale_of_scores() -> None:
    scores, same = overlapping()
    other = roc(np.exp(3 * scores), same)
    assert other.far.tolist() == roc(scores, same).far.tolist()
    assert other.eer == roc(scores, same).eer


def test_whole_weights_are_repeated_pairs() -> None:
    scores, same = overlapping(300)
    times = np.random.default_rng(2).integers(1, 4, len(scores))
    weighted, repeated = roc(scores, same, times), roc(np.repeat(scores, times), np.repeat(same, times))
    assert weighted.far.tolist() == pytest.approx(repeated.far.tolist(), abs=1e-12)
    assert weighted.tar.tolist() == pytest.approx(repeated.tar.tolist(), abs=1e-12)


def test_operating_points_by_hand() -> None:
    """Impostors at 0.00 … 0.99: one in a hundred is at 0.99, ten at 0.90 and above."""
    impostors = np.arange(100) / 100
    scores = np.concatenate([[0.95, 0.985, 0.995, 2.0], impostors])
    points = operating_points(scores, np.arange(104) < 4, fars=(0.1, 0.01, 0.001))
    assert [p.tar for p in points] == [1, 0.75, 0.5]
    assert [p.threshold for p in points] == [0.9, 0.985, 0.995]
    assert [p.measured_far for p in points] == [0.1, 0.01, 0]
    assert [p.resolved for p in points] == [True, True, False]
    assert {p.impostors for p in points} == {100}
    assert points[0].tar_interval is None


def people_scores(people: int = 40, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six genuine pairs a person, whose scores all hang on how recognisable the person is, and impostor pairs."""
    rng = np.random.default_rng(seed)
    genuine = np.repeat(np.arange(people), 6)
    impostor = rng.choice(people, (4000, 2))
    impostor = impostor[impostor[:, 0] != impostor[:, 1]]
    identities = np.concatenate([np.stack([genuine, genuine], 1), impostor])
    same = np.arange(len(identities)) < len(genuine)
    scores = np.concatenate([rng.normal(0.5, 0.2, people)[genuine], rng.normal(0.0, 0.1, len(impostor))])
    return scores + rng.normal(0, 0.01, len(scores)), same, identities


def test_intervals_over_identities_are_wider_than_over_pairs() -> None:
    scores, same, identities = people_scores()
    (point,) = operating_points(scores, same, identities, fars=[0.01], replicates=300)
    assert point.tar_interval is not None
    assert point.threshold_interval is not None
    low, high = point.tar_interval
    assert low <= point.tar <= high
    assert point.threshold_interval[0] <= point.threshold <= point.threshold_interval[1]
    rng = np.random.default_rng(0)
    resampled = [rng.integers(0, len(same), len(same)) for _ in range(300)]
    by_pairs = np.percentile([roc(scores[i], same[i]).tar_at(0.01) for i in resampled], [2.5, 97.5])
    assert high - low > 1.8 * (by_pairs[1] - by_pairs[0])


def test_interval_of_a_share_of_people_is_the_binomial_one() -> None:
    """One genuine pair a person, 30 of 100 people rejected: the interval is that of a binomial share."""
    people = 100
    own, other = np.arange(people), np.roll(np.arange(people), 1)
    identities = np.concatenate([np.stack([own, own], 1), np.stack([own, other], 1)])
    scores = np.concatenate([np.where(own < 30, -1.0, 1.0), np.zeros(people)])
    same = np.arange(2 * people) < people
    low, high = bootstrap_interval(lambda r: r.tar_at(0.0), scores, same, identities, replicates=2000)
    spread = 1.96 * np.sqrt(0.7 * 0.3 / people)
    assert (float(low), float(high)) == (pytest.approx(0.7 - spread, abs=0.02), pytest.approx(0.7 + spread, abs=0.02))


def test_both_sides_of_an_impostor_pair_are_resampled() -> None:
    """One person in ten takes part in every false accept, always on the second side."""
    first, second = (np.concatenate([np.arange(10), side]) for side in np.triu_indices(10, 1))
    identities, same = np.stack([first, second], 1), np.arange(len(first)) < 10
    scores = np.where(same, 2.0, np.where(second == 9, 1.0, 0.0))

    def interval(sides: np.ndarray) -> list[float]:
        ends = bootstrap_interval(lambda r: r.far[r.thresholds >= 1][-1], scores, same, sides, replicates=200)
        return [float(end) for end in ends]

    low, high = interval(identities)
    assert low == 0  # the person is not drawn
    assert high > 0.4  # drawn several times; 9 of 45 pairs are theirs
    assert interval(identities[:, ::-1]) == [low, high]


def test_bootstrap_is_reproducible_and_checked() -> None:
    scores, same, identities = people_scores(12)
    first, again = (bootstrap_interval(lambda r: [r.eer, r.auc], scores, same, identities, replicates=20) for _ in "ab")
    assert np.array_equal(first, again)
    assert first[0].shape == (2,)
    identities[0, 1] += 1
    with pytest.raises(UsageError, match="pair 0 is labelled against"):
        bootstrap_interval(lambda r: r.eer, scores, same, identities)
    with pytest.raises(UsageError, match="one kind is missing"):
        roc([0.1, 0.2], [True, True])
    with pytest.raises(UsageError, match="between 0 and 1"):
        roc([0.1, 0.2], [True, False]).tar_at(1.5)


def test_templates_are_pooled_by_media_first() -> None:
    """Template 7 is a photo (0, 3) and a video of (4, 0) and (0, 0): (2, 0) + (0, 3); template 2 one photo."""
    features = np.array([[4.0, 0], [0, 3], [0, 0], [5, 5]])
    ids, pooled = template_features(features, templates=[7, 7, 7, 2], media=[11, 10, 11, 10])
    assert ids.tolist() == [2, 7]
    assert pooled[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert pooled[1].tolist() == pytest.approx([2 / 13**0.5, 3 / 13**0.5])
    with pytest.raises(UsageError, match="belong together"):
        template_features(features, [1, 2], [1, 2])


def test_pooling_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    features, templates, media = rng.normal(size=(200, 8)), rng.integers(0, 15, 200), rng.integers(0, 9, 200)
    ids, pooled = template_features(features, templates, media)
    for template, found in zip(ids, pooled):
        own = templates == template
        total = sum(features[own & (media == m)].mean(0) for m in np.unique(media[own]))
        assert found.tolist() == pytest.approx((total / np.linalg.norm(total)).tolist())
