"""The U-Net of latent diffusion with words ("Stable Diffusion"): maps and time, and tokens that its attention asks.

Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022).
Residual blocks and re-sampling are those of `nn.adm`; after them stand transformers of self-attention, attention to
tokens, and a gated feed-forward layer. Parameters have the names of the published LDM checkpoints; `from_diffusers`
maps those of the diffusers library.

What a call brings along is a `Condition`, handed through to every layer: nothing is kept in the network, so that calls
do not disturb each other. How attention works is a class that the U-Net is built with. To tokens: `TextAttention`,
`JointAttention`, whose softmax also holds tokens of pictures (PVA), or `SeparateAttention`, which adds what they answer
under a softmax of their own (IP-Adapter).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .adm import GROUPS, LatentUNet, TimeResBlock

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What one call asks the tokens for.

    text: (N, T, C). picture: (N, P, C), tokens of pictures, for attention that takes them; None for none. strength: of
    what pictures answer, one number or (N,), where they answer apart from the text.
    """

    text: Tensor
    picture: Tensor | None = None
    strength: float | Tensor = 1.0


@dataclass(frozen=True)
class SDLayout:
    """Shape of the network.

    c_in, c_out: channels of input and output. width, multipliers, blocks: as in `nn.adm.ADMLayout`. attention_at:
    levels (0 the finest) with a transformer after every block. heads: of every attention, or head_width, the channels
    of a head; one of them is 0. tokens: channels of the tokens. linear: whether the layers into and out of a
    transformer are linear ones (SD 2) instead of 1×1 convolutions (SD 1).
    """

    c_in: int = 4
    c_out: int = 4
    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attention_at: tuple[int, ...] = (0, 1, 2)
    heads: int = 8
    head_width: int = 0
    tokens: int = 768
    linear: bool = False

    def __post_init__(self) -> None:
        if bool(self.heads) == bool(self.head_width):
            raise UsageError("give the number of heads or the channels of one, not both")
        widths = [self.width * factor for factor in self.multipliers]
        if any(w % GROUPS or w % (self.heads or self.head_width) for w in widths):
            raise UsageError(f"widths {widths} must be multiples of {GROUPS} and divide into heads")

    @classmethod
    def sd1(cls, c_in: int = 4) -> SDLayout:
        """Stable Diffusion 1: 859.5 M parameters; `c_in` 9 for inpainting."""
        return cls(c_in)

    @classmethod
    def sd2(cls, c_in: int = 4) -> SDLayout:
        """Stable Diffusion 2: 865.9 M parameters; `c_in` 9 for inpainting."""
        return cls(c_in, heads=0, head_width=64, tokens=1024, linear=True)

    def heads_of(self, width: int) -> int:
        """Heads of an attention over so many channels."""
        return self.heads or width // self.head_width


class LowRankLinear(nn.Linear):
    """W x + b + up(down(x)) with a product of low rank, which begins as nothing (LoRA, Hu et al., ICLR 2022)."""

    def __init__(self, c_in: int, c_out: int, *, bias: bool = True, rank: int) -> None:
        super().__init__(c_in, c_out, bias)
        self.down, self.up = nn.Linear(c_in, rank, bias=False), nn.Linear(rank, c_out, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) + self.up(self.down(x))
        return out


def _linear(c_in: int, c_out: int, rank: int, *, bias: bool = False) -> nn.Linear:
    return LowRankLinear(c_in, c_out, bias=bias, rank=rank) if rank else nn.Linear(c_in, c_out, bias)


