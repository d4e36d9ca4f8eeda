"""Hyp-OC: one class, bona fide faces, on a hyperbolic ball.

Paper: Narayan and Patel, "Hyp-OC: Hyperbolic One Class Classification for Face Anti-Spoofing" (FG 2024, arXiv
2404.14406); details as in the published code (Kartik-3004/hyp-oc, MIT). VGG-Face up to fc6, four linear layers, the
Poincaré ball, hyperbolic logits. Attacks are never seen in training: noise around the mean feature stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.hyperbolic import HyperbolicLogits, ToBall
from ....tasks.card import Preprocess
from ...base import System
from ..votes import votes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ....face import Face

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""In each of VGG-16's five blocks."""

_MEANS = (129.1863, 104.7624, 93.5940)
_STRIDE = 32


@dataclass(frozen=True)
class HypOCConfig:
    """size: side of the picture. width: of VGG's first block. feature: of fc6. hidden: of the linear layers.

    curvature: c of the ball. clip: longest feature that is mapped onto it. legacy_norm: means of grey levels are taken
    off pictures in [0, 1], as the published loader does, instead of off grey levels.
    """

    size: int = 224
    width: int = 64
    feature: int = 4096
    hidden: tuple[int, ...] = (8192, 1000, 512, 128)
    curvature: float = 0.1
    clip: float = 2.0
    legacy_norm: bool = False

    @classmethod
    def compact(cls) -> Self:
        """64 px and narrow, for a processor."""
        return cls(size=64, width=8, feature=64, hidden=(64, 32, 16))


class VGGFace(nn.Module):
    """VGG-16 up to fc6 and its ReLU: (N, 3, S, S) to (N, feature), not negative."""

    def __init__(self, size: int, width: int, feature: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        before = 3
        for number, count in enumerate(CONVOLUTIONS):
            after = width * min(2**number, 8)
            self.blocks.append(
                nn.ModuleList(nn.Conv2d(before if i == 0 else after, after, 3, 1, 1) for i in range(count))
            )
            before = after
        self.fc6 = nn.Linear(before * (size // _STRIDE) ** 2, feature)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                x = F.relu(layer(x))
            x = F.max_pool2d(x, 2)
        return F.relu(self.fc6(x.flatten(1)))


class Head(nn.Module):
    """Features (N, F) to points of the ball (N, D) and logits (N, 2): real, attack."""

    def __init__(self, feature: int, hidden: tuple[int, ...], curvature: float, clip: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip((feature, *hidden), hidden))
        self.ball = ToBall(hidden[-1], curvature, clip)
        self.logits = HyperbolicLogits(hidden[-1], 2, curvature)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = features
        for layer in self.layers:
            x = F.relu(layer(x))
        points = self.ball(x)
        return points, self.logits(points)


class HypOC(System):
    """Liveness of a face in a single photo, by bona fide faces alone (arXiv 2404.14406).

    forward: (N, 3, S, S) RGB grey levels less their means to logits (N, 2): real, attack. VGG's fc7 and fc8, which the
    published file holds and never uses, are left out.
    """

    slug: ClassVar[str] = "hypoc"
    Config: ClassVar[type[HypOCConfig]] = HypOCConfig
    config: HypOCConfig

    def __init__(self, config: HypOCConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.size % _STRIDE:
            raise UsageError(f"Hyp-OC takes pictures whose side is a multiple of {_STRIDE}, not {c.size}")
        self.encoder = VGGFace(c.size, c.width, c.feature)
        self.head = Head(c.feature, c.hidden, c.curvature, c.clip)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        scale = 255.0 if config.legacy_norm else 1.0
        return Preprocess(CropSpec.framed(config.size, margin=0.15), scale=scale, mean=_MEANS, std=(1.0,) * 3)

    def forward(self, crop: Tensor) -> Tensor:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this Hyp-OC takes images (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        logits: Tensor = self.head(self.encoder(crop))[1]
        return logits

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the vote (N,), 0…1, that each is live; no probability."""
        network = self.inference(torch.float32)
        return votes_of(self, photo, faces, lambda crops: network(crops).softmax(1)[:, 0])
