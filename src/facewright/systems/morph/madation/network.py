"""MADation: morphs told by a foundation model that was hardly changed.

Paper: Caldeira, Ozgur, Chettaoui, Ivanovska, Peer, Boutros, Struc, Damer, "MADation: Face Morphing Attack Detection
with Foundation Models" (WACV Workshops 2025, arXiv 2501.03800).

CLIP's picture tower stays as it is, but for low-rank matrices in every attention, at its queries and values: W + γ·B·A
with γ = α/√r. A linear head on features of length 1 tells bona fide from morphed. Pictures are fed as the published
code feeds them: BGR, minus a half, divided by a half, not as CLIP was taught.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.batching import padded
from ....nn.clip import ImageTower, TowerShape
from ....nn.face_vit import FaceViT
from ....nn.inference import AutocastCopy
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tower = Literal["clip", "face_vit"]
Scaling = Literal["sqrt", "linear"]

MORPH, BONA_FIDE = 0, 1
"""Columns of the logits, as published."""
MARGIN = 0.05
BATCH = 16


@dataclass(frozen=True, slots=True)
class MadationConfig:
    """Size of the network; the defaults are the published ViT-B/16.

    tower: `clip`, or `face_vit`, the transformer of the embedded quality estimator. size, patch, dim, width, layers,
        heads: of the tower.
    rank, alpha: of the low-rank matrices. scaling: γ is alpha / √rank (`sqrt`) or alpha / rank (`linear`).
    dropout: on what enters them.
    """

    tower: Tower = "clip"
    size: int = 224
    patch: int = 16
    dim: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    rank: int = 2
    alpha: float = 4.0
    scaling: Scaling = "sqrt"
    dropout: float = 0.4

    @classmethod
    def vit_l_14(cls) -> Self:
        """The published ViT-L/14."""
        return cls(patch=14, dim=768, width=1024, layers=24, heads=16, alpha=8.0, dropout=0.2)

    @classmethod
    def compact(cls) -> Self:
        """The transformer that ships as `vitfiqa`, adapted the same way."""
        return cls("face_vit", 112, 14, 128, 128, 4, 4)

    @property
    def gamma(self) -> float:
        """How much the low-rank product weighs."""
        return self.alpha / (self.rank**0.5 if self.scaling == "sqrt" else self.rank)


class LowRankQkv(nn.Module):
    """A packed projection to queries, keys and values that stays, plus γ·B·A at queries and values.

    Only the low-rank branch sees dropout. B begins as zeros, so that nothing is changed at first.
    """

    def __init__(self, base: nn.Linear, rank: int, gamma: float, dropout: float) -> None:
        super().__init__()
        width = base.in_features
        self.base = base.requires_grad_(False)
        self.gamma, self.dropout = gamma, dropout
        self.q_a, self.v_a = (nn.Parameter(torch.empty(rank, width)) for _ in range(2))
        self.q_b, self.v_b = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))
        for matrix in (self.q_a, self.v_a):
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.base(x).chunk(3, -1)
        seen = F.dropout(x, self.dropout, self.training)
        q = q + self.gamma * F.linear(F.linear(seen, self.q_a), self.q_b)
        v = v + self.gamma * F.linear(F.linear(seen, self.v_a), self.v_b)
        return torch.cat([q, k, v], -1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain projection that computes the same; this one is left as it is."""
        plain = copy.deepcopy(self.base)
        q, k, v = plain.weight.chunk(3)
        plain.weight.copy_(torch.cat([q + self.gamma * self.q_b @ self.q_a, k, v + self.gamma * self.v_b @ self.v_a]))
        return plain


class Madation(System):
    """Tower and head; see the module's text.

    forward: (N, 3, S, S), BGR in [−1, 1], to logits (N, 2): morph, bona fide.
    """

    slug: ClassVar[str] = "madation"
    Config: ClassVar[type[MadationConfig]] = MadationConfig
    config: MadationConfig

    def __init__(self, config: MadationConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.tower not in get_args(Tower) or c.scaling not in get_args(Scaling) or c.rank < 1:
            raise UsageError(f"madation has no tower {c.tower!r} with scaling {c.scaling!r} and rank {c.rank}")
        self.tower: nn.Module = _tower(c).requires_grad_(False)
        for owner, name in self._projections():
            base = cast("nn.Linear", getattr(owner, name))
            setattr(owner, name, LowRankQkv(base, c.rank, c.gamma, c.dropout))
        self.head = nn.Linear(c.dim, 2)

    def _projections(self) -> list[tuple[nn.Module, str]]:
        """The owner and the name of every packed projection of the tower."""
        blocks = cast("nn.ModuleList", self.tower.blocks)
        if self.config.tower == "clip":
            return [(block, "qkv") for block in blocks]
        return [(cast("nn.Module", block.attention), "qkv") for block in blocks]

    @classmethod
    def preprocess_for(cls, config: MadationConfig) -> Preprocess:
        """The face's box and a little around it, stretched, as published; our own crop for our own tower."""
        if config.tower == "clip":
            return Preprocess(CropSpec.framed(config.size, margin=MARGIN), colour="BGR")
        return Preprocess(CropSpec.aligned(config.size, "arcface"))

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, S, S) to features (N, D) of length 1."""
        if self.config.tower == "clip":
            return F.normalize(self.tower(image), dim=1)
        tower = cast("FaceViT", self.tower)
        return F.normalize(tower.trunk(tower.tokens(image)).mean(1), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))  # type: ignore[no-any-return]

    def merged(self) -> Madation:
        """A copy whose low-rank matrices are part of its projections: the same answers at the price of the plain tower.

        It cannot be trained further or saved as this system.
        """
        plain = copy.deepcopy(self).eval()
        for owner, name in plain._projections():
            setattr(owner, name, cast("LowRankQkv", getattr(owner, name)).merged())
        return plain

    @torch.inference_mode()
    def morphed(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, S, S, 3) uint8 RGB crops to the share (N,) of "morph"; the published score is one minus it."""
        side = self.config.size
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3) or crops.dtype != np.uint8:
            raise UsageError(f"{self.slug} takes uint8 crops (N, {side}, {side}, 3), not {crops.shape} {crops.dtype}")
        network = self.inference()
        parts = [np.zeros(0)]
        for some in batches(crops, BATCH):
            logits = network(padded(self.normalise(np.asarray(some)))).float()
            parts.append(logits.softmax(1)[: len(some), MORPH].double().cpu().numpy())
        return np.concatenate(parts)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return AutocastCopy(self.merged(), dtype)


def _tower(config: MadationConfig) -> nn.Module:
    if config.tower == "clip":
        shape = TowerShape(config.width, config.layers, config.heads)
        return ImageTower(shape, config.dim, size=config.size, patch=config.patch)
    tower = FaceViT(
        width=config.width,
        depth=config.layers,
        heads=config.heads,
        size=config.size,
        patch=config.patch,
        drop_path=0.0,
        mask_ratio=0.0,
    )
    tower.head = nn.Sequential()
    return tower
