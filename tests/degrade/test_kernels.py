from __future__ import annotations

import cv2
import numpy as np
import pytest

from facewright.degrade import Blur, blur_image, gaussian_kernel, kernel, motion_kernel
from facewright.errors import UsageError


def spread(values: np.ndarray, theta: float) -> float:
    """Standard deviation of a kernel along a direction."""
    grid = np.arange(len(values)) - len(values) // 2
    x, y = np.meshgrid(grid, grid)
    along = np.cos(theta) * x + np.sin(theta) * y
    return float(np.sqrt((values * along**2).sum()))


@pytest.mark.parametrize(
    "blur",
    [
        Blur("iso", 41, 3.0, 3.0),
        Blur("aniso", 39, 0.0, 7.0, 1.0),
        Blur("aniso", 41, 2.0, 9.0, -2.0),
        Blur("motion", 21, length=15, theta=0.4),
    ],
)
def test_kernels_sum_to_one_and_are_symmetric_about_their_centre(blur: Blur) -> None:
    values = kernel(blur)
    assert values.shape == (blur.size, blur.size)
    assert values.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(values, values[::-1, ::-1], atol=1e-12)


def test_the_longer_sigma_lies_along_theta() -> None:
    values = gaussian_kernel(4.0, 1.5, np.pi / 6, 41)
    assert spread(values, np.pi / 6) == pytest.approx(4.0, rel=1e-3)
    assert spread(values, np.pi / 6 + np.pi / 2) == pytest.approx(1.5, rel=1e-3)


def test_horizontal_motion_is_a_uniform_row() -> None:
    values = motion_kernel(8, 0.0, 11)
    row = values[5]
    assert values.sum() == pytest.approx(row.sum())
    np.testing.assert_allclose(row[2:9], row[5], rtol=0.1)


@pytest.mark.parametrize(
    "blur",
    [
        Blur("iso", 41, 0.1, 0.1),
        Blur("iso", 41, 1.7, 1.7),
        Blur("iso", 41, 10.0, 10.0),
        Blur("aniso", 41, 0.2, 0.3, 0.5),
        Blur("aniso", 41, 0.3, 0.8, 0.8),
        Blur("aniso", 41, 3.0, 3.3, 0.8),
        Blur("aniso", 41, 1.0, 9.0, 0.8),
        Blur("aniso", 39, 8.0, 9.5, -2.0),
        Blur("motion", 17, length=13, theta=2.0),
    ],
)
def test_blur_equals_the_plain_filter_with_the_whole_kernel(blur: Blur) -> None:
    image = np.random.default_rng(0).random((61, 83, 3), dtype=np.float32)
    plain = cv2.filter2D(image, cv2.CV_64F, kernel(blur), borderType=cv2.BORDER_REFLECT_101)
    assert np.abs(blur_image(image, blur) - plain).max() < 1e-5


def test_large_pictures_take_another_way_to_the_same_result() -> None:
    image = np.random.default_rng(0).random((1100, 1000, 3), dtype=np.float32)
    blur = Blur("aniso", 41, 2.0, 9.0, 0.8)
    np.testing.assert_allclose(
        blur_image(image, blur)[:200, :200], blur_image(image[:300, :300].copy(), blur)[:200, :200], atol=1e-5
    )


def test_an_even_kernel_size_is_refused() -> None:
    with pytest.raises(UsageError, match="odd"):
        Blur("iso", 40, 1.0, 1.0)
