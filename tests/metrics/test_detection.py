"""Average precision: worked examples, pins to scikit-learn, and what each protocol forgives."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from facewright.errors import UsageError
from facewright.face import Face
from facewright.metrics.detection import (
    Detections,
    GroundTruth,
    average_precision,
    box_iou,
    coco_average_precision,
    precision_recall,
    wider_average_precision,
)


def at(*lefts: float, side: float = 10) -> np.ndarray:
    """Square boxes in a row."""
    return np.array([[x, 0, x + side, side] for x in lefts], float).reshape(-1, 4)


def test_iou_by_hand() -> None:
    overlap = box_iou(at(0), at(0, 5, 10))
    np.testing.assert_allclose(overlap, [[1, 50 / 150, 0]])


def test_all_point_area_by_hand() -> None:
    # right, wrong, right, (one face missed): precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3
    found = [Detections(at(0, 500, 100), np.array([0.9, 0.8, 0.7]))]
    curve = precision_recall(found, [GroundTruth(at(0, 100, 200))])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3])
    assert curve.area() == pytest.approx(1 / 3 + 2 / 3 * 1 / 3)


def test_coco_101_points_by_hand() -> None:
    found = [Detections(at(0, 500, 100), np.array([0.9, 0.8, 0.7]))]
    wanted = [GroundTruth(at(0, 100, 200))]
    # recalls 0 … 0.33 are 34 points at precision 1, 0.34 … 0.66 are 33 at 2/3, the rest is not reached
    expected = (34 + 33 * 2 / 3) / 101
    assert coco_average_precision(found, wanted, ious=(0.5,)) == pytest.approx(expected)
    assert coco_average_precision(found, wanted) == pytest.approx(expected)  # boxes are exact: all overlaps agree


def test_coco_mean_over_overlaps_counts_only_the_loose_ones_for_a_loose_box() -> None:
    loose = np.array([[0, 0, 10, 7.2]])  # IoU 0.72: right at 0.5, 0.55, 0.6, 0.65, 0.7
    assert coco_average_precision([Detections(loose, np.ones(1))], [GroundTruth(at(0))]) == pytest.approx(0.5)


def test_second_detection_of_a_face_is_a_false_alarm() -> None:
    found = [Detections(np.concatenate([at(0), at(1), at(100)]), np.array([0.9, 0.8, 0.7]))]
    curve = precision_recall(found, [GroundTruth(at(0, 100))])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])


def test_detections_of_all_pictures_are_ranked_together() -> None:
    rng = np.random.default_rng(0)
    faces, found, wanted, right = 0, [], [], []
    for _ in range(40):
        count = int(rng.integers(1, 5))
        hit = rng.random(count) < 0.6
        scores = rng.normal(hit, 1)
        boxes = at(*(100 * np.arange(count))) + np.where(hit, 1, 1000)[:, None]
        found.append(Detections(boxes, scores))
        wanted.append(GroundTruth(at(*(100 * np.arange(count))[hit])))
        right.append(np.stack([hit, scores]))
        faces += int(hit.sum())
    flags, scores = np.concatenate(right, axis=1)
    precision, recall, _ = precision_recall_curve(flags, scores)
    curve = precision_recall(found, wanted)
    np.testing.assert_allclose(curve.recall[-1], 1)
    np.testing.assert_allclose(curve.precision[::-1], precision[-len(curve.precision) - 1 : -1])
    envelope = np.maximum.accumulate(precision)
    assert average_precision(found, wanted) == pytest.approx(np.sum(-np.diff(recall) * envelope[:-1]))


def test_order_of_detections_and_pictures_does_not_matter_and_scale_of_scores_neither() -> None:
    rng = np.random.default_rng(1)
    wanted = [GroundTruth(at(0, 50, 100)) for _ in range(6)]
    found = [Detections(at(*rng.uniform(0, 120, 8)), rng.random(8)) for _ in wanted]
    reference = average_precision(found, wanted, iou=0.3), coco_average_precision(found, wanted)
    shuffled = [Detections(f.boxes[::-1], np.exp(5 * f.scores[::-1])) for f in found[::-1]]
    assert (average_precision(shuffled, wanted, iou=0.3), coco_average_precision(shuffled, wanted)) == reference
    assert 0 < reference[1] < reference[0] < 1


def test_ignored_faces_neither_help_nor_harm() -> None:
    found = [Detections(at(0, 100), np.array([0.9, 0.8]))]
    assert average_precision(found, [GroundTruth(at(0, 100), ignored=np.array([True, False]))]) == 1
    assert average_precision(found, [GroundTruth(at(100))]) == pytest.approx(0.5)
    missed = [Detections(at(100), np.array([0.8]))]
    assert average_precision(missed, [GroundTruth(at(0, 100), ignored=np.array([True, False]))]) == 1


def test_a_counted_face_is_preferred_to_a_better_overlapping_ignored_one() -> None:
    wanted = [GroundTruth(np.concatenate([at(0), at(2)]), ignored=np.array([True, False]))]
    assert average_precision([Detections(at(0), np.ones(1))], wanted) == 1


def test_a_crowd_forgives_any_number_inside_an_ignored_face_only_one() -> None:
    found = [Detections(np.concatenate([at(0), at(1), at(2), at(100)]), np.array([0.9, 0.8, 0.7, 0.6]))]
    crowd = np.concatenate([np.array([[0, 0, 60, 60.0]]), at(100)])
    flags = np.array([True, False])
    assert average_precision(found, [GroundTruth(crowd, crowd=flags)]) == 1
    one = np.concatenate([at(0), at(100)])
    assert average_precision(found, [GroundTruth(one, ignored=flags)]) == pytest.approx(1 / 3)


def test_coco_sizes_leave_out_faces_and_unmatched_detections_outside() -> None:
    boxes = np.concatenate([at(0, side=10), at(100, side=50), at(200, side=120)])
    found = [Detections(np.concatenate([boxes, at(400, side=12)]), np.array([0.9, 0.8, 0.7, 0.95]))]
    assert coco_average_precision(found, [GroundTruth(boxes)], sizes=(32, 96)) == 1
    assert coco_average_precision(found, [GroundTruth(boxes)], sizes=(0, 32)) == pytest.approx(0.5)


def test_coco_takes_the_best_hundred_of_a_picture() -> None:
    wrong = Detections(at(*(1000 + 50 * np.arange(100))), np.full(100, 0.9))
    both = Detections(np.concatenate([wrong.boxes, at(0)]), np.append(wrong.scores, 0.5))
    assert coco_average_precision([both], [GroundTruth(at(0))]) == 0
    assert coco_average_precision([both], [GroundTruth(at(0))], limit=101) == pytest.approx(1 / 101)


def test_wider_worked_example() -> None:
    # picture 1: right (1.0), wrong (0.5); picture 2: right (0.25), a face missed
    found = [
        Detections(at(0, 300), np.array([1.0, 0.5])),
        Detections(at(0), np.array([0.25])),
        Detections(at(0), np.array([0.0])),
    ]
    wanted = [GroundTruth(at(0)), GroundTruth(at(0, 100)), GroundTruth()]
    assert wider_average_precision(found, wanted) == pytest.approx(1 / 3 + 2 / 3 * 1 / 3)


def test_wider_counts_a_second_detection_against_and_forgives_other_difficulties() -> None:
    found = [
        Detections(np.concatenate([at(0), at(1), at(100)]), np.array([1.0, 0.5, 0.25])),
        Detections(at(0), np.zeros(1)),
    ]
    wanted = [GroundTruth(at(0, 100)), GroundTruth()]
    hard, easy = [np.array([0, 1]), np.array([], int)], [np.array([1]), np.array([], int)]
    assert wider_average_precision(found, wanted, hard) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert wider_average_precision(found, wanted, easy) == 1  # both boxes on the other face are forgiven


def test_wider_boxes_are_a_pixel_wider() -> None:
    # 6 of 10 px wide, then 6 + 1 of 10 + 1: IoU 0.6, and with a shift 4/12 against 5/12
    found, wanted = [Detections(np.array([[0, 0, 9, 9.0]]), np.ones(1))], [GroundTruth(np.array([[0, 5, 9, 9.0]]))]
    assert average_precision(found, wanted) == 0  # 36 / 81
    assert wider_average_precision(found, wanted) == 1  # 50 / 100


def test_wider_prefers_the_best_overlap_even_if_taken() -> None:
    close = np.concatenate([at(0), at(3)])
    found = [Detections(np.concatenate([at(0), at(1)]), np.array([0.9, 0.8])), Detections(at(0), np.zeros(1))]
    wanted = [GroundTruth(close), GroundTruth()]
    assert average_precision(found[:1], wanted[:1]) == 1  # the second one takes what is left
    assert wider_average_precision(found, wanted) == pytest.approx(0.5)


def test_nothing_found_is_zero_and_nothing_to_find_an_error() -> None:
    for measure in (average_precision, coco_average_precision, wider_average_precision):
        assert measure([Detections()], [GroundTruth(at(0))]) == 0
        with pytest.raises(UsageError, match="nothing to measure"):
            measure([Detections(at(0), np.ones(1))], [GroundTruth()])
        with pytest.raises(UsageError, match="do not fit"):
            measure([Detections()], [])


def test_threshold_for_a_precision() -> None:
    found = [Detections(at(0, 100, 500, 200), np.array([0.9, 0.8, 0.7, 0.6]))]
    curve = precision_recall(found, [GroundTruth(at(0, 100, 200))])
    assert curve.threshold_for(0.95) == 0.8
    assert curve.threshold_for(0.75) == 0.6
    wrong = precision_recall([Detections(at(500), np.ones(1))], [GroundTruth(at(0))])
    assert wrong.threshold_for(0.5) is None


@pytest.mark.parametrize("boxes", [np.zeros((2, 3)), np.array([[0, 0, np.nan, 1]]), np.zeros(4)])
def test_bad_boxes_are_refused(boxes: np.ndarray) -> None:
    with pytest.raises(UsageError, match="x0, y0, x1, y1"):
        GroundTruth(boxes)


def test_bad_scores_and_flags_are_refused() -> None:
    with pytest.raises(UsageError, match="scores"):
        Detections(at(0, 20), np.ones(1))
    with pytest.raises(UsageError, match="flags 'crowd'"):
        GroundTruth(at(0), crowd=np.zeros(2, bool))


def test_faces_become_detections() -> None:
    face = Face(np.array([1, 2, 3, 4], np.float32), 0.5, np.zeros((5, 2), np.float32))
    found = Detections.of([face, face])
    assert found.boxes.tolist() == [[1, 2, 3, 4]] * 2
    assert found.scores.tolist() == [0.5, 0.5]
    assert Detections.of([]).boxes.shape == (0, 4)
