"""Real-ESRGAN: a whole picture four times (or twice) as large, with blur, noise and compression taken out.

Paper: Wang, Xie, Dong, Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (ICCV
2021 workshops, arXiv 2107.10833). Two generators were published: ESRGAN's, 23 residual-in-residual dense blocks, and a
plain stack of convolutions a fourteenth of its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..tiles import PictureNetwork

Form = Literal["dense", "plain"]

_GROWTH = 32
_RESIDUAL = 0.2  # how much of a branch is added
_LEAK = 0.2


@dataclass(frozen=True)
class RealESRGANConfig:
    """Shape of the network; the defaults are those of RealESRGAN_x4plus (16.7 M parameters).

    form: `dense` for ESRGAN's generator of `depth` blocks, `plain` for `depth` convolutions. scale: 4 or 2; a dense
    network of scale 2 first folds 2×2 pixels into channels.
    """

    form: Form = "dense"
    scale: int = 4
    width: int = 64
    depth: int = 23

    @classmethod
    def x2(cls) -> Self:
        """RealESRGAN_x2plus."""
        return cls(scale=2)

    @classmethod
    def general(cls) -> Self:
        """realesr-general-x4v3 (1.2 M parameters), the sensible size for a processor."""
        return cls("plain", depth=32)

    @classmethod
    def compact(cls) -> Self:
        """A plain stack of four narrow convolutions, for experiments."""
        return cls("plain", width=16, depth=4)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for i in range(5):
            c_out = width if i == 4 else _GROWTH
            self.add_module(f"conv{i + 1}", nn.Conv2d(width + i * _GROWTH, c_out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for i in range(4):
            seen.append(F.leaky_relu(self.get_submodule(f"conv{i + 1}")(torch.cat(seen, 1)), _LEAK))
        change: Tensor = self.get_submodule("conv5")(torch.cat(seen, 1))
        return x + _RESIDUAL * change


class ResidualBlock(nn.Module):
    """Three dense blocks around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for i in range(3):
            self.add_module(f"rdb{i + 1}", DenseBlock(width))

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for i in range(3):
            change = self.get_submodule(f"rdb{i + 1}")(change)
        return x + _RESIDUAL * change


class DenseGenerator(nn.Module):
    """ESRGAN's generator: (N, 3, H, W) in [0, 1] to (N, 3, H · scale, W · scale); sides multiples of 4 / scale."""

    def __init__(self, config: RealESRGANConfig) -> None:
        super().__init__()
        self.fold = 4 // config.scale
        width = config.width
        self.conv_first = nn.Conv2d(3 * self.fold**2, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(config.depth)))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            self.add_module(name, nn.Conv2d(width, width, 3, padding=1))
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(F.pixel_unshuffle(x, self.fold))
        x = x + self.get_submodule("conv_body")(self.body(x))
        for name in ("conv_up1", "conv_up2"):
            x = F.leaky_relu(self.get_submodule(name)(F.interpolate(x, scale_factor=2, mode="nearest")), _LEAK)
        out: Tensor = self.conv_last(F.leaky_relu(self.get_submodule("conv_hr")(x), _LEAK))
        return out


class PlainGenerator(nn.Module):
    """Convolutions at the input's size; the enlarged input is added to what they give."""

    def __init__(self, config: RealESRGANConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.body = nn.Sequential(nn.Conv2d(3, config.width, 3, padding=1), nn.PReLU(config.width))
        for _ in range(config.depth):
            self.body.append(nn.Conv2d(config.width, config.width, 3, padding=1)).append(nn.PReLU(config.width))
        self.body.append(nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        detail = F.pixel_shuffle(self.body(x), self.scale)
        return detail + F.interpolate(x, scale_factor=self.scale, mode="nearest")


class RealESRGAN(PictureNetwork):
    """Enlarger of whole pictures; forward: (N, 3, H, W) RGB in [0, 1] to (N, 3, H · scale, W · scale), unclamped.

    Tiles are drawn with 16 px around them; the dense form sees further, which is left at that, as published.
    """

    slug: ClassVar[str] = "realesrgan"
    Config: ClassVar[type[RealESRGANConfig]] = RealESRGANConfig
    config: RealESRGANConfig

    def __init__(self, config: RealESRGANConfig | None = None) -> None:
        super().__init__(config)
        if self.config.scale not in (2, 4):
            raise UsageError(f"Real-ESRGAN enlarges 2 or 4 times, not {self.config.scale}")
        self.net = DenseGenerator(self.config) if self.config.form == "dense" else PlainGenerator(self.config)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(), mean=(0.0,) * 3, std=(1.0,) * 3)

    @property
    def scale(self) -> int:
        """How many times larger."""
        return int(self.config.scale)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        odd = (-width % 2, -height % 2)
        padded = F.pad(image, (0, odd[0], 0, odd[1]), mode="replicate") if any(odd) else image
        out: Tensor = self.net(padded)
        return out[..., : height * self.scale, : width * self.scale]
