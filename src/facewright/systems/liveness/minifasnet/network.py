"""MiniFASNet: does a face belong to somebody in front of the camera, or to a picture or a screen?

Method: the published code of Minivision, "Silent-Face-Anti-Spoofing" (2020); there is no paper. MobileFaceNet with
pruned widths looks at the face and some of what is around it: the edge of a print, the frame of a screen. Two networks
look at crops of 2.7 and 4 times the face's box, and their votes are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.mobilefacenet import Bottleneck, ConvNorm
from ....tasks.card import Preprocess
from ...base import System
from ...graph import GraphSystem, RunsGraphs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face
    from ....weights.graphs import GraphSketch

Variant = Literal["v2", "v1se"]

_WIDTHS = (32, 64, 128, 128)  # of the stem, and of the trunk after each halving
_LAST = 512
_EPS = 1e-5
_LIVE = 1  # class of live faces; the other two are attacks
_REDUCTION = 4
_STRIDE = 16
_BATCH = 32
_INNER: dict[Variant, tuple[tuple[int, ...], ...]] = {
    "v2": ((103, 13, 13, 13, 13), (231, 231, 52, 26, 77, 26, 26), (308, 26, 26)),
    "v1se": ((103, 13, 26, 13, 52), (231, 154, 52, 26, 52, 26, 26), (308, 26, 26)),
}
"""Channels inside the bottlenecks of every stage; the first of a stage halves the side."""


@dataclass(frozen=True)
class MiniFASNetConfig:
    """variant: which of the two published networks. scale: side of the crop in sides of the face's box.

    size: side of the crop in pixels. dim: of the embedding.
    """

    variant: Variant = "v2"
    scale: float = 2.7
    size: int = 80
    dim: int = 128

    @classmethod
    def v2(cls) -> Self:
        """Crops of 2.7 boxes (0.43 M parameters)."""
        return cls()

    @classmethod
    def v1se(cls) -> Self:
        """Crops of 4 boxes, and channels weighed in the last block of every stage (0.43 M parameters)."""
        return cls("v1se", 4.0)

    @classmethod
    def compact(cls) -> Self:
        """Crops of 48 px and a short embedding, for experiments."""
        return cls(size=48, dim=16)


class ChannelWeights(nn.Module):
    """Weighs the channels of (N, C, H, W) by what two layers make of their means (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // _REDUCTION
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, narrow, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.layers(x)
        return x * weights


class WeighedBottleneck(nn.Module):
    """A bottleneck whose change of the input is weighed by channel before it is added."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.change = Bottleneck(channels, channels, inner, 1, eps=_EPS)
        self.change.residual = False
        self.weights = ChannelWeights(channels)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.weights(self.change(x))
        return x + change


class _Votes:
    """What both runtimes share."""

    slug: ClassVar[str] = "minifasnet"
    Config: ClassVar[type[MiniFASNetConfig]] = MiniFASNetConfig
    config: MiniFASNetConfig
    preprocess: Preprocess

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        crop = CropSpec.framed(config.size, margin=(config.scale - 1) / 2)
        return Preprocess(crop, colour="BGR", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)

    def logits(self, crops: NDArray[np.uint8]) -> Tensor:
        """(N, S, S, 3) uint8 RGB crops to logits (N, 3)."""
        raise NotImplementedError

    @torch.inference_mode()
    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the network's vote (N,), 0…1, that each is live; no probability."""
        crops = [self.preprocess.crop.cut(photo, face).image for face in faces]
        votes = [np.zeros(0)]
        for start in range(0, len(crops), _BATCH):
            logits = self.logits(np.stack(crops[start : start + _BATCH]))
            votes.append(logits.double().softmax(1)[:, _LIVE].cpu().numpy())
        return np.concatenate(votes)


class MiniFASNet(_Votes, RunsGraphs, System):
    """Liveness of a face in a single photo (Minivision, Silent-Face-Anti-Spoofing).

    forward: (N, 3, S, S) BGR, 0…255, a crop of `scale` boxes, to logits (N, 3): attack, live, attack of another kind.
    """

    def __init__(self, config: MiniFASNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.variant not in get_args(Variant):
            raise UsageError(f"variant {c.variant!r} of MiniFASNet: choose one of {', '.join(get_args(Variant))}")
        if c.size % _STRIDE:
            raise UsageError(f"MiniFASNet takes crops whose side is a multiple of {_STRIDE}, not {c.size}")
        stem = _WIDTHS[0]
        self.stem = nn.Sequential(ConvNorm(3, stem, 3, 2, eps=_EPS), ConvNorm(stem, stem, 3, groups=stem, eps=_EPS))
        stages = zip(_WIDTHS, _WIDTHS[1:], _INNER[c.variant])
        self.stages = nn.ModuleList(_stage(a, b, inner, weighed=c.variant == "v1se") for a, b, inner in stages)
        self.expand = ConvNorm(_WIDTHS[-1], _LAST, 1, eps=_EPS)
        self.pool = ConvNorm(_LAST, _LAST, c.size // _STRIDE, groups=_LAST, linear=True, pad=False, eps=_EPS)
        self.project = nn.Linear(_LAST, c.dim, bias=False)
        self.norm = nn.BatchNorm1d(c.dim)
        self.classify = nn.Linear(c.dim, 3, bias=False)

    def forward(self, crop: Tensor) -> Tensor:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this MiniFASNet takes images (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        x = self.stem(crop)
        for stage in self.stages:
            x = stage(x)
        embedding = self.norm(self.project(self.pool(self.expand(x)).flatten(1)))
        logits: Tensor = self.classify(embedding)
        return logits

    def logits(self, crops: NDArray[np.uint8]) -> Tensor:
        logits: Tensor = self.inference(torch.float32)(self.normalise(crops))
        return logits


class MiniFASNetGraph(_Votes, GraphSystem):
    """The same, run from an ONNX file by onnxruntime."""

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        """A crop of 80 px in, three logits out."""
        answers = [shape[-1] for shape in graph.outputs.values() if shape]
        return graph.side == MiniFASNetConfig.size and answers == [3] and "Softmax" not in graph.operators

    @classmethod
    def config_of(cls, graph: GraphSketch) -> MiniFASNetConfig:
        """Of the two, only V1SE weighs channels by a sigmoid."""
        return MiniFASNetConfig.v1se() if graph.operators["Sigmoid"] else MiniFASNetConfig.v2()

    def logits(self, crops: NDArray[np.uint8]) -> Tensor:
        rows = [self.run(self.normalise(crop[None]).contiguous())[0].reshape(1, 3) for crop in crops]
        return torch.from_numpy(np.concatenate(rows))


MiniFASNet.Graph = MiniFASNetGraph


def _stage(c_in: int, c_out: int, inner: tuple[int, ...], *, weighed: bool) -> nn.Sequential:
    halving, *others = inner
    blocks: list[nn.Module] = [Bottleneck(c_in, c_out, halving, 2, eps=_EPS)]
    blocks += [Bottleneck(c_out, c_out, width, 1, eps=_EPS) for width in others]
    if weighed:
        blocks[-1] = WeighedBottleneck(c_out, others[-1])
    return nn.Sequential(*blocks)
