"""Quarter turns of pictures, and faces brought back from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.face import Face, Pose
from facewright.geometry.crop import CropSpec, align_matrix
from facewright.geometry.resample import crop_by_matrix
from facewright.geometry.turns import TURNS, turned_by, turned_face, turned_points, upright, upright_face

if TYPE_CHECKING:
    from types import SimpleNamespace


@pytest.mark.parametrize("turn", TURNS)
def test_points_follow_the_pixels(turn: int) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    turned = turned_by(picture, turn)
    for x, y in ((3, 7), (49, 29), (0, 0)):
        u, v = turned_points(np.array([x, y]), turn, picture.shape[:2])
        assert np.array_equal(turned[int(v), int(u)], picture[y, x])
    assert np.array_equal(upright(turned, turn), picture)


def test_a_quarter_is_clockwise() -> None:
    picture = np.zeros((4, 6), np.uint8)
    picture[0, 0] = 1  # top left goes to top right
    assert turned_by(picture, 90)[0, -1] == 1


@pytest.mark.parametrize("turn", TURNS)
def test_a_face_turns_with_its_picture_and_back(turn: int, fakes: SimpleNamespace) -> None:
    face = fakes.face_at((40, 60), 20, angle=170)
    shape = (100, 140)
    moved = turned_face(face, turn, shape)
    assert moved.turn == turn
    assert moved.eye_distance == pytest.approx(face.eye_distance)
    assert (moved.width, moved.height) == pytest.approx((face.width, face.height)[:: -1 if turn % 180 else 1])
    assert moved.pose is not None
    assert -180 <= moved.pose.roll < 180
    assert (moved.pose.roll - 170 - turn) % 360 == pytest.approx(0)
    there = shape[::-1] if turn % 180 else shape
    back = upright_face(moved, there)
    assert back.turn == 0
    assert np.allclose(back.points5, face.points5, atol=1e-4)
    assert np.allclose(back.box, face.box, atol=1e-4)
    assert back.pose is not None
    assert back.pose.roll == pytest.approx(face.pose.roll)


@pytest.mark.parametrize("turn", TURNS)
def test_crops_of_a_turned_face_are_those_of_the_upright_one(turn: int, fakes: SimpleNamespace) -> None:
    picture = fakes.textured(90, 120)
    face = fakes.face_at((60, 45), 18, angle=4)
    moved = turned_face(face, turn, picture.shape[:2])
    wanted = crop_by_matrix(picture, align_matrix(face.points5, 64), 64).image
    found = crop_by_matrix(turned_by(picture, turn), align_matrix(moved.points5, 64), 64).image
    assert np.abs(found.astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("turn", TURNS)
def test_box_crops_show_a_turned_face_upright(turn: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    face = Face(np.array([30, 20, 60, 56], np.float32), 1.0, np.full((5, 2), 40, np.float32))
    spec = CropSpec.boxed(48, margin=0.1)
    moved = turned_face(face, turn, (80, 100))
    found = spec.cut(turned_by(picture, turn), moved).image
    assert np.abs(found.astype(int) - spec.cut(picture, face).image).max() <= 2


def test_other_turns_are_refused() -> None:
    with pytest.raises(UsageError, match="not by 45"):
        upright(np.zeros((4, 4, 3), np.uint8), 45)


def test_a_face_without_pose_can_turn(fakes: SimpleNamespace) -> None:
    assert turned_face(fakes.face_at((5, 5), 2, pose=None), 90, (9, 9)).pose is None
    assert Pose(0, 0, 0) == turned_face(fakes.face_at((5, 5), 2), 0, (9, 9)).pose
