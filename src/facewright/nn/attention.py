"""Attention over the positions of a feature map, from the map itself or from another one, and over tokens.

Spatial form: Esser et al. (CVPR 2021, the attention block of the VQGAN) with several heads, and with queries from a
second map as in Wang et al., "RestoreFormer" (CVPR 2022, section 3.2). Token form: a pre-norm transformer layer
(Xiong et al. 2020) whose positions enter queries and keys only, as in DETR (Carion et al., ECCV 2020).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

GROUPS = 32
NORM_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of the taming family: 32 groups, ε 1e-6."""
    return nn.GroupNorm(GROUPS, channels, eps=NORM_EPS)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / √d) v per head over tokens (N, T, C); d = C / heads, and a head's channels lie together."""
    n, _, channels = q.shape
    q, k, v = (x.reshape(n, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SpatialAttention(nn.Module):
    """x + projection(attention), over all positions of x (N, C, H, W).

    Keys and values come from the normalised x. Queries do too, unless `cross`: then they come from `guide`, a map of
    the same shape with a norm of its own. The sum is always with x: the guide only asks, x is what is answered with.
    Raises UsageError when `heads` does not divide the channels.
    """

    def __init__(self, channels: int, heads: int = 1, *, cross: bool = False) -> None:
        super().__init__()
        if channels % heads:
            raise UsageError(f"{heads} attention heads do not divide {channels} channels")
        self.heads = heads
        self.norm = group_norm(channels)
        self.norm_query = group_norm(channels) if cross else None
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, guide: Tensor | None = None, follow: float = 1.0) -> Tensor:
        """`follow` in [0, 1] mixes the queries: 1 the guide's, 0 x's own. Without a guide it has no meaning."""
        own = self.norm(x)
        query = own
        if self.norm_query is not None and guide is not None:
            asked = self.norm_query(guide.to(x.dtype))
            query = asked if follow == 1 else own.lerp(asked, follow)
        q, k, v = (_tokens(layer(source)) for layer, source in ((self.q, query), (self.k, own), (self.v, own)))
        answer = attend(q, k, v, self.heads).transpose(1, 2).reshape(x.shape)
        mixed: Tensor = self.out(answer)
        return x + mixed


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Self-attention and a GELU network of one hidden layer over tokens (N, T, C), each behind a layer norm."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        if channels % heads:
            raise UsageError(f"{heads} attention heads do not divide {channels} channels")
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.reduce = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """`position` (T, C) is added to what queries and keys are made of, not to the values."""
        normal = self.norm1(tokens)
        weight_qk, weight_v = self.qkv.weight.tensor_split([2 * tokens.shape[2]])
        bias_qk, bias_v = self.qkv.bias.tensor_split([2 * tokens.shape[2]])
        q, k = F.linear(normal + position, weight_qk, bias_qk).chunk(2, 2)
        tokens = tokens + self.out(attend(q, k, F.linear(normal, weight_v, bias_v), self.heads))
        grown: Tensor = self.reduce(F.gelu(self.expand(self.norm2(tokens))))
        return tokens + grown
