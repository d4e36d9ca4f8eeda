"""Overlap, suppression, anchors and codes, on worked numbers."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facewright.nn.boxes import (
    area,
    containment_nms,
    decode_boxes,
    decode_points,
    encode_boxes,
    encode_points,
    intersection,
    iou,
    make_anchors,
    nms,
    to_corners,
)


def test_overlap_of_worked_boxes() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    b = torch.tensor([[5.0, 5, 15, 15], [0, 0, 10, 10], [100, 100, 90, 90]])
    assert area(a).tolist() == [100, 200]
    assert area(b)[2] == 0
    assert intersection(a, b)[0].tolist() == [25, 100, 0]
    torch.testing.assert_close(iou(a, b)[0], torch.tensor([25 / 175, 1.0, 0.0]))
    assert iou(a, b)[1].tolist() == [0, 0, 0]


def test_nms_keeps_the_better_of_two_and_returns_best_first() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10.5]])
    scores = torch.tensor([0.6, 0.9, 0.7, 0.5])
    assert nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert nms(boxes, scores, 0.99).tolist() == [1, 2, 0, 3]
    assert nms(boxes[:0], scores[:0], 0.4).tolist() == []


def test_nms_is_greedy_not_transitive() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_an_eye_is_never_a_second_face() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 130], [20, 40, 45, 60], [90, 0, 150, 80]])
    assert containment_nms(boxes, torch.tensor([0.9, 0.95, 0.8])).tolist() == [1, 2]
    assert containment_nms(boxes, torch.tensor([0.95, 0.9, 0.8])).tolist() == [0, 2]


def test_containment_keeps_neighbours_and_near_equals() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [60, 0, 100, 60], [5, 5, 95, 95]])
    assert containment_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), share=1.1).tolist() == [0, 1, 2]
    assert containment_nms(boxes[[0, 2]], torch.tensor([0.9, 0.8])).tolist() == [0, 1]


def test_anchor_layout() -> None:
    anchors = make_anchors(17, 9, (8, 16), ((16, 32), (64,)))
    assert anchors.shape == (3 * 2 * 2 + 2 * 1 * 1, 4)
    assert anchors[0].tolist() == [4, 4, 16, 16]
    assert anchors[1].tolist() == [4, 4, 32, 32]
    assert anchors[2].tolist() == [12, 4, 16, 16]
    assert anchors[4].tolist() == [4, 12, 16, 16]
    assert anchors[-1].tolist() == [8, 24, 64, 64]


def test_codes_of_worked_boxes() -> None:
    anchor = torch.tensor([[50.0, 50, 20, 20]])
    box = torch.tensor([[44.0, 40, 64, 60]])
    torch.testing.assert_close(encode_boxes(box, anchor), torch.tensor([[2.0, 0, 0, 0]]))
    torch.testing.assert_close(encode_points(torch.tensor([[[50.0, 45.0]]]), anchor), torch.tensor([[[0.0, -2.5]]]))
    wide = torch.tensor([[50 - 10 * torch.e, 40, 50 + 10 * torch.e, 60]])
    torch.testing.assert_close(encode_boxes(wide, anchor), torch.tensor([[0.0, 0, 5, 0]]), atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 300), min_size=2, max_size=2), st.floats(3, 200), st.floats(3, 200))
def test_codes_round_trip(corner: list[float], width: float, height: float) -> None:
    box = torch.tensor([[corner[0], corner[1], corner[0] + width, corner[1] + height]])
    anchors = make_anchors(40, 40, (8,), ((16, 32),))
    boxes = box.expand(len(anchors), 4)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-2, rtol=1e-4)
    points = boxes.unflatten(1, (2, 2))
    torch.testing.assert_close(decode_points(encode_points(points, anchors), anchors), points, atol=1e-2, rtol=1e-4)


def test_corners_of_anchors() -> None:
    assert to_corners(torch.tensor([[10.0, 20, 4, 8]])).tolist() == [[8, 16, 12, 24]]
