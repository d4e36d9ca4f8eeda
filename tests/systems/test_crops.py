"""What each network sees of a face, as formulas of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.geometry.crop import CropSpec, align_matrix
from facewright.geometry.resample import crop_by_matrix
from facewright.geometry.similarity import fit_similarity
from facewright.geometry.templates import template_points
from facewright.systems.detect.mos.refiner import CROP as REFINED
from facewright.systems.landmarks.facewarp.network import FaceWarp, FaceWarpConfig
from facewright.systems.recognise.facenet.network import FaceNet, FaceNetConfig

if TYPE_CHECKING:
    from types import SimpleNamespace

    from facewright.face import Face


def of_recognisers(face: Face, size: int) -> np.ndarray:
    """The square around the box with 15 % on every side, the eyes level about its middle."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    across = face.points5[1] - face.points5[0]
    angle = np.radians(float(np.degrees(np.arctan2(across[1], across[0]))))
    scale = size / (max(x1 - x0, y1 - y0) * 1.3)
    linear = np.array([[scale * np.cos(angle), scale * np.sin(angle)], [-scale * np.sin(angle), scale * np.cos(angle)]])
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    return np.column_stack([linear, np.full(2, (size - 1) / 2) - linear @ middle])


def of_published_landmarks(face: Face, size: int) -> np.ndarray:
    """The upright square 1.2 times as long as the box, whose middle lies at half the side."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    scale = size / (1.2 * max(x1 - x0, y1 - y0))
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    return np.column_stack([np.eye(2) * scale, size / 2 - scale * middle])


def of_compact_landmarks(face: Face, size: int) -> np.ndarray:
    """FFHQ's crop enlarged by 1.25 around a point below its middle."""
    matrix = align_matrix(face.points5, size) * 1.25
    matrix[:, 2] += (0.5 - 1.25 * np.array([0.5, 0.62])) * size
    return matrix


@pytest.mark.parametrize(
    ("spec", "matrix"),
    [
        (FaceNet.preprocess_for(FaceNetConfig()).crop, of_recognisers),
        (FaceWarp.preprocess_for(FaceWarpConfig()).crop, of_published_landmarks),
        (FaceWarp.preprocess_for(FaceWarpConfig.compact()).crop, of_compact_landmarks),
        (CropSpec.aligned(96), lambda face, size: align_matrix(face.points5, size)),
        (CropSpec.aligned(112, "arcface"), lambda face, size: align_matrix(face.points5, size, "arcface")),
        (REFINED, lambda face, size: fit_similarity(face.points5, template_points("arcface", size))),
    ],
    ids=["recogniser", "facewarp", "facewarp-compact", "ffhq", "arcface", "refiner"],
)
def test_the_spec_gives_the_crop_the_network_was_trained_on(
    spec: CropSpec, matrix: Any, fakes: SimpleNamespace
) -> None:
    photo = fakes.textured(200, 300)
    for face in (
        fakes.face_at((150, 120), 40.0),
        fakes.face_at((140.3, 118.8), 37.0, angle=-11.0),
        fakes.face_at((20, 190), 55.0, angle=33.0),  # over the border
        fakes.face_at((77.7, 61.2), 4.0, angle=5.0),
    ):
        expected = matrix(face, spec.size)
        np.testing.assert_array_equal(spec.matrix(face), expected)
        cut = spec.cut(photo, face)
        np.testing.assert_array_equal(cut.image, crop_by_matrix(photo, expected, spec.size).image)
        assert (cut.template, cut.image.shape) == (spec.template, (spec.size, spec.size, 3))
