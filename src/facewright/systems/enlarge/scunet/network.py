"""SCUNet: noise, compression and mild blur taken out of a whole picture by a U-Net, half convolution, half attention.

Paper: Zhang, Li, Liang, Cao, Zhang, Tang, Fan, Timofte, Van Gool, "Practical Blind Image Denoising via Swin-Conv-UNet
and Data Synthesis" (Machine Intelligence Research 2023, arXiv 2203.13278). Every block gives one half of its channels
to two convolutions, the other to attention within windows of 8 px, every second time shifted by half a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..tiles import PictureNetwork, padded

WINDOW = 8
_LEVELS = 3


@dataclass(frozen=True)
class SCUNetConfig:
    """Shape of the network; the defaults are the published ones (17.9 M parameters).

    width: channels of the first level, doubled at each of the next three. depth: blocks of each of the seven stages.
    head: channels of an attention head.
    """

    width: int = 64
    depth: int = 4
    head: int = 32

    @classmethod
    def compact(cls) -> Self:
        """Narrow, two blocks a stage, for experiments."""
        return cls(width=16, depth=2, head=8)


class WindowAttention(nn.Module):
    """Attention within windows of (N, H, W, C), whose sides are multiples of a window's."""

    def __init__(self, width: int, head: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.shift = width // head, WINDOW // 2 if shifted else 0
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.empty(self.heads, 2 * WINDOW - 1, 2 * WINDOW - 1).normal_(0, 0.02))
        place = torch.arange(WINDOW)
        rows, columns = (part.flatten() for part in torch.meshgrid(place, place, indexing="ij"))
        self.register_buffer("rows", rows[:, None] - rows + WINDOW - 1, persistent=False)
        self.register_buffer("columns", columns[:, None] - columns + WINDOW - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        down, across, pixels = height // WINDOW, width // WINDOW, WINDOW**2
        x = (
            x.view(n, down, WINDOW, across, WINDOW, channels)
            .transpose(2, 3)
            .reshape(n, down * across, pixels, channels)
        )
        q, k, v = self.qkv(x).view(n, down * across, pixels, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        near = self.bias[:, self.get_buffer("rows"), self.get_buffer("columns")]
        mask = near if not self.shift else near + self._apart(down, across, x)
        x = F.scaled_dot_product_attention(q, k, v, mask.to(q.dtype))
        x = self.out(x.transpose(2, 3).reshape(n, down * across, pixels, channels))
        x = x.view(n, down, across, WINDOW, WINDOW, channels).transpose(2, 3).reshape(n, height, width, channels)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x

    def _apart(self, down: int, across: int, like: Tensor) -> Tensor:
        """(down · across, 1, P, P): minus infinity between pixels that only the shift has brought into one window."""
        index = torch.arange(WINDOW, device=like.device)
        late = index >= WINDOW - self.shift
        other = late[:, None] != late  # of two rows, or columns, of a window
        rows = other[:, None, :, None].expand(WINDOW, WINDOW, WINDOW, WINDOW).reshape(WINDOW**2, WINDOW**2)
        columns = other[None, :, None, :].expand(WINDOW, WINDOW, WINDOW, WINDOW).reshape(WINDOW**2, WINDOW**2)
        last_row = torch.arange(down, device=like.device) == down - 1
        last_column = torch.arange(across, device=like.device) == across - 1
        apart = (last_row[:, None, None, None] & rows) | (last_column[None, :, None, None] & columns)
        mask = torch.zeros(apart.shape, device=like.device).masked_fill(apart, float("-inf"))
        return mask.flatten(0, 1)[:, None]


class Attending(nn.Module):
    """Attention and a two-layer network, each behind a norm and around a skip."""

    def __init__(self, width: int, head: int, *, shifted: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, head, shifted=shifted)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        mixed: Tensor = self.mlp(self.norm2(x))
        return x + mixed


class Block(nn.Module):
    """One half of the channels convolved, the other attended to, around a skip."""

    def __init__(self, width: int, head: int, *, shifted: bool) -> None:
        super().__init__()
        half = width // 2
        self.split, self.join = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.attend = Attending(half, head, shifted=shifted)
        self.convolve = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        local, wide = self.split(x).chunk(2, 1)
        local = local + self.convolve(local)
        wide = self.attend(wide.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        joined: Tensor = self.join(torch.cat((local, wide), 1))
        return x + joined


class SCUNet(PictureNetwork):
    """Cleaner of whole pictures; forward: (N, 3, H, W) RGB in [0, 1] to the same size, unclamped."""

    slug: ClassVar[str] = "scunet"
    Config: ClassVar[type[SCUNetConfig]] = SCUNetConfig
    config: SCUNetConfig
    overlap = 32

    def __init__(self, config: SCUNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        widths = [c.width * 2**level for level in range(_LEVELS + 1)]
        self.head = nn.Conv2d(3, c.width, 3, padding=1, bias=False)
        self.tail = nn.Conv2d(c.width, 3, 3, padding=1, bias=False)
        self.down = nn.ModuleList(_stage(w, c).append(nn.Conv2d(w, 2 * w, 2, 2, bias=False)) for w in widths[:-1])
        self.body = _stage(widths[-1], c)
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * w, w, 2, 2, bias=False), *_stage(w, c)) for w in widths[-2::-1]
        )

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(), mean=(0.0,) * 3, std=(1.0,) * 3)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        skips = [self.head(padded(image, WINDOW * 2**_LEVELS))]
        for stage in self.down:
            skips.append(stage(skips[-1]))
        x = self.body(skips[-1])
        for stage in self.up:
            x = stage(x + skips.pop())
        out: Tensor = self.tail(x + skips.pop())
        return out[..., :height, :width]


def _stage(width: int, config: SCUNetConfig) -> nn.Sequential:
    return nn.Sequential(*(Block(width, config.head, shifted=number % 2 == 1) for number in range(config.depth)))
