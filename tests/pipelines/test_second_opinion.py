"""The second opinion: what its signals are, with a stand-in verifier, and what the shipped one says of a photo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from facewright.geometry.resample import crop_face
from facewright.pipelines.second_opinion import (
    LEAST_CERTAINTY,
    OpinionModel,
    SecondOpinion,
    believable,
    log_odds,
    probability,
    shipped_model,
)

NOBODY = SimpleNamespace()
COUNT_BOTH = OpinionModel(0.0, 1.0, 1.0)


class Known:
    """A verifier whose log odds are known, and which remembers where it looked."""

    def __init__(self, *odds: float) -> None:
        self.odds = odds
        self.seen: list[Any] = []

    def verify(self, image: np.ndarray, faces: list) -> np.ndarray:
        self.seen += [(image.shape, face) for face in faces]
        return np.array(self.odds[: len(faces)])


def test_signals_are_the_detectors_and_the_verifiers_odds(fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((70, 50), 12, score=0.8), fakes.face_at((30, 50), 12, score=1.0)]
    signals = SecondOpinion(Known(2.0, -3.0), NOBODY, COUNT_BOTH).signals(fakes.textured(110, 150), faces)  # type: ignore[arg-type]
    assert signals[0] == pytest.approx([np.log(4), 2.0], abs=1e-3)
    assert signals[1] == pytest.approx([np.log(99999), -3.0], abs=1e-3)


def test_a_verifier_that_doubts_counts_against_a_face(fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((70, 50), 12, score=0.8), fakes.face_at((30, 50), 12, score=0.8)]
    believed, doubted = SecondOpinion(Known(3.0, -9.0), NOBODY, COUNT_BOTH).certainties(fakes.textured(110, 150), faces)  # type: ignore[arg-type]
    assert doubted < LEAST_CERTAINTY < believed
    assert believed == pytest.approx(float(probability(np.log(4) + 3.0)))


def test_a_crop_is_judged_by_where_its_points_are_in_it(fakes: SimpleNamespace) -> None:
    picture, face, verifier = fakes.textured(110, 150), fakes.face_at((70, 50), 12, score=0.8), Known(1.0)
    crop = crop_face(picture, face.points5, 64)
    SecondOpinion(verifier, NOBODY, COUNT_BOTH).of_crop(crop, face)  # type: ignore[arg-type]
    ((shape, seen),) = verifier.seen
    assert shape == (64, 64, 3)
    expected = face.points5 @ crop.matrix[:, :2].T + crop.matrix[:, 2]
    assert np.allclose(seen.points5, expected, atol=1e-3)
    assert np.allclose(seen.box, [*expected.min(0), *expected.max(0)], atol=1e-3)


def test_nobody_is_asked_about_nothing(fakes: SimpleNamespace) -> None:
    def nobody(*_: object) -> None:
        raise AssertionError

    assert (
        SecondOpinion(SimpleNamespace(verify=nobody), NOBODY, COUNT_BOTH).certainties(fakes.textured(40, 40), []) == []  # type: ignore[arg-type]
    )


def test_odds_and_probabilities_are_inverse() -> None:
    values = np.array([0.01, 0.5, 0.9])
    assert np.allclose(probability(log_odds(values)), values)
    assert float(log_odds(0.5)) == 0


def test_the_shipped_model_counts_every_signal_the_right_way() -> None:
    model = shipped_model()
    assert min(model.detector, model.verifier) > 0
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
    face = max(finder.detect(photo), key=lambda face: face.score)  # type: ignore[arg-type]
    assert face.certainty is not None
    assert face.certainty > 0.99
    assert face.turn == 0
    crop = crop_face(photo, face.points5, 256)  # type: ignore[arg-type]
    assert finder.opinion.of_crop(crop, face) > 0.99  # type: ignore[attr-defined]
    assert finder.opinion.certainties(np.ascontiguousarray(photo[::-1]), [face])[0] < LEAST_CERTAINTY  # type: ignore[attr-defined]
    turned = max(finder.detect(np.ascontiguousarray(np.rot90(photo, 2))), key=lambda face: face.score)
    assert turned.turn == 180
    assert np.allclose(turned.points5, np.array(photo.shape[1::-1]) - 1 - face.points5, atol=0.01)
