from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.metrics import (
    cosine,
    identity_degrees,
    identity_radians,
    identity_similarity,
    interocular,
    landmark_distance,
    nme,
)

FIVE = np.array([[10.0, 10.0], [50.0, 10.0], [30.0, 30.0], [15.0, 50.0], [45.0, 50.0]])


def test_a_moved_face_by_hand() -> None:
    moved = FIVE + np.array([3.0, 4.0])
    assert landmark_distance(moved, FIVE) == pytest.approx(5)
    assert nme(moved, FIVE) == pytest.approx(5 / 40)
    assert nme(moved, FIVE, normaliser=10.0) == pytest.approx(0.5)


def test_each_face_is_normalised_by_its_own_eyes() -> None:
    truth = np.stack([FIVE, 2 * FIVE])
    moved = truth + np.array([3.0, 4.0])
    np.testing.assert_allclose(interocular(truth), [40, 80])
    assert nme(moved, truth) == pytest.approx((5 / 40 + 5 / 80) / 2)


@pytest.mark.parametrize(("number", "left", "right"), [(68, 36, 45), (98, 60, 72)])
def test_outer_eye_corners(number: int, left: int, right: int) -> None:
    points = np.zeros((number, 2))
    points[left], points[right] = (0, 3), (4, 0)
    assert interocular(points) == pytest.approx(5)


def test_nme_does_not_change_with_the_size_of_the_picture() -> None:
    noisy = FIVE + np.random.default_rng(0).normal(size=FIVE.shape)
    assert nme(3 * noisy, 3 * FIVE) == pytest.approx(nme(noisy, FIVE))


def test_unusable_landmarks_are_refused() -> None:
    with pytest.raises(UsageError, match="equal arrays"):
        landmark_distance(FIVE, FIVE[:4])
    with pytest.raises(UsageError, match="not 7"):
        interocular(np.zeros((7, 2)))
    with pytest.raises(UsageError, match="positive"):
        nme(FIVE, np.zeros_like(FIVE))


class MeanColour:
    """An embedder whose angles are known: the mean colour of a crop, of unit length."""

    def embed(self, crops: np.ndarray) -> np.ndarray:
        mean = crops.mean((1, 2))
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def crops_of(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array(colours, np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)


def test_identity_in_its_three_units() -> None:
    a, b = crops_of((255, 0, 0), (255, 0, 0), (80, 80, 80)), crops_of((255, 0, 0), (0, 9, 0), (70, 0, 0))
    cosines = [1, 0, 1 / np.sqrt(3)]
    np.testing.assert_allclose(identity_similarity(MeanColour(), a, b), cosines, atol=1e-6)
    np.testing.assert_allclose(identity_radians(MeanColour(), a, b), np.arccos(cosines), atol=1e-3)
    np.testing.assert_allclose(identity_degrees(MeanColour(), a, b), [0, 90, 54.7356], atol=0.05)


def test_cosine_ignores_length_and_refuses_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(3, 16))
    np.testing.assert_allclose(cosine(x, 7 * x), 1)
    np.testing.assert_allclose(cosine(x, -x), -1)
    with pytest.raises(UsageError, match="length zero"):
        cosine(np.zeros(4), np.ones(4))
    with pytest.raises(UsageError, match="differ in shape"):
        cosine(np.ones((2, 4)), np.ones((3, 4)))
