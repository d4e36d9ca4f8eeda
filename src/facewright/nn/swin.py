"""Swin Transformer, first and second version, as a source of feature maps.

Papers: Liu et al., "Swin Transformer" (ICCV 2021, section 3) and "Swin Transformer V2" (CVPR 2022, section 3).
Attention within windows that every second block shifts by half a window. The first version norms before attention and
learns a table of position biases; the second norms after it, compares by scaled cosines, and computes the biases from
logarithmic offsets. Module names are torchvision's state-dict keys; `trunk_state` drops what is no weight of the trunk.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .sampling import exact

if TYPE_CHECKING:
    from collections.abc import Mapping

NORM_EPS = 1e-5
_HIDDEN_FROM_EACH_OTHER = -100.0
_LARGEST_SCALE = math.log(100.0)
_BIAS_HIDDEN, _BIAS_RANGE, _OFFSET_RANGE = 512, 16.0, 8.0


class SwinSize(NamedTuple):
    """Width of the first stage, blocks and heads of each stage, side of the windows, version of the paper."""

    width: int
    blocks: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    version: int


SWINS: dict[str, SwinSize] = {
    "swin_b": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), 7, 1),
    "swin_v2_t": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24), 8, 2),
    "swin_v2_s": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24), 8, 2),
    "swin_v2_b": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), 8, 2),
}


class PositionTable(nn.Module):
    """Position biases of the first version: one learnt number for every offset within a window, per head."""

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self) -> Tensor:
        """(offsets, heads)."""
        return self.relative_position_bias_table


class PositionNetwork(nn.Module):
    """Position biases of the second version: a small network of the offsets on a logarithmic scale."""

    full_precision: ClassVar[tuple[str, ...]] = ("offsets",)
    offsets: Tensor

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, _BIAS_HIDDEN), nn.ReLU(inplace=True), nn.Linear(_BIAS_HIDDEN, heads, bias=False)
        )
        steps = torch.arange(1 - window, window) / (window - 1) * _OFFSET_RANGE
        steps = steps.sign() * (steps.abs() + 1).log2() / math.log2(_OFFSET_RANGE)
        self.register_buffer("offsets", torch.cartesian_prod(steps, steps), persistent=False)

    def forward(self) -> Tensor:
        """(offsets, heads)."""
        return _position_biases(self.offsets, *self.cpb_mlp.parameters())


@exact
def _position_biases(offsets: Tensor, weight: Tensor, bias: Tensor, last: Tensor) -> Tensor:
    return _BIAS_RANGE * F.linear(F.linear(offsets, weight, bias).relu(), last).sigmoid()


class WindowAttention(nn.Module):
    """Multi-head attention within windows of (N, H, W, C), shifted by `shift` pixels if that is not 0.

    Sides that are no multiple of the window are padded with zeros on the right and below; padded pixels take part, as
    in torchvision. A side that fits in one window is not shifted.
    """

    pair_offset: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int, version: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.position = PositionTable(window, heads) if version == 1 else PositionNetwork(window, heads)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0))) if version == 2 else None
        self.register_buffer("pair_offset", _pair_offsets(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = self.window
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        padded = x.shape[1:3]
        shifts = [0 if side <= window else self.shift for side in padded]
        if any(shifts):
            x = x.roll((-shifts[0], -shifts[1]), (1, 2))
        answer = self._attend(_to_windows(x, window), self._bias(padded, shifts, x))
        x = _from_windows(answer, window, *padded)
        if any(shifts):
            x = x.roll((shifts[0], shifts[1]), (1, 2))
        return x[:, :height, :width]

    def _attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Attention within windows (N·windows, T, C) with bias (1 or windows, heads, T, T)."""
        count, length, channels = tokens.shape
        q, k, v = self._projected(tokens).reshape(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scale = None
        if self.logit_scale is not None:
            q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=_LARGEST_SCALE).exp()
            k, scale = F.normalize(k, dim=-1), 1.0
        if len(bias) > 1:
            bias = bias.repeat(count // len(bias), 1, 1, 1)
        answer = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), scale=scale)
        projected: Tensor = self.proj(answer.transpose(1, 2).reshape(count, length, channels))
        return projected

    def _projected(self, tokens: Tensor) -> Tensor:
        bias: Tensor = self.qkv.bias
        if self.logit_scale is not None:  # keys of the second version have no bias, though the weights hold one
            q, k, v = bias.chunk(3)
            bias = torch.cat([q, torch.zeros_like(k), v])
        return F.linear(tokens, self.qkv.weight, bias)

    def _bias(self, padded: torch.Size, shifts: list[int], like: Tensor) -> Tensor:
        """Position biases, and for shifted windows what keeps apart pixels that are no neighbours."""
        area = self.window**2
        biases: Tensor = self.position()[self.pair_offset].view(area, area, self.heads).permute(2, 0, 1)[None]
        if not any(shifts):
            return biases
        rows, columns = (_regions(side, self.window, shift, like.device) for side, shift in zip(padded, shifts))
        regions = _to_windows((3 * rows[:, None] + columns)[None, ..., None], self.window)[..., 0]
        apart = regions[:, None, :] != regions[:, :, None]
        return biases + apart[:, None] * _HIDDEN_FROM_EACH_OTHER


