"""PrintScan: finds where a print is scratched, cracked, spotted or torn.

This project's own design; there is no paper. A small U-Net on 2×2 patches of pixels, so that its finest scale is half
the picture's; a mark of one pixel is still a channel of its patch. It looks at grey values: colour says little about
damage, and old prints have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.mmrb import init_conv
from ....tasks.card import Preprocess
from ..tiled import TiledFinder

_SLOPE = 0.2
_PATCH = 2
_RARE = -3.0  # bias of the start: marks are rare


@dataclass(frozen=True)
class PrintScanConfig:
    """Channels at half the picture's size and at every halving of it."""

    widths: tuple[int, ...] = (32, 64, 96, 128, 160)

    @classmethod
    def compact(cls) -> Self:
        """What ships: 0.4 M parameters."""
        return cls(widths=(16, 32, 56, 80))

    @property
    def stride(self) -> int:
        """Pixels under one position of the lowest scale."""
        return _PATCH * int(2 ** (len(self.widths) - 1))


class _Block(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        init_conv(self.first)
        init_conv(self.second, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.leaky_relu(self.first(x), _SLOPE))
        return F.leaky_relu(x + change, _SLOPE)


class PrintScan(TiledFinder):
    """Damage of prints, by this project's own design.

    forward: (N, 3, H, W) RGB in [−1, 1] to logits (N, 1, H, W) of a pixel being lost. `find` takes whole photos in
    tiles.
    """

    slug: ClassVar[str] = "printscan"
    Config: ClassVar[type[PrintScanConfig]] = PrintScanConfig
    config: PrintScanConfig

    def __init__(self, config: PrintScanConfig | None = None) -> None:
        super().__init__(config)
        widths = self.config.widths
        self.stem = nn.Conv2d(_PATCH**2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_Block(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:]))
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:]))
        self.decoder = nn.ModuleList(_Block(width) for width in widths[:-1])
        self.out = nn.Conv2d(widths[0], _PATCH**2, 3, padding=1)
        for conv in (self.stem, *self.downs, *self.ups):
            init_conv(conv)
        init_conv(self.out, 0.1)
        nn.init.constant_(self.out.bias, _RARE)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole())

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or image.shape[1] != 3:
            raise UsageError(f"PrintScan takes images (N, 3, H, W), not {tuple(image.shape)}")
        height, width = image.shape[2:]
        below, right = -height % self.config.stride, -width % self.config.stride
        grey = F.pad(image.mean(1, keepdim=True), (0, right, 0, below), mode="replicate")
        x = self.stem(F.pixel_unshuffle(grey, _PATCH).contiguous(memory_format=torch.channels_last))
        taps = []
        for block, down in zip(self.encoder, [*self.downs, None]):
            x = block(x)
            if down is not None:
                taps.append(x)
                x = down(x)
        for block, up, tap in reversed(list(zip(self.decoder, self.ups, taps))):
            x = block(F.pixel_shuffle(up(x), 2) + tap)
        logits: Tensor = F.pixel_shuffle(self.out(x), _PATCH)[..., :height, :width]
        return logits
