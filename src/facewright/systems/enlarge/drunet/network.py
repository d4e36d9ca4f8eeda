"""DRUNet: noise of a known strength taken out of a whole picture by a U-Net of residual blocks.

Paper: Zhang, Li, Zuo, Zhang, Van Gool, Timofte, "Plug-and-Play Image Restoration with Deep Denoiser Prior" (TPAMI 2021,
arXiv 2008.13751), section 3.2. The strength of the noise is a fourth channel of the input, so that one network serves
all of them; none of its layers has a bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..tiles import PictureNetwork, padded

_LEVELS = 3
_LARGEST = 50.0  # grey levels of noise that the published weights have seen


@dataclass(frozen=True)
class DRUNetConfig:
    """Shape of the network; the defaults are the published ones (32.6 M parameters).

    width: channels of the first level, doubled at each of the next three. depth: residual blocks of each stage. noise:
    grey levels of noise that are taken out unless others are asked for.
    """

    width: int = 64
    depth: int = 4
    noise: float = 15.0

    @classmethod
    def compact(cls) -> Self:
        """Narrow, one block a stage, for experiments."""
        return cls(width=8, depth=1)


class Block(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.change(x)
        return x + change


class DRUNet(PictureNetwork):
    """Denoiser of whole pictures.

    forward: (N, 3, H, W) RGB in [0, 1], and the standard deviation of its noise in grey levels of 255, one number or
    (N,), 0…50, the configuration's by default, to the same size, unclamped.
    """

    slug: ClassVar[str] = "drunet"
    Config: ClassVar[type[DRUNetConfig]] = DRUNetConfig
    config: DRUNetConfig
    overlap = 64

    def __init__(self, config: DRUNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        widths = [c.width * 2**level for level in range(_LEVELS + 1)]
        self.head, self.tail = _conv(4, c.width), _conv(c.width, 3)
        self.down = nn.ModuleList(_stage(w, c).append(nn.Conv2d(w, 2 * w, 2, 2, bias=False)) for w in widths[:-1])
        self.body = _stage(widths[-1], c)
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * w, w, 2, 2, bias=False), *_stage(w, c)) for w in widths[-2::-1]
        )

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(), mean=(0.0,) * 3, std=(1.0,) * 3)

    def forward(self, image: Tensor, noise: float | Tensor | None = None) -> Tensor:
        level = torch.as_tensor(self.config.noise if noise is None else noise).to(image)
        if bool((level < 0).any() or (level > _LARGEST).any()):
            raise UsageError(f"DRUNet takes out 0…{_LARGEST:g} grey levels of noise, not {noise}")
        height, width = image.shape[2:]
        picture = padded(image, 2**_LEVELS)
        strength = (level / 255).view(-1, 1, 1, 1).expand(len(picture), 1, *picture.shape[2:])
        skips = [self.head(torch.cat((picture, strength), 1))]
        for stage in self.down:
            skips.append(stage(skips[-1]))
        x = self.body(skips[-1])
        for stage in self.up:
            x = stage(x + skips.pop())
        out: Tensor = self.tail(x + skips.pop())
        return out[..., :height, :width]


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)


def _stage(width: int, config: DRUNetConfig) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(config.depth)))