def _regions(side: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(side,) which of three parts a row of a shifted picture belongs to; rows of one part are neighbours."""
    index = torch.arange(side, device=device)
    if not shift:
        return torch.zeros_like(index)
    return (index >= side - window).long() + (index >= side - shift).long()


def _pair_offsets(window: int) -> Tensor:
    """(window⁴,) for every ordered pair of a window's pixels the row of their offset among the position biases."""
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = place[:, None] - place[None] + window - 1
    return (offset[..., 0] * (2 * window - 1) + offset[..., 1]).flatten()


def _to_windows(x: Tensor, window: int) -> Tensor:
    """(N, H, W, C) to (N·windows, window², C)."""
    n, height, width, channels = x.shape
    x = x.view(n, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def _from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `_to_windows`."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


class Block(nn.Module):
    """Attention and a GELU network of `ratio` times the width, each behind (version 1) or before (2) a layer norm."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, version: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm_first = version == 1
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = WindowAttention(channels, heads, window, shift, version)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        hidden = nn.Linear(channels, ratio * channels)
        # the identities stand where torchvision has dropout, so that the numbers of the layers agree
        self.mlp = nn.Sequential(hidden, nn.GELU(), nn.Identity(), nn.Linear(ratio * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attn(self.norm1(x))
            grown: Tensor = self.mlp(self.norm2(x))
            return x + grown
        x = x + self.norm1(self.attn(x))
        normed: Tensor = self.norm2(self.mlp(x))
        return x + normed


class PatchMerging(nn.Module):
    """Four neighbouring pixels become one of twice the width; odd sides are padded with zeros."""

    def __init__(self, channels: int, version: int) -> None:
        super().__init__()
        self.norm_first = version == 1
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm((4 if self.norm_first else 2) * channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        merged: Tensor = self.reduction(self.norm(x)) if self.norm_first else self.norm(self.reduction(x))
        return merged


class ToPixelsLast(nn.Module):
    """(N, C, H, W) to (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Swin(nn.Module):
    """(N, 3, H, W) to four maps at strides 4, 8, 16 and 32, of `widths` channels, doubled from stage to stage.

    Maps are the stages' outputs, without the norm that a classifier has after the last. Sides need not be multiples of
    anything. Stochastic depth, which the papers train with, is left out.
    """

    def __init__(self, size: SwinSize = SWINS["swin_b"]) -> None:
        super().__init__()
        self.widths = tuple(size.width * 2**i for i in range(4))
        modules: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, size.width, 4, 4), ToPixelsLast(), nn.LayerNorm(size.width, eps=NORM_EPS))
        ]
        for stage, (channels, count, heads) in enumerate(zip(self.widths, size.blocks, size.heads)):
            if stage:
                modules.append(PatchMerging(channels // 2, size.version))
            shifts = [size.window // 2 * (i % 2) for i in range(count)]
            modules.append(nn.Sequential(*(Block(channels, heads, size.window, s, size.version) for s in shifts)))
        self.features = nn.Sequential(*modules)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for number, module in enumerate(self.features):
            x = module(x)
            if number % 2:
                maps.append(x.permute(0, 3, 1, 2))
        return maps


def swin(name: str) -> Swin:
    """A published size by its name, such as swin_b or swin_v2_b; raises UsageError for another name."""
    if name not in SWINS:
        raise UsageError(f"no Swin is called {name!r}; known: {', '.join(SWINS)}")
    return Swin(SWINS[name])


def trunk_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict of Swin, either version, as that of the trunk here."""
    fixed = ("relative_position_index", "relative_coords_table")
    kept = {k: v for k, v in state.items() if k.startswith("features.") and not k.endswith(fixed)}
    renamed = {".attn.relative_position_bias_table": ".attn.position.relative_position_bias_table"}
    renamed[".attn.cpb_mlp."] = ".attn.position.cpb_mlp."
    for theirs, ours in renamed.items():
        kept = {k.replace(theirs, ours): v for k, v in kept.items()}
    return kept
