"""Likeness: what its signals measure, with stand-in networks, and what the shipped one says of crops."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.geometry.resample import crop_face
from facewright.geometry.templates import template_points
from facewright.pipelines.likeness import (
    LOOK_SIZE,
    Likeness,
    LikenessModel,
    shipped_model,
)

if TYPE_CHECKING:
    from types import SimpleNamespace

    from facewright.face import Face

TEMPLATE = template_points("arcface", LOOK_SIZE)
COUNT_ALL = LikenessModel(0.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0)


def points68(face: Face, off: float = 0.0) -> np.ndarray:
    """68 points whose eyes, nose tip and mouth corners are those of a face, moved by `off` eye distances."""
    points = np.zeros((68, 2), np.float32)
    points[36:42], points[42:48] = face.points5[0], face.points5[1]
    points[[30, 48, 54]] = face.points5[2:]
    return points + np.float32(off * face.eye_distance)


def landmarks(off: float = 0.0, sure: float = 0.9):
    return lambda image, faces: [(points68(face, off), np.full(68, sure, np.float32)) for face in faces]


class Steady:
    """A second look that finds the face where it is in every view, less `shift` eye distances, and is sure of it."""

    def __init__(self, shift: float = 0.0, logits: tuple[float, ...] = (5.0,)) -> None:
        self.shift, self.logits, self.crops = shift, logits, np.zeros(0)

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from facewright.geometry.similarity import transform_points
        from facewright.pipelines.likeness import MIRRORED, VIEWS, _views

        self.crops = crops
        found = []
        for number in range(len(crops)):
            view = number % len(VIEWS)
            eye_distance = TEMPLATE[1, 0] - TEMPLATE[0, 0]
            points = transform_points(_views()[view], TEMPLATE + (view > 0) * self.shift * eye_distance)
            found.append(points[MIRRORED] if VIEWS[view][2] else points)
        return np.array(found), np.resize(self.logits, len(crops)).astype(float)


@pytest.fixture
def face(fakes: SimpleNamespace) -> Face:
    points = template_points("arcface", 40) + np.array([50, 30])
    return replace(fakes.face_at((70, 50), 12, score=0.8), points5=points.astype(np.float32))


def test_signals_of_a_steady_face(face: Face, fakes: SimpleNamespace) -> None:
    opinion = Likeness(landmarks(), Steady(), COUNT_ALL)
    (signals,) = opinion.signals(fakes.textured(110, 150), [face])
    wanted = [np.log(4), np.log(9), np.log(9), np.log(0.01), 5.0, np.log(0.01)]
    assert signals == pytest.approx(wanted, abs=0.05)


def test_points_that_disagree_or_move_count_against_a_face(face: Face, fakes: SimpleNamespace) -> None:
    picture = fakes.textured(110, 150)
    agreed, apart, unsteady, unsure = (
        float(COUNT_ALL(Likeness(marks, look, COUNT_ALL).signals(picture, [face]))[0])
        for marks, look in (
            (landmarks(sure=0.5), Steady()),
            (landmarks(0.3, sure=0.5), Steady()),
            (landmarks(sure=0.5), Steady(0.3)),
            (landmarks(sure=0.5), Steady(logits=(5.0, 5.0, -4.0))),
        )
    )
    assert max(apart, unsteady, unsure) < agreed
    moved = Likeness(landmarks(), Steady(0.3), COUNT_ALL).signals(picture, [face])[0, 5]
    assert moved == pytest.approx(np.log(0.3 * np.sqrt(2) + 0.01), abs=0.05)
    assert Likeness(landmarks(), Steady(logits=(5.0, 5.0, -4.0)), COUNT_ALL).signals(picture, [face])[0, 4] == -4


def test_views_are_turned_scaled_and_mirrored(face: Face, fakes: SimpleNamespace) -> None:
    look = Steady()
    Likeness(landmarks(), look, COUNT_ALL).signals(fakes.textured(110, 150), [face, face])
    assert look.crops.shape == (12, LOOK_SIZE, LOOK_SIZE, 3)
    plain, mirrored = look.crops[0].astype(int), look.crops[1][:, ::-1].astype(int)
    assert np.abs(plain - mirrored).mean() < 2
    assert np.array_equal(look.crops[:6], look.crops[6:])


def test_the_shipped_model_counts_every_signal_the_right_way() -> None:
    model = shipped_model()
    assert min(model.detector, model.inner_points, model.contour_points, model.worst_look) > 0
    assert max(model.five_points, model.unsteadiness) < 0
    assert LikenessModel.from_json(model.to_json()) == model


def test_the_embedded_networks_prefer_a_face_to_what_lost_its_features(astronaut: np.ndarray) -> None:
    from facewright.loading import load_detector

    finder = load_detector("cpu")
    face = max(finder.detector.detect(astronaut), key=lambda found: found.score)  # type: ignore[attr-defined]
    crop = crop_face(astronaut, face.points5, 256)
    smeared = replace(crop, image=np.asarray(cv2.GaussianBlur(crop.image, (0, 0), 25), np.uint8))
    assert finder.opinion.likeness.of_crop(crop, face) > finder.opinion.likeness.of_crop(smeared, face) + 3  # type: ignore[attr-defined]
