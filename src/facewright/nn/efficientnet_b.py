"""EfficientNet-B4 as published for PyTorch (Tan and Le, ICML 2019; efficientnet_pytorch 0.7.1).

Module names are that package's state-dict keys. Its convolutions pad by fixed amounts, so that every layer would keep
"same" sizes for pictures of 380 px: with other sizes the result differs from padding by the size at hand, and published
weights expect the former.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS, NORM_MOMENTUM = 1e-3, 0.01
REFERENCE = 380
"""Side of the pictures whose sizes the padding is made for, B4's own."""
DROP_CONNECT = 0.2


class Stage(NamedTuple):
    """Kernel, stride of the first block, expansion, output channels, number of blocks."""

    kernel: int
    stride: int
    expansion: int
    out: int
    blocks: int


B4 = (
    Stage(3, 1, 1, 24, 2),
    Stage(3, 2, 6, 32, 4),
    Stage(5, 2, 6, 56, 4),
    Stage(3, 2, 6, 112, 6),
    Stage(5, 1, 6, 160, 6),
    Stage(5, 2, 6, 272, 8),
    Stage(3, 1, 6, 448, 2),
)
STEM, LAST = 48, 1792


class FixedSame(nn.ZeroPad2d):
    """The zeros that keep ⌈side / stride⌉ for a picture of `side` px, the odd one to the right and below."""

    def __init__(self, side: int, kernel: int, stride: int) -> None:
        missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        super().__init__((missing // 2, missing - missing // 2) * 2)


class MBConv(nn.Module):
    """1×1 to `expansion` times the channels, depthwise, squeeze and excite by a quarter of the input, linear 1×1."""

    def __init__(self, c_in: int, stage: Stage, stride: int, side: int) -> None:
        super().__init__()
        hidden = c_in * stage.expansion
        self.expanded = stage.expansion != 1
        if self.expanded:
            self._expand_conv = nn.Conv2d(c_in, hidden, 1, bias=False)
            self._bn0 = norm(hidden)
        self.pad = FixedSame(side, stage.kernel, stride)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, stage.kernel, stride, groups=hidden, bias=False)
        self._bn1 = norm(hidden)
        self._se_reduce = nn.Conv2d(hidden, max(1, c_in // 4), 1)
        self._se_expand = nn.Conv2d(max(1, c_in // 4), hidden, 1)
        self._project_conv = nn.Conv2d(hidden, stage.out, 1, bias=False)
        self._bn2 = norm(stage.out)
        self.residual = stride == 1 and c_in == stage.out

    def forward(self, x: Tensor, drop: float = 0.0) -> Tensor:
        """`drop`: how often, while training, a picture skips the block."""
        y: Tensor = F.silu(self._bn0(self._expand_conv(x))) if self.expanded else x
        y = F.silu(self._bn1(self._depthwise_conv(self.pad(y))))
        weights = self._se_expand(F.silu(self._se_reduce(y.mean((2, 3), keepdim=True))))
        y = self._bn2(self._project_conv(y * weights.sigmoid()))
        if not self.residual:
            return y
        if self.training and drop > 0:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device, dtype=y.dtype) >= drop
            y = y * kept / (1 - drop)
        return x + y


class EfficientNetB4(nn.Module):
    """(N, 3, H, W) to maps (N, 1792, h, w) at stride 32.

    `padded_stem=False` is DeepfakeBench's form: its stem is a fresh convolution without padding, 256 px to 127.
    """

    width = LAST

    def __init__(self, *, padded_stem: bool = True) -> None:
        super().__init__()
        self.stem_pad: nn.Module = FixedSame(REFERENCE, 3, 2) if padded_stem else nn.Identity()
        self._conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = norm(STEM)
        side, c_in, blocks = math.ceil(REFERENCE / 2), STEM, []
        for stage in B4:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(MBConv(c_in, stage, stride, side))
                side, c_in = math.ceil(side / stride), stage.out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(c_in, LAST, 1, bias=False)
        self._bn1 = norm(LAST)

    def forward(self, image: Tensor) -> Tensor:
        x = F.silu(self._bn0(self._conv_stem(self.stem_pad(image))))
        for number, block in enumerate(self._blocks):
            x = block(x, DROP_CONNECT * number / len(self._blocks))
        return F.silu(self._bn1(self._conv_head(x)))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as published."""
    return nn.BatchNorm2d(channels, NORM_EPS, NORM_MOMENTUM)
