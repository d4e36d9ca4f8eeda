"""Multibatch: a small signature network and one learned distance that separates people.

Paper: Tadmor, Rosenwein, Shalev-Shwartz, Wexler, Shashua, "Learning a Metric Embedding for Face Recognition using the
Multibatch Method" (NIPS 2016, arXiv 1605.07270). Two pictures show one person when the squared distance of their
signatures is below θ. The paper's contribution is the loss, an average over all pairs of a batch, which is
`facewright.losses.pairs.multibatch_loss`; its network was never published, so the one here is this project's, in the
spirit (network in network, some tens of millions of multiply-adds) that the paper names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..recogniser import Recogniser

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEM_WIDTH = 32
_POOLED_STAGES = 4


@dataclass(frozen=True)
class MultibatchConfig:
    """Shape of the network; the defaults are the full size (0.5 M parameters, 47 M multiply-adds).

    backbone: `nin`, the network here with its five stages of `widths` and `groups`, or any name that
        `facewright.nn.recognition.create_backbone` knows.
    unit_length: signatures of length 1, for cosine back ends. D² is then at most 4, so train with a margin of 0.2…0.5.
    """

    backbone: str = "nin"
    size: int = 112
    dim: int = 128
    widths: tuple[int, ...] = (32, 64, 96, 128, 192)
    groups: tuple[int, ...] = (4, 4, 4, 1, 1)
    unit_length: bool = False

    @classmethod
    def compact(cls) -> Self:
        """Crops of 64 px and narrow stages: trains in minutes on two processor cores."""
        return cls(size=64, dim=64, widths=(32, 48, 64, 96, 128), groups=(1, 1, 1, 1, 1))


class Signatures(NamedTuple):
    """Signatures (N, dim) of crops, and the squared distance θ (1,) below which two of them are one person's."""

    vectors: Tensor
    threshold: Tensor


class NetworkInNetwork(nn.Module):
    """Stages of one 3×3 and two 1×1 convolutions; (N, 3, S, S) to (N, dim), S at least 32."""

    def __init__(self, dim: int, widths: tuple[int, ...], groups: tuple[int, ...]) -> None:
        super().__init__()
        if len(widths) != len(groups):
            raise UsageError(f"every stage has a width and a number of groups, not {len(widths)} and {len(groups)}")
        self.stem = _unit(3, _STEM_WIDTH, 5, stride=2)
        self.stages = nn.Sequential()
        c_in = _STEM_WIDTH
        for index, (width, group) in enumerate(zip(widths, groups)):
            stage = nn.Sequential(_unit(c_in, width, 3, groups=group), _unit(width, width, 1), _unit(width, width, 1))
            if index < _POOLED_STAGES:
                stage.append(nn.MaxPool2d(2))
            self.stages.append(stage)
            c_in = width
        self.signature = nn.Linear(c_in, dim)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.stages(self.stem(x)).mean((2, 3))
        signature: Tensor = self.signature(pooled)
        return signature


def _unit(c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class Multibatch(Recogniser):
    """Signatures with a learned threshold (arXiv 1605.07270); crops on the `arcface` template, RGB in [−1, 1].

    forward: (N, 3, size, size) to signatures (N, dim), whose length is free; `with_threshold=True` adds θ, as the loss
    needs it. θ is stored as `theta`, the inverse softplus of it, so that it stays positive; keep weight decay off it.
    """

    slug: ClassVar[str] = "multibatch"
    Config: ClassVar[type[MultibatchConfig]] = MultibatchConfig
    config: MultibatchConfig
    mirror: bool = False  # averaged signatures lie closer together than the single ones θ was learned on

    def __init__(self, config: MultibatchConfig | None = None) -> None:
        super().__init__(config)
        self.backbone = _backbone(self.config)
        self.theta = nn.Parameter(torch.full((1,), _inverse_softplus(1.0)))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size, "arcface"))

    @property
    def threshold(self) -> Tensor:
        """θ (1,): the squared distance below which two signatures belong to one person."""
        return F.softplus(self.theta)

    @torch.no_grad()
    def set_threshold(self, value: float) -> None:
        """Put θ at a positive value, such as the median squared distance of the first batch, before training."""
        if not value > 0:
            raise UsageError(f"the threshold is a squared distance above 0, not {value:g}")
        self.theta.fill_(_inverse_softplus(value))

    @overload
    def forward(self, image: Tensor) -> Tensor: ...

    @overload
    def forward(self, image: Tensor, *, with_threshold: Literal[True]) -> Signatures: ...

    @overload
    def forward(self, image: Tensor, *, with_threshold: bool) -> Tensor | Signatures: ...

    def forward(self, image: Tensor, *, with_threshold: bool = False) -> Tensor | Signatures:
        signature = super().forward(image)
        if self.config.unit_length:
            signature = F.normalize(signature, dim=1)
        return Signatures(signature, self.threshold) if with_threshold else signature

    def signatures(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to signatures (N, dim) whose squared distances compare with `threshold`."""
        if self.config.unit_length:
            return self.embed(crops)
        raw = self.embed_raw(crops)
        return np.asarray(raw / 2 if self.mirror else raw, np.float32)

    def scores(self, a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) signed margins θ − D² of pairs of signatures (N, dim): above 0 is one person.

        A threshold for a wanted rate of false matches is an offset to this score.
        """
        difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
        return np.asarray(float(self.threshold.detach()) - (difference**2).sum(-1))


def _backbone(config: MultibatchConfig) -> nn.Module:
    if config.backbone == "nin":
        return NetworkInNetwork(config.dim, config.widths, config.groups)
    from ....nn.recognition import create_backbone

    return create_backbone(config.backbone, config.dim)


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
