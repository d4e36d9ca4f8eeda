"""Sharpness: soft and noisy pictures are told from sharp ones, whatever their size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from facewright.systems.quality.sharpness import (
    SHARP,
    SharpnessNet,
    face_luma,
    native_side,
    sharpness,
    shipped_net,
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


def test_hard_compression_and_noise_cost_sharpness(astronaut: np.ndarray) -> None:
    sharp = portrait(240, astronaut)
    _, data = cv2.imencode(".jpg", sharp, [cv2.IMWRITE_JPEG_QUALITY, 15])
    noisy = np.clip(sharp + np.random.default_rng(0).normal(0, 20, sharp.shape), 0, 255).astype(np.uint8)
    for worse in (cv2.imdecode(data, cv2.IMREAD_COLOR), noisy):
        assert sharpness(worse) < sharpness(sharp) - 0.2


def test_light_and_contrast_do_not_matter(astronaut: np.ndarray) -> None:
    sharp = portrait(240, astronaut).astype(np.float32)
    darker = np.clip(sharp * 0.6 + 10, 0, 255).astype(np.uint8)
    assert sharpness(darker) == pytest.approx(sharpness(sharp.astype(np.uint8)), abs=0.15)


def test_flat_and_tiny_pictures_have_a_probability() -> None:
    for picture in (np.zeros((48, 48, 3), np.uint8), np.full((512, 512, 3), 255, np.uint8)):
        assert 0 <= sharpness(picture) <= 1


def test_the_side_of_a_crop_follows_the_photo() -> None:
    assert native_side(2.0, 512) == 256
    assert native_side(0.5, 512) == 512
    assert native_side(100.0, 512) == 48


@pytest.mark.parametrize("side", [48, 49, 50, 131, 512])
def test_the_luma_of_a_face_has_even_sides_and_a_spread_of_one(side: int) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    luma = face_luma(crop)
    assert luma.shape[0] % 2 == luma.shape[1] % 2 == 0
    assert luma.mean() == pytest.approx(0, abs=1e-4)
    assert luma.std() == pytest.approx(1, abs=1e-3)


def test_every_weight_of_the_network_learns() -> None:
    torch.manual_seed(0)
    net = SharpnessNet()
    net(torch.randn(2, 1, 64, 72)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_what_ships_has_no_gradients_and_is_loaded_once() -> None:
    net = shipped_net()
    assert net is shipped_net()
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.training
