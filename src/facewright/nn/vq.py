"""The convolutional auto-encoder with a codebook that the taming family shares: trunk, quantiser and key maps.

Architecture: Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021), in the
widths and block counts of a `VQLayout`. Residual blocks, self-attention at chosen sides, down-sampling that pads right
and bottom only, nearest up-sampling. At chosen sides the decoder's attention can take its queries from the encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .attention import SpatialAttention, group_norm
from .inference import converted, sharing_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

M = TypeVar("M", bound=nn.Module)

_COUNT_EPS = 1e-5
_RESTART_SHARE = 0.03


def vq_loss(features: Tensor, codes: Tensor, *, beta: float = 0.25) -> Tensor:
    """mean (sg[codes] − features)² + β · mean (codes − sg[features])², for two tensors of one shape; a scalar.

    Van den Oord et al., "Neural Discrete Representation Learning" (NeurIPS 2017, equation 3). β is on the term that
    moves the codes, as in the published code of the taming family; the paper has it on the other. The value is (1 + β)
    times the mean squared error either way.
    """
    commitment = (codes.detach() - features).square().mean()
    movement = (codes - features.detach()).square().mean()
    return commitment + beta * movement


@dataclass(frozen=True)
class VQLayout:
    """Shape of the auto-encoder.

    size: side the sides below refer to; any multiple of 2^(levels − 1) can be fed.
    width, multipliers: channels of level i are width · multipliers[i]; every level after the first halves the side.
    encoder_blocks, decoder_blocks: residual blocks per level.
    attention_at, cross_at: sides at which an attention follows every residual block; at `cross_at` the decoder's asks
        with the encoder's features, and so does the one in its middle as soon as any side is named.
    heads: of every attention.
    codes, code_dim: size of the codebook; `pointwise` puts a 1×1 convolution on both sides of it.
    swish_out: whether the norm before the last convolution of either half is followed by a swish.
    """

    size: int = 512
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    attention_at: tuple[int, ...] = (16,)
    cross_at: tuple[int, ...] = ()
    heads: int = 1
    codes: int = 1024
    code_dim: int = 256
    pointwise: bool = True
    swish_out: bool = True

    def __post_init__(self) -> None:
        unknown = set(self.attention_at) | set(self.cross_at)
        unknown -= set(self.sides)
        if unknown or self.size % self.stride:
            raise UsageError(f"sides {sorted(unknown)} are not among {self.sides}, the sides of {self.size} px")

    @property
    def stride(self) -> int:
        """Pixels per code."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def sides(self) -> list[int]:
        """Side of every level, finest first."""
        return [self.size >> level for level in range(len(self.multipliers))]

    @property
    def wide_sides(self) -> list[int]:
        """Sides, smallest first, at which a decoder of lower precision computes in float32.

        It costs little there, and a rounding is enlarged by all that follows.
        """
        return [side for side in reversed(self.sides[1:]) if side <= max(self.size // 16, self.sides[-1])]

    @property
    def widths(self) -> list[int]:
        """Channels of every level, finest first."""
        return [self.width * factor for factor in self.multipliers]


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1×1 convolution on x where the width changes."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = group_norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, *, over: bool = False) -> Tensor:
        """With `over`, where no gradient is wanted, the result may take the place of x."""
        change = self.norm2(self.conv1(F.silu(self.norm1(x), inplace=True)))  # holds one map beside x, not two
        change = self.conv2(F.silu(change, inplace=True))
        skip = x if self.shortcut is None else self.shortcut(x)
        if change.dtype != skip.dtype:
            return skip + change  # type: ignore[no-any-return]
        # a sum of its own would cost large pictures as much as the norms
        if over and not torch.is_grad_enabled():
            return skip.add_(change)
        return change.add_(skip)  # type: ignore[no-any-return]


class Downsample(nn.Conv2d):
    """Half the side by a strided 3×3 convolution that reads one pixel beyond the right and the bottom edge."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Conv2d):
    """Twice the side by repetition, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class FoldedUpsample(nn.Module):
    """An `Upsample` for inference: on repeated pixels its 3×3 kernel is one of four 2×2 kernels, by output parity.

    The same function with 4/9 of the multiplications, and without the enlarged map. It computes in its input's type;
    `result` is the type it answers in, None for that of the input.
    """

    def __init__(self, layer: Upsample, result: torch.dtype | None = None) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        even = torch.tensor([[1.0, 0, 0], [0, 1, 1]], device=weight.device)
        odd = torch.tensor([[1.0, 1, 0], [0, 0, 1]], device=weight.device)
        kernels = [
            torch.einsum("oikl,ak,bl->oiab", weight, rows, columns) for rows in (even, odd) for columns in (even, odd)
        ]
        assert layer.bias is not None
        self.weight = nn.Parameter(torch.cat(kernels), requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.result = result

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        shape = (n, len(self.bias), 2 * height, 2 * width)
        kind = self.result or x.dtype
        out = torch.empty(shape, dtype=kind, device=x.device, memory_format=torch.channels_last)
        bias = self.bias.to(x.dtype)
        for index, kernel in enumerate(self.weight.chunk(4)):
            corner = F.conv2d(x, kernel.to(x.dtype), bias, padding=1)
            row, column = divmod(index, 2)
            out[:, :, row::2, column::2] = corner[:, :, row : row + height, column : column + width]
        return out


class WideConv(nn.Module):
    """A convolution for inference that computes in float32, whatever type its weights are kept in."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert layer.bias is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.padding = layer.stride, layer.padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.float(), self.weight.float(), self.bias.float(), self.stride, self.padding)


class Level(nn.Module):
    """The residual blocks of one side, an attention after each where the layout says so, and a change of side."""

    def __init__(
        self, c_in: int, c_out: int, blocks: int, attention: Callable[[int], nn.Module] | None, resample: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(c_out if i else c_in, c_out) for i in range(blocks))
        self.attentions = nn.ModuleList(attention(c_out) for _ in range(blocks) if attention is not None)
        self.resample = resample

    def forward(
        self,
        x: Tensor,
        guide: Tensor | None = None,
        follow: float = 1.0,
        after_first: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Before the change of side. Where no gradient is wanted, x may be overwritten: its caller still holds it."""
        for i, block in enumerate(self.blocks):
            x = block(x, over=True) if isinstance(block, ResBlock) else block(x)
            if len(self.attentions):
                x = self.attentions[i](x, guide, follow)
            if i == 0 and after_first is not None:
                x = after_first(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the smallest side."""

    def __init__(self, channels: int, heads: int, *, cross: bool = False) -> None:
        super().__init__()
        self.first = ResBlock(channels, channels)
        self.attention = SpatialAttention(channels, heads, cross=cross)
        self.second = ResBlock(channels, channels)


class Encoder(nn.Module):
    """Image (N, 3, S, S) to latents (N, code_dim, S/stride, S/stride)."""

    def __init__(self, layout: VQLayout) -> None:
        super().__init__()
        widths = layout.widths
        self.conv_in = nn.Conv2d(3, layout.width, 3, padding=1)
        self.levels = nn.ModuleList()
        for i, (side, width) in enumerate(zip(layout.sides, widths)):
            attention = _attention(layout.heads, cross=False) if side in layout.attention_at else None
            down = Downsample(width) if i < len(widths) - 1 else nn.Identity()
            self.levels.append(Level(widths[max(i - 1, 0)], width, layout.encoder_blocks, attention, down))
        self.middle = Middle(widths[-1], layout.heads)
        self.norm_out = _norm_out(widths[-1], layout)
        self.conv_out = nn.Conv2d(widths[-1], layout.code_dim, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents, and taps: what each level ends with (the last after one more residual block), then the middle."""
        x = self.conv_in(image.to(self.conv_in.weight.dtype))
        taps = []
        for level in self.levels:
            assert isinstance(level, Level)
            tap = level(x)
            taps.append(tap)
            x = level.resample(tap)
        taps[-1] = self.middle.first(x)
        taps.append(self.middle.second(self.middle.attention(taps[-1])))
        return self.conv_out(self.norm_out(taps[-1])), taps


class Decoder(nn.Module):
    """Latents (N, code_dim, S/stride, S/stride) to an image (N, 3, S, S), unbounded.

    `levels` are in the order they are run, smallest side first.
    """

    def __init__(self, layout: VQLayout) -> None:
        super().__init__()
        widths = layout.widths
        self.cross = [side in layout.cross_at for side in layout.sides]
        self.conv_in = nn.Conv2d(layout.code_dim, widths[-1], 3, padding=1)
        self.middle = Middle(widths[-1], layout.heads, cross=any(self.cross))
        self.levels = nn.ModuleList()
        for i in reversed(range(len(widths))):
            wanted = self.cross[i] or layout.sides[i] in layout.attention_at
            attention = _attention(layout.heads, cross=self.cross[i]) if wanted else None
            up = Upsample(widths[i]) if i else nn.Identity()
            c_in = widths[min(i + 1, len(widths) - 1)]
            self.levels.append(Level(c_in, widths[i], layout.decoder_blocks, attention, up))
        self.norm_out = _norm_out(widths[0], layout)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(
        self,
        latents: Tensor,
        taps: Sequence[Tensor] = (),
        follow: float = 1.0,
        after_first: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    ) -> Tensor:
        """`taps` are the encoder's, for layouts with cross-attention; `follow` as `SpatialAttention` takes it.

        `after_first` maps a level's number (0 is the finest) to what is done to its features after the first block.
        """
        after_first = after_first or {}
        x = self.middle.first(self.conv_in(latents))
        x = self.middle.second(self.middle.attention(x, taps[-1] if any(self.cross) else None, follow))
        for i, level in zip(reversed(range(len(self.levels))), self.levels):
            assert isinstance(level, Level)
            x = level(x, taps[i] if self.cross[i] else None, follow, after_first.get(i))
            x = level.resample(x)
        image: Tensor = self.conv_out(self.norm_out(x))
        return image


def _attention(heads: int, *, cross: bool) -> Callable[[int], nn.Module]:
    return lambda channels: SpatialAttention(channels, heads, cross=cross)


def _norm_out(channels: int, layout: VQLayout) -> nn.Sequential:
    return nn.Sequential(group_norm(channels), *([nn.SiLU(inplace=True)] if layout.swish_out else []))


class Quantised(NamedTuple):
    """Chosen codes `features` (N, D, H, W), their numbers `indices` (N, H, W), and the scalar quantisation `loss`."""

    features: Tensor
    indices: Tensor
    loss: Tensor


class VectorQuantiser(nn.Module):
    """Replaces every position of (N, D, H, W) by the nearest of `codes` vectors (squared Euclidean distance).

    Gradients pass straight through to the input. The codebook learns by the second term of `vq_loss`; with `ema` it
    does not, but follows in training mode the running mean (of that decay) of what is mapped to each code, and codes
    that are hardly used start anew at positions of the batch. A codebook without gradients and `ema` is frozen.
    Distances are float32, whatever autocast says.
    """

    full_precision: ClassVar[tuple[str, ...]] = ("codebook",)
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, dim: int, *, beta: float = 0.25, ema: float | None = None) -> None:
        super().__init__()
        self.beta, self.ema = beta, ema
        self.codebook = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes), ema is None)
        if ema is not None:
            self.register_buffer("counts", torch.ones(codes))
            self.register_buffer("sums", self.codebook.detach().clone())

    def forward(self, latents: Tensor) -> Quantised:
        with torch.autocast(latents.device.type, enabled=False):
            z = latents.float().permute(0, 2, 3, 1)
            indices = self.nearest(z.flatten(0, 2)).view(z.shape[:3])
            if self.training and self.ema is not None:
                self._follow(z.detach().flatten(0, 2), indices.flatten(), self.ema)
            codes = self.codebook[indices]
            loss = vq_loss(z, codes, beta=self.beta)
            features = codes.detach() + (z - z.detach())
        return Quantised(features.permute(0, 3, 1, 2).to(latents.dtype), indices, loss)

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Numbers (K,) of the codes nearest to (K, D)."""
        lengths = self.codebook.square().sum(1)
        return torch.addmm(lengths, vectors, self.codebook.T, alpha=-2).argmin(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (N, D, H, W) of the numbers (N, H, W)."""
        return self.codebook[indices].permute(0, 3, 1, 2)

    @torch.no_grad()
    def _follow(self, vectors: Tensor, indices: Tensor, decay: float) -> None:
        chosen = F.one_hot(indices, len(self.codebook)).to(vectors.dtype)
        self.counts.lerp_(chosen.sum(0), 1 - decay)
        self.sums.lerp_(chosen.T @ vectors, 1 - decay)
        idle = self.counts < _RESTART_SHARE * self.counts.mean()
        if idle.any():
            drawn = torch.randint(len(vectors), (int(idle.sum()),), device=vectors.device)
            self.counts[idle] = self.counts.mean()
            self.sums[idle] = vectors[drawn] * self.counts.mean()
        self.codebook.copy_(self.sums / (self.counts[:, None] + _COUNT_EPS))


class VQAutoencoder(nn.Module):
    """Encoder, codebook and decoder of one layout.

    forward: (N, 3, S, S) to the reconstruction, unbounded, and what the quantiser says.
    """

    def __init__(self, layout: VQLayout, *, ema: float | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.encoder = Encoder(layout)
        self.before = nn.Conv2d(layout.code_dim, layout.code_dim, 1) if layout.pointwise else nn.Identity()
        self.quantiser = VectorQuantiser(layout.codes, layout.code_dim, ema=ema)
        self.after = nn.Conv2d(layout.code_dim, layout.code_dim, 1) if layout.pointwise else nn.Identity()
        self.decoder = Decoder(layout)

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents as the quantiser takes them, and the encoder's taps."""
        latents, taps = self.encoder(image)
        return self.before(latents), taps

    def decode(self, features: Tensor, taps: Sequence[Tensor] = (), follow: float = 1.0) -> Tensor:
        """Quantised features to an image."""
        image: Tensor = self.decoder(self.after(features), taps, follow)
        return image

    def forward(self, image: Tensor, follow: float = 1.0) -> tuple[Tensor, Quantised]:
        latents, taps = self.encode(image)
        for i, asked in enumerate(self.decoder.cross):
            taps[i] = taps[i] if asked else taps[i].new_empty(0)  # they are large, and of no more use
        quantised = self.quantiser(latents)
        return self.decode(quantised.features, taps, follow), quantised


def inference_copy(
    network: M,
    dtype: torch.dtype,
    exact: Sequence[str] = (),
    read: Callable[[Tensor], object] = lambda tensor: None,
    wide: Sequence[str] = (),
) -> M:
    """A copy that runs fast: `dtype` weights but for the codebooks, channels last, up-sampling folded.

    In lower precision than float32, the parts named `exact` stay as they are, those named `wide` compute in float32,
    and so do decoders at their layout's `wide_sides`. `read` as in `converted`.
    """
    twin = sharing_copy(network)
    low = dtype != torch.float32
    if low:
        widen(twin, *wide)
    for autoencoder in [part for part in twin.modules() if isinstance(part, VQAutoencoder)] if low else ():
        _widen(autoencoder, dtype)
    for name, part in list(twin.named_modules()):
        if isinstance(part, Upsample):
            twin.set_submodule(name, FoldedUpsample(part))
    for part in [twin.get_submodule(name) for name in exact] if low else ():
        for inner in part.modules():
            inner.full_precision = tuple(inner._parameters)  # type: ignore[assignment]
    return converted(twin, dtype, read)


def _widen(autoencoder: VQAutoencoder, dtype: torch.dtype) -> None:
    """Let the decoder compute in float32 as far as its maps are small."""
    decoder, count = autoencoder.decoder, len(autoencoder.layout.wide_sides)
    if count == 0:
        return
    widen(autoencoder, "after", "decoder.conv_in", "decoder.middle", *(f"decoder.levels.{i}" for i in range(count)))
    last = decoder.levels[count - 1]
    assert isinstance(last, Level)
    assert isinstance(last.resample, Upsample)
    last.resample = FoldedUpsample(last.resample, dtype)


def widen(network: nn.Module, *parts: str) -> None:
    """Let the convolutions and group norms of a network's parts compute in float32; an `Upsample` is passed over."""
    inner = [pair for part in parts for pair in network.get_submodule(part).named_modules(prefix=part)]
    for name, layer in inner:
        if isinstance(layer, nn.GroupNorm):
            layer.full_precision = ("weight", "bias")  # type: ignore[assignment]
        elif type(layer) is nn.Conv2d:
            network.set_submodule(name, WideConv(layer))


# --- published key layouts --------------------------------------------------------------------------------------

_ATTENTION = {"norm": "norm", "norm1": "norm", "norm2": "norm_query", "proj_out": "out"}
_MIDDLE = {"block_1": "first", "attn_1": "attention", "block_2": "second"}


def from_taming(state: Mapping[str, Tensor], layout: VQLayout) -> dict[str, Tensor]:
    """A state dict with the keys of CompVis/taming-transformers and its many heirs as that of `VQAutoencoder`.

    The query norms that published self-attention carries without using them are dropped. Keys that are not of this
    layout keep their name.
    """
    last = len(layout.multipliers) - 1
    return {name: value for key, value in state.items() if (name := _taming_name(key, last, layout)) is not None}


def _taming_name(key: str, last: int, layout: VQLayout) -> str | None:
    if key == "quantize.embedding.weight":
        return "quantiser.codebook"
    if match := re.fullmatch(r"(post_)?quant_conv\.(\w+)", key):
        return f"{'after' if match[1] else 'before'}.{match[2]}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)\.(.+)", key):
        part, cross = _MIDDLE[match[2]], match[1] == "decoder" and bool(layout.cross_at)
        rest = _attention_name(match[3], cross=cross) if part == "attention" else _block_name(match[3])
        return None if rest is None else f"{match[1]}.middle.{part}.{rest}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|attn)\.(\d+)\.(.+)", key):
        level = int(match[2])
        decoder = match[1] == "decoder.up"
        cross = decoder and level <= last and layout.sides[level] in layout.cross_at
        rest = _attention_name(match[5], cross=cross) if match[3] == "attn" else _block_name(match[5])
        head = f"decoder.levels.{last - level}" if decoder else f"encoder.levels.{level}"
        kind = "attentions" if match[3] == "attn" else "blocks"
        return None if rest is None else f"{head}.{kind}.{match[4]}.{rest}"
    if match := re.fullmatch(r"(encoder|decoder)\.norm_out\.(\w+)", key):
        return f"{match[1]}.norm_out.0.{match[2]}"
    if match := re.fullmatch(r"encoder\.down\.(\d+)\.downsample\.conv\.(\w+)", key):
        return f"encoder.levels.{match[1]}.resample.{match[2]}"
    if match := re.fullmatch(r"decoder\.up\.(\d+)\.upsample\.conv\.(\w+)", key):
        return f"decoder.levels.{last - int(match[1])}.resample.{match[2]}"
    return key


