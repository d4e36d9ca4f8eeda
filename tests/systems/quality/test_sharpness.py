"""Sharpness: soft and noisy pictures are told from sharp ones, whatever their size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facewright.systems.quality.sharpness import (
    SHARP,
    SharpnessModel,
    expanded,
    native_side,
    sharpness,
    shipped_model,
    signals,
)


def portrait(side: int, astronaut: np.ndarray) -> np.ndarray:
    """The face of the astronaut as a crop like a template's."""
    return cv2.resize(astronaut[20:260, 100:340], (side, side), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("side", [96, 160, 240])
def test_a_sharp_portrait_is_sharp_and_a_blurred_one_is_not(astronaut: np.ndarray, side: int) -> None:
    sharp = portrait(side, astronaut)
    assert sharpness(sharp) >= SHARP
    for factor in (2, 4):
        small = cv2.resize(sharp, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        assert sharpness(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)) < SHARP


def test_blurring_lowers_the_finest_octave_and_noise_raises_it_in_flat_places(astronaut: np.ndarray) -> None:
    picture = portrait(160, astronaut)
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    plain, soft, grainy = (signals(p) for p in (picture, cv2.GaussianBlur(picture, (0, 0), 1.5), noisy))
    assert soft[0] < plain[0] - 0.4
    assert grainy[5] > plain[5] + 0.2
    assert grainy[3] < plain[3] - 0.1


def test_flat_and_tiny_pictures_have_finite_signals() -> None:
    for picture in (np.zeros((48, 48, 3), np.uint8), np.full((512, 512, 3), 255, np.uint8)):
        assert np.isfinite(signals(picture)).all()
        assert sharpness(picture) < 1


def test_the_side_of_a_crop_follows_the_photo() -> None:
    assert native_side(2.0, 512) == 256
    assert native_side(0.5, 512) == 512
    assert native_side(100.0, 512) == 48


def test_a_model_survives_its_file() -> None:
    model = shipped_model()
    again = SharpnessModel.from_json(model.to_json())
    values = np.random.default_rng(0).normal(size=(5, 8))
    np.testing.assert_allclose(again(values), model(values), atol=1e-3)
    assert expanded(values).shape == (5, 44)
