"""The face record: sizes, scaling, plain form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facewright.face import Face, FaceCrop, Pose

POINTS = np.array([[10, 20], [30, 20], [20, 32], [13, 44], [27, 44]], np.float32)
FACE = Face(np.array([2, 4, 38, 56], np.float32), 0.875, POINTS, Pose(-12.34, 5.0, 0.06))


def test_sizes() -> None:
    assert (FACE.width, FACE.height) == (36, 52)
    assert FACE.centre == (20, 30)
    assert FACE.eye_distance == 20


def test_scaled_keeps_pixel_centres() -> None:
    """The centre of pixel 0 is at 0; in a doubled picture its area covers pixels 0 and 1, so its centre is at 0.5."""
    doubled = FACE.scaled(2)
    assert np.array_equal(doubled.points5[0], [20.5, 40.5])
    assert doubled.eye_distance == 40
    assert np.allclose(doubled.scaled(0.5).points5, POINTS)
    assert np.allclose(doubled.scaled(0.5).box, FACE.box)
    assert doubled.pose == FACE.pose


def test_plain_form_is_json_and_says_everything() -> None:
    data = json.loads(json.dumps(FACE.to_dict()))
    assert data["box"] == [2, 4, 38, 56]
    assert data["points5"][2] == [20, 32]
    assert data["score"] == 0.875
    assert data["pose"] == {"yaw": -12.3, "pitch": 5.0, "roll": 0.1}
    assert Face(FACE.box, 0.5, POINTS).to_dict()["pose"] is None


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        FACE.score = 1.0  # type: ignore[misc]


def test_crop_scale_is_crop_pixels_per_photo_pixel() -> None:
    angle = 0.3
    matrix = 1.75 * np.array([[np.cos(angle), -np.sin(angle), 3], [np.sin(angle), np.cos(angle), 5]])
    crop = FaceCrop(np.zeros((64, 64, 3), np.uint8), matrix, "ffhq", np.ones((64, 64), bool))
    assert crop.scale == pytest.approx(1.75)
    assert crop.size == 64
