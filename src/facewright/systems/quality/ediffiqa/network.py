"""eDifFIQA: how useful a face is for recognition, learnt from how well a diffusion model keeps it.

Paper: Babnik, Peer, Štruc, "eDifFIQA: Towards Efficient Face Image Quality Assessment based on Denoising Diffusion
Probabilistic Models" (IEEE T-BIOM 2024). A recogniser and two linear layers repeat in one look what takes the
diffusion model hundreds.

Two runtimes have one name: PyTorch for the authors' checkpoints, onnxruntime for ONNX files, such as OpenCV's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import FaceQuality
from ....geometry.crop import CropSpec
from ....nn.iresnet import IRESNET_BLOCKS, IResNet
from ....nn.mobilefacenet import MobileFaceNet
from ....tasks.card import Preprocess
from ...base import System, batches
from ...graph import GraphSystem, RunsGraphs
from ..reasons import find_reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face
    from ....weights.graphs import GraphSketch

Backbone = Literal["mobilefacenet", "iresnet18", "iresnet50", "iresnet100"]

_BATCH = 32
_SIDE = 112
_PARAMETERS = {"tiny": 1_726_849, "small": 24_551_937, "medium": 44_117_185, "large": 65_682_497}


@dataclass(frozen=True)
class EDifFIQAConfig:
    """Shape of the network; the defaults are eDifFIQA(L).

    backbone: the recogniser. dim, hidden: of its embedding and of the layer behind it. size: side of the crop.
    """

    backbone: Backbone = "iresnet100"
    dim: int = 512
    hidden: int = 1024
    size: int = _SIDE

    @classmethod
    def large(cls) -> Self:
        """eDifFIQA(L), 65.7 M parameters."""
        return cls()

    @classmethod
    def medium(cls) -> Self:
        """eDifFIQA(M), 44.1 M parameters."""
        return cls("iresnet50")

    @classmethod
    def small(cls) -> Self:
        """eDifFIQA(S), 24.6 M parameters."""
        return cls("iresnet18")

    @classmethod
    def tiny(cls) -> Self:
        """eDifFIQA(T), 1.7 M parameters."""
        return cls("mobilefacenet")

    @classmethod
    def compact(cls) -> Self:
        """eDifFIQA(T) with short layers, for experiments."""
        return cls("mobilefacenet", dim=32, hidden=16)


class _Rates:
    """What both runtimes share."""

    slug: ClassVar[str] = "ediffiqa"
    Config: ClassVar[type[EDifFIQAConfig]] = EDifFIQAConfig
    config: EDifFIQAConfig
    preprocess: Preprocess

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size, "arcface"))

    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to raw quality (N,), about 0 to 1, higher is better."""
        raise NotImplementedError

    def rate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceQuality]:
        """Quality of the faces found in an (H, W, 3) uint8 RGB photo.

        The percentile is 100 times the score: no reference set comes with the published weights.
        """
        crops = [self.preprocess.crop.cut(photo, face) for face in faces]
        if not crops:
            return []
        scores = self.score(np.stack([crop.image for crop in crops]))
        return [
            FaceQuality(float(score), float(np.clip(100 * score, 0, 100)), tuple(find_reasons(crop, face)))
            for score, crop, face in zip(scores, crops, faces)
        ]


class EDifFIQA(_Rates, RunsGraphs, System):
    """Recognition utility of an aligned face.

    forward: (N, 3, S, S) RGB in [−1, 1], aligned by the `arcface` template, to the quality (N,), unbounded.
    """

    def __init__(self, config: EDifFIQAConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.backbone not in get_args(Backbone):
            raise UsageError(f"backbone {c.backbone!r}: choose one of {', '.join(get_args(Backbone))}")
        self.backbone: nn.Module
        if c.backbone == "mobilefacenet":
            self.backbone = MobileFaceNet(c.dim, size=c.size, bias=False, eps=1e-5, last_eps=1e-5)
        else:
            self.backbone = IResNet(IRESNET_BLOCKS[c.backbone], c.dim)
        self.head = nn.Sequential(nn.Linear(c.dim, c.hidden), nn.GELU(), nn.Linear(c.hidden, 1))

    def forward(self, crop: Tensor) -> Tensor:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this eDifFIQA takes crops (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        features = self.backbone(crop)
        if self.config.backbone == "mobilefacenet":
            features = F.normalize(features, dim=1)
        quality: Tensor = self.head(features)
        return quality.squeeze(1)

    @torch.inference_mode()
    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to raw quality (N,), about 0 to 1, higher is better; in full precision."""
        parts = [self(self.normalise(np.asarray(group))).float().cpu() for group in batches(crops, _BATCH)]
        return torch.cat([torch.zeros(0), *parts]).numpy()


class EDifFIQAGraph(_Rates, GraphSystem):
    """The same, run from an ONNX file by onnxruntime."""

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        """A crop of 112 px in, one number out; recognisers answer with hundreds."""
        answers = [shape[-1] for shape in graph.outputs.values() if shape]
        return graph.side == _SIDE and answers == [1]

    @classmethod
    def config_of(cls, graph: GraphSketch) -> EDifFIQAConfig:
        """The published configuration whose size comes nearest."""
        nearest = min(_PARAMETERS, key=lambda name: abs(_PARAMETERS[name] - graph.parameters))
        config: EDifFIQAConfig = cls.preset(nearest)
        return config

    @torch.inference_mode()
    def score(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = [self.run(self.normalise(crop[None]).contiguous())[0].reshape(1) for crop in crops]
        return np.concatenate([np.zeros(0, np.float32), *found]).astype(np.float32)


EDifFIQA.Graph = EDifFIQAGraph
