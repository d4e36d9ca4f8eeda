"""The vision transformer of face recognition (insightface `arcface_torch`): no class token, all tokens are the face.

A crop of 112 px is cut into 12×12 patches of 9 px (four rows and columns stay unused). Half of the published recipe is
in the regularisation: stochastic depth, and tokens that are left out at random and come back as one learned token
after the last block, so that the embedding must do without parts of the face.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

_INIT_STD = 0.02
_HEAD_EPS = 2e-5
_MLP_RATIO = 4


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, each sample's branch is dropped with probability `rate`.

    What is kept is scaled up, so that the expected value stays.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.empty(len(x), *(1,) * (x.dim() - 1), device=x.device, dtype=x.dtype).bernoulli_(keep)
        return x * kept / keep


class SelfAttention(nn.Module):
    """Multi-head self-attention, (N, T, width) to the same shape; queries, keys and values without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(x).view(count, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y: Tensor = self.project(mixed.reshape(count, length, width))
        return y


class Block(nn.Module):
    """Pre-norm transformer block with ReLU6 in the MLP, (N, T, width) to the same shape."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        inside = _MLP_RATIO * width
        self.mlp = nn.Sequential(nn.Linear(width, inside), nn.ReLU6(), nn.Linear(inside, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class FaceViT(nn.Module):
    """(N, 3, size, size) to (N, dim) embeddings that are not normalised.

    `tokens`, `trunk` and `head` are the three steps of forward, for networks that share the trunk. `prefix` tokens can
    be put before those of the patches. `drop_path` is reached by the last block, `mask_ratio` is the share of tokens
    left out in training; insightface's code leaves out 10 % whatever ratio above 0 it is given.
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        size: int = 112,
        patch: int = 9,
        prefix: int = 0,
        drop_path: float = 0.1,
        mask_ratio: float = 0.1,
    ) -> None:
        super().__init__()
        patches = (size // patch) ** 2
        self.mask_ratio = mask_ratio
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.empty(1, prefix + patches, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(patches * width, width, bias=False),
            nn.BatchNorm1d(width, _HEAD_EPS),
            nn.Linear(width, dim, bias=False),
            nn.BatchNorm1d(dim, _HEAD_EPS),
        )
        nn.init.trunc_normal_(self.positions, std=_INIT_STD)
        nn.init.normal_(self.mask_token, std=_INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def tokens(self, x: Tensor, prefix: Tensor | None = None) -> Tensor:
        """(N, 3, size, size) to (N, T, width): `prefix` (N, P, width) if given, then the patches; positions added."""
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return self.positions + (patches if prefix is None else torch.cat([prefix, patches], 1))

    def trunk(self, tokens: Tensor) -> Tensor:
        """All blocks and the last norm, (N, T, width) to the same shape; masks tokens in training."""
        hidden, order = self._leave_out(tokens) if self.training and self.mask_ratio > 0 else (tokens, None)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        return hidden if order is None else self._put_back(hidden, order)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.trunk(self.tokens(x)).flatten(1))
        return y

    def _leave_out(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The kept tokens of every sample, and the random order (N, T) whose first places they have."""
        count, length, width = tokens.shape
        order = torch.rand(count, length, device=tokens.device).argsort(1)
        kept = order[:, : int(length * (1 - self.mask_ratio))]
        return tokens.gather(1, kept[..., None].expand(-1, -1, width)), order

    def _put_back(self, kept: Tensor, order: Tensor) -> Tensor:
        """Tokens in their old places again, the mask token in the free ones."""
        count, length = order.shape
        free = self.mask_token.to(kept.dtype).expand(count, length - kept.shape[1], -1)
        places = order.argsort(1)[..., None].expand(-1, -1, kept.shape[2])
        return torch.cat([kept, free], 1).gather(1, places)


_RENAMED = (
    ("patch_embed.proj.", "patch."),
    ("pos_embed", "positions"),
    (".attn.proj.", ".attention.project."),
    (".attn.qkv.", ".attention.qkv."),
    (".mlp.fc1.", ".mlp.0."),
    (".mlp.fc2.", ".mlp.2."),
    ("feature.", "head."),
)


def from_insightface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """insightface's state dict of a vision transformer as ours."""
    return {_from_insightface(key): value for key, value in state.items()}


def _from_insightface(key: str) -> str:
    for theirs, ours in _RENAMED:
        key = key.replace(theirs, ours)
    return key
