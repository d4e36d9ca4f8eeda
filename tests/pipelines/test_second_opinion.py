"""The second opinion: what its signals measure, with stand-in networks, and what the shipped one says of a photo."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.geometry.resample import crop_face
from facewright.geometry.templates import template_points
from facewright.pipelines.second_opinion import (
    LEAST_CERTAINTY,
    LOOK_SIZE,
    OpinionModel,
    SecondOpinion,
    believable,
    log_odds,
    probability,
    shipped_model,
)

if TYPE_CHECKING:
    from facewright.face import Face

TEMPLATE = template_points("arcface", LOOK_SIZE)
COUNT_ALL = OpinionModel(0.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0)


def points68(face: Face, off: float = 0.0) -> np.ndarray:
    """68 points whose eyes, nose tip and mouth corners are those of a face, moved by `off` eye distances."""
    points = np.zeros((68, 2), np.float32)
    points[36:42], points[42:48] = face.points5[0], face.points5[1]
    points[[30, 48, 54]] = face.points5[2:]
    return points + np.float32(off * face.eye_distance)


def landmarks(off: float = 0.0, sure: float = 0.9):
    return lambda image, faces: [(points68(face, off), np.full(68, sure, np.float32)) for face in faces]


def verifier(odds: float = 2.0):
    return SimpleNamespace(verify=lambda image, faces: np.full(len(faces), odds))


class Steady:
    """A second look that finds the face where it is in every view, less `shift` eye distances, and is sure of it."""

    def __init__(self, shift: float = 0.0, logits: tuple[float, ...] = (5.0,)) -> None:
        self.shift, self.logits, self.crops = shift, logits, np.zeros(0)

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from facewright.geometry.similarity import transform_points
        from facewright.pipelines.second_opinion import MIRRORED, VIEWS, _views

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
    opinion = SecondOpinion(landmarks(), Steady(), verifier(), COUNT_ALL)
    (signals,) = opinion.signals(fakes.textured(110, 150), [face])
    wanted = [np.log(4), np.log(9), np.log(9), np.log(0.01), 5.0, np.log(0.01), 2.0]
    assert signals == pytest.approx(wanted, abs=0.05)


def test_points_that_disagree_or_move_count_against_a_face(face: Face, fakes: SimpleNamespace) -> None:
    picture = fakes.textured(110, 150)
    agreed, apart, unsteady, unsure = (
        SecondOpinion(marks, look, verifier(), COUNT_ALL).certainties(picture, [face])[0]
        for marks, look in (
            (landmarks(sure=0.5), Steady()),
            (landmarks(0.3, sure=0.5), Steady()),
            (landmarks(sure=0.5), Steady(0.3)),
            (landmarks(sure=0.5), Steady(logits=(5.0, 5.0, -4.0))),
        )
    )
    assert max(apart, unsteady, unsure) < agreed
    moved = SecondOpinion(landmarks(), Steady(0.3), verifier(), COUNT_ALL).signals(picture, [face])[0, 5]
    assert moved == pytest.approx(np.log(0.3 * np.sqrt(2) + 0.01), abs=0.05)
    assert (
        SecondOpinion(landmarks(), Steady(logits=(5.0, 5.0, -4.0)), verifier(), COUNT_ALL).signals(picture, [face])[
            0, 4
        ]
        == -4
    )


def test_a_verifier_that_doubts_counts_against_a_face(face: Face, fakes: SimpleNamespace) -> None:
    picture = fakes.textured(110, 150)
    believed, doubted = (
        SecondOpinion(landmarks(sure=0.5), Steady(logits=(-4.0,)), verifier(odds), COUNT_ALL).certainties(
            picture, [face]
        )
        for odds in (3.0, -9.0)
    )
    assert doubted[0] < LEAST_CERTAINTY < believed[0]


def test_views_are_turned_scaled_and_mirrored(face: Face, fakes: SimpleNamespace) -> None:
    look = Steady()
    SecondOpinion(landmarks(), look, verifier(), COUNT_ALL).certainties(fakes.textured(110, 150), [face, face])
    assert look.crops.shape == (12, LOOK_SIZE, LOOK_SIZE, 3)
    plain, mirrored = look.crops[0].astype(int), look.crops[1][:, ::-1].astype(int)
    assert np.abs(plain - mirrored).mean() < 2
    assert np.array_equal(look.crops[:6], look.crops[6:])


def test_nobody_is_asked_about_nothing(fakes: SimpleNamespace) -> None:
    def nobody(*_: object) -> None:
        raise AssertionError

    assert SecondOpinion(nobody, nobody, nobody, COUNT_ALL).certainties(fakes.textured(40, 40), []) == []  # type: ignore[arg-type]


def test_odds_and_probabilities_are_inverse() -> None:
    values = np.array([0.01, 0.5, 0.9])
    assert np.allclose(probability(log_odds(values)), values)
    assert float(log_odds(0.5)) == 0


def test_the_shipped_model_counts_every_signal_the_right_way() -> None:
    model = shipped_model()
    assert min(model.detector, model.inner_points, model.worst_look, model.verifier) > 0
    assert max(model.five_points, model.unsteadiness) < 0
    assert OpinionModel.from_json(model.to_json()) == model


def test_believable_is_what_was_not_doubted(fakes: SimpleNamespace) -> None:
    assert believable(fakes.face_at((5, 5)))
    assert believable(fakes.face_at((5, 5), certainty=LEAST_CERTAINTY))
    assert not believable(fakes.face_at((5, 5), certainty=LEAST_CERTAINTY - 0.01))


@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_the_embedded_networks_believe_a_face_and_doubt_its_copy_upside_down(
    blur: float, astronaut: np.ndarray
) -> None:
    from facewright.loading import load_detector

    finder = load_detector("cpu")
    photo = astronaut if blur == 0 else cv2.GaussianBlur(astronaut, (0, 0), blur)
    face = max(finder.detect(photo), key=lambda face: face.score)
    assert face.certainty is not None
    assert face.certainty > 0.99
    assert face.turn == 0
    crop = crop_face(photo, face.points5, 256)
    assert finder.opinion.of_crop(crop, face) > 0.99
    assert finder.opinion.certainties(np.ascontiguousarray(photo[::-1]), [face])[0] < LEAST_CERTAINTY
    turned = max(finder.detect(np.ascontiguousarray(np.rot90(photo, 2))), key=lambda face: face.score)
    assert turned.turn == 180
    assert np.allclose(turned.points5, np.array(photo.shape[1::-1]) - 1 - face.points5, atol=0.01)
