"""How good the picture of each face is: recognition utility, what is left of the face, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..geometry.align import crop_face

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..systems.base import QualityEstimator
    from ..systems.quality.reasons import FaceQuality
    from ..systems.restore.frgp.network import FRGP

REASONS_SIZE = 112


class QualityRater:
    """A quality estimator beside a restorer's estimator of damage; a `QualityEstimator` itself.

    What ranks pictures for recognition hardly sees damage that a recogniser overlooks; the damage is measured apart.
    """

    def __init__(self, estimator: QualityEstimator, assessor: FRGP) -> None:
        self.estimator, self.assessor = estimator, assessor

    def rate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceQuality]:
        """Quality of the faces found in an (H, W, 3) uint8 RGB photo."""
        from ..systems.quality.kept import kept
        from ..systems.quality.reasons import find_reasons

        if not faces:
            return []
        record = self.assessor.preprocess
        crops = np.stack([crop_face(photo, face.points5, record.size, record.template).image for face in faces])
        small = [crop_face(photo, face.points5, REASONS_SIZE, "arcface") for face in faces]
        return [
            replace(rated, kept=kept(estimate), reasons=tuple(find_reasons(crop, face, estimate)))
            for rated, face, crop, estimate in zip(
                self.estimator.rate(photo, faces), faces, small, self.assessor.assess(crops)
            )
        ]
