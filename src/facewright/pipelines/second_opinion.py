"""A second opinion on what a detector found: how likely is it a face, before any of its pixels change.

A detector's false alarms (coins, gravel, patterned cloth, animals) fool one network from one view, and as easily every
other network that was taught on nothing but crops of faces. The verifier was taught on such false alarms and sees what
is around them. A logistic model of its answer and the detector's score, whose weights `reproductions/second_opinion`
fits, says how likely a face is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from ..geometry.similarity import transform_points
from .logistic import LogisticModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from ..tasks.detect import Verifier
    from .likeness import Likeness

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

WEIGHTS_FILE = "second_opinion.json"
NO_FACE = "probably not a face"
LEAST_CERTAINTY = 0.5
"""Certainty from which a find is taken for a face."""
_OFTEN = 1e-5  # certainty of a detector is told apart from 1 up to here


@dataclass(frozen=True, slots=True)
class OpinionModel(LogisticModel):
    """Log odds of being a face, from the two signals of `SecondOpinion.signals`."""

    detector: float
    verifier: float


class SecondOpinion:
    """The network and the logistic model behind `Face.certainty`; `likeness` is asked about restorations."""

    def __init__(self, verifier: Verifier, likeness: Likeness, model: OpinionModel | None = None) -> None:
        self.verifier, self.likeness, self.model = verifier, likeness, model or shipped_model()

    def certainties(self, image: Image, faces: Sequence[Face]) -> list[float]:
        """The probability, 0 to 1, of each find in an (H, W, 3) uint8 RGB photo to be a face."""
        if not faces:
            return []
        return [float(v) for v in probability(self.model(self.signals(image, faces)))]

    def of_crop(self, crop: FaceCrop, face: Face) -> float:
        """The same for one face already cut out, by what is in its crop."""
        points = transform_points(crop.matrix, face.points5).astype(np.float32)
        return self.certainties(crop.image, [in_crop(face, points)])[0]

    def signals(self, image: Image, faces: Sequence[Face]) -> Floats:
        """(N, 2): log odds of the detector's score, and of the verifier."""
        scores = log_odds(np.clip([face.score for face in faces], _OFTEN, 1 - _OFTEN))
        return np.column_stack([scores, self.verifier.verify(image, faces)])


def believable(face: Face) -> bool:
    """Whether the second opinion, where one was asked, takes a find for a face."""
    return face.certainty is None or face.certainty >= LEAST_CERTAINTY


def log_odds(probability: NDArray[np.floating] | float) -> Floats:
    p = np.asarray(probability, np.float64)
    return np.asarray(np.log(p / (1 - p)))


def probability(log_odds: NDArray[np.floating] | float) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.asarray(log_odds, np.float64))))


@lru_cache(maxsize=1)
def shipped_model() -> OpinionModel:
    """The model that `reproductions/second_opinion` fitted."""
    return OpinionModel.from_json(files(__package__).joinpath(WEIGHTS_FILE).read_text(encoding="utf-8"))


def in_crop(face: Face, points: NDArray[np.float32]) -> Face:
    """A find as it lies in its crop, where its five points are `points` (5, 2)."""
    low, high = points.min(0), points.max(0)
    return replace(face, points5=points, box=np.concatenate([low, high]).astype(np.float32), turn=0)
