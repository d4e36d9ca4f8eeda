"""EfficientNetV2-M as a source of feature maps (Tan and Le, "EfficientNetV2", ICML 2021, section 3.3).

Early stages fuse the expanding 1×1 and the depthwise 3×3 convolution into one dense 3×3. Module names are torchvision's
state-dict keys (`mobilenetv3.trunk_state` drops the classifier).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..errors import UsageError
from .mobilenetv3 import ConvNorm, SqueezeExcite, initialise, tapped


class Stage(NamedTuple):
    """Fused or not, expansion, stride of the first block, output width, number of blocks; kernels are 3×3."""

    fused: bool
    expansion: int
    stride: int
    out: int
    blocks: int


V2_M = (
    Stage(True, 1, 1, 24, 3),
    Stage(True, 4, 2, 48, 5),
    Stage(True, 4, 2, 80, 5),
    Stage(False, 4, 2, 160, 7),
    Stage(False, 6, 1, 176, 14),
    Stage(False, 6, 2, 304, 18),
    Stage(False, 6, 1, 512, 5),
)
STEM, LAST = 24, 1280


class Block(nn.Module):
    """One block of a stage, added to its input where shapes agree; without the paper's stochastic depth."""

    def __init__(self, c_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        build = _fused if stage.fused else _separable
        self.block = nn.Sequential(*build(c_in, c_in * stage.expansion, stage.out, stride))
        self.residual = stride == 1 and c_in == stage.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


def _fused(c_in: int, hidden: int, c_out: int, stride: int) -> list[nn.Module]:
    if hidden == c_in:
        return [ConvNorm(c_in, c_out, 3, stride, act="silu")]
    return [ConvNorm(c_in, hidden, 3, stride, act="silu"), ConvNorm(hidden, c_out, 1)]


def _separable(c_in: int, hidden: int, c_out: int, stride: int) -> list[nn.Module]:
    return [
        ConvNorm(c_in, hidden, 1, act="silu"),
        ConvNorm(hidden, hidden, 3, stride, groups=hidden, act="silu"),
        SqueezeExcite(hidden, max(1, c_in // 4), act="silu", hard=False),
        ConvNorm(hidden, c_out, 1),
    ]


class EfficientNetV2(nn.Module):
    """(N, 3, H, W) to the maps after the modules numbered `taps`; the defaults are V2-M at strides 4, 8, 16 and 32.

    Module 0 is the stem of stride 2, one module per stage, last a 1×1 convolution to 1280 channels. `widths` are the
    channels of the maps. Raises UsageError for taps beyond the last module.
    """

    def __init__(self, stages: tuple[Stage, ...] = V2_M, *, taps: tuple[int, ...] = (2, 3, 5, 8)) -> None:
        super().__init__()
        if max(taps) > len(stages) + 1:
            raise UsageError(f"this EfficientNetV2 has modules 0 to {len(stages) + 1}; taps {taps} go beyond them")
        channels = [STEM, *(stage.out for stage in stages), LAST]
        modules: list[nn.Module] = [ConvNorm(3, STEM, 3, 2, act="silu")]
        for c_in, stage in zip(channels, stages):
            first = Block(c_in, stage, stage.stride)
            modules.append(nn.Sequential(first, *(Block(stage.out, stage, 1) for _ in range(stage.blocks - 1))))
        modules.append(ConvNorm(stages[-1].out, LAST, 1, act="silu"))
        self.features = nn.Sequential(*modules)
        self.taps = taps
        self.widths = tuple(channels[tap] for tap in taps)
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        return tapped(self.features, self.taps, x)
