"""The crop a network sees is said by its `CropSpec` alone: what each kind means, to the bit, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.face import Face
from facewright.geometry.crop import CropSpec
from facewright.geometry.resample import crop_face
from facewright.geometry.similarity import transform_points

if TYPE_CHECKING:
    from types import SimpleNamespace


@pytest.fixture
def faces(fakes: SimpleNamespace) -> list[Face]:
    """In the middle, turned, over the border, tiny."""
    return [
        fakes.face_at((150, 120), 40.0),
        fakes.face_at((140.3, 118.8), 37.0, angle=-11.0),
        fakes.face_at((20, 190), 55.0, angle=33.0),
        fakes.face_at((77.7, 61.2), 4.0, angle=5.0),
    ]


@pytest.fixture
def photo(fakes: SimpleNamespace) -> np.ndarray:
    picture: np.ndarray = fakes.textured(200, 300)
    return picture


def test_an_aligned_crop_is_what_crop_face_cuts(faces: list[Face], photo: np.ndarray) -> None:
    for face in faces:
        got, expected = CropSpec.aligned(64).cut(photo, face), crop_face(photo, face.points5, 64)
        assert np.array_equal(got.image, expected.image)
        assert np.array_equal(got.valid, expected.valid)


def test_a_whole_photo_is_passed_on_as_it_is(faces: list[Face], photo: np.ndarray) -> None:
    cut = CropSpec.whole(512).cut(photo, faces[0])
    assert cut.image is photo
    assert np.array_equal(cut.matrix, np.eye(2, 3))
    assert cut.valid.all()
    assert cut.valid.shape == (200, 300)


# --- faces that are none


@pytest.mark.parametrize("spec", [CropSpec.aligned(64), CropSpec.aligned(64, margin=0.1, offset=0.5)])
def test_coinciding_points_fall_back_to_the_box(spec: CropSpec, photo: np.ndarray) -> None:
    face = Face(np.array([20, 30, 60, 110], np.float32), 0.9, np.full((5, 2), 50, np.float32))
    matrix = spec.matrix(face)
    np.testing.assert_allclose(transform_points(matrix, np.array([40.0, 70.0])), np.full(2, 31.5 + spec.offset))
    assert matrix[0, 0] == pytest.approx(64 / ((1 + 2 * spec.margin) * 80))
    assert matrix[0, 1] == 0
    with pytest.raises(ValueError, match="coincide"):
        spec.align(face.points5)


def test_a_box_without_an_area_gives_a_crop(photo: np.ndarray) -> None:
    spec = CropSpec.boxed(32, margin=0.2, level_eyes=True)
    face = Face(np.array([50, 60, 50, 60], np.float32), 0.9, np.full((5, 2), 50, np.float32))
    assert spec.cut(photo, face).scale == 32
    assert spec.cut(photo, face).image.shape == (32, 32, 3)


@pytest.mark.parametrize("spec", [CropSpec.aligned(64), CropSpec.boxed(64, margin=0.1)])
@pytest.mark.parametrize("what", ["box", "points5"])
def test_numbers_that_are_none_are_refused(spec: CropSpec, what: str, fakes: SimpleNamespace) -> None:
    face = fakes.face_at((50, 60), 20.0)
    getattr(face, what)[0] = np.nan
    with pytest.raises(UsageError, match="finite"):
        spec.matrix(face)


# --- frames


def test_a_frame_grows_with_the_box_and_stays_in_the_photo() -> None:
    spec = CropSpec.framed(40, margin=0.5)  # twice the box
    assert spec.frame(np.array([40, 50, 60, 90]), 200, 200) == (30, 30, 71, 111)
    assert spec.frame(np.array([0, 50, 20, 90]), 200, 200) == (0, 30, 41, 111)  # moved to the right
    assert spec.frame(np.array([180, 150, 200, 190]), 200, 200) == (159, 119, 200, 200)
    narrow = spec.frame(np.array([10, 20, 40, 70]), 50, 200)  # 60 px do not fit into 50: less of either side
    assert narrow == (0, 4, 50, 86)
    with pytest.raises(UsageError, match="finite"):
        spec.frame(np.array([0, 0, np.nan, 1]), 9, 9)
    with pytest.raises(UsageError, match="depends on the photo's size"):
        spec.matrix(Face(np.array([0, 0, 4, 4], np.float32), 0.9, np.zeros((5, 2), np.float32)))


def test_a_frame_is_stretched_and_its_matrix_says_how(fakes: SimpleNamespace) -> None:
    photo, face = fakes.textured(120, 160), fakes.face_at((80, 60), 12.0)
    crop = CropSpec.framed(64, margin=0.8).cut(photo, face)
    x0, y0, x1, y1 = CropSpec.framed(64, margin=0.8).frame(face.box, 160, 120)
    corners = np.array([[x0 - 0.5, y0 - 0.5, 1], [x1 - 0.5, y1 - 0.5, 1]])
    np.testing.assert_allclose(corners @ crop.matrix.T, [[-0.5, -0.5], [63.5, 63.5]], atol=1e-9)
    assert crop.image.shape == (64, 64, 3)
    assert crop.matrix[0, 0] != crop.matrix[1, 1]


def test_a_box_crop_measured_by_both_sides_and_lifted() -> None:
    box = np.array([10.0, 20.0, 30.0, 80.0])  # 20 by 60
    spec = CropSpec.boxed(80, margin=0.5, mean_side=True, lift=0.25)
    middle = np.array([20, 50 - 15, 1])  # a quarter of 60 px above the box's
    np.testing.assert_allclose(spec.around(box) @ middle, [39.5, 39.5])
    assert spec.around(box)[0, 0] == pytest.approx(80 / 80)  # twice the mean of 20 and 60
    assert CropSpec.boxed(80, margin=0.5).around(box)[0, 0] == pytest.approx(80 / 120)


# --- the record


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "oval", "size": 9}, "unknown kind of crop 'oval'"),
        ({"kind": "template", "size": 9, "template": "mine"}, "unknown alignment template 'mine'"),
        ({"kind": "box", "size": 0}, "side of 0 px"),
        ({"kind": "template", "size": -1, "template": "ffhq"}, "side of -1 px"),
        ({"kind": "template", "size": 9, "template": "ffhq", "zoom": 0.0}, "zoomed by 0"),
        ({"kind": "box", "size": 9, "margin": -0.5}, "margin of -0.5"),
        ({"kind": "whole", "margin": 0.1}, "margin does not apply to a whole crop"),
        ({"kind": "whole", "template": "ffhq"}, "template does not apply to a whole crop"),
        ({"kind": "box", "size": 9, "zoom": 2.0}, "zoom does not apply to a box crop"),
        (
            {"kind": "template", "size": 9, "template": "ffhq", "level_eyes": True},
            "level_eyes does not apply to a template crop",
        ),
        ({"kind": "framed", "size": 0}, "side of 0 px"),
        ({"kind": "framed", "size": 9, "offset": 0.5}, "offset does not apply to a framed crop"),
        ({"kind": "whole", "lift": 0.1}, "lift does not apply to a whole crop"),
    ],
)
def test_what_means_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CropSpec(**fields)


def test_a_template_crop_of_any_size_is_a_record_and_cuts_nothing(fakes: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="no side of its own"):
        CropSpec.aligned(0).matrix(fakes.face_at((50, 60), 20.0))


@pytest.mark.parametrize(
    "spec",
    [
        CropSpec.whole(),
        CropSpec.whole(512),
        CropSpec.boxed(112, margin=0.15, level_eyes=True, offset=0.5),
        CropSpec.aligned(128, "arcface", margin=0.1, zoom=1.25, centre=(0.5, 0.62), robust=False),
    ],
)
def test_a_spec_survives_json(spec: CropSpec) -> None:
    assert CropSpec.from_dict(json.loads(json.dumps(asdict(spec)))) == spec
