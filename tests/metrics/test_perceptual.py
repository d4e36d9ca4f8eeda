"""The feature distance: values by hand, and that damage which matters to a face is seen by the parser's maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from facewright import create
from facewright.geometry.resample import crop_face
from facewright.metrics.perceptual import ParserFeatures, map_distance

EYES_NOSE_MOUTH = np.array([[203, 111], [243, 110], [224, 132], [207, 155], [240, 154]], np.float64)


def test_distance_of_unit_vectors_by_hand():
    a, b = torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2)
    a[:, 0], b[0, 0], b[1, 1] = 5.0, 0.1, 3.0  # equal directions of other lengths; right angles
    torch.testing.assert_close(map_distance(a, b), torch.tensor([0.0, 2.0]))
    b[1, :, 0, 0] = torch.tensor([-1.0, 0.0])
    torch.testing.assert_close(map_distance(a, b)[1], torch.tensor(3.0))  # (4 + 2) / 2


@pytest.fixture(scope="module")
def features():
    return ParserFeatures(create("segface", pretrained=True))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def face():
    return crop_face(astronaut(), EYES_NOSE_MOUTH, 256).image


def test_more_blur_is_farther_and_the_size_does_not_matter(features, face):
    blurred = [cv2.GaussianBlur(face, (0, 0), sigma) for sigma in (1, 2, 4, 8)]
    distances = [features(face, image) for image in blurred]
    assert features(face, face) == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances)
    assert 0.01 < distances[1] < distances[-1] < 2
    assert features(blurred[2], face) == pytest.approx(distances[2], rel=1e-4)
    large = [cv2.resize(image, (512, 512), interpolation=cv2.INTER_CUBIC) for image in (face, blurred[2])]
    assert features(*large) == pytest.approx(distances[2], rel=0.1)
