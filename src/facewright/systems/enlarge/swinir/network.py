"""SwinIR: a whole picture enlarged, or cleaned, by groups of Swin transformer blocks around skips.

Paper: Liang, Cao, Sun, Zhang, Van Gool, Timofte, "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops
2021, arXiv 2108.10257). A convolution finds features; every group attends within windows of 8 px, shifted in every
second block, and ends in a convolution; what the groups find is added to the features (section 3.1). For pictures of
the real world the features are then enlarged by two steps of nearest neighbours and convolutions; for noise they become
a change of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.swin import NORM_EPS, Block
from ....tasks.card import Preprocess
from ..tiles import PictureNetwork, padded

WINDOW = 8
SCALES = (1, 4)
_RATIO = 2  # of a block's hidden layer to its width
_PAINTED = 64  # channels from where the picture is enlarged
_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, RGB
_LEAK, _FIRST_LEAK = 0.2, 0.01


@dataclass(frozen=True)
class SwinIRConfig:
    """Shape of the network; the defaults are those of the real-world x4 SwinIR-M (11.7 M parameters).

    scale: 4, or 1 for networks that take noise out. width: channels. groups, depth: groups of blocks, and blocks of
    each. heads: of the attention. thrice: three narrow convolutions at the end of a group instead of one.
    """

    scale: int = 4
    width: int = 180
    groups: int = 6
    depth: int = 6
    heads: int = 6
    thrice: bool = False

    @classmethod
    def large(cls) -> Self:
        """SwinIR-L of real pictures (28.0 M parameters)."""
        return cls(width=240, groups=9, heads=8, thrice=True)

    @classmethod
    def denoise(cls) -> Self:
        """SwinIR-M that takes noise out of colour pictures (11.5 M parameters)."""
        return cls(scale=1)

    @classmethod
    def compact(cls) -> Self:
        """Two narrow groups of two blocks, for experiments."""
        return cls(width=24, groups=2, depth=2, heads=3)


class Group(nn.Module):
    """Blocks and a convolution around a skip, on maps (N, C, H, W)."""

    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        c = config
        shifts = [WINDOW // 2 * (number % 2) for number in range(c.depth)]
        self.blocks = nn.Sequential(*(Block(c.width, c.heads, WINDOW, shift, 1, _RATIO) for shift in shifts))
        self.conv = _convolved(c)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return x + change


class SwinIR(PictureNetwork):
    """Enlarger or cleaner of whole pictures.

    forward: (N, 3, H, W) RGB in [0, 1] to (N, 3, H · scale, W · scale), unclamped.
    """

    slug: ClassVar[str] = "swinir"
    Config: ClassVar[type[SwinIRConfig]] = SwinIRConfig
    config: SwinIRConfig
    overlap = 32
    mean: Tensor

    def __init__(self, config: SwinIRConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.scale not in SCALES:
            raise UsageError(f"there is no SwinIR of scale {c.scale}; choose 1 or 4")
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, c.width, 3, padding=1)
        self.norm_first = nn.LayerNorm(c.width, eps=NORM_EPS)
        self.groups = nn.Sequential(*(Group(c) for _ in range(c.groups)))
        self.norm_last = nn.LayerNorm(c.width, eps=NORM_EPS)
        self.after = _convolved(c)
        if c.scale == 1:
            self.change = nn.Conv2d(c.width, 3, 3, padding=1)
            return
        self.narrow = nn.Conv2d(c.width, _PAINTED, 3, padding=1)
        self.ups = nn.ModuleList(nn.Conv2d(_PAINTED, _PAINTED, 3, padding=1) for _ in range(2))
        self.paint = nn.Conv2d(_PAINTED, _PAINTED, 3, padding=1)
        self.last = nn.Conv2d(_PAINTED, 3, 3, padding=1)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(), mean=(0.0,) * 3, std=(1.0,) * 3)

    @property
    def scale(self) -> int:
        return self.config.scale

    def forward(self, image: Tensor) -> Tensor:
        height, width = (side * self.scale for side in image.shape[2:])
        centred = padded(image, WINDOW) - self.mean
        features = self.first(centred)
        features = features + self.after(self._found(features))
        drawn = centred + self.change(features) if self.scale == 1 else self._enlarged(features)
        return (drawn + self.mean)[..., :height, :width]

    def _found(self, features: Tensor) -> Tensor:
        """What the groups make of the features."""
        x = self.groups(_normed(self.norm_first, features))
        return _normed(self.norm_last, x)

    def _enlarged(self, features: Tensor) -> Tensor:
        x = F.leaky_relu(self.narrow(features), _FIRST_LEAK)
        for up in self.ups:
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), _LEAK)
        painted: Tensor = self.last(F.leaky_relu(self.paint(x), _LEAK))
        return painted


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """A layer norm over the channels of (N, C, H, W)."""
    normed: Tensor = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return normed


def _convolved(config: SwinIRConfig) -> nn.Module:
    width, inner = config.width, config.width // 4
    if not config.thrice:
        return nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(width, inner, 3, padding=1),
        nn.LeakyReLU(_LEAK),
        nn.Conv2d(inner, inner, 1),
        nn.LeakyReLU(_LEAK),
        nn.Conv2d(inner, width, 3, padding=1),
    )
