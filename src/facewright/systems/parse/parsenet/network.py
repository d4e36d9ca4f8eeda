"""ParseNet: the face parser that face restorers paste with.

Published with PSFR-GAN: Chen, Li, Yang, Lin, Zhang, Wong, "Progressive Semantic-Aware Style Transformation for Blind
Face Restoration" (CVPR 2021, arXiv 2009.08709). An encoder of residual blocks down to 32 px, a body, and a decoder
back to the full size; padding repeats the picture mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..parser import FaceParser
from ..taxonomy import CELEBAMASK_19

_SMALLEST = 32  # side the body works at
_NARROW, _WIDE = 32, 256
_LEAK = 0.2


@dataclass(frozen=True)
class ParseNetConfig:
    """Shape of the network; the defaults are the published ones (21.3 M parameters)."""

    size: int = 512
    width: int = 64
    depth: int = 10
    widest: int = _WIDE

    @classmethod
    def compact(cls) -> Self:
        """128 px crops and narrow layers, for experiments."""
        return cls(size=128, width=32, depth=2, widest=64)


class Layer(nn.Module):
    """Convolution over mirrored padding, after doubling the sides with `up`, at half of them with `down`."""

    def __init__(self, c_in: int, c_out: int, scale: str = "", *, norm: bool = False, leak: bool = False) -> None:
        super().__init__()
        self.up, self.leak = scale == "up", leak
        self.conv = nn.Conv2d(c_in, c_out, 3, 2 if scale == "down" else 1, bias=not norm)
        self.norm = nn.BatchNorm2d(c_out) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        x = x if self.norm is None else self.norm(x)
        return F.leaky_relu(x, _LEAK) if self.leak else x


class Block(nn.Module):
    """Two layers around a skip that changes size and width along with them."""

    def __init__(self, c_in: int, c_out: int, scale: str = "") -> None:
        super().__init__()
        first, second = {"down": ("", "down"), "up": ("up", "")}.get(scale, ("", ""))
        self.skip = Layer(c_in, c_out, scale) if scale or c_in != c_out else None
        self.conv1 = Layer(c_in, c_out, first, norm=True, leak=True)
        self.conv2 = Layer(c_out, c_out, second, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(self.conv1(x))
        return residual + (x if self.skip is None else self.skip(x))


class Net(nn.Module):
    """(N, 3, S, S) to logits (N, 19, S, S)."""

    def __init__(self, config: ParseNetConfig) -> None:
        super().__init__()
        steps = (config.size // _SMALLEST).bit_length() - 1
        widths = [max(_NARROW, min(config.width * 2**step, config.widest)) for step in range(steps + 1)]
        self.encoder = nn.Sequential(Layer(3, config.width))
        for c_in, c_out in zip(widths, widths[1:]):
            self.encoder.append(Block(c_in, c_out, "down"))
        self.body = nn.Sequential(*(Block(widths[-1], widths[-1]) for _ in range(config.depth)))
        self.decoder = nn.Sequential(*(Block(c_in, c_out, "up") for c_in, c_out in zip(widths[::-1], widths[-2::-1])))
        self.classify = Layer(widths[0], len(CELEBAMASK_19))

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        logits: Tensor = self.classify(self.decoder(features + self.body(features)))
        return logits


class ParseNet(FaceParser):
    """Face parser of CelebAMask-HQ's 19 classes; crops of 512 px on the `ffhq` template, RGB in [−1, 1].

    forward: (N, 3, S, S) to logits (N, 19, S, S); S a multiple of 16.
    """

    slug: ClassVar[str] = "parsenet"
    Config: ClassVar[type[ParseNetConfig]] = ParseNetConfig
    config: ParseNetConfig

    def __init__(self, config: ParseNetConfig | None = None) -> None:
        super().__init__(config)
        self.net = Net(self.config)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    @property
    def classes(self) -> tuple[str, ...]:
        return CELEBAMASK_19

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits
