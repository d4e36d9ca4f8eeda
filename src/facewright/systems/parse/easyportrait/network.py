"""EasyPortrait: parsing of whole selfies and webcam pictures, with teeth as a class and beards told from skin.

Paper: Kvanchiani, Petrova, Efremyan, Sautin, Kapitanov, "EasyPortrait - Face Parsing and Portrait Segmentation Dataset"
(arXiv 2304.13509). Its classes and conventions are here, and the two strongest of its baselines, both written from
their papers: SegFormer (Xie et al., NeurIPS 2021) in the sizes B0, B2 and B5, and FPN (Kirillov et al., "Panoptic
Feature Pyramid Networks", CVPR 2019) on a ResNet-50 with a stem of three 3×3 convolutions.

The conventions: a beard is not skin; the mouth's inside is not lips, and of it only teeth are a class, the rest is
person; an eye is the visible eyeball; hair, neck, ears and clothes are person. Pictures are not aligned, and are padded
to a square before they are scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.attention import attend
from ....nn.inference import plain_copy
from ....nn.resnet import ResNet, resnet
from ....tasks.card import Preprocess
from ..parser import FaceParser, resized
from ..taxonomy import EASYPORTRAIT_9, EASYPORTRAIT_FP_8, EASYPORTRAIT_PS_2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Network = Literal["segformer_tiny", "segformer_b0", "segformer_b2", "segformer_b5", "fpn_resnet50"]
CLASSES = {9: EASYPORTRAIT_9, 8: EASYPORTRAIT_FP_8, 2: EASYPORTRAIT_PS_2}

# Pixels of the two versions of the data, 0..255
_FIRST = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_SECOND = ((143.55267075, 132.96705975, 126.94924335), (60.2625333, 60.32740275, 59.30988645))

WIDTHS: dict[str, tuple[int, int, int, int]] = {
    "segformer_tiny": (16, 32, 80, 128),
    "segformer_b0": (32, 64, 160, 256),
    "segformer_b2": (64, 128, 320, 512),
    "segformer_b5": (64, 128, 320, 512),
}
BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "segformer_tiny": (1, 1, 2, 1),
    "segformer_b0": (2, 2, 2, 2),
    "segformer_b2": (3, 4, 6, 3),
    "segformer_b5": (3, 6, 40, 3),
}
HEADS, REDUCTIONS, MLP_RATIO = (1, 2, 5, 8), (8, 4, 2, 1), 4
HEAD_WIDTH = 256
FPN_WIDTH, FPN_HEAD_WIDTH = 256, 128
NORM_EPS, DROPOUT = 1e-6, 0.1
STRIDE = 32


@dataclass(frozen=True)
class EasyPortraitConfig:
    """Shape of the network; the defaults are SegFormer-B0 on the 9 classes of the first version (3.7 M parameters).

    size: longer side of the picture. classes: 9 for the first version, 8 for face parsing and 2 for portrait
    segmentation of the second, which also normalises pictures differently.
    """

    size: int = 512
    network: Network = "segformer_b0"
    classes: int = 9

    @classmethod
    def compact(cls) -> Self:
        """A SegFormer half as wide and deep as B0, on pictures of 256 px."""
        return cls(size=256, network="segformer_tiny")

    @classmethod
    def fpn(cls) -> Self:
        """FPN on ResNet-50 (28.5 M parameters)."""
        return cls(network="fpn_resnet50")


class PatchEmbedding(nn.Module):
    """Overlapping patches by a strided convolution, then a layer norm: (N, C, H, W) to (N, h·w, C') and (h, w)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(c_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.projection(x)
        return self.norm(_tokens(x)), (x.shape[2], x.shape[3])


class ReducedAttention(nn.Module):
    """Attention whose keys and values are a map made `reduction` times smaller by a convolution."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS) if reduction > 1 else None

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        channels = tokens.shape[2]
        fewer = tokens
        if self.reduce is not None and self.norm is not None:
            fewer = self.norm(_tokens(self.reduce(_map(tokens, size))))
        q = F.linear(tokens, self.qkv.weight[:channels], self.qkv.bias[:channels])
        k, v = F.linear(fewer, self.qkv.weight[channels:], self.qkv.bias[channels:]).chunk(2, 2)
        answer: Tensor = self.out(attend(q, k, v, self.heads))
        return answer


class MixFFN(nn.Module):
    """1×1 convolution, depthwise 3×3, GELU, 1×1: the 3×3 tells every token where it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.place = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.reduce = nn.Conv2d(hidden, channels, 1)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return _tokens(self.reduce(F.gelu(self.place(self.expand(_map(tokens, size))))))


class MixBlock(nn.Module):
    """Attention and mix-FFN, each behind a layer norm and added; without the paper's stochastic depth."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attention = ReducedAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.ffn = MixFFN(channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens), size)
        grown: Tensor = self.ffn(self.norm2(tokens), size)
        return tokens + grown


class MixTransformer(nn.Module):
    """(N, 3, H, W) to four maps at strides 4, 8, 16 and 32: the encoder of SegFormer, section 3.1."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.patches, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        c_in = 3
        for channels, count, heads, reduction in zip(widths, blocks, HEADS, REDUCTIONS):
            first = c_in == 3
            self.patches.append(PatchEmbedding(c_in, channels, 7 if first else 3, 4 if first else 2))
            self.stages.append(nn.ModuleList(MixBlock(channels, heads, reduction) for _ in range(count)))
            self.norms.append(nn.LayerNorm(channels, eps=NORM_EPS))
            c_in = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for patch, stage, norm in zip(self.patches, self.stages, self.norms):
            tokens, size = patch(x)
            for block in stage:  # type: ignore[attr-defined]
                tokens = block(tokens, size)
            x = _map(norm(tokens), size)
            maps.append(x)
        return maps


class SegFormer(nn.Module):
    """Picture to logits at stride 4: the encoder's maps, each by a 1×1 convolution, stacked shallowest first."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        widths, hidden = WIDTHS[name], HEAD_WIDTH
        self.encoder = MixTransformer(widths, BLOCKS[name])
        self.levels = nn.ModuleList(_conv_norm_relu(channels, hidden, 1) for channels in widths)
        self.fuse = _conv_norm_relu(len(widths) * hidden, hidden, 1)
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Conv2d(hidden, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        maps = [level(features) for level, features in zip(self.levels, self.encoder(image))]
        size = maps[0].shape[2:]
        enlarged = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
        logits: Tensor = self.out(self.dropout(self.fuse(torch.cat(enlarged, 1))))
        return logits


class SemanticFPN(nn.Module):
    """Picture to logits at stride 4: a feature pyramid on ResNet-50, every level enlarged to stride 4 and summed."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = _deep_stem_resnet50()
        self.laterals = nn.ModuleList(nn.Conv2d(256 * 2**i, FPN_WIDTH, 1) for i in range(4))
        self.smooth = nn.ModuleList(nn.Conv2d(FPN_WIDTH, FPN_WIDTH, 3, padding=1) for _ in range(4))
        self.scales = nn.ModuleList(_scale_head(level) for level in range(4))
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Conv2d(FPN_HEAD_WIDTH, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        maps = [lateral(m) for lateral, m in zip(self.laterals, self.backbone.feature_maps(image))]
        for level in range(3, 0, -1):
            maps[level - 1] = maps[level - 1] + F.interpolate(maps[level], size=maps[level - 1].shape[2:])
        heads = [scale(smooth(m)) for scale, smooth, m in zip(self.scales, self.smooth, maps)]
        size = heads[0].shape[2:]
        total = heads[0]
        for head in heads[1:]:
            total = total + F.interpolate(head, size=size, mode="bilinear", align_corners=False)
        logits: Tensor = self.out(self.dropout(total))
        return logits


def _deep_stem_resnet50() -> ResNet:
    """ResNet-50 (V1c): three 3×3 convolutions instead of one 7×7; the last norm stays that of the trunk."""
    trunk = resnet("resnet50")
    widths = (3, 32, 32, 64)
    layers: list[nn.Module] = []
    for index, (c_in, c_out) in enumerate(zip(widths, widths[1:])):
        layers.append(nn.Conv2d(c_in, c_out, 3, 2 if index == 0 else 1, 1, bias=False))
        layers += [nn.BatchNorm2d(c_out), nn.ReLU()] if index < 2 else []
    trunk.conv1 = nn.Sequential(*layers)  # type: ignore[assignment]
    return trunk


def _scale_head(level: int) -> nn.Sequential:
    """The convolutions of a level; each but that of the finest level is followed by doubling."""
    layers: list[nn.Module] = []
    for index in range(max(1, level)):
        layers.append(_conv_norm_relu(FPN_WIDTH if index == 0 else FPN_HEAD_WIDTH, FPN_HEAD_WIDTH, 3))
        layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)] if level else []
    return nn.Sequential(*layers)


