"""The networks of latent diffusion for films ("Stable Video Diffusion"): those for pictures, with layers over time.

Blattmann et al., "Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets" (2023). Every
residual block and every transformer of Stable Diffusion's U-Net is followed by one that works along time at every
place, and a learnt number mixes both. The auto-encoder's decoder has such blocks too, so that films do not flicker.

Films are (N, T, C, H, W); inside, frames are in a row, (N · T, C, H, W). What belongs to pictures has the names of
`nn.sd`; `nn.sd.from_diffusers` and `from_diffusers_decoder` map published keys.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .adm import GROUPS, LatentUNet, TimeResBlock, sinusoid
from .kl import from_diffusers_kl
from .sd import Condition, SDLayout, SpatialTransformer, TextAttention, Transformer, _FeedForward
from .vq import Decoder, Encoder, Middle, ResBlock, VQLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

FLAG_WIDTH = 256
_CROSS_EPS = 1e-6


def films_of(rows: Tensor, frames: int) -> Tensor:
    """Frames in a row (N · T, …) as films (N, T, …)."""
    return rows.reshape(-1, frames, *rows.shape[1:])


class Mixer(nn.Module):
    """σ(m) · pictures + (1 − σ(m)) · film, m learnt; `turned` the other way round."""

    def __init__(self, start: float, *, turned: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([start]))
        self.turned = turned

    def forward(self, pictures: Tensor, film: Tensor) -> Tensor:
        share = torch.sigmoid(self.mix_factor).to(pictures.dtype)
        return torch.lerp(pictures, film, share) if self.turned else torch.lerp(film, pictures, share)


class TemporalResBlock(nn.Module):
    """A residual block along time: (N · T, C, H, W), frames in a row, to the same; `time` 0 for none embedded."""

    def __init__(self, channels: int, time: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(GROUPS, channels, eps=eps) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)) for _ in range(2))
        self.time_emb_proj = nn.Linear(time, channels) if time else None

    def forward(self, x: Tensor, frames: int, embedded: Tensor | None = None) -> Tensor:
        film = films_of(x, frames).transpose(1, 2)
        h = self.conv1(F.silu(self.norm1(film)))
        if self.time_emb_proj is not None:
            assert embedded is not None
            shift = films_of(self.time_emb_proj(F.silu(embedded)), frames).transpose(1, 2)
            h = h + shift[..., None, None]
        out: Tensor = film + self.conv2(F.silu(self.norm2(h)))
        return out.transpose(1, 2).flatten(0, 1)


class FilmBlock(TimeResBlock):
    """A residual block of pictures, and one along time behind it."""

    def __init__(self, c_in: int, c_out: int, time: int) -> None:
        super().__init__(c_in, c_out, time)
        self.temporal = TemporalResBlock(c_out, time)
        self.time_mixer = Mixer(0.5)

    def film(self, x: Tensor, embedded: Tensor, frames: int) -> Tensor:
        """Frames in a row (N · T, C, H, W), with the time of each."""
        pictures = self(x, embedded)
        mixed: Tensor = self.time_mixer(pictures, self.temporal(pictures, frames, embedded))
        return mixed


class TemporalTransformer(Transformer):
    """Along time at every place: rows (N · P, T, C), with one set of tokens (N, S, D) for all places of a film."""

    def __init__(self, width: int, tokens: int, heads: int) -> None:
        super().__init__(width, tokens, heads, TextAttention)
        self.norm_in, self.ff_in = nn.LayerNorm(width), _FeedForward(width)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        rows, frames = x.shape[:2]
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        # the tokens are the same at every place, so that all places can ask them at once
        together = x.reshape(len(condition.text), -1, x.shape[2])
        x = x + self.attn2(self.norm2(together), condition).reshape(rows, frames, -1)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class FilmTransformer(SpatialTransformer):
    """x + transformers over the positions of every frame and over the frames of every position."""

    def __init__(self, width: int, layout: SDLayout) -> None:
        super().__init__(width, layout.heads_of(width), layout, TextAttention)
        if not layout.linear:
            raise UsageError("the transformers of films have linear layers at both ends")
        heads = layout.heads_of(width)
        self.temporal_transformer_blocks = nn.ModuleList([TemporalTransformer(width, layout.tokens, heads)])
        self.time_pos_embed = nn.ModuleDict(
            {"linear_1": nn.Linear(width, 4 * width), "linear_2": nn.Linear(4 * width, width)}
        )
        self.time_mixer = Mixer(0.5)

    def film(self, x: Tensor, tokens: Tensor, frames: int) -> Tensor:
        """Frames in a row (N · T, C, H, W) and their tokens (N · T, S, D); the film has those of its first frame."""
        given, (height, width) = x, x.shape[2:]
        x = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        numbers = sinusoid(torch.arange(frames, device=x.device), x.shape[2]).to(x.dtype)
        place = self.time_pos_embed["linear_2"](F.silu(self.time_pos_embed["linear_1"](numbers)))
        first = Condition(films_of(tokens, frames)[:, 0])
        for block, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks):
            x = block(x, Condition(tokens))
            film = (films_of(x, frames) + place[:, None]).transpose(1, 2)
            film = films_of(temporal(film.flatten(0, 1), first), height * width)
            x = self.time_mixer(x, film.transpose(1, 2).flatten(0, 1))
        change: Tensor = self.proj_out(x).transpose(1, 2).reshape(-1, given.shape[1], height, width)
        return given + change


class FilmNoise(NamedTuple):
    """What a network for films answers (N, T, c_out, H, W), and the maps of its middle (N, T, C, h, w)."""

    answer: Tensor
    middle: Tensor


class SVDUNet(LatentUNet):
    """forward: films (N, T, c_in, H, W), times (N,), tokens (N, T, S, D) and `flags` numbers (N, flags) to `FilmNoise`.

    Flags are embedded like times and added to the embedded time: here rates and motion, elsewhere tasks.
    """

    def __init__(self, layout: SDLayout, flags: int = 3) -> None:
        super().__init__(layout, lambda width: FilmTransformer(width, layout), FilmBlock)
        self.flags, time = flags, 4 * layout.width
        self.add_embed = nn.Sequential(nn.Linear(flags * FLAG_WIDTH, time), nn.SiLU(), nn.Linear(time, time))
        self._published_eps()

    def _published_eps(self) -> None:
        """Of the norms of residual blocks, where it is not 1e-5: on the way down beside transformers, and up."""
        down = [stage for stage in self.input_blocks if any(isinstance(m, FilmTransformer) for m in stage.children())]
        for stage in [*down, *self.output_blocks]:
            for block in stage.children():
                if isinstance(block, FilmBlock):
                    for module in block.modules():
                        if isinstance(module, nn.GroupNorm):
                            module.eps = _CROSS_EPS

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor, flags: Tensor) -> FilmNoise:
        frames = x.shape[1]
        if flags.shape != (len(x), self.flags) or tokens.shape[:2] != x.shape[:2]:
            raise UsageError(f"{len(x)} films of {frames} frames need tokens of each and {self.flags} flags a film")
        embedded = self.add_embed(sinusoid(flags.flatten(), FLAG_WIDTH).to(x.dtype).view(len(x), -1))
        context, last, middle = tokens.flatten(0, 1), self.middle_block[2], []

        def residual(block: TimeResBlock, x: Tensor, time: Tensor) -> Tensor:
            assert isinstance(block, FilmBlock)
            found = block.film(x, time, frames)
            if block is last:
                middle.append(found)
            return found

        def attend(module: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(module, FilmTransformer)
            return module.film(x, context, frames)

        more, times = (value.repeat_interleave(frames, 0) for value in (embedded, time))
        answer = self._through(x.flatten(0, 1), times, attend, residual, more)
        return FilmNoise(films_of(answer, frames), films_of(middle[0], frames))


# --- the auto-encoder


class FilmResBlock(ResBlock):
    """A residual block of the decoder, and one along time behind it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out)
        self.temporal = TemporalResBlock(c_out, 0)
        self.time_mixer = Mixer(0.0, turned=True)

    def film(self, x: Tensor, frames: int) -> Tensor:
        """Frames in a row (N · T, C, H, W)."""
        pictures = self(x)
        mixed: Tensor = self.time_mixer(pictures, self.temporal(pictures, frames))
        return mixed


