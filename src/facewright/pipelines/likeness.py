"""How much a crop looks like a face to networks that know nothing else: may a restoration pass for one?

Two are asked: the landmarker, which on a face is sure of its 68 points, and they agree with the detector's five; and
the network of the second look, which must say "face" again and put the points in the same places when the crop is
mirrored, scaled and turned. A logistic model of these signals gives log odds. Taught on crops of faces alone, both see
faces in coins and gravel, too: whether a find is a face at all says `pipelines.second_opinion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix
from ..geometry.similarity import fit_similarity, invert, transform_points
from ..geometry.templates import template_points
from .logistic import LogisticModel
from .second_opinion import in_crop, log_odds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Floats32 = NDArray[np.float32]

WEIGHTS_FILE = "likeness.json"
LOOK_SIZE = 64
BATCH = 16
MIRRORED = [1, 0, 2, 4, 3]
# scale, clockwise turn in degrees and mirroring of the views that the second look is asked about
VIEWS = (
    (1.0, 0.0, False),
    (1.0, 0.0, True),
    (0.8, 0.0, False),
    (1.25, 0.0, True),
    (1.0, 12.0, False),
    (1.0, -12.0, True),
)
_OFTEN = 1e-5  # certainty of a detector is told apart from 1 up to here
_FINE = 0.01  # of the eye distance: differences below do not count


class Landmarks(Protocol):
    """What is needed of a landmarker, `locate` of `systems.landmarks.facewarp` without mirror images."""

    def __call__(
        self, image: Image, faces: Sequence[Face]
    ) -> Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(H, W, 3) uint8 RGB and faces in it to their 68 points in photo pixels and the confidences, (68,)."""
        ...


class SecondLook(Protocol):
    """What is needed of the second look (`systems.detect.mos.refiner`)."""

    def __call__(self, crops: Image) -> tuple[Floats, Floats]:
        """(N, 64, 64, 3) uint8 RGB crops on ArcFace's template to points (N, 5, 2) in them, and logits (N,)."""
        ...


@dataclass(frozen=True, slots=True)
class LikenessModel(LogisticModel):
    """Log odds of being a face, from the six signals of `Likeness.signals`."""

    detector: float
    inner_points: float
    contour_points: float
    five_points: float
    worst_look: float
    unsteadiness: float


class Verdict(NamedTuple):
    """What the networks say of a crop: log odds of being a face, and how sure its inner landmarks are, their mean log
    odds of lying within about a tenth of the eye distance of their true place."""

    odds: float
    sureness: float


class Likeness:
    """The networks and the logistic model."""

    def __init__(self, landmarks: Landmarks, look: SecondLook, model: LikenessModel | None = None) -> None:
        self.landmarks, self.look, self.model = landmarks, look, model or shipped_model()

    def of_crop(self, crop: FaceCrop, face: Face) -> float:
        """Log odds of a face for one already cut out, by what is in its crop."""
        return self.judge(crop, face).odds

    def judge(self, crop: FaceCrop, face: Face) -> Verdict:
        """The same with how sure the landmarks are."""
        points = transform_points(crop.matrix, face.points5).astype(np.float32)
        (signals,) = self.signals(crop.image, [in_crop(face, points)])
        return Verdict(float(self.model(signals)), float(signals[1]))

    def signals(self, image: Image, faces: Sequence[Face]) -> Floats:
        """(N, 6): log odds of the detector's score; mean log odds of the inner and of the contour landmarks; log of
        their distance from the five points; the worst logit of the second look; log of how far its points move."""
        rows = []
        for start in range(0, len(faces), BATCH):
            group = faces[start : start + BATCH]
            sure, apart = self._landmark_signals(image, group)
            worst, moved = self._look_signals(image, group)
            scores = log_odds(np.clip([face.score for face in group], _OFTEN, 1 - _OFTEN))
            rows.append(np.column_stack([scores, sure, apart, worst, moved]))
        return np.concatenate(rows)

    def _landmark_signals(self, image: Image, faces: Sequence[Face]) -> tuple[Floats, Floats]:
        sure, apart = [], []
        for face, (points, confidence) in zip(faces, self.landmarks(image, faces)):
            odds = log_odds(np.clip(confidence, 1e-3, 1 - 1e-3))
            sure.append((odds[17:].mean(), odds[:17].mean()))
            five = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
            apart.append(np.linalg.norm(five - face.points5, axis=1).mean() / _unit(face.points5))
        return np.array(sure), np.log(np.array(apart) + _FINE)

    def _look_signals(self, image: Image, faces: Sequence[Face]) -> tuple[Floats, Floats]:
        size, views = LOOK_SIZE, _views()
        template = template_points("arcface", size)
        eye_distance = float(template[1, 0] - template[0, 0])
        upright = [fit_similarity(face.points5, template) for face in faces]
        crops = np.stack(
            [crop_by_matrix(image, _after(view, m), size, "arcface").image for m in upright for view in views]
        )
        points, logits = self.look(crops)
        worst, moved = [], []
        for number, (face, matrix) in enumerate(zip(faces, upright)):
            here = slice(number * len(views), (number + 1) * len(views))
            worst.append(logits[here].min())
            wanted = transform_points(matrix, face.points5)
            found = [transform_points(invert(view), p) for view, p in zip(views, points[here])]
            found = [p[MIRRORED] if mirror else p for p, (_, _, mirror) in zip(found, VIEWS)]
            distances = [np.linalg.norm(p - wanted, axis=1).mean() for p in found[1:]]
            moved.append(np.mean(distances) / eye_distance)
        return np.array(worst), np.log(np.array(moved) + _FINE)


@lru_cache(maxsize=1)
def shipped_model() -> LikenessModel:
    """The model that comes with the package: fitted to finds, faces and other things, before there was a verifier."""
    return LikenessModel.from_json(files(__package__).joinpath(WEIGHTS_FILE).read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _views() -> tuple[Floats, ...]:
    """(2, 3) matrices from the upright crop to each of the `VIEWS`."""
    middle = template_points("arcface", LOOK_SIZE).mean(0)
    return tuple(_view(middle, *view) for view in VIEWS)


def _view(middle: Floats, scale: float, turn: float, mirror: bool) -> Floats:
    angle = np.radians(turn)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([linear, middle - linear @ middle])
    if mirror:
        matrix[0] *= -1
        matrix[0, 2] += LOOK_SIZE - 1
    return matrix


def _after(view: Floats, matrix: Floats) -> Floats:
    """The (2, 3) matrix of `matrix` followed by `view`."""
    whole = view[:, :2] @ matrix
    whole[:, 2] += view[:, 2]
    return np.asarray(whole)


def _unit(points5: NDArray[np.floating]) -> float:
    """The eye distance that the face would have were it seen from the front, at least a little, in pixels."""
    return float(1 / np.hypot(*align_matrix(points5, 1)[:, 0])) * float(np.ptp(template_points("ffhq")[:2, 0]))
