"""Reconstruction losses between an image and its target, optionally only where a mask says the target is valid.

Images are (N, C, H, W); a mask is (N, 1, H, W) with values in [0, 1], 1 where the pixel counts. Every loss is a mean
over the counted pixels of the whole batch, so pixels with mask 0 have no influence and get no gradient. A batch
without any valid pixel gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_FLOOR = 4e-4  # MSE of images in [−1, 1] at 40 dB
_LUMA = (0.299, 0.587, 0.114)
_WINDOW, _WINDOW_SIGMA = 11, 1.5


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of (N, C, H, W) weighted by the mask."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def l1(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference."""
    return masked_mean((prediction - target).abs(), mask)


def charbonnier(prediction: Tensor, target: Tensor, mask: Tensor | None = None, *, eps: float = 1e-3) -> Tensor:
    """Mean of √(d² + ε²): the absolute difference with a rounded tip; ε at a perfect match."""
    return masked_mean(torch.sqrt((prediction - target).square() + eps**2), mask)


def log_mse(prediction: Tensor, target: Tensor, mask: Tensor | None = None, *, floor: float = _FLOOR) -> Tensor:
    """Mean over the images of ln(1 + MSE / floor): 0 at a perfect match, elsewhere PSNR up to sign, unit and constant.

    The mean error of a batch is that of its worst pictures; here a lightly damaged one counts as much as a ruined one
    (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, train on PSNR). `floor`, 40 dB for images in
    [−1, 1], keeps those that are right already from ruling the rest. Images without a counted pixel count as right.
    """
    weight = torch.ones_like(prediction) if mask is None else mask.to(prediction.dtype).expand_as(prediction)
    error = ((prediction - target).square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6)
    return torch.log1p(error / floor).mean()


def pyramid_l1(pyramid: Sequence[Tensor], target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over the levels of the L1 to the target reduced by area averaging to each level's size."""
    total = target.new_zeros(())
    for level in pyramid:
        size = level.shape[-2:]
        reduced_mask = None if mask is None else whole_cells(mask, size)
        total = total + l1(level, F.interpolate(target, size=size, mode="area"), reduced_mask)
    return total


def edge_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """L1 between the horizontal and vertical differences of neighbouring pixels; blind to a constant offset."""
    error = prediction - target
    total = error.new_zeros(())
    for axis in (2, 3):
        steps = error.diff(dim=axis).abs()
        both = None
        if mask is not None:
            length = mask.shape[axis] - 1
            both = mask.narrow(axis, 0, length) * mask.narrow(axis, 1, length)
        total = total + masked_mean(steps, both)
    return total / 2


def ssim_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − SSIM of the luma of RGB images in [−1, 1] (11-tap Gaussian window, σ 1.5; Wang et al. 2004, eq. 13).

    Only windows that lie in the image, and with a mask wholly in its counted part, take part.
    """
    weights = prediction.new_tensor(_LUMA, dtype=torch.float32).view(1, 3, 1, 1)
    x, y = ((image.float().add(1).div(2) * weights).sum(1) for image in (prediction, target))
    means = _windowed(torch.stack([x, y, x * x, y * y, x * y]))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = means
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    spread = mean_xx - mean_x**2 + mean_yy - mean_y**2
    structure = (2 * (mean_xy - mean_x * mean_y) + c2) / (spread + c2)
    inside = None if mask is None else (_windowed(mask.float()) > 1 - 1e-4).float()
    return masked_mean((1 - luminance * structure)[:, None], inside)


def _windowed(images: Tensor) -> Tensor:
    """The Gaussian mean of every whole window of (…, H, W)."""
    rows, columns = (_window_matrix(side, images) for side in images.shape[-2:])
    # two products with a banded matrix: on a CPU several times faster than convolving a single channel
    return rows @ images @ columns.T


def _window_matrix(side: int, like: Tensor) -> Tensor:
    places = torch.arange(side, device=like.device, dtype=like.dtype)
    starts = places[: side - _WINDOW + 1, None]
    offsets = places[None] - starts - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _WINDOW_SIGMA**2)) * (offsets.abs() <= _WINDOW // 2)
    return weights / weights.sum(1, keepdim=True)


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Mean over the layers of the L1 between discriminator features; those of the real image are constants."""
    losses = []
    for f, r in zip(fake, real, strict=True):
        reduced_mask = None if mask is None else whole_cells(mask, f.shape[-2:])
        losses.append(l1(f, r.detach(), reduced_mask))
    return torch.stack(losses).mean()


def whole_cells(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Reduce a mask to `size` so that a cell counts only when all its pixels do."""
    return (F.interpolate(mask.float(), size=tuple(size), mode="area") > 1 - 1e-4).float()
