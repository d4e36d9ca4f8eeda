"""Rating faces by an estimator and by what a restorer says of the damage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.face import DegradationEstimate, FaceQuality, Reason
from facewright.geometry.crop import CropSpec
from facewright.pipelines.quality import QualityRater, quality_dict
from facewright.systems.quality.retained import retained_fraction
from facewright.tasks.card import Preprocess

if TYPE_CHECKING:
    from types import SimpleNamespace


class AlwaysGood:
    """Ranks every picture high, as an estimator that overlooks damage does."""

    def rate(self, photo: np.ndarray, faces: Any) -> list[FaceQuality]:
        return [FaceQuality(0.4, 89.0) for _ in faces]


class ByBrightness:
    """Takes dark crops for badly compressed ones, and remembers the crops."""

    preprocess = Preprocess(CropSpec.aligned(64))

    def assess(self, crops: np.ndarray) -> list[DegradationEstimate]:
        self.crops = crops
        bright = crops.mean((1, 2, 3)) > 100
        return [DegradationEstimate(0.1, 1.0, 0.0, 95.0 if b else 20.0, 40.0, 0.97 if b else 0.6) for b in bright]


def test_damage_lowers_the_number_and_is_named(fakes: SimpleNamespace) -> None:
    photo = np.full((100, 200, 3), 160, np.uint8)
    photo[:, 100:] = 20
    faces = [fakes.face_at((50, 50), 20.0), fakes.face_at((150, 50), 20.0)]
    assessor: Any = ByBrightness()
    good, bad = QualityRater(AlwaysGood(), assessor).rate(photo, faces)
    assert assessor.crops.shape == (2, 64, 64, 3)
    assert good.percentile == bad.percentile == 89.0
    assert good.number > 85 > 40 > bad.number
    assert bad.number == pytest.approx(100 * retained_fraction(assessor.assess(assessor.crops)[1]))
    assert Reason.COMPRESSION in bad.reasons
    assert Reason.COMPRESSION not in good.reasons
    shown = quality_dict(bad)
    assert shown is not None
    assert shown["quality"] == round(bad.number, 1)


def test_no_faces_ask_no_network(fakes: SimpleNamespace) -> None:
    assessor: Any = None
    assert QualityRater(AlwaysGood(), assessor).rate(np.zeros((9, 9, 3), np.uint8), []) == []
