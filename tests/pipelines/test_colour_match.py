"""Faces keep the light of their picture, tinted ones their tint; detail and fine colour are the restorer's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from facewright.geometry.resample import crop_face
from facewright.pipelines.colour_match import apply_tint, fit_tint, match_illumination, restore_crops

EYES_NOSE_MOUTH = np.array([[203, 111], [243, 110], [224, 132], [207, 155], [240, 154]], np.float64)
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return crop_face(astronaut(), EYES_NOSE_MOUTH, 128).image


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def sepia(image: np.ndarray) -> np.ndarray:
    return np.clip(0.85 * image @ SEPIA.T, 0, 255).astype(np.uint8)


class Painter:
    """Paints thin stripes that are reddish and bluish in turn."""

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        red = np.arange(crops.shape[1])[:, None, None] // 4 % 2 == 0
        return np.clip(crops + np.where(red, [25, 0, -25], [-25, 0, 25]), 0, 255).astype(np.uint8)


class Brightener:
    """Sees every face in better light, warmer from left to right, and draws a fine grid."""

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        side = crops.shape[1]
        warmth = np.linspace(0, 1, side)[None, :, None] * [20, 5, -10]
        grid = 8 * (np.arange(side) % 2 * 2 - 1)[:, None, None]
        return np.clip(crops * 0.8 + 40 + warmth + grid, 0, 255).astype(np.uint8)


def test_a_face_in_colour_has_no_tone_and_keeps_the_restored_detail(face: np.ndarray) -> None:
    assert fit_tint(face) is None
    painted = Painter().restore(face[None])[0]
    difference = restore_crops(Painter(), face[None], 1.0)[0].astype(int) - painted  # type: ignore[arg-type]
    assert np.abs(difference).mean() < 1


def test_a_face_keeps_the_light_of_its_picture(face: np.ndarray) -> None:
    painted = Brightener().restore(face[None])[0]
    output = restore_crops(Brightener(), face[None], 1.0)[0]  # type: ignore[arg-type]
    quarters = [(slice(a, a + 64), slice(b, b + 64)) for a in (0, 64) for b in (0, 64)]
    before = np.array([painted[q].mean((0, 1)) - face[q].mean((0, 1)) for q in quarters])
    after = np.array([output[q].mean((0, 1)) - face[q].mean((0, 1)) for q in quarters])
    assert np.abs(before).max() > 15
    assert np.abs(after).max() < 5
    steps = [np.diff(image[40:80, 40:80].astype(int), axis=0) for image in (output, painted)]
    assert np.abs(steps[0] - steps[1]).mean() < 1  # the grid is still there


def test_light_of_its_own_changes_nothing(face: np.ndarray) -> None:
    assert np.array_equal(match_illumination(face, face), face)


def test_black_and_white_stays_so(face: np.ndarray) -> None:
    output = restore_crops(Painter(), grey(face)[None], 1.0)[0]  # type: ignore[arg-type]
    assert np.ptp(output, axis=2).max() <= 1
    painted = cv2.cvtColor(Painter().restore(grey(face)[None])[0], cv2.COLOR_RGB2GRAY)
    assert np.abs(output[..., 1].astype(int) - painted).max() <= 3  # the restored light and dark


def test_sepia_stays_sepia_even_noisy_and_compressed(face: np.ndarray) -> None:
    old = sepia(face)
    noisy = np.clip(old + np.random.default_rng(0).normal(0, 12, (128, 128, 1)), 0, 255).astype(np.uint8)
    coded = cv2.imdecode(cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)[..., ::-1]
    output = restore_crops(Painter(), np.ascontiguousarray(coded)[None], 1.0)[0]  # type: ignore[arg-type]
    tint = fit_tint(old)
    assert tint is not None
    assert np.abs(output.astype(int) - apply_tint(output, tint)).mean() < 3
    assert np.abs(output.astype(int) - Painter().restore(coded[None])[0]).mean() > 8


def test_a_picture_in_its_own_tone_is_unchanged(face: np.ndarray) -> None:
    old = sepia(face)
    tint = fit_tint(old)
    assert tint is not None
    assert np.abs(apply_tint(old, tint).astype(int) - old).mean() < 1
