"""FaceFill: fills holes in aligned faces at 256 px on a processor.

This project's own design; there is no paper. A U-Net on 4×4 patches of pixels with gated convolutions where the hole is
read (Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019), dilated blocks and one layer of
attention at the lowest scales, so that an eye can be drawn by the other one. For the same reason the mirrored picture,
with its own hole, is part of the input, and planes tell every position where in the aligned face it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.mmrb import init_conv
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLOPE = 0.2
_BLOCK_INIT = 0.1
_PLANES = 2


@dataclass(frozen=True)
class FaceFillConfig:
    """Shape of a FaceFill network; the defaults are the size for a large card.

    size: side of the crop. patch: pixel-unshuffle factor. widths: channels at size/patch and every halving of it.
    encoder, decoder: residual blocks per scale (the decoder has none at the lowest).
    heads: of the attention at the second lowest scale. head_width: channels at twice size/patch, before the output.
    """

    size: int = 256
    patch: int = 4
    widths: tuple[int, ...] = (64, 128, 192, 256)
    encoder: tuple[int, ...] = (1, 3, 4, 4)
    decoder: tuple[int, ...] = (2, 3, 4)
    heads: int = 4
    head_width: int = 32

    @classmethod
    def compact(cls) -> Self:
        """What ships: 1.5 M parameters."""
        return cls(widths=(32, 72, 104, 104), encoder=(0, 2, 2, 2), decoder=(1, 2, 2), head_width=16)

    def __post_init__(self) -> None:
        if len(self.encoder) != len(self.widths) or len(self.decoder) != len(self.widths) - 1 or not self.decoder:
            raise UsageError(
                "a FaceFill needs an encoder count for each of two widths or more, and one decoder count less"
            )
        if self.patch % 2 or self.size % self.stride:
            raise UsageError(f"a FaceFill needs an even patch and a size divisible by {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels under one position of the lowest scale."""
        return self.patch * int(2 ** (len(self.widths) - 1))


class _Gated(nn.Module):
    """Convolution whose output is multiplied by gates that another one gives: leaky(a) · σ(b)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, 2 * c_out, kernel, stride, (kernel - 1) // 2)
        init_conv(self.conv, 2**0.5)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.conv(x).chunk(2, 1)
        return F.leaky_relu(values, _SLOPE) * torch.sigmoid(gates)


class _Block(nn.Module):
    """x + conv(leaky(conv(x))), the first convolution dilated."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        init_conv(self.first)
        init_conv(self.second, _BLOCK_INIT)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.leaky_relu(self.first(x), _SLOPE))
        return x + change


class _Attention(nn.Module):
    """Every position looks at those that the hole leaves; what it finds is added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, width)
        self.read = nn.Conv2d(width, 3 * width, 1)
        self.write = nn.Conv2d(width, width, 1)
        init_conv(self.write, _BLOCK_INIT)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """x (N, C, H, W), known (N, 1, H, W): the share of each position's pixels that the hole leaves."""
        count, width, high, wide = x.shape
        parts = self.read(self.norm(x)).reshape(count, 3, self.heads, width // self.heads, high * wide)
        query, key, value = (part.transpose(2, 3) for part in parts.unbind(1))
        bias = torch.log(known.flatten(2).clamp(min=1e-3))[:, None].to(query.dtype)
        bias = bias.expand(-1, self.heads, high * wide, -1)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        added: Tensor = self.write(found.transpose(2, 3).reshape(count, width, high, wide))
        return x + added


class FaceFill(System):
    """Holes in aligned faces filled, by this project's own design.

    forward: image (N, 3, S, S) RGB in [−1, 1], a crop on the `ffhq` template, and hole (N, 1, S, S), 1 where pixels are
    lost (None: nowhere), to the whole picture as the network draws it, unclamped. What the image holds inside the hole
    has no influence.
    """

    slug: ClassVar[str] = "facefill"
    Config: ClassVar[type[FaceFillConfig]] = FaceFillConfig
    config: FaceFillConfig

    def __init__(self, config: FaceFillConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        w, last = c.widths, len(c.widths) - 1
        self.stem = _Gated(2 * 4 * c.patch**2 + _PLANES, w[0], 1)
        self.downs = nn.ModuleList(_Gated(a, b, 2, 2) for a, b in zip(w, w[1:]))
        self.encoder = nn.ModuleList(self._blocks(level, n) for level, n in enumerate(c.encoder))
        self.attention = _Attention(w[last - 1], c.heads)
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(w, w[1:]))
        self.decoder = nn.ModuleList(self._blocks(level, n) for level, n in enumerate(c.decoder))
        self.head = nn.Conv2d(w[0], 4 * c.head_width, 1)
        self.smooth = nn.Conv2d(c.head_width, c.head_width, 3, padding=1)
        self.out = nn.Conv2d(c.head_width, 3 * (c.patch // 2) ** 2, 3, padding=1)
        for conv in (*self.ups, self.head, self.smooth):
            init_conv(conv)
        init_conv(self.out, _BLOCK_INIT)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _blocks(self, level: int, count: int) -> nn.Sequential:
        widths = self.config.widths
        wide = level >= len(widths) - 2
        return nn.Sequential(*(_Block(widths[level], 2 ** (i % 3) if wide else 1) for i in range(count)))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(self, image: Tensor, hole: Tensor | None = None) -> Tensor:
        c = self.config
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % c.stride or image.shape[3] % c.stride:
            raise UsageError(f"FaceFill takes images (N, 3, H, W) with sides divisible by {c.stride}")
        hole = torch.zeros_like(image[:, :1]) if hole is None else hole
        if hole.shape != (len(image), 1, *image.shape[2:]):
            raise UsageError("FaceFill takes one hole (N, 1, H, W) for each image, of its size")
        hole = hole.to(image.dtype)
        seen = torch.cat([image * (1 - hole), 2 * hole - 1], 1)
        patches = F.pixel_unshuffle(torch.cat([seen, seen.flip(3)], 1), c.patch)
        x = torch.cat([patches, self._planes(patches)], 1).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        taps, last = [], len(c.widths) - 1
        for level, blocks in enumerate(self.encoder):
            x = blocks(x if level == 0 else self.downs[level - 1](x))
            if level == last - 1:
                x = self.attention(x, F.adaptive_avg_pool2d(1 - hole, x.shape[2:]))
            taps.append(x)
        for level in range(last - 1, -1, -1):
            x = self.decoder[level](taps[level] + F.pixel_shuffle(self.ups[level](x), 2))
        x = F.leaky_relu(self.smooth(F.leaky_relu(F.pixel_shuffle(self.head(x), 2), _SLOPE)), _SLOPE)
        return F.pixel_shuffle(self.out(x), c.patch // 2)

    @staticmethod
    def _planes(patches: Tensor) -> Tensor:
        """(N, 2, h, w): row and column, −1…1."""
        count, _, high, wide = patches.shape
        rows, columns = (torch.linspace(-1, 1, n, device=patches.device, dtype=patches.dtype) for n in (high, wide))
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(count, -1, -1, -1)

    @torch.inference_mode()
    def fill(self, crops: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops and (N, S, S) holes to crops as the network draws them, holes filled."""
        mask = torch.from_numpy(np.ascontiguousarray(holes)).to(self.device)[:, None]
        with self.picture_autocast():
            out = self(self.normalise(crops), mask.float())
        drawn = out.float().add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return drawn.permute(0, 2, 3, 1).contiguous().cpu().numpy()