def _block_name(rest: str) -> str:
    return rest.replace("nin_shortcut.", "shortcut.").replace("conv_out.", "shortcut.")


def _attention_name(rest: str, *, cross: bool) -> str | None:
    part, _, tensor = rest.partition(".")
    if part == "norm2" and not cross:
        return None
    return f"{_ATTENTION.get(part, part)}.{tensor}"


def from_flat(state: Mapping[str, Tensor], layout: VQLayout) -> dict[str, Tensor]:
    """A state dict whose encoder and generator are one numbered list of blocks as that of `VQAutoencoder`.

    Keys that are not of this layout keep their name.
    """
    names = {f"encoder.blocks.{i}": name for i, name in enumerate(_encoder_order(layout))}
    names |= {f"generator.blocks.{i}": name for i, name in enumerate(_decoder_order(layout))}
    return {_flat_name(key, names): value for key, value in state.items()}


def _flat_name(key: str, names: Mapping[str, str]) -> str:
    if key == "quantize.embedding.weight":
        return "quantiser.codebook"
    match = re.fullmatch(r"((?:encoder|generator)\.blocks\.\d+)\.(.+)", key)
    if match is None or match[1] not in names:
        return key
    name, rest = names[match[1]], match[2]
    if ".attention" in name:
        return f"{name}.{_attention_name(rest, cross=False)}"
    return f"{name}.{rest.removeprefix('conv.') if name.endswith('resample') else _block_name(rest)}"


def _encoder_order(layout: VQLayout) -> Iterator[str]:
    yield "encoder.conv_in"
    for level, side in enumerate(layout.sides):
        yield from _level_order(f"encoder.levels.{level}", layout.encoder_blocks, side in layout.attention_at)
        if level < len(layout.sides) - 1:
            yield f"encoder.levels.{level}.resample"
    yield from (f"encoder.middle.{part}" for part in _MIDDLE.values())
    yield from ("encoder.norm_out.0", "encoder.conv_out")


def _decoder_order(layout: VQLayout) -> Iterator[str]:
    yield "decoder.conv_in"
    yield from (f"decoder.middle.{part}" for part in _MIDDLE.values())
    for number, side in enumerate(reversed(layout.sides)):
        yield from _level_order(f"decoder.levels.{number}", layout.decoder_blocks, side in layout.attention_at)
        if number < len(layout.sides) - 1:
            yield f"decoder.levels.{number}.resample"
    yield from ("decoder.norm_out.0", "decoder.conv_out")


def _level_order(level: str, blocks: int, attended: bool) -> Iterator[str]:
    for i in range(blocks):
        yield f"{level}.blocks.{i}"
        if attended:
            yield f"{level}.attentions.{i}"
