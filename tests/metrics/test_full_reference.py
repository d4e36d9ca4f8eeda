from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage import color, data
from skimage import metrics as reference

from facewright.errors import UsageError
from facewright.metrics import detail_ratio, gmsd, psnr, psnr_y, ssim


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    truth = data.astronaut()[:150, 100:301]
    noise = np.random.default_rng(0).normal(0, 12, truth.shape)
    blurred = cv2.GaussianBlur(truth, (0, 0), 1.2)
    return truth, np.clip(blurred + noise, 0, 255).round().astype(np.uint8)


def test_psnr_of_a_constant_difference() -> None:
    a = np.zeros((4, 5, 3))
    assert psnr(a, a + 5, data_range=255) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(a, a, data_range=255) == np.inf


def test_psnr_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = reference.peak_signal_noise_ratio(*pair, data_range=255)
    assert psnr(*pair, data_range=255) == pytest.approx(expected, abs=1e-9)


def test_psnr_y_equals_scikit_image_luma(pair: tuple[np.ndarray, np.ndarray]) -> None:
    lumas = [color.rgb2ycbcr(p)[..., 0] for p in pair]
    expected = reference.peak_signal_noise_ratio(*lumas, data_range=255)
    assert psnr_y(*pair, data_range=255) == pytest.approx(expected, abs=1e-6)


def test_black_and_white_are_16_and_235() -> None:
    black, white = np.zeros((2, 2, 3)), np.ones((2, 2, 3))
    assert psnr_y(black, white, data_range=1) == pytest.approx(20 * np.log10(255 / 219), abs=1e-4)


@pytest.mark.parametrize("scale", [1, 255])
def test_ssim_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray], scale: int) -> None:
    a, b = (p / scale for p in pair)
    expected = reference.structural_similarity(
        a, b, data_range=255 / scale, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b, data_range=255 / scale) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_constant_pictures_by_hand() -> None:
    a, b = np.full((16, 16), 100.0), np.full((16, 16), 120.0)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ssim(a, b, data_range=255) == pytest.approx(expected, abs=1e-9)
    assert ssim(a, a, data_range=255) == pytest.approx(1)


def test_tensors_give_the_same_numbers(pair: tuple[np.ndarray, np.ndarray]) -> None:
    tensors = [torch.from_numpy(p / 255).permute(2, 0, 1)[None] for p in pair]
    for metric in (psnr, psnr_y, ssim):
        assert metric(*tensors, data_range=1) == pytest.approx(metric(*pair, data_range=255), abs=1e-9)
    signed = [t * 2 - 1 for t in tensors]
    assert psnr(*signed, data_range=2) == pytest.approx(psnr(*pair, data_range=255), abs=1e-9)


def test_mask_and_border_equal_the_cut_out_part(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    mask = np.zeros(a.shape[:2], bool)
    mask[20:90, 30:140] = True
    assert psnr(a, b, data_range=255, mask=mask) == pytest.approx(
        psnr(a[20:90, 30:140], b[20:90, 30:140], data_range=255)
    )
    inner = np.zeros_like(mask)
    inner[25:85, 35:135] = True
    assert ssim(a, b, data_range=255, mask=inner) == pytest.approx(
        ssim(a[20:90, 30:140], b[20:90, 30:140], data_range=255), abs=1e-9
    )
    for metric in (psnr, psnr_y, ssim):
        cropped = metric(a[8:-8, 8:-8], b[8:-8, 8:-8], data_range=255)
        assert metric(a, b, data_range=255, crop_border=8) == pytest.approx(cropped, abs=1e-9)


def test_impossible_comparisons_are_refused(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    with pytest.raises(UsageError, match="differ in shape"):
        psnr(a, b[:-1], data_range=255)
    with pytest.raises(UsageError, match="no valid pixel"):
        psnr(a, b, data_range=255, mask=np.zeros(a.shape[:2], bool))
    with pytest.raises(UsageError, match="11 valid"):
        ssim(a[:10], b[:10], data_range=255)
    with pytest.raises(UsageError, match="one picture"):
        psnr(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), data_range=1)
    with pytest.raises(UsageError, match="three channels"):
        psnr_y(a[..., 0], b[..., 0], data_range=255)


def test_gmsd_of_known_gradients() -> None:
    """A ramp of slope 4 against a flat half: after halving the step is 8, Prewitt/3 makes 16 of it."""
    ramp = np.tile(4.0 * np.arange(64), (64, 1))
    flat = ramp.copy()
    flat[32:] = flat[32:, :1]
    assert gmsd(ramp, ramp, data_range=255) == 0
    inner = np.zeros((64, 64), bool)
    inner[4:60, 4:60] = True
    inner[28:36] = False  # the seam between the halves has gradients of its own
    similar = 170 / (16**2 + 170)
    wanted = np.std([1.0] * 24 + [similar] * 24)
    assert gmsd(ramp, flat, data_range=255, mask=inner) == pytest.approx(wanted, rel=1e-6)


def test_gmsd_does_not_depend_on_the_range_and_grows_with_blur(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, damaged = pair
    assert gmsd(damaged / 255, truth / 255, data_range=1) == pytest.approx(gmsd(damaged, truth, data_range=255))
    soft, softer = (cv2.GaussianBlur(truth, (0, 0), s) for s in (1, 3))
    assert gmsd(soft, truth, data_range=255) < gmsd(softer, truth, data_range=255)
    with pytest.raises(UsageError, match="2×2"):
        gmsd(truth[:1], truth[:1], data_range=255)


def test_detail_ratio_is_an_energy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth = pair[0].astype(float)
    assert detail_ratio(truth, truth) == pytest.approx(1)
    assert detail_ratio(0.5 * truth + 40, truth) == pytest.approx(0.25)
    left = np.zeros(truth.shape[:2], bool)
    left[:, :90] = True
    mixed = np.where(left[..., None], truth, truth.mean())
    assert detail_ratio(mixed, truth, mask=left & np.roll(left, -1, 1)) == pytest.approx(1, abs=0.02)
    with pytest.raises(UsageError, match="no detail"):
        detail_ratio(truth, np.full_like(truth, 7))
