"""Finding faces at any quarter turn with stand-in networks: when other turns are tried, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.geometry.turns import TURNS, turned_by, turned_face
from facewright.pipelines.finding import FaceFinder, SceneFinder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import SimpleNamespace

    from facewright.face import Face, FaceCrop

SHAPE = (120, 160)


class MarkedFaces:
    """Finds faces where a picture has a red mark (upright: the pixel right of it is green); counts its looks.

    A mark whose neighbour is not green is a face seen the wrong way round: it is found, too, but is doubtful.
    """

    slug = "marked"

    def __init__(self, fakes: SimpleNamespace, *, doubtful: bool = True) -> None:
        self.fakes, self.doubtful, self.looks = fakes, doubtful, 0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.looks += 1
        found = []
        for y, x in np.argwhere((image == (255, 0, 0)).all(-1)):
            upright = x + 1 < image.shape[1] and tuple(image[y, x + 1]) == (0, 255, 0)
            if upright or self.doubtful:
                found.append(self.fakes.face_at((x, y), 12, score=0.95 if upright else 0.75))
        return found


class ByScore:
    """Believes what the detector is sure of."""

    def certainties(self, image: np.ndarray, faces: Sequence[Face]) -> list[float]:
        return [0.999 if face.score > 0.9 else 0.2 for face in faces]

    def of_crop(self, crop: FaceCrop, face: Face) -> float:
        return self.certainties(crop.image, [face])[0]


def marked(*places: tuple[int, int], turn: int = 0, canvas: np.ndarray | None = None) -> np.ndarray:
    """A picture with upright faces at (x, y), then turned."""
    picture = np.zeros((*SHAPE, 3), np.uint8) if canvas is None else canvas.copy()
    for x, y in places:
        picture[y, x], picture[y, x + 1] = (255, 0, 0), (0, 255, 0)
    return np.ascontiguousarray(turned_by(picture, turn))


@pytest.mark.parametrize("doubtful", [True, False])
@pytest.mark.parametrize("turn", TURNS)
def test_turned_pictures_give_the_faces_of_the_upright_one(turn: int, doubtful: bool, fakes: SimpleNamespace) -> None:
    finder = FaceFinder(MarkedFaces(fakes, doubtful=doubtful), ByScore())
    upright = finder.detect(marked((40, 50), (110, 60)))
    found = finder.detect(marked((40, 50), (110, 60), turn=turn))
    assert [face.turn for face in found] == [turn, turn]
    for face, known in zip(found, upright):
        wanted = turned_face(known, turn, SHAPE)
        assert np.allclose(face.points5, wanted.points5, atol=1e-4)
        assert np.allclose(face.box, wanted.box, atol=1e-4)
        assert face.certainty == 0.999


def test_an_upright_photo_costs_one_look(fakes: SimpleNamespace) -> None:
    detector = MarkedFaces(fakes)
    FaceFinder(detector, ByScore()).detect(marked((40, 50)))
    assert detector.looks == 1
    FaceFinder(detector, ByScore()).detect(marked((40, 50), turn=180))
    assert detector.looks == 5


def test_prints_lying_both_ways_are_all_found(fakes: SimpleNamespace) -> None:
    """Seen the wrong way round the other prints' faces are likely enough to be asked about again."""

    class Lenient(ByScore):
        def certainties(self, image: np.ndarray, faces: Sequence[Face]) -> list[float]:
            return [0.999 if face.score > 0.9 else 0.7 for face in faces]

    page = marked((30, 30), (100, 30), turn=180)
    page = marked((40, 30), canvas=page)
    found = FaceFinder(MarkedFaces(fakes), Lenient()).detect(page)
    assert sorted(face.turn for face in found) == [0, 180, 180]


def test_nothing_sure_anywhere_leaves_the_upright_finds(fakes: SimpleNamespace) -> None:
    page = np.zeros((*SHAPE, 3), np.uint8)
    page[50, 50] = (255, 0, 0)
    finder = FaceFinder(MarkedFaces(fakes), ByScore())
    (found,) = finder.detect(page)
    assert (found.turn, found.certainty) == (0, 0.2)
    assert finder.turn_of(page) is None
    assert finder.detect(np.zeros((*SHAPE, 3), np.uint8)) == []


def test_faces_leaning_far_say_that_the_picture_is_turned(fakes: SimpleNamespace) -> None:
    class Leaning(MarkedFaces):
        def detect(self, image: np.ndarray) -> list[Face]:
            self.looks += 1
            return [self.fakes.face_at((40, 40), 12, angle=85, score=0.95)]

    detector = Leaning(fakes)
    FaceFinder(detector, ByScore()).detect(marked((40, 40)))
    assert detector.looks == 4


@pytest.mark.parametrize(("there", "here", "turned"), [(0.94, 0.3, True), (0.94, 0.8, False), (0.7, 0.1, False)])
def test_a_merely_likely_face_turns_a_picture_without_a_rival(
    there: float, here: float, turned: bool, fakes: SimpleNamespace
) -> None:
    class Graded(ByScore):
        def certainties(self, image: np.ndarray, faces: Sequence[Face]) -> list[float]:
            return [there if face.score > 0.9 else here for face in faces]

    found = FaceFinder(MarkedFaces(fakes), Graded()).detect(marked((40, 50), turn=270))
    assert [face.turn for face in found] == [270 if turned else 0]


@pytest.mark.parametrize("turn", TURNS)
def test_a_video_looks_for_the_turn_once_in_a_scene(turn: int, fakes: SimpleNamespace) -> None:
    detector = MarkedFaces(fakes)
    scene = SceneFinder(FaceFinder(detector, ByScore()), 0.7)
    frame = marked((40, 50), turn=turn)
    looks = 1 if turn == 0 else 4
    for seen in range(1, 4):
        (face,) = scene.detect(frame)
        assert face.turn == turn
        assert detector.looks == looks + seen
    scene.begin_scene()
    (face,) = scene.detect(marked((40, 50)))
    assert face.turn == 0


def test_a_scene_that_begins_without_a_face_is_looked_at_again(fakes: SimpleNamespace) -> None:
    detector = MarkedFaces(fakes, doubtful=False)
    scene = SceneFinder(FaceFinder(detector, ByScore()), 0.7)
    black = np.zeros((*SHAPE, 3), np.uint8)
    for _ in range(SceneFinder.AGAIN):
        assert scene.detect(black) == []
    assert detector.looks == 4 + SceneFinder.AGAIN
    (face,) = scene.detect(marked((40, 50), turn=180))
    assert face.turn == 180


def test_a_video_without_second_opinion_is_taken_for_upright(fakes: SimpleNamespace) -> None:
    plain = fakes.Detector(fakes.face_at((40, 40), 12, score=0.8), fakes.face_at((90, 40), 12, score=0.6))
    scene = SceneFinder(plain, 0.7)
    assert scene.opinion is None
    assert [face.score for face in scene.detect(marked())] == [0.8]


def test_the_finder_is_known_by_its_detector(fakes: SimpleNamespace) -> None:
    assert FaceFinder(MarkedFaces(fakes), ByScore()).slug == "marked"


def test_certainty_and_turn_are_in_the_plain_form(fakes: SimpleNamespace) -> None:
    face = replace(fakes.face_at((5, 5)), certainty=0.25, turn=90)
    assert {k: face.to_dict()[k] for k in ("turn", "certainty")} == {"turn": 90, "certainty": 0.25}
