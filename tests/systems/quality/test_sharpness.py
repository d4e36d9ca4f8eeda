"""Sharpness: soft and noisy pictures are told from sharp ones, whatever their size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facewright.systems.quality.sharpness import (
    NO_GRID,
    SHARP,
    SharpnessModel,
    expanded,
    grid_signals,
    native_part,
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
        assert sharpness(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)) < SHARP  # type: ignore[arg-type]


def test_blurring_lowers_the_finest_octave_and_noise_raises_it_in_flat_places(astronaut: np.ndarray) -> None:
    picture = portrait(160, astronaut)
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    plain, soft, grainy = (signals(p) for p in (picture, cv2.GaussianBlur(picture, (0, 0), 1.5), noisy))  # type: ignore[arg-type]
    assert soft[0] < plain[0] - 0.4
    assert grainy[5] > plain[5] + 0.2
    assert grainy[3] < plain[3] - 0.1


def compressed(picture: np.ndarray, quality: int, top: int, left: int) -> np.ndarray:
    """A picture cut out of a JPEG file, whose grid begins `top` rows and `left` columns before it."""
    wide = np.pad(picture, ((top, 0), (left, 0), (0, 0)), "reflect")
    data = cv2.imencode(".jpg", wide, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[top:, left:])


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 6)])
def test_jpeg_is_told_by_its_grid_wherever_it_begins(astronaut: np.ndarray, top: int, left: int) -> None:
    picture = portrait(240, astronaut)
    rows = [grid_signals(p) for p in (compressed(picture, 20, top, left), compressed(picture, 60, top, left), picture)]
    assert rows[0][0] > rows[1][0] > rows[2][0] + 0.2
    for band in (1, 2):
        assert rows[1][band] > 0.05
        assert abs(rows[2][band]) < 0.03
    coarse = compressed(picture, 15, top, left)
    assert sharpness(coarse, coarse[65:199, 48:192]) < SHARP
    fine = compressed(picture, 97, top, left)
    assert sharpness(fine, fine[65:199, 48:192]) >= SHARP


def test_stripes_are_no_grid() -> None:
    """What stands out every 8 px in columns alone, a fence or a shirt, was not put there by JPEG."""
    photo = np.full((96, 96, 3), 100, np.uint8)
    photo[:, ::8] += 30
    for turned in (photo, photo.swapaxes(0, 1)):
        assert grid_signals(np.ascontiguousarray(turned))[0] == pytest.approx(NO_GRID[0])
    crossed = np.maximum(photo, photo.swapaxes(0, 1))
    assert grid_signals(crossed)[0] > NO_GRID[0] + 1


def test_what_was_reduced_or_is_tiny_has_no_grid() -> None:
    assert grid_signals(np.zeros((23, 300, 3), np.uint8)).tolist() == list(NO_GRID)
    crop = np.zeros((64, 64, 3), np.uint8)
    assert signals(crop)[-3:].tolist() == list(NO_GRID)


def test_the_part_of_the_photo_that_shows_the_face() -> None:
    photo = np.arange(100 * 120, dtype=np.uint32).reshape(100, 120, 1).repeat(3, 2).astype(np.uint8)
    moved = np.array([[1.0, 0, -10], [0, 1, -20]])  # the crop begins at (10, 20)
    part = native_part(photo, moved, 50)
    assert part is not None
    np.testing.assert_array_equal(part, photo[34:62, 20:50])  # 0.27 to 0.83, and 0.2 to 0.8, of 50
    turned = np.array([[0, 1.0, -20], [-1, 0, 60]])  # a quarter of a turn: x of the crop is y of the photo
    part = native_part(photo, turned, 50)
    assert part is not None
    assert part.shape[:2] == (30, 28)
    assert native_part(photo, moved * 0.5, 50) is None  # a reduction
    assert native_part(photo, moved - [[0, 0, 500], [0, 0, 0]], 50) is None  # outside
    huge = native_part(np.zeros((3000, 3000, 3), np.uint8), np.array([[0.9, 0, 0], [0, 0.9, 0]]), 2000)
    assert huge is not None
    assert huge.shape == (512, 512, 3)


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
    values = np.random.default_rng(0).normal(size=(5, 13))
    np.testing.assert_allclose(again(values), model(values), atol=1e-3)
    assert expanded(values).shape == (5, 104)
