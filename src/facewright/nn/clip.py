"""The two towers of CLIP: a vision transformer and a text transformer whose answers to a picture and its caption agree.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021, arXiv 2103.00020),
in the form of openai/CLIP. Checkpoints in the layout of openai/CLIP, which open_clip shares, and in that of Hugging
Face's transformers have key maps here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal["quick_gelu", "gelu"]

_STD = 0.02


@dataclass(frozen=True)
class TowerShape:
    """width, layers, heads: of the transformer. activation: OpenAI's weights want the quick one, LAION's the exact."""

    width: int
    layers: int
    heads: int
    activation: Activation = "quick_gelu"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UsageError(f"{self.heads} attention heads do not divide {self.width} channels")


class Block(nn.Module):
    """Self-attention and two linear layers, each behind a layer norm and around a skip; tokens (N, T, C)."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.quick = shape.heads, shape.activation == "quick_gelu"
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """`causal`: every token sees itself and what is before it."""
        count, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(count, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.out(seen.transpose(1, 2).reshape(count, length, width))
        inner = self.expand(self.norm2(x))
        inner = inner * torch.sigmoid(1.702 * inner) if self.quick else F.gelu(inner)
        change: Tensor = self.reduce(inner)
        return x + change


class ImageTower(nn.Module):
    """Pictures (N, 3, S, S) to features (N, dim) in the space both towers share, not normalised."""

    def __init__(self, shape: TowerShape, dim: int, *, size: int = 224, patch: int = 16) -> None:
        super().__init__()
        if size % patch:
            raise UsageError(f"patches of {patch} px do not tile pictures of {size} px")
        self.size = size
        self.patch = nn.Conv2d(3, shape.width, patch, patch, bias=False)
        self.class_token = nn.Parameter(_STD * torch.randn(shape.width))
        self.positions = nn.Parameter(_STD * torch.randn((size // patch) ** 2 + 1, shape.width))
        self.norm_in, self.norm_out = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.projection = nn.Parameter(shape.width**-0.5 * torch.randn(shape.width, dim))

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.norm_out(self.tokens(image)[:, 0]) @ self.projection
        return features

    def tokens(self, image: Tensor, *, after: int | None = None) -> Tensor:
        """(N, 1 + patches, width): the class token, then the patches row by row, `after` so many blocks (None: all)."""
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, self.size, self.size):
            raise UsageError(f"this tower takes pictures (N, 3, {self.size}, {self.size}), not {tuple(image.shape)}")
        patches = self.patch(image).flatten(2).transpose(1, 2)
        first = self.class_token.to(patches.dtype).expand(len(image), 1, -1)
        x: Tensor = self.norm_in(torch.cat((first, patches), 1) + self.positions.to(patches.dtype))
        for block in self.blocks[:after]:
            x = block(x)
        return x


class TextTower(nn.Module):
    """Token numbers (N, T) to features (N, dim) of the caption; the largest number of a row ends its text."""

    def __init__(self, shape: TowerShape, dim: int, *, words: int = 49_408, length: int = 77) -> None:
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(words, shape.width)
        self.positions = nn.Parameter(0.5 * _STD * torch.randn(length, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.projection = nn.Parameter(shape.width**-0.5 * torch.randn(shape.width, dim))
        nn.init.normal_(self.embedding.weight, std=_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.dim() != 2 or tokens.shape[1] > self.length:
            raise UsageError(f"this tower takes (N, T) token numbers, T up to {self.length}, not {tuple(tokens.shape)}")
        states = self.states(self.embedding(tokens))
        last = states[torch.arange(len(states), device=states.device), tokens.argmax(1)]
        features: Tensor = last @ self.projection
        return features

    def states(self, embedded: Tensor, *, after: int | None = None) -> Tensor:
        """Embedded tokens (N, T, C) to the states of all of them, normed, `after` so many blocks (None: all)."""
        x = embedded + self.positions[: embedded.shape[1]].to(embedded.dtype)
        for block in self.blocks[:after]:
            x = block(x, causal=True)
        normed: Tensor = self.norm(x)
        return normed


# --- published key layouts

_OPENAI_BLOCK = {
    "attn.in_proj_weight": "qkv.weight",
    "attn.in_proj_bias": "qkv.bias",
    "attn.out_proj": "out",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "expand",
    "mlp.c_proj": "reduce",
}
_OPENAI = {
    "visual.conv1.weight": "image.patch.weight",
    "visual.class_embedding": "image.class_token",
    "visual.positional_embedding": "image.positions",
    "visual.proj": "image.projection",
    "visual.ln_pre": "image.norm_in",
    "visual.ln_post": "image.norm_out",
    "token_embedding": "text.embedding",
    "positional_embedding": "text.positions",
    "text_projection": "text.projection",
    "ln_final": "text.norm",
    "logit_scale": "scale",
}
_OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")

_HF_BLOCK = {
    "self_attn.out_proj": "out",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "expand",
    "mlp.fc2": "reduce",
}
_HF = {
    "vision_model.embeddings.patch_embedding": "image.patch",
    "vision_model.embeddings.class_embedding": "image.class_token",
    "vision_model.embeddings.position_embedding.weight": "image.positions",
    "vision_model.pre_layrnorm": "image.norm_in",
    "vision_model.post_layernorm": "image.norm_out",
    "visual_projection.weight": "image.projection",
    "text_model.embeddings.token_embedding": "text.embedding",
    "text_model.embeddings.position_embedding.weight": "text.positions",
    "text_model.final_layer_norm": "text.norm",
    "text_projection.weight": "text.projection",
    "logit_scale": "scale",
}
_TOWERS = {"visual.transformer": "image", "transformer": "text", "vision_model": "image", "text_model": "text"}


def from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of openai/CLIP or open_clip as that of towers `image` and `text` and a `scale`; KeyError else."""
    out = {}
    for key, value in state.items():
        if key in _OPENAI_NUMBERS:
            continue
        match = re.fullmatch(r"(visual\.transformer|transformer)\.resblocks\.(\d+)\.(.+)", key)
        if match:
            name = f"{_TOWERS[match[1]]}.blocks.{match[2]}.{_renamed(match[3], _OPENAI_BLOCK)}"
        else:
            name = _renamed(key, _OPENAI)
        out[name] = value.float()
    return out


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers' CLIPModel as that of towers `image` and `text` and a `scale`; KeyError else."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        match = re.fullmatch(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)", key)
        if match and (part := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", match[3])):
            if part[1] == "q":
                three = (state[key.replace(".q_proj.", f".{name}_proj.")] for name in "qkv")
                out[f"{_TOWERS[match[1]]}.blocks.{match[2]}.qkv.{part[2]}"] = torch.cat(tuple(three)).float()
            continue
        if match:
            name = f"{_TOWERS[match[1]]}.blocks.{match[2]}.{_renamed(match[3], _HF_BLOCK)}"
        else:
            name = _renamed(key, _HF)
        out[name] = value.float().t().contiguous() if name.endswith("projection") else value.float()
    return out


def _renamed(key: str, table: Mapping[str, str]) -> str:
    """A key, or the module before its last dot, by a table; KeyError for what is not in it."""
    if key in table:
        return table[key]
    module, _, tensor = key.rpartition(".")
    return f"{table[module]}.{tensor}"
