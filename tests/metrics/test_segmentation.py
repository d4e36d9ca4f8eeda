from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from facewright.errors import UsageError
from facewright.metrics.segmentation import SegmentationScores

CLASSES = ("background", "skin", "hair", "hat")


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (3, 20, 30), dtype=np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, 4, labels.shape)).astype(np.uint8)
    return labels, predicted


def test_worked_example() -> None:
    """Skin: 2 right of 3 labelled and 3 predicted; hair: 1 of 2 and 1; background: 2 of 3 and 4."""
    scores = SegmentationScores(CLASSES)
    scores.add(np.array([[0, 0, 0, 1], [1, 1, 2, 2]]), np.array([[0, 0, 1, 1], [1, 0, 2, 0]]))
    assert scores.f1["background"] == pytest.approx(2 * 2 / (3 + 4))
    assert scores.f1["skin"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores.f1["hair"] == pytest.approx(2 * 1 / (2 + 1))
    assert scores.iou["skin"] == pytest.approx(2 / 4)
    assert np.isnan(scores.f1["hat"])
    assert scores.mean_f1 == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert scores.mean_iou == pytest.approx((2 / 5 + 2 / 4 + 1 / 2) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 8)


def test_equals_scikit_learn(maps: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = maps
    scores = SegmentationScores(CLASSES)
    for true, guess in zip(labels, predicted):
        scores.add(true, guess)
    flat = labels.ravel(), predicted.ravel()
    assert np.array_equal(scores.confusion, reference.confusion_matrix(*flat))
    np.testing.assert_allclose(list(scores.f1.values()), reference.f1_score(*flat, average=None))
    np.testing.assert_allclose(list(scores.iou.values()), reference.jaccard_score(*flat, average=None))
    assert scores.mean_iou == pytest.approx(reference.jaccard_score(*flat, average="macro"))
    assert scores.mean_f1 == pytest.approx(reference.f1_score(*flat, average="macro", labels=[1, 2, 3]))
    assert scores.pixel_accuracy == pytest.approx(reference.accuracy_score(*flat))
    everything = SegmentationScores(CLASSES, background=None)
    everything.add(labels, predicted)
    assert everything.mean_f1 == pytest.approx(reference.f1_score(*flat, average="macro"))


def test_counts_are_of_the_whole_set_and_not_means_of_pictures() -> None:
    scores = SegmentationScores(("background", "hat"))
    scores.add(np.ones(10, int), np.ones(10, int))
    scores.add(np.array([1]), np.array([0]))
    assert scores.f1["hat"] == pytest.approx(2 * 10 / (11 + 10))


def test_ignored_pixels_do_not_count(maps: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = maps
    left, whole = SegmentationScores(CLASSES), SegmentationScores(CLASSES)
    left.add(labels[:, 5:], predicted[:, 5:])
    hidden = labels.copy()
    hidden[:, :5] = 255
    whole.add(hidden, predicted)
    assert np.array_equal(left.confusion, whole.confusion)
    nothing = SegmentationScores(CLASSES)
    nothing.add(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert np.isnan(nothing.mean_f1)


def test_impossible_labels_are_refused() -> None:
    scores = SegmentationScores(CLASSES)
    with pytest.raises(UsageError, match="0 to 3"):
        scores.add(np.array([4]), np.array([0]))
    with pytest.raises(UsageError, match="0 to 3"):
        scores.add(np.array([0]), np.array([-1]))
    with pytest.raises(UsageError, match="compared"):
        scores.add(np.zeros((2, 2), int), np.zeros(4, int))
