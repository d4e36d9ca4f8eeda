"""CLIPC8: which of eight described categories a face fits best.

Paper: "Face liveness detection based on image-text pairs and contrastive learning" (arXiv 2311.17583, 2023). Only the
abstract could be read: two encoders, one space, cosine similarity to the descriptions of eight categories. All else is
a reconstruction on CLIP ViT-B/16 (`nn.clip`). The text tower is needed once, to describe the categories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.clip import Activation, ImageTower, TextTower, TowerShape
from ....tasks.card import Preprocess
from ...base import System
from ..votes import votes_of
from .categories import CATEGORIES, DARK, LIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ....face import Face

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIPC8Config:
    """Shape of the towers; the defaults are CLIP ViT-B/16 (149.6 M parameters). Names as in `CLIPConfig`."""

    size: int = 224
    patch: int = 16
    dim: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    words: int = 49_408
    length: int = 77
    activation: Activation = "quick_gelu"

    @classmethod
    def compact(cls) -> Self:
        """Narrow towers of two layers, for experiments; `words.Words` numbers their words."""
        return cls(64, 16, 32, 48, 2, 3, 32, 2, 2, 128, 16)


class CLIPC8(System):
    """Liveness of a face in a single photo by described categories (arXiv 2311.17583).

    forward: pictures (N, 3, S, S), CLIP's mean and deviation, to logits (N, 8) of `CATEGORIES`, or with captions
    (M, T) to how well they fit each, (N, M). The scale is CLIP's own and is not trained.
    """

    slug: ClassVar[str] = "clipc8"
    Config: ClassVar[type[CLIPC8Config]] = CLIPC8Config
    config: CLIPC8Config
    described: Tensor

    def __init__(self, config: CLIPC8Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        seeing = TowerShape(c.width, c.layers, c.heads, c.activation)
        reading = TowerShape(c.text_width, c.text_layers, c.text_heads, c.activation)
        self.image = ImageTower(seeing, c.dim, size=c.size, patch=c.patch)
        self.text = TextTower(reading, c.dim, words=c.words, length=c.length)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)), requires_grad=False)
        self.register_buffer("described", torch.zeros(len(CATEGORIES), c.dim))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.boxed(config.size, margin=0.3), mean=_MEAN, std=_STD)

    def forward(self, pictures: Tensor, captions: Tensor | None = None) -> Tensor:
        seen = F.normalize(self.image(pictures), dim=1)
        words = self.described if captions is None else F.normalize(self.text(captions), dim=1)
        fit: Tensor = self.scale.exp().clamp_max(100) * seen @ words.to(seen.dtype).t()
        return fit

    @torch.no_grad()
    def describe_categories(self, captions: Sequence[Tensor]) -> None:
        """Set what the categories mean: token numbers (M, T) of the sentences of each, in order.

        Every sentence weighs alike: features are brought to length 1 before they are averaged. Raises UsageError for
        another number of categories.
        """
        if len(captions) != len(CATEGORIES):
            raise UsageError(f"{len(CATEGORIES)} categories have to be described, not {len(captions)}")
        means = [F.normalize(self.text(tokens), dim=1).mean(0) for tokens in captions]
        self.described.copy_(F.normalize(torch.stack(means), dim=1))

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the vote (N,), 0…1, that each is live; no probability.

        A face that is too dark is neither: it is left out of the sum. UsageError while the categories mean nothing.
        """
        if not bool(self.described.any()):
            raise UsageError("the categories of this CLIPC8 were never described; call describe_categories")
        return votes_of(self, photo, faces, lambda crops: live_votes(self(crops)))


def live_votes(logits: Tensor) -> Tensor:
    """(N, 8) logits of the categories to votes for live (N,) among those that are a decision."""
    decided = logits.clone()
    decided[:, DARK] = -torch.inf
    return decided.softmax(1)[:, LIVE]