class FilmDecoder(Decoder):
    """Latents of frames in a row (N · T, D, h, w) to pictures (N · T, 3, H, W), smoothed along time at the end."""

    def __init__(self, layout: VQLayout) -> None:
        super().__init__(layout)
        for module in [self.middle, *self.levels]:
            blocks = module if isinstance(module, Middle) else module.blocks
            for name, block in blocks.named_children():
                if isinstance(block, ResBlock):
                    blocks.add_module(name, FilmResBlock(block.conv1.in_channels, block.conv1.out_channels))
        self.time_conv_out = nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))

    def film(self, latents: Tensor, frames: int) -> Tensor:
        x = self.middle.first.film(self.conv_in(latents), frames)  # type: ignore[operator]
        x = self.middle.second.film(self.middle.attention(x), frames)  # type: ignore[operator]
        for level in self.levels:
            for block in level.blocks:  # type: ignore[union-attr]
                x = block.film(x, frames)
            x = level.resample(x)  # type: ignore[operator]
        pictures = films_of(self.conv_out(self.norm_out(x)), frames).transpose(1, 2)
        smooth: Tensor = self.time_conv_out(pictures).transpose(1, 2).flatten(0, 1)
        return smooth


class FilmAutoencoder(nn.Module):
    """That of Stable Diffusion with a decoder for films. Its latents are unscaled."""

    def __init__(self, layout: VQLayout) -> None:
        super().__init__()
        self.layout = layout
        wide = 2 * layout.code_dim
        self.encoder = Encoder(replace(layout, code_dim=wide))
        self.before = nn.Conv2d(wide, wide, 1)
        self.decoder = FilmDecoder(layout)

    def encode(self, image: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) RGB in [−1, 1] to the means of their latents (N, D, S/8, S/8)."""
        means: Tensor = self.before(self.encoder(image)[0]).chunk(2, 1)[0]
        return means

    def decode(self, latents: Tensor, frames: int) -> Tensor:
        """Latents (N · T, D, h, w) of films of so many frames to pictures, unbounded."""
        return self.decoder.film(latents, frames)

    def forward(self, film: Tensor) -> Tensor:
        """Films (N, T, 3, S, S) to their reconstructions."""
        frames = film.shape[1]
        return films_of(self.decode(self.encode(film.flatten(0, 1)), frames), frames)


def from_diffusers_decoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers' AutoencoderKLTemporalDecoder as that of `FilmAutoencoder`."""
    plain = {key.replace(".spatial_res_block.", "."): value for key, value in state.items()}
    return {
        re.sub(r"\.temporal_res_block\.", ".temporal.", key): value for key, value in from_diffusers_kl(plain).items()
    }
