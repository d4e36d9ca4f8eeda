"""DLIF: liveness apart from identity, with every person as a domain of their own.

Paper: Yang, Yu, Ni, He, Li, "Generalized Face Anti-spoofing via Finer Domain Partition and Disentangling
Liveness-irrelevant Factors" (ECAI 2024, arXiv 2407.08243); architecture and losses as in the published code
(yjyddq/DLIF, MIT). One encoder looks for liveness, another for identity; styles are crossed between pictures during
training, and the two kinds of features are pushed apart. At inference the identity encoder is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.resnet import ResNet
from ....tasks.card import Preprocess
from ...base import System
from ..votes import votes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ....face import Face

Level = Literal["low", "middle", "high"]
Place = Literal["input", "pool", "layer1", "layer2", "layer3", "layer4"]

LEVELS: dict[Level, tuple[Place, Place]] = {
    "low": ("input", "pool"),
    "middle": ("layer1", "layer2"),
    "high": ("layer3", "layer4"),
}
"""Where a level crosses styles."""
LIVE = 1
"""Column of live in the classifier's output."""
SCALE = 30.0
"""Of the classifier's cosine-like outputs, in training and at inference."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STRIDE = 32
_REDUCTION = 16
_EPS = 1e-5


@dataclass(frozen=True)
class DLIFConfig:
    """size: side of the crop in pixels, to which the flattened features are tied. width: of the first stage of both
    ResNet-18. identities: of the training people; 0 leaves the identity encoder out."""

    size: int = 256
    width: int = 64
    identities: int = 55

    @classmethod
    def compact(cls) -> Self:
        """96 px and narrow, for a processor."""
        return cls(size=96, width=16, identities=15)


class ChannelGate(nn.Module):
    """Weighs the channels of (N, C, H, W) by their means and variances (the paper's CWSA)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, 2 * channels // _REDUCTION)
        self.fc = nn.Sequential(
            nn.Linear(2 * channels, narrow, bias=False),
            nn.ReLU(),
            nn.Linear(narrow, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3))
        weights: Tensor = self.fc(torch.cat([mean, variance], 1))
        return x * weights[..., None, None]


class Encoder(nn.Module):
    """ResNet-18 to flattened features of length 1; the liveness encoder gates its channels after every stage."""

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        self.trunk = ResNet(width=width)
        self.gates = nn.ModuleList(ChannelGate(width * 2**i) if gated else nn.Identity() for i in range(4))

    def forward(self, image: Tensor, cross: Callable[[Tensor], Tensor] | None = None, level: Level = "low") -> Tensor:
        """(N, 3, S, S) to (N, D); with `cross` the features are changed by it at the two places of a level."""
        places = LEVELS[level] if cross is not None else ()

        def at(place: str, x: Tensor) -> Tensor:
            return cross(x) if cross is not None and place in places else x

        trunk = self.trunk
        x = F.relu(trunk.bn1(trunk.conv1(at("input", image))))
        x = at("pool", F.max_pool2d(x, 3, 2, 1))
        for number, gate in enumerate(self.gates, start=1):
            x = at(f"layer{number}", gate(trunk.get_submodule(f"layer{number}")(x)))
        return F.normalize(x.flatten(1), dim=1)


class DLIF(System):
    """Liveness of a face in a single photo (arXiv 2407.08243).

    forward: (N, 3, S, S) RGB, ImageNet's mean and deviation, to logits (N, 2) before the scale of 30: attack, live.
    With `return_aux` a dict of `logits`, `liveness` and `identity` features (N, D), and `identities` (N, K).
    """

    slug: ClassVar[str] = "dlif"
    Config: ClassVar[type[DLIFConfig]] = DLIFConfig
    config: DLIFConfig

    def __init__(self, config: DLIFConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.size % _STRIDE or c.size < 2 * _STRIDE:  # the last map has a variance
            raise UsageError(f"DLIF takes crops whose side is a multiple of {_STRIDE} from 64, not {c.size}")
        dim = 8 * c.width * (c.size // _STRIDE) ** 2
        self.liveness = Encoder(c.width, gated=True)
        self.classify = nn.Linear(dim, 2, bias=False)
        nn.init.normal_(self.classify.weight, std=0.01)
        self.identity = Encoder(c.width, gated=False) if c.identities else None
        self.discriminate = nn.Linear(dim, c.identities, bias=False) if c.identities else None
        if self.discriminate is not None:
            nn.init.normal_(self.discriminate.weight, std=0.3)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.framed(config.size, margin=0.15), mean=_MEAN, std=_STD)

    def forward(self, crop: Tensor, *, return_aux: bool = False) -> Tensor | dict[str, Tensor]:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this DLIF takes images (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        liveness = self.liveness(crop)
        logits: Tensor = self.classify(liveness)
        if not return_aux:
            return logits
        if self.identity is None or self.discriminate is None:
            raise UsageError("this DLIF was made without an identity encoder")
        identity = self.identity(crop)
        return {
            "logits": logits,
            "liveness": liveness,
            "identity": identity,
            "identities": self.discriminate(identity),
        }

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the vote (N,), 0…1, that each is live; no probability."""
        network = self.inference(torch.float32)
        return votes_of(self, photo, faces, lambda crops: (SCALE * network(crops)).softmax(1)[:, LIVE])


def style_cross(x: Tensor, other: Tensor) -> Tensor:
    """(N, C, H, W) with the channel means and deviations of `other`, (N, C, H', W')."""
    variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
    other_variance, other_mean = torch.var_mean(other, (2, 3), keepdim=True)
    return (x - mean) / (variance + _EPS).sqrt() * (other_variance + _EPS).sqrt() + other_mean


def cross_collections(x: Tensor, collections: int) -> Tensor:
    """Every picture of a batch with the style of another collection's of its liveness: what U sees.

    The first half of the batch is live, the second attacks, each with its `collections` one after the other in equal
    parts.
    """
    return torch.cat([style_cross(half, half.roll(len(half) // -collections, 0)) for half in _halves(x)])


def cross_liveness(x: Tensor) -> Tensor:
    """Every picture of a batch with the style of its person's picture of the other liveness: what V sees."""
    _halves(x)
    return style_cross(x, x.roll(len(x) // 2, 0))


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) % 2:
        raise UsageError(f"styles are crossed in batches of as many live pictures as attacks, not in {len(x)}")
    return x[: len(x) // 2], x[len(x) // 2 :]
