"""Reconstruction losses: values by hand, and that masked pixels neither count nor get a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from facewright.losses import reconstruction as rec


def pyramid_of_one(p, t, m=None):
    return rec.pyramid_l1([torch.nn.functional.avg_pool2d(p, 2)], t, m)


def features_of_one(p, t, m=None):
    return rec.feature_matching([p], [t], m)


LOSSES = [rec.l1, rec.charbonnier, rec.edge_loss, pyramid_of_one, features_of_one]


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_pixels_have_no_value_and_no_gradient(loss):
    torch.manual_seed(0)
    target = torch.randn(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    prediction = torch.randn(2, 3, 8, 8, requires_grad=True)
    value = loss(prediction, target, mask)
    value.backward()
    outside = (mask == 0).expand_as(prediction)
    assert prediction.grad[outside].abs().max() == 0
    assert prediction.grad[~outside].abs().max() > 0
    spoiled = torch.where(mask > 0, prediction.detach(), torch.full_like(target, 99.0))
    torch.testing.assert_close(loss(spoiled, target, mask), value.detach())


@pytest.mark.parametrize("loss", LOSSES)
def test_full_mask_equals_no_mask_and_empty_mask_gives_zero(loss):
    torch.manual_seed(0)
    p, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(loss(p, t, torch.ones(2, 1, 8, 8)), loss(p, t))
    assert float(loss(p, t, torch.zeros(2, 1, 8, 8))) == 0


def test_masked_mean_is_over_counted_pixels():
    error = torch.zeros(1, 3, 2, 2)
    error[..., 0, 0] = 6.0
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    assert float(rec.l1(error, torch.zeros_like(error), mask)) == pytest.approx(3.0)


def test_charbonnier_is_eps_at_zero_and_l1_far_away():
    zero = torch.zeros(1, 3, 4, 4)
    assert float(rec.charbonnier(zero, zero, eps=0.01)) == pytest.approx(0.01)
    assert float(rec.charbonnier(zero + 5, zero, eps=0.01)) == pytest.approx(5.0, rel=1e-4)


def test_edge_loss_ignores_offsets_and_measures_slopes():
    target = torch.randn(1, 3, 6, 6)
    assert float(rec.edge_loss(target + 2, target)) == pytest.approx(0, abs=1e-6)
    ramp = 3.0 * torch.arange(6.0).expand(1, 3, 6, 6)
    assert float(rec.edge_loss(target + ramp, target)) == pytest.approx(1.5, rel=1e-4)


def test_pyramid_compares_with_area_means_and_sums_levels():
    target = torch.randn(1, 3, 8, 8)
    halves = torch.nn.functional.avg_pool2d(target, 2)
    quarters = torch.nn.functional.avg_pool2d(target, 4)
    assert float(rec.pyramid_l1([quarters, halves, target], target)) == pytest.approx(0, abs=1e-6)
    assert float(rec.pyramid_l1([quarters + 1, halves + 2], target)) == pytest.approx(3, rel=1e-5)


def test_feature_matching_averages_layers_and_keeps_the_real_side_constant():
    fake = [torch.zeros(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 4, 2, 2, requires_grad=True)]
    real = [torch.ones(1, 2, 4, 4, requires_grad=True), torch.full((1, 4, 2, 2), 3.0, requires_grad=True)]
    value = rec.feature_matching(fake, real)
    assert value.item() == pytest.approx(2.0)
    value.backward()
    assert real[0].grad is None
    assert fake[0].grad is not None


def test_a_cell_counts_only_when_all_its_pixels_do():
    mask = torch.ones(1, 1, 4, 4)
    mask[..., 0, 0] = 0
    assert torch.equal(rec.whole_cells(mask, (2, 2)).flatten(), torch.tensor([0.0, 1.0, 1.0, 1.0]))


def test_ssim_loss_is_one_minus_the_ssim_of_the_luma():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    b = (a * 0.6 + rng.integers(0, 100, a.shape)).astype(np.uint8)
    luma = [image @ np.array([0.299, 0.587, 0.114]) / 255 for image in (a, b)]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(*luma, data_range=1.0, **settings)
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (a, b))
    assert 1 - float(rec.ssim_loss(x, y)) == pytest.approx(expected, abs=1e-4)
    assert float(rec.ssim_loss(x, x)) == pytest.approx(0, abs=1e-6)


def test_ssim_loss_sees_only_windows_inside_the_mask():
    torch.manual_seed(0)
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    prediction = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 4:24, 6:30] = 1
    value = rec.ssim_loss(prediction, target, mask)
    value.backward()
    outside = (mask == 0).expand_as(prediction)
    assert prediction.grad[outside].abs().max() == 0
    assert prediction.grad[~outside].abs().max() > 0
    cut = [image[..., 4:24, 6:30] for image in (prediction.detach(), target)]
    torch.testing.assert_close(rec.ssim_loss(*cut), value.detach())
    assert rec.ssim_loss(prediction, target, torch.zeros_like(mask)) == 0


def test_log_mse_is_psnr_up_to_a_constant_and_weighs_pictures_alike():
    torch.manual_seed(0)
    target = torch.rand(2, 3, 16, 16) * 2 - 1
    worse = torch.tensor([0.02, 0.4]).view(2, 1, 1, 1)
    noise = torch.randn_like(target)
    prediction = target + worse * noise
    mse = (prediction - target).square().mean((1, 2, 3))
    assert float(rec.log_mse(prediction, target, floor=1e-3)) == pytest.approx(float(torch.log(1 + mse / 1e-3).mean()))
    assert rec.log_mse(target, target) == 0
    # a hundredth more error costs the lightly damaged picture as much as the ruined one, with no floor to speak of
    more = [
        rec.log_mse(target + worse * noise * torch.tensor(scale).view(2, 1, 1, 1), target, floor=1e-12)
        for scale in ((1.01, 1.0), (1.0, 1.01))
    ]
    assert float(more[0] - more[1]) == pytest.approx(0, abs=1e-4)


def test_log_mse_sees_only_what_the_mask_counts():
    torch.manual_seed(0)
    target = torch.rand(2, 3, 8, 8)
    prediction = torch.rand(2, 3, 8, 8, requires_grad=True)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    value = rec.log_mse(prediction, target, mask)
    value.backward()
    assert prediction.grad[0, :, 4:].abs().max() == 0
    assert prediction.grad[1].abs().max() == 0
    assert prediction.grad[0, :, :4].abs().min() > 0
    torch.testing.assert_close(2 * value, rec.log_mse(prediction[:1, :, :4], target[:1, :, :4]))
