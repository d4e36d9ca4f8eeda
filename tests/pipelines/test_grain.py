"""Grain: what is measured is what was added; nothing is taken for grain in a clean picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facewright.pipelines import grain
from facewright.pipelines.grain import Grain


def shaded(side: int = 160) -> np.ndarray:
    """A smooth picture with an edge, (S, S, 3) float."""
    ys, xs = np.mgrid[0:side, 0:side] / side
    plane = 80 + 60 * xs + 30 * ys + 40 * (xs + ys > 1)
    return np.dstack([plane, plane * 0.9, plane * 0.8]).astype(np.float32)


EVERYWHERE = np.ones((160, 160), bool)


@pytest.mark.parametrize("size", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("luma", [4.0, 10.0])
def test_what_was_added_is_measured(luma: float, size: float) -> None:
    added = grain.make(Grain(luma, luma / 3, size), (160, 160), seed=1)
    found = grain.measure(shaded() + added, EVERYWHERE)
    assert found.luma == pytest.approx(luma, rel=0.2)
    assert found.chroma == pytest.approx(luma / 3, rel=0.3)
    assert found.size == pytest.approx(size, abs=0.25)


def test_a_clean_picture_has_none() -> None:
    assert not grain.measure(shaded(), EVERYWHERE).visible


def test_texture_in_a_part_is_not_grain() -> None:
    picture = shaded()
    picture[:, :50] += 60 * (np.indices((160, 50)).sum(0) // 6 % 2)[..., None]
    assert not grain.measure(picture, EVERYWHERE).visible


def test_variances_add_up() -> None:
    missing = grain.lacking(Grain(5, 2, 0.8), Grain(3, 2, 0.3))
    assert missing == Grain(pytest.approx(4.0), 0.0, 0.8)  # type: ignore[arg-type]
    assert grain.lacking(Grain(3, 1, 0.8), Grain(5, 2, 0.3)) == grain.NONE
    assert grain.lacking(Grain(0.5, 0.2, 0.8), grain.NONE) == grain.NONE


def test_too_few_pixels_or_clipped_ones_have_none() -> None:
    noisy = shaded() + grain.make(Grain(10, 3, 0), (160, 160), 0)
    few = np.zeros((160, 160), bool)
    few[:10, :10] = True
    assert grain.measure(noisy, few) == grain.NONE
    assert grain.measure(np.full((160, 160, 3), 255, np.uint8), EVERYWHERE) == grain.NONE


def test_the_same_seed_gives_the_same_grain() -> None:
    first, again, other = (grain.make(Grain(5, 1, 1), (40, 30), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1


def test_the_ring_leaves_the_inside_out() -> None:
    mask = np.zeros((100, 100), np.float32)
    cv2.circle(mask, (50, 50), 20, 1.0, -1)
    ring = grain.around(mask, 10)
    assert not ring[mask > 0].any()
    assert ring[50, 75]
    assert not ring[50, 85]


@pytest.mark.parametrize(("pitch", "degrees"), [(3.4, 45.0), (5.0, 15.0), (7.5, 75.0)])
def test_the_dots_of_a_print_screen_are_no_grain(pitch: float, degrees: float) -> None:
    y, x = np.mgrid[:200, :200].astype(np.float32)
    angle = np.deg2rad(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    dots = 8 * np.cos(2 * np.pi * along / pitch) * np.cos(2 * np.pi * across / pitch)
    picture = (128 + dots + np.random.default_rng(0).normal(0, 2, dots.shape))[..., None].repeat(3, 2)
    assert grain.measure(picture.astype(np.float32), np.ones((200, 200), bool)) == grain.NONE


@pytest.mark.parametrize("size", [0.0, 0.8, 1.6, 2.4])
def test_grain_of_any_size_is_not_taken_for_a_screen(size: float) -> None:
    picture = 128 + grain.make(Grain(6.0, 2.0, size), (200, 200), seed=3)
    assert grain.measure(picture, np.ones((200, 200), bool)).visible
