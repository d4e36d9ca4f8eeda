"""Modulated deformable convolution (DCNv2, Zhu et al. 2019) in plain torch, for any device and without an extension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sampling import exact, pixels, sample

TAPS = 9


def modulated_deform_conv3x3(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3×3 convolution (stride 1, padding 1) that samples each tap at its own place.

    `x` (N, C, H, W); `offset` (N, 18, H, W) in pixels, (dy, dx) interleaved per tap in row order; `mask` (N, 9, H, W)
    scales each tap; `weight` (O, C, 3, 3). Bilinear between pixels, zero outside. Returns (N, O, H, W). Offsets are to
    be float32 also where `x` is not.
    """
    n, channels, height, width = x.shape
    taps = sample(x, _sampling_grid(offset, height, width), align_corners=False)
    taps = taps.view(n, channels, TAPS, height, width) * mask.to(x.dtype).unsqueeze(1)
    return F.conv2d(taps.flatten(1, 2), weight.flatten(1)[..., None, None], bias)


@exact
def _sampling_grid(offset: Tensor, height: int, width: int) -> Tensor:
    """Where every tap samples, as a (N, 9·H, W, 2) grid in `grid_sample`'s [-1, 1] (edges, not centres)."""
    steps = torch.arange(-1, 2, device=offset.device, dtype=offset.dtype)
    columns, rows = pixels(height, width, offset).unbind(-1)
    dy, dx = offset[:, 0::2], offset[:, 1::2]
    y = dy + steps.repeat_interleave(3).view(1, TAPS, 1, 1) + rows
    x = dx + steps.repeat(3).view(1, TAPS, 1, 1) + columns
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    return grid.flatten(1, 2)


class ModulatedDeformConv3x3(nn.Module):
    """DCNv2 block: an ordinary 3×3 convolution of the input predicts offsets and masks of the deformable one.

    The predictor starts at zero, so a fresh block is half an ordinary convolution (sigmoid of zero) with bias.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(out_channels))
        self.offset_mask = nn.Conv2d(in_channels, 3 * TAPS, 3, padding=1)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.offset_mask.weight)
        assert self.offset_mask.bias is not None
        nn.init.zeros_(self.offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H, W)."""
        predicted = self.offset_mask(x).float()
        offset, mask = predicted[:, : 2 * TAPS], predicted[:, 2 * TAPS :].sigmoid()
        return modulated_deform_conv3x3(x, offset, mask, self.weight, self.bias)
