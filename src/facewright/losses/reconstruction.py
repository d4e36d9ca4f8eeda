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