def _conv_norm_relu(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


class EasyPortrait(FaceParser):
    """Portrait parsing with EasyPortrait's classes (arXiv 2304.13509).

    forward: image (N, 3, H, W) RGB, normalised as the version of the data says, not aligned, to logits (N, C, H, W) in
    the order of `classes`. Raises UsageError for other shapes and for configurations that do not exist.
    """

    slug: ClassVar[str] = "easyportrait"
    Config: ClassVar[type[EasyPortraitConfig]] = EasyPortraitConfig
    config: EasyPortraitConfig

    def __init__(self, config: EasyPortraitConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.network not in (*WIDTHS, "fpn_resnet50") or c.classes not in CLASSES:
            raise UsageError(f"EasyPortrait has no network {c.network!r} for {c.classes} classes")
        self.net = SemanticFPN(c.classes) if c.network == "fpn_resnet50" else SegFormer(c.network, c.classes)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        mean, std = _FIRST if config.classes == 9 else _SECOND
        return Preprocess(CropSpec.whole(config.size), scale=1.0, mean=mean, std=std)

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES[self.config.classes]

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or image.shape[1] != 3:
            raise UsageError(f"EasyPortrait takes (N, 3, H, W), not {tuple(image.shape)}")
        logits: Tensor = self.net(image)
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)

    def fit(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The whole picture (H, W, 3) in its proportions, sides a multiple of 32, the longer one `size`."""
        scale = self.config.size / max(crop.shape[:2])
        height, width = (max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in crop.shape[:2])
        return resized(crop, height, width)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return plain_copy(self.net, dtype)


# --- published checkpoints --------------------------------------------------------------------------------------
