"""BiSeNet: context on a ResNet-18 beside fine features, joined by attention; the parser most projects use.

Paper: Yu, Wang, Peng, Gao, Yu, Sang, "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation"
(ECCV 2018, arXiv 1808.00897), in the form trained on faces (zllrunning/face-parsing.PyTorch): the fine features are
those of the trunk at 1/8 instead of a path of their own.

Two runtimes have one name: PyTorch for zllrunning's checkpoint, onnxruntime for ONNX files, such as yakhyo's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....nn.resnet import BasicBlock, ResNet
from ....tasks.card import Preprocess
from ...graph import GraphSystem, RunsGraphs
from ..parser import FaceParser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ....weights.graphs import GraphSketch

CLASSES = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "mouth",
    "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
"""CelebAMask-HQ's classes in the order of these weights."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONTEXT, _JOINED = 128, 256
_PARAMETERS = {"resnet18": 13_300_416, "resnet34": 23_408_576}
_SPARE = 0.05  # of the numbers of an ONNX file: norms folded into convolutions, side outputs left out


@dataclass(frozen=True)
class BiSeNetConfig:
    """Shape of the network; the defaults are the published ones (13.3 M parameters, with the two side outputs)."""

    size: int = 512
    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)

    @classmethod
    def resnet18(cls) -> Self:
        """The published trunk."""
        return cls()

    @classmethod
    def resnet34(cls) -> Self:
        """A deeper trunk (23.4 M parameters), which yakhyo publishes."""
        return cls(blocks=(3, 4, 6, 3))

    @classmethod
    def compact(cls) -> Self:
        """A quarter of the trunk's width on crops of 128 px."""
        return cls(size=128, width=16)


class ConvNorm(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Refinement(nn.Module):
    """Features weighted by what the whole picture shows."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ConvNorm(c_in, c_out)
        self.conv_atten = nn.Conv2d(c_out, c_out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        weight = self.bn_atten(self.conv_atten(features.mean((2, 3), keepdim=True)))
        return features * torch.sigmoid(weight)


class ContextPath(nn.Module):
    """Fine features at 1/8, and context brought to 1/8 and 1/16."""

    def __init__(self, config: BiSeNetConfig) -> None:
        super().__init__()
        self.resnet = ResNet(BasicBlock, config.blocks, width=config.width)
        self.arm16 = Refinement(4 * config.width, _CONTEXT)
        self.arm32 = Refinement(8 * config.width, _CONTEXT)
        self.conv_head32 = ConvNorm(_CONTEXT, _CONTEXT)
        self.conv_head16 = ConvNorm(_CONTEXT, _CONTEXT)
        self.conv_avg = ConvNorm(8 * config.width, _CONTEXT, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, fine, middle, coarse = self.resnet.feature_maps(x)
        everything = self.conv_avg(coarse.mean((2, 3), keepdim=True))
        context32 = self.conv_head32(_enlarged(self.arm32(coarse) + everything, middle))
        context16 = self.conv_head16(_enlarged(self.arm16(middle) + context32, fine))
        return fine, context16, context32


class Fusion(nn.Module):
    """Fine features and context in one, weighted by what the whole picture shows."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.convblk = ConvNorm(c_in, c_out, 1)
        self.conv1 = nn.Conv2d(c_out, c_out // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out // 4, c_out, 1, bias=False)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        features: Tensor = self.convblk(torch.cat((fine, context), 1))
        weight = self.conv2(F.relu(self.conv1(features.mean((2, 3), keepdim=True))))
        return features + features * torch.sigmoid(weight)


class Output(nn.Module):
    """Logits of the classes."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(c_in, width)
        self.conv_out = nn.Conv2d(width, len(CLASSES), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_out(self.conv(x))
        return logits


class Net(nn.Module):
    """(N, 3, H, W) to logits of the same size; with `sides` also those of the two outputs only training uses."""

    def __init__(self, config: BiSeNetConfig) -> None:
        super().__init__()
        self.cp = ContextPath(config)
        self.ffm = Fusion(2 * config.width + _CONTEXT, _JOINED)
        self.conv_out = Output(_JOINED, _JOINED)
        self.conv_out16 = Output(_CONTEXT, 64)
        self.conv_out32 = Output(_CONTEXT, 64)

    def forward(self, x: Tensor) -> Tensor:
        fine, context16, _ = self.cp(x)
        return _to_size(self.conv_out(self.ffm(fine, context16)), x)

    def with_sides(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, context16, context32 = self.cp(x)
        joined = self.conv_out(self.ffm(fine, context16))
        return (
            _to_size(joined, x),
            _to_size(self.conv_out16(context16), x),
            _to_size(self.conv_out32(context32), x),
        )


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="nearest")


def _to_size(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


class _Parses:
    """What both runtimes share."""

    slug: ClassVar[str] = "bisenet"
    Config: ClassVar[type[BiSeNetConfig]] = BiSeNetConfig
    config: BiSeNetConfig

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size), mean=_MEAN, std=_STD)

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES


class BiSeNet(_Parses, RunsGraphs, FaceParser):
    """Face parser of 19 classes; crops of 512 px on the `ffhq` template, RGB, normalised as ImageNet's.

    forward: (N, 3, H, W) to logits (N, 19, H, W); with `return_aux` those of the two side outputs, too.
    """

    net: Net

    def __init__(self, config: BiSeNetConfig | None = None) -> None:
        super().__init__(config)
        self.net = Net(self.config)

    def forward(self, image: Tensor, *, return_aux: bool = False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if return_aux:
            return self.net.with_sides(image)
        logits: Tensor = self.net(image)
        return logits


class BiSeNetGraph(_Parses, FaceParser, GraphSystem):
    """The same, run from an ONNX file by onnxruntime in float32."""

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        """A picture in, 19 maps of its size out, and about as many numbers as a published network has."""
        side = graph.side or cls.Config().size
        shapes = list(graph.outputs.values())
        maps = bool(shapes) and all(len(shape) == 4 and shape[1] == len(CLASSES) for shape in shapes)
        sized = maps and all(length == side or not isinstance(length, int) for length in shapes[0][2:])
        return sized and min(_distances(graph).values()) < _SPARE

    @classmethod
    def config_of(cls, graph: GraphSketch) -> BiSeNetConfig:
        """The published configuration whose size comes nearest."""
        distances = _distances(graph)
        config: BiSeNetConfig = cls.preset(min(distances, key=distances.__getitem__))
        return config

    def _look(self, crop: NDArray[np.uint8], points: NDArray[np.floating[Any]] | None) -> Tensor:
        image = self.normalise(self.fit(crop)[None]).contiguous()
        return self._at_size(torch.from_numpy(self.run(image)[0]), crop)


BiSeNet.Graph = BiSeNetGraph


def _distances(graph: GraphSketch) -> dict[str, float]:
    """How far a graph's size is from that of every published configuration, as a part of it."""
    return {name: abs(graph.parameters - number) / number for name, number in _PARAMETERS.items()}
