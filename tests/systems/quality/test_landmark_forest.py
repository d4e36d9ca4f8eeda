"""Landmark forest: features, agreement with scikit-learn, storage, refusal, targets and threshold."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from facewright.errors import MissingDependencyError, UsageError, WeightsError
from facewright.face import Pose, Reason
from facewright.systems.quality.landmark_forest import network as lf
from facewright.systems.quality.landmark_forest.network import LandmarkForest, LandmarkForestConfig, face_features

POINTS = np.array([[80, 100], [120, 102], [101, 122], [85, 142], [117, 143]], float)
BOX = (60.0, 60.0, 140.0, 170.0)
FRAME = (250, 300)


def column(name: str) -> int:
    return lf.feature_names(5).index(name)


def turned(points: np.ndarray, degrees: float, scale: float = 1.0) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T


def chain(feature: int, cuts: list[float], values: list[float], config: LandmarkForestConfig) -> LandmarkForest:
    """One tree by hand: value i up to cut i, the last value beyond all cuts."""
    nodes = 2 * len(cuts) + 1
    forest = LandmarkForest(replace(config, trees=1, nodes=nodes, depth=len(cuts)))
    for i, (cut, value) in enumerate(zip(cuts, values)):
        forest.feature[2 * i] = feature
        forest.cut[2 * i] = int(cut * 65536)
        forest.child[2 * i] = 2 * i + 1
        # the left child is a leaf, the right one the next of the chain
        forest.value[2 * i + 1] = round(value * 32767)
        forest.child[2 * i + 1] = 2 * i + 1
    forest.value[nodes - 1] = round(values[-1] * 32767)
    return forest


# --- features


def test_similarity_features_see_neither_place_nor_turn_nor_size():
    plain = face_features(POINTS, BOX, 0.9, FRAME)[:10]
    moved = face_features(turned(POINTS, 30, 2.5) + 40, BOX, 0.9, FRAME)[:10]
    assert moved == pytest.approx(plain, abs=1e-9)
    assert plain[:4] == pytest.approx([-0.5, 0, 0.5, 0], abs=1e-9)


def test_box_features_are_relative_to_the_box():
    features = face_features(POINTS, BOX, 0.9, FRAME, normalisation="box")
    assert features[:2] == pytest.approx([20 / 80, 40 / 110])


def test_measures_are_what_their_names_say():
    features = face_features(POINTS, BOX, 0.75, FRAME)
    doubled = face_features(2 * POINTS, [2 * v for v in BOX], 0.75, (500, 600))
    for name in ("log2_eye_distance", "log2_box_width", "log2_box_height"):
        assert doubled[column(name)] - features[column(name)] == pytest.approx(1)
    assert features[column("detector_score")] == 0.75
    assert features[column("log2_box_width")] == pytest.approx(np.log2(80))
    assert face_features(turned(POINTS, 45), BOX, 1, FRAME)[column("roll")] - features[column("roll")] == pytest.approx(
        0.5
    )


@pytest.mark.parametrize(
    ("box", "share"), [((10, 10, 20, 20), 1.0), ((-10.5, 0, 9.5, 10), 0.5), ((299.5, 0, 310, 10), 0.0)]
)
def test_share_of_the_box_in_the_photo(box, share):
    assert lf.box_inside(box, FRAME) == pytest.approx(share)


def test_mirroring_mirrors_the_signed_measures():
    width = FRAME[1]
    mirrored = (POINTS * (-1, 1) + (width - 1, 0))[[1, 0, 2, 4, 3]]
    a = face_features(POINTS, BOX, 1, FRAME)
    b = face_features(mirrored, (width - 1 - BOX[2], BOX[1], width - 1 - BOX[0], BOX[3]), 1, FRAME)
    for name, sign in (("yaw_ratio", -1), ("nose_ratio", -1), ("roll", -1), ("pitch_ratio", 1), ("box_inside", 1)):
        assert b[column(name)] == pytest.approx(sign * a[column(name)], abs=1e-9)


def test_68_landmarks_give_the_measures_of_their_five():
    many = np.zeros((68, 2))
    many[36:42], many[42:48], many[30], many[48], many[54] = POINTS
    features = face_features(many, BOX, 0.9, FRAME)
    assert len(features) == 136 + 9 == len(lf.feature_names(68))
    assert features[-9:] == pytest.approx(face_features(POINTS, BOX, 0.9, FRAME)[-9:])
    with pytest.raises(UsageError, match="5 or 68 landmarks, not 7"):
        face_features(np.zeros((7, 2)), BOX, 0.9, FRAME)


def test_coinciding_points_give_numbers():
    assert np.isfinite(face_features(np.full((5, 2), 9.0), (9, 9, 9, 9), 0.5, FRAME)).all()


# --- the forest


def test_a_tree_by_hand():
    config = LandmarkForestConfig.compact()
    forest = chain(3, [1.0, 2.0], [0.1, 0.5, 0.9], config)
    features = np.zeros((5, forest.features))
    features[:, 3] = [-7, 1.0, 1.001, 2.0, 50]
    assert forest.score(features) == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.9], abs=1e-4)


def test_forest_is_the_mean_of_its_trees_and_a_fresh_one_knows_nothing():
    forest = LandmarkForest(replace(LandmarkForestConfig.compact(), trees=4))
    assert forest.score(np.zeros((2, 19))) == pytest.approx([0.5, 0.5], abs=1e-4)
    forest.value[:] = torch.tensor([0, 0, 32767, 32767], dtype=torch.int16)
    assert forest.score(np.zeros((1, 19))) == pytest.approx([0.5], abs=1e-6)
    forest.value[3] = 0
    assert forest.score(np.zeros((1, 19))) == pytest.approx([0.25], abs=1e-6)


def test_numbers_that_are_none_do_no_harm():
    forest = chain(0, [1.0], [0.2, 0.8], LandmarkForestConfig.compact())
    features = np.zeros((3, 19))
    features[:, 0] = [np.nan, np.inf, -np.inf]
    assert forest.score(features) == pytest.approx([0.2, 0.8, 0.2], abs=1e-4)


def test_forward_is_score():
    forest = chain(0, [1.0], [0.2, 0.8], LandmarkForestConfig.compact())
    features = torch.tensor([[0.0] * 19, [2.0] * 19])
    assert torch.equal(forest(features), torch.from_numpy(forest.score(features.numpy())))


def test_features_of_another_length_are_refused():
    with pytest.raises(UsageError, match=r"\(N, 19\)"):
        LandmarkForest(LandmarkForestConfig.compact()).score(np.zeros((1, 20)))


@pytest.fixture(scope="module")
def grown() -> tuple[LandmarkForest, np.ndarray, np.ndarray]:
    pytest.importorskip("sklearn", reason="growing forests needs scikit-learn")
    rng = np.random.default_rng(0)
    features = rng.normal(0, 2, (1500, 19))
    targets = np.clip(0.5 + 0.2 * features[:, 12] - 0.3 * np.abs(features[:, 13]), 0, 1)
    config = replace(LandmarkForestConfig.compact(), trees=20, labels="a test")
    return LandmarkForest.fit(features, targets, config=config, seed=3), features, targets


def test_forest_equals_scikit_learn(grown):
    from sklearn.ensemble import RandomForestRegressor

    forest, features, targets = grown
    c = forest.config
    reference = RandomForestRegressor(
        c.trees, max_depth=c.depth, min_samples_leaf=c.leaf, max_features="sqrt", random_state=3
    )
    quantised = np.floor(features * 65536) / 65536
    reference.fit(quantised, targets)
    assert forest.config.nodes == sum(t.tree_.node_count for t in reference.estimators_)
    assert forest.score(features) == pytest.approx(reference.predict(quantised), abs=1e-4)
    other = np.random.default_rng(1).normal(0, 3, (300, 19))
    assert forest.score(other) == pytest.approx(reference.predict(np.floor(other * 65536) / 65536), abs=1e-4)


def test_forest_learns(grown):
    forest, features, targets = grown
    assert np.corrcoef(forest.score(features), targets)[0, 1] > 0.85


def test_familiar_is_what_was_seen(grown):
    forest, features, _ = grown
    assert forest.is_familiar(features).all()
    strange = features[:2].copy()
    strange[1, 10] = features[:, 10].max() + 1
    assert forest.is_familiar(strange).tolist() == [True, False]


def test_storage_in_half_precision_changes_nothing(grown, tmp_path):
    forest, features, _ = grown
    forest.calibrate(forest.score(features))
    loaded = LandmarkForest.from_pretrained(forest.save_pretrained(tmp_path, dtype=torch.bfloat16))
    assert loaded.config == forest.config
    assert np.array_equal(loaded.score(features), forest.score(features))
    assert torch.equal(loaded.reference, forest.reference)


def test_weights_of_other_features_are_refused(grown, tmp_path, monkeypatch):
    folder = grown[0].save_pretrained(tmp_path)
    monkeypatch.setattr(lf, "FEATURE_VERSION", 2)
    with pytest.raises(WeightsError, match=r"5-similarity-v1.*5-similarity-v2.*train it again"):
        LandmarkForest.from_pretrained(folder)


def test_growing_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingDependencyError, match=r"facewright\[train\]"):
        LandmarkForest.fit(np.zeros((9, 19)), np.zeros(9), config=LandmarkForestConfig.compact())


@pytest.mark.parametrize(
    ("options", "said"), [({"landmarks": 98}, "5 or 68"), ({"normalisation": "unit"}, "similarity, box")]
)
def test_impossible_configurations_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        LandmarkForest(LandmarkForestConfig(**options))


# --- use


def test_gate_scores_accepts_and_says_why(fakes):
    config = replace(LandmarkForestConfig.compact(), threshold=0.6)
    forest = chain(column("log2_eye_distance"), [np.log2(24)], [0.1, 0.9], config)
    near = fakes.face_at((150, 120), 40.0, pose=Pose(0, 0, 0))
    far = fakes.face_at((150, 120), 12.0, pose=Pose(50, 0, 0))
    gone = fakes.face_at((10, 120), 40.0, pose=Pose(0, 0, 0))
    photo = np.zeros((*FRAME, 3), np.uint8)
    with pytest.raises(UsageError, match="calibrated"):
        forest.rate(photo, [near])
    forest.calibrate(np.linspace(0, 1, 1001))
    good, bad, cut = forest.rate(photo, [near, far, gone])
    assert (good.score, bad.score) == (pytest.approx(0.9, abs=1e-4), pytest.approx(0.1, abs=1e-4))
    assert good.percentile == pytest.approx(90, abs=0.1)
    assert [forest.accepts(q) for q in (good, bad)] == [True, False]
    assert (good.reasons, bad.reasons) == ((), (Reason.TOO_SMALL, Reason.YAW))
    assert cut.reasons == (Reason.CUT_OFF,)
    assert forest.rate(photo, []) == []


def test_pixels_do_not_matter(fakes):
    forest = LandmarkForest(LandmarkForestConfig.compact())
    forest.calibrate(np.linspace(0, 1, 1001))
    face = fakes.face_at((150, 120))
    dark, noise = np.zeros((*FRAME, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8)
    assert forest.rate(dark, [face]) == forest.rate(noise, [face])


def test_68_landmarks_do_not_fit_a_face(fakes):
    with pytest.raises(UsageError, match="five landmarks"):
        LandmarkForest().rate(np.zeros((*FRAME, 3), np.uint8), [fakes.face_at((150, 120))])


# --- targets


def test_comparison_target_runs_from_impostors_to_genuine():
    assert lf.comparison_target([0.0, 0.1, 0.35, 0.6, 0.9], genuine=0.6, impostor=0.1) == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )


def test_pose_and_size_targets_by_hand():
    assert lf.pose_target([0, 35, 0], [0, 0, -30]) == pytest.approx([1, np.exp(-1), np.exp(-1)])
    assert lf.size_target([24, 48, 12]) == pytest.approx([0.5, 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(3))])


def test_balance_gives_every_cell_the_same_say():
    yaw, size = np.array([0, 3, -10, 50.0]), np.array([40, 45, 50, 40.0])
    weights = lf.balanced_weights(yaw, size)
    assert weights.mean() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(weights[3])


def test_best_threshold_by_trying_all():
    rng = np.random.default_rng(0)
    good = rng.random(200) < 0.3
    scores = np.round(rng.normal(good, 0.8), 1)

    def balanced(threshold: float) -> float:
        return (scores[good] >= threshold).mean() + (scores[~good] < threshold).mean()

    found = lf.best_threshold(scores, good)
    assert balanced(found) == pytest.approx(max(balanced(t) for t in scores))
    with pytest.raises(UsageError, match="one kind is missing"):
        lf.best_threshold(scores, np.ones(200, bool))
