"""CLIP: pictures and captions in one space; what detectors of made-up and manipulated faces are built on.

Paper: Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever, "Learning
Transferable Visual Models From Natural Language Supervision" (ICML 2021, arXiv 2103.00020). The towers are in
`nn.clip`. A tokeniser is not part of it: its vocabulary is a published file of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....nn.clip import Activation, ImageTower, TextTower, TowerShape
from ....nn.inference import AutocastCopy
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 32


@dataclass(frozen=True)
class CLIPConfig:
    """Shape of the towers; the defaults are ViT-L/14 (427.6 M parameters).

    size, patch: of the pictures, in pixels. dim: of the shared space. words, length: of the captions.
    """

    size: int = 224
    patch: int = 14
    dim: int = 768
    width: int = 1024
    layers: int = 24
    heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    words: int = 49_408
    length: int = 77
    activation: Activation = "quick_gelu"

    @classmethod
    def vit_b_16(cls) -> Self:
        """ViT-B/16 (149.6 M parameters)."""
        return cls(patch=16, dim=512, width=768, layers=12, heads=12, text_width=512, text_heads=8)

    @classmethod
    def compact(cls) -> Self:
        """Two narrow layers each, for experiments."""
        return cls(
            size=32,
            patch=8,
            dim=16,
            width=32,
            layers=2,
            heads=2,
            text_width=24,
            text_layers=2,
            text_heads=2,
            words=100,
            length=12,
        )


class CLIP(System):
    """Two towers (arXiv 2103.00020).

    forward: pictures (N, 3, S, S), normalised as its preprocess record says, and token numbers (M, T) to how well they
    fit, cosines times the learnt scale (N, M). Without captions, the pictures' features (N, dim), not normalised.
    """

    slug: ClassVar[str] = "clip"
    Config: ClassVar[type[CLIPConfig]] = CLIPConfig
    config: CLIPConfig
    mapped = True

    def __init__(self, config: CLIPConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        seeing = TowerShape(c.width, c.layers, c.heads, c.activation)
        reading = TowerShape(c.text_width, c.text_layers, c.text_heads, c.activation)
        self.image = ImageTower(seeing, c.dim, size=c.size, patch=c.patch)
        self.text = TextTower(reading, c.dim, words=c.words, length=c.length)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(config.size), mean=_MEAN, std=_STD)

    def forward(self, pictures: Tensor, captions: Tensor | None = None) -> Tensor:
        seen: Tensor = self.image(pictures)
        if captions is None:
            return seen
        fit: Tensor = self.scale.exp() * F.normalize(seen, dim=1) @ F.normalize(self.text(captions), dim=1).t()
        return fit

    @torch.inference_mode()
    def features(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB to features (N, dim) of length 1."""
        network = self.inference()
        parts = [torch.zeros(0, self.config.dim)]
        for start in range(0, len(pictures), _BATCH):
            found = network(self.normalise(pictures[start : start + _BATCH])).float()
            parts.append(F.normalize(found, dim=1).cpu())
        return torch.cat(parts).numpy()

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return AutocastCopy(self, dtype, (nn.Conv2d, nn.Linear, nn.Embedding), self._been_read)
