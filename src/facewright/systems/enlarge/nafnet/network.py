"""NAFNet: noise or blur taken out of a whole picture by a U-Net without activation functions.

Paper: Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration" (ECCV 2022, arXiv 2204.04676). What an activation
would do, a product of the two halves of the channels does; attention is one weight a channel, from its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..tiles import PictureNetwork

_EPS = 1e-6
_FIRST_SCALE = 0.01  # published as 0, which lets the first step teach the rest of a block nothing


@dataclass(frozen=True)
class NAFNetConfig:
    """Shape of the network; the defaults are those of NAFNet-SIDD-width32 (29.2 M parameters, noise).

    encoder, middle, decoder: blocks of each level; the width doubles from level to level.
    """

    width: int = 32
    encoder: tuple[int, ...] = (2, 2, 4, 8)
    middle: int = 12
    decoder: tuple[int, ...] = (2, 2, 2, 2)

    @classmethod
    def sidd64(cls) -> Self:
        """NAFNet-SIDD-width64."""
        return cls(width=64)

    @classmethod
    def gopro32(cls) -> Self:
        """NAFNet-GoPro-width32 (blur)."""
        return cls(encoder=(1, 1, 1, 28), middle=1, decoder=(1, 1, 1, 1))

    @classmethod
    def gopro64(cls) -> Self:
        """NAFNet-GoPro-width64 (blur) and NAFNet-REDS-width64 (blur and compression)."""
        return cls(width=64, encoder=(1, 1, 1, 28), middle=1, decoder=(1, 1, 1, 1))

    @classmethod
    def compact(cls) -> Self:
        """Two narrow levels, for experiments."""
        return cls(width=8, encoder=(1, 1), middle=1, decoder=(1, 1))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, _EPS).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two residual halves: over space, then over channels; both start as almost nothing when freshly made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attention = nn.Conv2d(width, width, 1)
        self.conv3 = nn.Conv2d(width, width, 1)
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.full((1, width, 1, 1), _FIRST_SCALE))
        self.gamma = nn.Parameter(torch.full((1, width, 1, 1), _FIRST_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        gated = _gate(self.conv2(self.conv1(self.norm1(x))))
        gated = gated * self.attention(gated.mean((2, 3), keepdim=True))
        x = x + self.beta * self.conv3(gated)
        mixed: Tensor = self.conv5(_gate(self.conv4(self.norm2(x))))
        return x + self.gamma * mixed


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return first * second


class NAFNet(PictureNetwork):
    """Cleaner of whole pictures; forward: (N, 3, H, W) RGB in [0, 1] to the same size, unclamped."""

    slug: ClassVar[str] = "nafnet"
    Config: ClassVar[type[NAFNetConfig]] = NAFNetConfig
    config: NAFNetConfig
    overlap = 32

    def __init__(self, config: NAFNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.intro = nn.Conv2d(3, c.width, 3, padding=1)
        self.ending = nn.Conv2d(c.width, 3, 3, padding=1)
        widths = [c.width * 2**level for level in range(len(c.encoder) + 1)]
        self.encoders = nn.ModuleList(_blocks(w, count) for w, count in zip(widths, c.encoder))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, 2) for w in widths[:-1])
        self.middle = _blocks(widths[-1], c.middle)
        self.ups = nn.ModuleList(nn.Conv2d(w, 2 * w, 1, bias=False) for w in widths[:0:-1])
        self.decoders = nn.ModuleList(_blocks(w, count) for w, count in zip(widths[-2::-1], c.decoder))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(), mean=(0.0,) * 3, std=(1.0,) * 3)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        unit = 2 ** len(self.config.encoder)
        padded = F.pad(image, (0, -width % unit, 0, -height % unit))
        x = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for decoder, up in zip(self.decoders, self.ups):
            x = decoder(F.pixel_shuffle(up(x), 2) + skips.pop())
        out: Tensor = self.ending(x) + padded
        return out[..., :height, :width]


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(count)))