class Attention(nn.Module):
    """Multi-head attention of x (N, T, C) to tokens (N, S, D); without tokens to itself.

    `rank` of a `LowRankLinear` in place of every linear layer; 0 for plain ones.
    """

    def __init__(self, width: int, tokens: int, heads: int, rank: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = _linear(width, width, rank)
        self.to_k = _linear(tokens, width, rank)
        self.to_v = _linear(tokens, width, rank)
        self.to_out = nn.ModuleList([_linear(width, width, rank, bias=True)])

    def forward(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self.projected(self.ask(self.to_q(x), self.to_k(x), self.to_v(x)))

    def split(self, x: Tensor) -> Tensor:
        """(N, T, C) to (N, heads, T, C/heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def ask(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ / √d) v, heads together again: (N, T, C)."""
        found = F.scaled_dot_product_attention(self.split(q), self.split(k), self.split(v))
        return found.transpose(1, 2).flatten(2)

    def projected(self, x: Tensor) -> Tensor:
        out: Tensor = self.to_out[0](x)
        return out


class TextAttention(Attention):
    """Attention to the tokens of a text."""

    def forward(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        assert condition is not None
        text = condition.text
        return self.projected(self.ask(self.to_q(x), self.to_k(text), self.to_v(text)))


class JointAttention(TextAttention):
    """Parallel visual attention (PVA): tokens of pictures, projected apart, under one softmax with the text.

    Xu et al., "Personalized Face Inpainting with Diffusion Models by Parallel Visual Attention" (WACV 2024). Scores are
    q kᵀ of the text and q' k'ᵀ of the pictures side by side, values likewise. Without pictures it is a `TextAttention`.
    """

    def __init__(self, width: int, tokens: int, heads: int) -> None:
        super().__init__(width, tokens, heads)
        self.to_visual_q = nn.Linear(width, width, bias=False)
        self.to_visual_k = nn.Linear(tokens, width, bias=False)
        self.to_visual_v = nn.Linear(tokens, width, bias=False)
        self.copy_text()

    @torch.no_grad()
    def copy_text(self) -> None:
        """Start from the text's projections: with drawn ones the pictures would take all of the softmax, or nothing."""
        for name in "qkv":
            getattr(self, f"to_visual_{name}").weight.copy_(getattr(self, f"to_{name}").weight)

    def forward(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        assert condition is not None
        if condition.picture is None:
            return super().forward(x, condition)
        text, picture = condition.text, condition.picture
        q, visual_q = self.split(self.to_q(x)), self.split(self.to_visual_q(x))
        k, visual_k = self.split(self.to_k(text)), self.split(self.to_visual_k(picture))
        v, visual_v = self.split(self.to_v(text)), self.split(self.to_visual_v(picture))
        scores = torch.cat([q @ k.transpose(2, 3), visual_q @ visual_k.transpose(2, 3)], 3) * q.shape[-1] ** -0.5
        found = scores.softmax(3) @ torch.cat([v, visual_v], 2)
        return self.projected(found.transpose(1, 2).flatten(2))


class SeparateAttention(TextAttention):
    """Tokens of pictures beside the text, asked by the same queries under a softmax of their own (IP-Adapter).

    Ye, Zhang, Liu, Han, Yang, "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models"
    (2023). What pictures answer is multiplied by the condition's strength and added. Without pictures it is a
    `TextAttention`.
    """

    def __init__(self, width: int, tokens: int, heads: int, rank: int = 0) -> None:
        super().__init__(width, tokens, heads, rank)
        self.to_k_ip = nn.Linear(tokens, width, bias=False)
        self.to_v_ip = nn.Linear(tokens, width, bias=False)

    def forward(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        assert condition is not None
        if condition.picture is None:
            return super().forward(x, condition)
        text, picture, q = condition.text, condition.picture, self.to_q(x)
        strength = condition.strength
        if isinstance(strength, Tensor):
            strength = strength.to(q).view(-1, 1, 1)
        found = self.ask(q, self.to_k(text), self.to_v(text))
        return self.projected(found + strength * self.ask(q, self.to_k_ip(picture), self.to_v_ip(picture)))


MakeAttention = Callable[[int, int, int], Attention]
"""Makes an attention for channels, those of tokens, and heads."""


class Transformer(nn.Module):
    """Self-attention, attention to tokens and a gated feed-forward layer, each behind a norm and around a skip."""

    def __init__(
        self, width: int, tokens: int, heads: int, asking: MakeAttention, itself: MakeAttention = Attention
    ) -> None:
        super().__init__()
        self.attn1 = itself(width, width, heads)
        self.attn2 = asking(width, tokens, heads)
        self.ff = _FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), condition)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class _FeedForward(nn.Module):
    """Linear(a · GELU(b)), a and b linear in x (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Gate(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x))
        return out


class _Gate(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(c_in, 2 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.proj(x).chunk(2, -1)
        gated: Tensor = values * F.gelu(gates)
        return gated


class SpatialTransformer(nn.Module):
    """x + a transformer over the positions of a map."""

    def __init__(
        self, width: int, heads: int, layout: SDLayout, asking: MakeAttention, itself: MakeAttention = Attention
    ) -> None:
        super().__init__()
        self.linear = layout.linear
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([Transformer(width, layout.tokens, heads, asking, itself)])
        self.proj_out = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        given, height = x, x.shape[2]
        x = self.norm(x)
        x = self.proj_in(x.flatten(2).transpose(1, 2)) if self.linear else self.proj_in(x).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            x = block(x, condition)
        if self.linear:
            x = self.proj_out(x)
        x = x.transpose(1, 2).reshape(len(x), -1, height, given.shape[3])
        return given + (x if self.linear else self.proj_out(x))


class SDUNet(LatentUNet):
    """forward: maps (N, c_in, H, W), sides a multiple of 2^(levels − 1), times (N,) and a `Condition` to (N, c_out, H,
    W). `asking` makes its attention to tokens, `itself` that to itself, `block` its residual blocks."""

    def __init__(
        self,
        layout: SDLayout,
        asking: MakeAttention = TextAttention,
        itself: MakeAttention = Attention,
        block: Callable[[int, int, int], TimeResBlock] = TimeResBlock,
    ) -> None:
        def attention(width: int) -> SpatialTransformer:
            return SpatialTransformer(width, layout.heads_of(width), layout, asking, itself)

        super().__init__(layout, attention, block)

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self._through(x, time, lambda module, x: module(x, condition))


# --- published key layouts

_RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "add_embed.0",
    "add_embedding.linear_2": "add_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def from_diffusers(state: Mapping[str, Tensor], layout: SDLayout) -> dict[str, Tensor]:
    """A state dict of diffusers' UNet2DConditionModel as that of `SDUNet`; other keys keep their names.

    Also one of its UNetSpatioTemporalConditionModel as that of `nn.svd.SVDUNet`.
    """
    return {_ldm_name(key, layout): value for key, value in state.items()}


def _ldm_name(key: str, layout: SDLayout) -> str:
    a_level = layout.blocks + 1
    for theirs, own in _ENDS.items():
        if key.startswith(f"{theirs}."):
            return own + key.removeprefix(theirs)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", key):
        number = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{number}.{_inner(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", key)
    if match:
        down = match[1] == "down"
        stage = int(match[2]) * a_level + int(match[4]) + down
        part = 1 if match[3] == "attentions" else 0
        return f"{'input' if down else 'output'}_blocks.{stage}.{part}.{_inner(match[3], match[5])}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", key):
        return f"input_blocks.{(int(match[1]) + 1) * a_level}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", key):
        level = len(layout.multipliers) - 1 - int(match[1])
        part = 2 if level in layout.attention_at else 1
        return f"output_blocks.{int(match[1]) * a_level + layout.blocks}.{part}.conv.{match[2]}"
    return key


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions" or rest.startswith("time_mixer."):
        return rest
    if rest.startswith("temporal_res_block."):
        return rest.replace("temporal_res_block.", "temporal.")
    rest = rest.removeprefix("spatial_res_block.")
    module, _, tensor = rest.rpartition(".")
    return f"{_RES_BLOCK.get(module, module)}.{tensor}"
