"""What of a face is restored: the parser's word inside the oval, and the oval where the parser is not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.geometry.crop import CropSpec, template_face
from facewright.geometry.paste import face_mask
from facewright.io.image import read
from facewright.pipelines.masking import restoring_masks
from facewright.pipelines.restore import RestorePipeline
from facewright.tasks.card import Preprocess
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from types import SimpleNamespace

SIZE = 128
FACE = template_face(SIZE)
POINTS = FACE.points5
OVAL = face_mask(POINTS, SIZE)


class GlassesParser:
    """Skin with a band of glasses over the eyes; with `blind` everything is background."""

    classes = ("background", "skin", "eye_g")
    preprocess = Preprocess(CropSpec.aligned(SIZE))

    def __init__(self, *, blind: bool = False) -> None:
        self.blind = blind
        self.asked = 0
        self.seen = np.empty(0)

    def parse(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        return np.asarray(self.probabilities(crops).argmax(1), np.uint8)

    def probabilities(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        self.asked, self.seen = self.asked + 1, crops
        count, side = crops.shape[:2]
        found = np.zeros((count, 3, side, side), np.float32)
        if self.blind:
            found[:, 0] = 1
            return found
        middle, half = round(POINTS[:2, 1].mean() / SIZE * side), round(0.06 * side)
        found[:, 1] = 1
        found[:, 1:, middle - half : middle + half] = np.array([0, 1], np.float32)[:, None, None]
        return found


def crop() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def test_without_parser_the_whole_oval_counts() -> None:
    assert np.array_equal(restoring_masks([crop()], [FACE], None)[0], OVAL)


def test_glasses_are_left_out_with_a_soft_edge() -> None:
    mask = restoring_masks([crop()], [FACE], GlassesParser())[0]
    eyes = round(POINTS[:2, 1].mean())
    column = round(POINTS[2, 0])
    assert mask[eyes, column] == 0
    below = round(POINTS[2, 1]) + 4
    assert mask[below, column] == pytest.approx(OVAL[below, column])
    assert (mask <= OVAL + 1e-6).all()
    along = mask[eyes : eyes + 20, column]
    assert np.abs(np.diff(along)).max() < 0.7


class OneEyeParser(GlassesParser):
    """Takes the eye on one side for glasses."""

    def __init__(self, side: str) -> None:
        super().__init__()
        self.side = side

    def probabilities(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        found = super().probabilities(crops)
        half = found.shape[3] // 2
        other = np.s_[..., half:] if self.side == "left" else np.s_[..., :half]
        found[:, 1][other], found[:, 2][other] = 1, 0
        return found


@pytest.mark.parametrize("side", ["left", "right"])
def test_glasses_on_one_eye_are_that_eye_and_restored(side: str) -> None:
    mask = restoring_masks([crop()], [FACE], OneEyeParser(side))[0]
    assert np.allclose(mask, OVAL, atol=1e-6)


class HairParser(GlassesParser):
    """Hair in the upper third of the crop, skin below."""

    classes = ("background", "skin", "hair")

    def probabilities(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        self.asked, self.seen = self.asked + 1, crops
        count, side = crops.shape[:2]
        found = np.zeros((count, 3, side, side), np.float32)
        found[:, 2, : side // 3] = 1
        found[:, 1, side // 3 :] = 1
        return found


def test_hair_is_restored_when_asked_for_beyond_the_oval_and_without_a_seam() -> None:
    plain = restoring_masks([crop()], [FACE], HairParser())[0]
    hairy = restoring_masks([crop()], [FACE], HairParser(), hair=True)[0]
    third, middle = SIZE // 3, SIZE // 2
    assert plain[: third - 4].max() == 0
    assert hairy[third // 2, middle] == 1
    assert hairy[third // 2, SIZE // 8] == 1
    assert OVAL[third // 2, SIZE // 8] == 0
    assert hairy[0].max() == 0  # fades out at the border of the crop
    inside = OVAL[third - 6 : third + 6, middle] > 0.99
    assert inside.any()
    assert hairy[third - 6 : third + 6, middle][inside].min() > 0.99
    assert np.array_equal(hairy[third + 8 :], plain[third + 8 :])


def test_the_pipeline_restores_hair_when_told(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((100, 90), 40)
    photo = read(fakes.textured(200, 200))
    pipeline = RestorePipeline(fakes.Detector(face), fakes.Restorer(), parser=HairParser())
    plain = pipeline(photo, RestoreOptions(watermark=False, grain="none"))
    hairy = pipeline(photo, RestoreOptions(watermark=False, hair=True))
    above = np.s_[round(float(face.points5[:2, 1].mean())) - 30, round(float(face.points5[2, 0]))]
    assert np.array_equal(plain.image.pixels[above], photo.pixels[above])
    assert (hairy.image.pixels[above] != photo.pixels[above]).any()
    assert hairy.provenance().parameters["hair"] is True


def test_a_parser_that_sees_no_face_is_not_believed() -> None:
    assert np.array_equal(restoring_masks([crop()], [FACE], GlassesParser(blind=True))[0], OVAL)


def test_the_pipeline_leaves_glasses_their_bits_unless_told(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((100, 90), 40)
    photo = read(fakes.textured(200, 200))
    parser = GlassesParser()
    pipeline = RestorePipeline(fakes.Detector(face), fakes.Restorer(), parser=parser)
    result = pipeline(photo, RestoreOptions(watermark=False, grain="none"))
    whole = pipeline(photo, RestoreOptions(watermark=False, whole=True, grain="none"))
    x, y = (round(float(v)) for v in face.points5[:2].mean(0))
    assert parser.asked == 1
    assert np.array_equal(parser.seen[0], result.faces[0].output)  # not the damaged crop
    assert np.array_equal(result.image.pixels[y, x], photo.pixels[y, x])
    assert (whole.image.pixels[y, x] != photo.pixels[y, x]).any()
    nose_x, nose_y = (round(float(v)) for v in face.points5[2])
    assert np.array_equal(result.image.pixels[nose_y, nose_x], whole.image.pixels[nose_y, nose_x])
