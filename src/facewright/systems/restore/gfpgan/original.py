"""The blocks of GFPGAN as first published (1.0): weights scaled at run time, a low pass before every halving.

They are those of StyleGAN2's discriminator, and their counterparts that double the side (supplementary material of the
paper). Gains, which activations of slope 0.2 and factor √2 need, are applied before the activation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....nn.stylegan2 import GAIN, EqualConv, EqualLinear, leaky, upsample_bilinear


class ScaledConv(nn.Module):
    """Convolution whose weight is scaled by 1/√fan_in, after a bilinear doubling if `up`, before an activation.

    forward: (N, c_in, H, W) to (N, c_out, H', W'); `gain` multiplies the result.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, up: bool = False, bias: bool = True, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.scale = 1 / math.sqrt(c_in * kernel**2)
        self.up, self.activate = up, activate

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        gain = gain * GAIN if self.activate else gain
        bias = None if self.bias is None else self.bias * gain
        x = upsample_bilinear(x) if self.up else x
        out = F.conv2d(x, self.weight * (self.scale * gain), bias, padding=self.weight.shape[-1] // 2)
        return leaky(out) if self.activate else out


class ScaledLinear(EqualLinear):
    """The linear layer to the style codes; a kind of its own, because nothing else of its kind may be rounded."""


class UpBlock(nn.Module):
    """A convolution, one after a bilinear doubling, and a 1×1 skip; (N, c_in, H, W) to (N, c_out, 2H, 2W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(c_in, c_in, 3)
        self.conv2 = ScaledConv(c_in, c_out, 3, up=True, activate=True)
        self.skip = ScaledConv(c_in, c_out, 1, up=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x), 1 / GAIN) + self.skip(x, 1 / GAIN)
        return out


class ScaledLeaky(nn.Module):
    """Leaky ReLU of slope 0.2 times √2."""

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x) * GAIN


def condition_head(channels: int) -> nn.Sequential:
    """What makes a scale or a shift of features (N, C, H, W), of the same shape."""
    return nn.Sequential(ScaledConv(channels, channels, 3), ScaledLeaky(), ScaledConv(channels, channels, 3))
