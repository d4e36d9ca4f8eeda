"""Deformable convolution: the ordinary one as a special case, worked shifts, borders, gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from facewright.nn.deform import ModulatedDeformConv3x3, modulated_deform_conv3x3


def inputs(height: int = 6, width: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, height, width), torch.randn(4, 3, 3, 3), torch.randn(4)


def test_without_offsets_it_is_the_ordinary_convolution() -> None:
    for size in ((6, 7), (1, 1), (1, 5)):
        x, weight, bias = inputs(*size)
        offset, mask = torch.zeros(2, 18, *size), torch.ones(2, 9, *size)
        expected = F.conv2d(x, weight, bias, padding=1)
        torch.testing.assert_close(
            modulated_deform_conv3x3(x, offset, mask, weight, bias), expected, atol=1e-4, rtol=1e-4
        )


def test_constant_offsets_shift_the_picture_and_zero_lies_outside() -> None:
    x, weight, bias = inputs()
    offset = torch.zeros(2, 18, 6, 7)
    offset[:, 0::2] = 2.0  # dy
    offset[:, 1::2] = -1.0  # dx
    shifted = F.pad(x, (1, 0, 0, 2))[:, :, 2:, :-1]
    padded = F.pad(x, (3, 3, 3, 3))[
        :, :, 2 + 2 : 2 + 2 + 8, 2 - 1 : 2 - 1 + 9
    ]  # taps may reach past the shifted border
    expected = F.conv2d(padded, weight, bias)
    out = modulated_deform_conv3x3(x, offset, torch.ones(2, 9, 6, 7), weight, bias)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    centre = torch.zeros(1, 3, 3, 3)
    centre[0, :, 1, 1] = 1.0
    only = modulated_deform_conv3x3(x, offset, torch.ones(2, 9, 6, 7), centre, None)
    torch.testing.assert_close(only, shifted.sum(1, keepdim=True), atol=1e-4, rtol=1e-4)


def test_half_offsets_are_bilinear_and_each_tap_has_its_own() -> None:
    x = torch.arange(25.0).view(1, 1, 5, 5)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 0, 2] = 1.0  # tap 2: one up, one right
    offset = torch.zeros(1, 18, 5, 5)
    offset[:, 4], offset[:, 5] = 0.5, -0.25
    offset[:, 0:4] = 100.0  # other taps must not matter
    out = modulated_deform_conv3x3(x, offset, torch.ones(1, 9, 5, 5), weight, None)
    assert out[0, 0, 2, 2].item() == 5 * (2 - 1 + 0.5) + (2 + 1 - 0.25)


def test_the_mask_scales_its_tap() -> None:
    x, weight, _ = inputs()
    offset, mask = torch.zeros(2, 18, 6, 7), torch.zeros(2, 9, 6, 7)
    mask[:, 4] = 0.5
    out = modulated_deform_conv3x3(x, offset, mask, weight, None)
    torch.testing.assert_close(out, 0.5 * F.conv2d(x, weight[:, :, 1:2, 1:2]), atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 3, 4, dtype=torch.double), torch.randn(2, 2, 3, 3, dtype=torch.double)
    offset = torch.rand(1, 18, 3, 4, dtype=torch.double) * 0.4 + 0.3  # away from the kinks at whole pixels
    mask = torch.rand(1, 9, 3, 4, dtype=torch.double)
    tensors = [t.requires_grad_() for t in (x, offset, mask, weight)]
    assert torch.autograd.gradcheck(lambda *t: modulated_deform_conv3x3(*t, None), tensors)  # type: ignore[call-arg]


def test_a_fresh_block_is_half_a_convolution() -> None:
    torch.manual_seed(0)
    block = ModulatedDeformConv3x3(3, 4)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(block(x), 0.5 * F.conv2d(x, block.weight, padding=1), atol=1e-5, rtol=1e-4)
    block(x).square().sum().backward()
    assert block.offset_mask.weight.grad is not None
    assert block.offset_mask.weight.grad.abs().sum() > 0
