"""How good the picture of each face is: recognition utility, what is left of the face, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..geometry.crop import CropSpec
from .choosing import sure_faces
from .order import reading_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceQuality
    from ..io.image import Photo
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.quality import DegradationEstimator, QualityEstimator, QualityOptions


REASONS_CROP = CropSpec.aligned(112, "arcface")


class RatedFace(NamedTuple):
    """A face of a photo and the quality of its picture."""

    face: Face
    quality: FaceQuality

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return self.face.to_dict() | {"quality": quality_dict(self.quality)}

    def line(self) -> str:
        """One line for people."""
        return face_line(self.face, self.quality)


def face_line(face: Face, quality: FaceQuality | None) -> str:
    """Box, quality and reasons in words."""
    box = ",".join(str(round(float(v))) for v in face.box)
    rated = "" if quality is None else f", quality {quality.number:.0f}"
    reasons = "" if not quality or not quality.reasons else f" ({', '.join(map(str, quality.reasons))})"
    return f"box {box}{rated}{reasons}"


def quality_dict(quality: FaceQuality | None) -> dict[str, Any] | None:
    """A quality as plain numbers (0–100) and words, ready for JSON."""
    if quality is None:
        return None
    return {"quality": round(quality.number, 1), "reasons": [str(r) for r in quality.reasons]}


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, QualityOptions], list[RatedFace]]:
    """Detector and rater as a callable of photos."""
    rater, detector = load_rater(session, task, choice), session.detector(choice)

    def rate(photo: Photo, options: QualityOptions) -> list[RatedFace]:
        rgb = photo.rgb()
        faces = reading_order(sure_faces(detector.detect(rgb)))
        return [RatedFace(face, found) for face, found in zip(faces, rater.rate(rgb, faces))]

    return rate


def load_rater(session: Networks, task: Task, choice: NetworkChoice) -> QualityRater:
    """The quality estimator beside the estimator of damage."""
    return QualityRater(session.chosen(task, choice), session.network("frgp", None, choice.device))


class QualityRater:
    """A quality estimator beside an estimator of damage; a `QualityEstimator` itself.

    What ranks pictures for recognition hardly sees damage that a recogniser overlooks; the damage is measured apart.
    """

    def __init__(self, estimator: QualityEstimator, assessor: DegradationEstimator) -> None:
        self.estimator, self.assessor = estimator, assessor

    def rate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceQuality]:
        """Quality of the faces found in an (H, W, 3) uint8 RGB photo."""
        from ..systems.quality.reasons import find_reasons
        from ..systems.quality.retained import retained_fraction

        if not faces:
            return []
        crop = self.assessor.preprocess.crop
        crops = np.stack([crop.cut(photo, face).image for face in faces])
        small = [REASONS_CROP.cut(photo, face) for face in faces]
        return [
            replace(
                rated, retained_fraction=retained_fraction(estimate), reasons=tuple(find_reasons(crop, face, estimate))
            )
            for rated, face, crop, estimate in zip(
                self.estimator.rate(photo, faces), faces, small, self.assessor.assess(crops)
            )
        ]
