"""The scratch detector of "Bringing Old Photos Back to Life": a U-Net over the grey picture.

Paper: Wan, Zhang, Chen, Zhang, Chen, Liao, Wen, "Bringing Old Photos Back to Life" (CVPR 2020, arXiv 2004.09484),
supplementary material; the network is that of the published code (microsoft/Bringing-Old-Photos-Back-to-Life), which
low-passes before every halving (Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..tiled import TiledFinder

_SLOPE = 0.2
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class BOPBTLConfig:
    """Shape of the network; the defaults are the published ones (37.6 M parameters).

    width: channels at full size, doubled at each of `depth` halvings.
    """

    width: int = 64
    depth: int = 4

    @classmethod
    def compact(cls) -> Self:
        """Narrow, for experiments."""
        return cls(width=8, depth=3)


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect")


def _normed(c_in: int, c_out: int) -> list[nn.Module]:
    return [_conv(c_in, c_out), nn.BatchNorm2d(c_out), nn.LeakyReLU(_SLOPE)]


class Halve(nn.Module):
    """Low pass [1, 2, 1] in both directions, and every second pixel; reflected at the edges."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.to(x.dtype).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, stride=2, groups=x.shape[1])


class Double(nn.Module):
    """Bilinear doubling and a convolution, then two more with what the encoder saw at that size beside it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.up = _conv(c_in, c_out)
        self.block = nn.Sequential(*_normed(2 * c_out, c_out), *_normed(c_out, c_out))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.up(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        out: Tensor = self.block(torch.cat((up, skip), 1))
        return out


class BOPBTL(TiledFinder):
    """Scratches of old prints (arXiv 2004.09484).

    forward: (N, 3, H, W) RGB in [−1, 1] to logits (N, 1, H, W) of a pixel being scratched. Both sides are filled up to
    a multiple of 2^depth; the smallest side that can be fed is 8 pixels.
    """

    slug: ClassVar[str] = "bopbtl"
    Config: ClassVar[type[BOPBTLConfig]] = BOPBTLConfig
    config: BOPBTLConfig
    overlap = 64
    threshold = 0.4

    def __init__(self, config: BOPBTLConfig | None = None) -> None:
        super().__init__(config)
        widths = [self.config.width * 2**level for level in range(self.config.depth + 1)]
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 7, padding=3, padding_mode="reflect"), nn.LeakyReLU(_SLOPE))
        pairs = list(zip(widths, widths[1:]))
        self.halvings = nn.ModuleList(nn.Sequential(*_normed(a, a), Halve()) for a, _ in pairs)
        self.downs = nn.ModuleList(nn.Sequential(*_normed(a, b), *_normed(b, b)) for a, b in pairs)
        self.ups = nn.ModuleList(Double(b, a) for a, b in reversed(pairs))
        self.out = _conv(widths[0], 1)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole())

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or image.shape[1] != 3:
            raise UsageError(f"BOPBTL takes images (N, 3, H, W), not {tuple(image.shape)}")
        height, width = image.shape[2:]
        luma = image.new_tensor(_LUMA).view(1, 3, 1, 1)
        x = self._filled((image * luma).sum(1, keepdim=True))
        x = self.stem(x)
        skips = []
        for halve, down in zip(self.halvings, self.downs):
            skips.append(x)
            x = down(halve(x))
        for up, skip in zip(self.ups, reversed(skips)):
            x = up(x, skip)
        logits: Tensor = self.out(x)
        return logits[..., :height, :width]

    def _filled(self, grey: Tensor) -> Tensor:
        """Up to sides that can be halved `depth` times, and whose smallest map can still be reflected."""
        unit = 2**self.config.depth
        below, right = (max(2 * unit, -(-side // unit) * unit) - side for side in grey.shape[2:])
        return F.pad(grey, (0, right, 0, below), mode="replicate") if below or right else grey
