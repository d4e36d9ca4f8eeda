"""The U-Net of diffusion models that works on maps and time alone ("ADM"), its attention open to what others remember.

Architecture: Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis" (NeurIPS 2021), in the form that latent
diffusion (Rombach et al., CVPR 2022) publishes: residual blocks that add the time, self-attention at chosen scales with
heads of a fixed width, strided and nearest re-sampling. Parameters have the published names.

How a self-attention answers is an object handed to `forward`, an `AttentionProcessor`: it may remember keys and values
(`Recording`) or let the queries see those of another pass (`Cached`). Nothing is kept in the network, so that calls do
not disturb each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GROUPS = 32
_MAX_PERIOD = 10_000
# published training starts branches at zero; so small a start does the same and lets gradients pass
_QUIET = 1e-3


# --- attention processors


class KeysValues(NamedTuple):
    """What a self-attention layer saw: `keys` and `values` (N, heads, tokens, d)."""

    keys: Tensor
    values: Tensor


class AttentionProcessor(Protocol):
    """How the self-attention number `layer`, in the order of the forward pass, answers queries (N, heads, T, d)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def plain(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v."""
    return F.scaled_dot_product_attention(q, k, v)


class Recording:
    """Plain attention that keeps the keys and values of every layer in `layers`."""

    def __init__(self) -> None:
        self.layers: list[KeysValues] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.layers.append(KeysValues(k, v))
        return plain(layer, q, k, v)


class Cached:
    """Attention whose queries also see the `layers` of another pass: its tokens stand behind the network's own."""

    def __init__(self, layers: Sequence[KeysValues]) -> None:
        self.layers = layers

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        more = self.layers[layer]
        return plain(layer, q, torch.cat([k, more.keys], 2), torch.cat([v, more.values], 2))


# --- the network


@dataclass(frozen=True)
class ADMLayout:
    """Shape of the network.

    c_in, c_out: channels of input and output. width, multipliers: channels of level i are width · multipliers[i]; each
    level after the first halves the side. blocks: residual blocks a level. attention_at: levels (0 the finest) with a
    self-attention after every block. head_width: channels of a head.
    """

    c_in: int
    c_out: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_at: tuple[int, ...]
    head_width: int

    def __post_init__(self) -> None:
        widths = [self.width * factor for factor in self.multipliers]
        if self.width % 2 or any(w % GROUPS or w % self.head_width for w in widths):
            raise UsageError(f"widths {widths} must be multiples of {GROUPS} and of the heads' {self.head_width}")


class UNetLayout(Protocol):
    """What the shapes of both families say; see `ADMLayout`."""

    @property
    def c_in(self) -> int: ...
    @property
    def c_out(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def multipliers(self) -> tuple[int, ...]: ...
    @property
    def blocks(self) -> int: ...
    @property
    def attention_at(self) -> tuple[int, ...]: ...


class LatentEncoder(nn.Module):
    """The downward half of U-Nets that take maps and times: residual blocks, re-sampling, and a middle.

    `attention` makes the module that stands after the blocks of some levels, for so many channels; `block` a residual
    block, for channels in, channels out and those of the embedded time.
    """

    def __init__(
        self,
        layout: UNetLayout,
        attention: Callable[[int], nn.Module],
        block: Callable[[int, int, int], TimeResBlock] | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        width, time = layout.width, 4 * layout.width
        self.time_embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(layout.c_in, width, 3, padding=1)])])
        self.taps, channels = [width], width
        for level, wide in enumerate(self.widths):
            for _ in range(layout.blocks):
                self.input_blocks.append(_stage(layout, channels, wide, level, attention, block))
                channels = wide
                self.taps.append(channels)
            if level < len(self.widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                self.taps.append(channels)
        first, second = ((block or TimeResBlock)(channels, channels, time) for _ in range(2))
        self.middle_block = nn.ModuleList([first, attention(channels), second])

    @property
    def widths(self) -> list[int]:
        """Channels of every level, finest first."""
        return [self.layout.width * factor for factor in self.layout.multipliers]

    def _check(self, x: Tensor) -> None:
        step = 2 ** (len(self.layout.multipliers) - 1)
        if x.dim() != 4 or x.shape[1] != self.layout.c_in or x.shape[2] % step or x.shape[3] % step:
            raise UsageError(
                f"this U-Net takes maps (N, {self.layout.c_in}, H, W) with sides a multiple of {step}, "
                f"not {tuple(x.shape)}"
            )

    def _down(self, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
        """The maps after every stage, the middle's last; `run` runs a stage."""
        found = []
        for stage in self.input_blocks:
            x = run(stage, x)
            found.append(x)
        return [*found, run(self.middle_block, x)]


class LatentUNet(LatentEncoder):
    """The frame of U-Nets that take maps and times: a `LatentEncoder`, and the way up with skips."""

    def __init__(
        self,
        layout: UNetLayout,
        attention: Callable[[int], nn.Module],
        block: Callable[[int, int, int], TimeResBlock] | None = None,
    ) -> None:
        super().__init__(layout, attention, block)
        taps, channels = list(self.taps), self.widths[-1]
        self.output_blocks = nn.ModuleList()
        for level, wide in reversed(list(enumerate(self.widths))):
            for number in range(layout.blocks + 1):
                stage = _stage(layout, channels + taps.pop(), wide, level, attention, block)
                channels = wide
                if level and number == layout.blocks:
                    stage.append(Upsample(channels))
                self.output_blocks.append(stage)
        last = nn.Conv2d(layout.width, layout.c_out, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, layout.width), nn.SiLU(), quiet(last))

    def _through(
        self,
        x: Tensor,
        time: Tensor,
        attend: Callable[[nn.Module, Tensor], Tensor],
        residual: Callable[[TimeResBlock, Tensor, Tensor], Tensor] | None = None,
        more: Tensor | None = None,
    ) -> Tensor:
        """Maps (N, c_in, H, W) and times (N,) to (N, c_out, H, W).

        `attend` asks the attentions, in their order; `residual` asks residual blocks with a map and the embedded time,
        where they want more than these. `more` (N, 4 · width) is added to the embedded time.
        """
        self._check(x)
        embedded = self.time_embed(sinusoid(time, self.layout.width).to(x.dtype))
        if more is not None:
            embedded = embedded + more
        run = _runner(embedded, attend, residual)
        *taps, x = self._down(x, run)
        for stage in self.output_blocks:
            x = run(stage, torch.cat([x, taps.pop()], 1))
        out: Tensor = self.out(x)
        return out


def _stage(
    layout: UNetLayout,
    c_in: int,
    c_out: int,
    level: int,
    attention: Callable[[int], nn.Module],
    block: Callable[[int, int, int], TimeResBlock] | None,
) -> nn.ModuleList:
    """A residual block, and the attention after it where the level has one."""
    after = [attention(c_out)] if level in layout.attention_at else []
    return nn.ModuleList([(block or TimeResBlock)(c_in, c_out, 4 * layout.width), *after])


def _runner(
    embedded: Tensor,
    attend: Callable[[nn.Module, Tensor], Tensor],
    residual: Callable[[TimeResBlock, Tensor, Tensor], Tensor] | None = None,
) -> Callable[[nn.Module, Tensor], Tensor]:
    """What runs a stage of a U-Net at one embedded time."""

    def run(stage: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(stage, nn.ModuleList)
        for module in stage:
            if isinstance(module, TimeResBlock):
                x = module(x, embedded) if residual is None else residual(module, x, embedded)
            elif isinstance(module, nn.Conv2d | Downsample | Upsample):
                x = module(x)
            else:
                x = attend(module, x)
        return x

    return run


class ADMUNet(LatentUNet):
    """forward: maps (N, c_in, H, W), sides a multiple of 2^(levels − 1), and times (N,), whole or not, to (N, c_out,
    H, W). `processor` answers the self-attentions."""

    def __init__(self, layout: ADMLayout) -> None:
        super().__init__(layout, lambda width: SelfAttention(width, layout.head_width))

    def forward(self, x: Tensor, time: Tensor, processor: AttentionProcessor = plain) -> Tensor:
        layers = count()
        return self._through(x, time, lambda module, x: module(x, next(layers), processor))


class ADMEncoder(LatentEncoder):
    """forward: maps (N, c_in, H, W) and times (N,) to the last map of every level, finest first, the middle's at last.

    `heads` of every self-attention.
    """

    def __init__(self, layout: UNetLayout, heads: int) -> None:
        super().__init__(layout, lambda width: SelfAttention(width, width // heads))

    def forward(self, x: Tensor, time: Tensor) -> list[Tensor]:
        return self.levels(x, self.embedded(x, time))

    def embedded(self, x: Tensor, time: Tensor) -> Tensor:
        """Times (N,) as (N, 4 · width)."""
        found: Tensor = self.time_embed(sinusoid(time, self.layout.width).to(x.dtype))
        return found

    def levels(self, x: Tensor, embedded: Tensor) -> list[Tensor]:
        """As `forward`, at times that are embedded already."""
        self._check(x)
        maps = self._down(x, _runner(embedded, lambda module, x: module(x, 0, plain)))
        # a level ends before the next one halves its side
        ends = [a for a, b in zip(maps, maps[1:]) if a.shape[3] != b.shape[3]]
        return [*ends, maps[-1]]


class TimeResBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x))) + linear(SiLU(time)))))."""

    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, c_out))
        last = quiet(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, c_out), nn.SiLU(), nn.Identity(), last)  # no dropout
        self.skip_connection = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[..., None, None]
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out


class SelfAttention(nn.Module):
    """x + projection(attention) over the positions of a map.

    Queries, keys and values of one head lie together in `qkv`: the published ("legacy") order.
    """

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        quiet(self.proj_out)

    def forward(self, x: Tensor, layer: int, processor: AttentionProcessor) -> Tensor:
        tokens = x.flatten(2)
        split = self.qkv(self.norm(tokens)).unflatten(1, (self.heads, 3, -1)).transpose(3, 4)
        answer = processor(layer, *split.unbind(2))
        mixed: Tensor = self.proj_out(answer.transpose(2, 3).flatten(1, 2))
        return (tokens + mixed).view_as(x)


class Downsample(nn.Module):
    """Half the side by a strided 3×3 convolution, padded on all sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Twice the side by repetition, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def sinusoid(time: Tensor, width: int) -> Tensor:
    """Times (N,) as (N, width): cosines, then sines, of frequencies from 1 down to nearly 1/10,000."""
    half = width // 2
    frequencies = torch.exp(-math.log(_MAX_PERIOD) * torch.arange(half, device=time.device) / half)
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def quiet(layer: nn.Conv2d | nn.Conv1d) -> nn.Module:
    """The layer, so silent at the start that it changes nothing but lets gradients pass."""
    with torch.no_grad():
        layer.weight.mul_(_QUIET)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
