"""SegFace: face parsing with one learnt token per class, so that rare classes get a query of their own.

Paper: Narayan, VS, Patel, "SegFace: Face Segmentation of Long-Tail Classes" (AAAI 2025, arXiv 2412.08647).

Maps of an ImageNet backbone at strides 4 to 32 are fused at stride 4. Tokens, one per class, and the fused map look at
each other in a two-way transformer (that of Segment Anything, Kirillov et al., ICCV 2023). The map is then enlarged to
the size of the picture, and the logit of a class at a pixel is the product of its token with the pixel's features.

The LaPa variant turns and bends the picture by five landmarks first and its logits back afterwards. What the paper
labels is what is seen: hands and masks before a face mostly come out as skin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn import swin
from ....nn.attention import attend
from ....nn.convnext import ChannelNorm, convnext
from ....nn.efficientnet import EfficientNetV2
from ....nn.inference import folded_copy, plain_copy
from ....nn.mobilenetv3 import COMPACT, MobileNetV3
from ....nn.resnet import Bottleneck, ResNet
from ....nn.sampling import exact, pixels, sample
from ....tasks.card import Preprocess
from ..parser import FaceParser
from ..taxonomy import CELEBAMASK_19, LAPA_11

if TYPE_CHECKING:
    from collections.abc import Callable

Labels = Literal["celebamask", "lapa"]
LABELS: dict[Labels, tuple[str, ...]] = {"celebamask": CELEBAMASK_19, "lapa": LAPA_11}
"""CelebAMask-HQ's 19 classes; LaPa's 11, which Helen shares."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENLARGEMENT = 4
WARP_FACTOR = 0.8
LAPA_TEMPLATE = ((196.0, 226.0), (316.0, 226.0), (256.0, 286.0), (220.0, 360.4), (292.0, 360.4))
_TEMPLATE_SIDE = 512
_MARGIN = 0.25
_LARGEST_TANH = 0.999


class ResNetMaps(nn.Module):
    """ResNet-101's four stages."""

    widths = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResNet(Bottleneck, (3, 4, 23, 3))

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.trunk.feature_maps(x)


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "swin_b": lambda: swin.swin("swin_b"),
    "swin_v2_t": lambda: swin.swin("swin_v2_t"),
    "swin_v2_s": lambda: swin.swin("swin_v2_s"),
    "swin_v2_b": lambda: swin.swin("swin_v2_b"),
    "convnext_t": lambda: convnext("tiny"),
    "convnext_s": lambda: convnext("small"),
    "convnext_b": lambda: convnext("base"),
    "resnet101": ResNetMaps,
    "mobilenet_v3_l": MobileNetV3,
    "efficientnet_v2_m": EfficientNetV2,
    "compact": lambda: MobileNetV3(COMPACT, last=0, taps=(3, 6, 10, 13)),
}
"""The paper's backbones by torchvision's names, and `compact`, which is this project's."""


@dataclass(frozen=True)
class SegFaceConfig:
    """Shape of the network; the defaults are the paper's best on CelebAMask-HQ with Swin-B (91.0 M parameters).

    size: side of the crop. backbone: a key of `BACKBONES`. labels: whose classes.
    width: of tokens and fused map. heads, hidden, depth: of the two-way transformer. features: of a pixel, with which
    tokens are compared. warp: bend the picture by five
    landmarks (the LaPa variant).
    """

    size: int = 512
    backbone: str = "swin_b"
    labels: Labels = "celebamask"
    width: int = 256
    heads: int = 8
    hidden: int = 2048
    depth: int = 2
    features: int = 32
    warp: bool = False

    @classmethod
    def lapa(cls) -> Self:
        """LaPa's 11 classes, with the warp by landmarks."""
        return cls(labels="lapa", warp=True)

    @classmethod
    def compact(cls) -> Self:
        """256 px crops, for two processor cores."""
        return cls(size=256, backbone="compact", width=64, heads=2, hidden=128)


class Attention(nn.Module):
    """Multi-head attention with separate projections to an inner width, as in Segment Anything."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, inner)
        self.k = nn.Linear(width, inner)
        self.v = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answer: Tensor = self.out(attend(self.q(q), self.k(k), self.v(v), self.heads))
        return answer


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to the map, a network on tokens, the map to the tokens; a layer norm after each.

    In the `first` block tokens are replaced by what they attend to, instead of added to it, and have no position.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.own = Attention(width, width, heads)
        self.to_map = Attention(width, width // 2, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.from_map = Attention(width, width // 2, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(self, tokens: Tensor, pixels: Tensor, names: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, C, D), pixels (N, P, D); names (C, D) and places (P, D) are what their positions add."""
        if self.first:
            tokens = self.norms[0](self.own(tokens, tokens, tokens))
        else:
            asked = tokens + names
            tokens = self.norms[0](tokens + self.own(asked, asked, tokens))
        tokens = self.norms[1](tokens + self.to_map(tokens + names, pixels + places, pixels))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        pixels = self.norms[3](pixels + self.from_map(pixels + places, tokens + names, tokens))
        return tokens, pixels


class ClassTokenDecoder(nn.Module):
    """A fused map (N, D, h, w) to logits (N, C, 4h, 4w), one token for each of the C classes."""

    full_precision: ClassVar[tuple[str, ...]] = ("frequencies",)
    frequencies: Tensor

    def __init__(self, classes: int, width: int, heads: int, hidden: int, depth: int, features: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(classes, width))
        self.register_buffer("frequencies", torch.randn(2, width // 2))
        self.blocks = nn.ModuleList(TwoWayBlock(width, heads, hidden, first=i == 0) for i in range(depth))
        self.last = Attention(width, width // 2, heads)
        self.last_norm = nn.LayerNorm(width)
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(width, 2 * features, 2, 2),
            ChannelNorm(2 * features),
            nn.GELU(),
            nn.ConvTranspose2d(2 * features, features, 2, 2),
            nn.GELU(),
        )
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, features)
        )

    def forward(self, fused: Tensor) -> Tensor:
        height, width = fused.shape[2:]
        places = pixel_positions(self.frequencies, height, width).to(fused.dtype)
        pixels = fused.permute(0, 2, 3, 1).flatten(1, 2)
        tokens = self.tokens.expand(len(fused), -1, -1)
        for block in self.blocks:
            tokens, pixels = block(tokens, pixels, self.tokens, places)
        tokens = self.last_norm(tokens + self.last(tokens + self.tokens, pixels + places, pixels))
        features = self.enlarge(pixels.reshape(len(fused), height, width, -1).permute(0, 3, 1, 2))
        logits: Tensor = features.permute(0, 2, 3, 1) @ self.head(tokens).transpose(1, 2)[:, None]
        return logits.permute(0, 3, 1, 2)


@exact
def pixel_positions(frequencies: Tensor, height: int, width: int) -> Tensor:
    """(h·w, D) position of every pixel: sines and cosines of its place in [−1, 1]² in random directions (2, D / 2)."""
    sides = frequencies.new_tensor([width, height])
    at = (pixels(height, width, frequencies).flatten(0, 1) + 0.5) / sides * 2 - 1
    angles = 2 * torch.pi * (at @ frequencies)
    return torch.cat([angles.sin(), angles.cos()], 1)


class SegFaceNet(nn.Module):
    """Picture (N, 3, H, W) to logits of the same size; H and W are multiples of 4."""

    def __init__(self, config: SegFaceConfig) -> None:
        super().__init__()
        if config.backbone not in BACKBONES:
            raise UsageError(f"SegFace has no backbone {config.backbone!r}; choose from {', '.join(BACKBONES)}")
        self.backbone = BACKBONES[config.backbone]()
        widths = cast("tuple[int, ...]", self.backbone.widths)
        self.project = nn.ModuleList(nn.Linear(c, config.width) for c in widths)
        self.fuse = nn.Conv2d(len(widths) * config.width, config.width, 1, bias=False)
        self.decoder = ClassTokenDecoder(
            len(LABELS[config.labels]), config.width, config.heads, config.hidden, config.depth, config.features
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.fused(self.backbone(image)))
        return logits

    def fused(self, maps: list[Tensor]) -> Tensor:
        """The backbone's maps as one map at the size of the first.

        The paper enlarges, stacks the maps deepest first, and mixes them by a 1×1 convolution. Without anything between
        these steps each map can be mixed before it is enlarged, which is the same and cheaper.
        """
        size = maps[0].shape[2:]
        shares = self.fuse.weight.chunk(len(maps), 1)[::-1]
        mixed = []
        for features, project, share in zip(maps, self.project, shares):
            narrow = F.conv2d(project(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), share)
            mixed.append(F.interpolate(narrow, size=size, mode="bilinear", align_corners=False))
        return sum(mixed[1:], mixed[0])


class SegFace(FaceParser):
    """Face parsing with class tokens (arXiv 2412.08647).

    forward: image (N, 3, H, W) RGB, normalised with ImageNet's mean and deviation, aligned by the `ffhq` template, H
    and W multiples of 4, to logits (N, C, H, W) in the order of `classes`. The LaPa variant takes unaligned pictures
    and `points` (N, 5, 2): eyes, nose, corners of the mouth in pixels, from the picture's left.

    Raises UsageError for other shapes, and where the LaPa variant gets no points or another variant gets some.
    """

    slug: ClassVar[str] = "segface"
    Config: ClassVar[type[SegFaceConfig]] = SegFaceConfig
    config: SegFaceConfig

    def __init__(self, config: SegFaceConfig | None = None) -> None:
        super().__init__(config)
        self.net: SegFaceNet = SegFaceNet(self.config)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        # with this margin the eyes are about as far apart as on the template that the network aligns to itself
        crop = CropSpec.boxed(config.size, margin=_MARGIN) if config.warp else CropSpec.aligned(config.size)
        return Preprocess(crop, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    @property
    def classes(self) -> tuple[str, ...]:
        return LABELS[self.config.labels]

    def forward(self, image: Tensor, points: Tensor | None = None) -> Tensor:
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % ENLARGEMENT or image.shape[3] % ENLARGEMENT:
            raise UsageError(f"SegFace takes (N, 3, H, W) with sides of 4 times n, not {tuple(image.shape)}")
        return self._logits(self.net, image, points)

    @classmethod
    def earlier_crop_for(cls, config: Any) -> CropSpec | None:
        return CropSpec.whole(config.size) if config.warp else None

    @property
    def aligns_by_landmarks(self) -> bool:
        return self.config.warp

    def _logits(self, network: nn.Module, image: Tensor, points: Tensor | None) -> Tensor:
        if (points is not None) != self.config.warp:
            raise UsageError("the LaPa variant of SegFace needs five points for each picture; the others take none")
        if points is None:
            return cast("Tensor", network(image))
        size = image.shape[2:]
        matrix = lapa_alignment(points.float(), size)
        bent = sample(image.float(), bending_grid(matrix, size), align_corners=False)
        logits = network(bent.to(image.dtype)).float()
        return sample(logits, straightening_grid(matrix, size), align_corners=False)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        network = plain_copy(self.net, dtype)
        if any(isinstance(module, nn.BatchNorm2d) for module in self.net.backbone.modules()):
            network.backbone = folded_copy(self.net.backbone, dtype)
        return network


# --- the LaPa variant's view ------------------------------------------------------------------------------------


@exact
def lapa_alignment(points: Tensor, size: torch.Size) -> Tensor:
    """(N, 3, 3) similarities that bring five points (N, 5, 2) nearest to LaPa's template in a picture of (H, W)."""
    height, width = size
    unit = points.new_tensor(LAPA_TEMPLATE) / _TEMPLATE_SIDE
    target = unit * points.new_tensor([width - 1, height - 1])
    middle, aim = points.mean(1, keepdim=True), target.mean(0)
    source, target = points - middle, target - aim
    spread = source.square().sum((1, 2))
    cos = (source * target).sum((1, 2)) / spread
    sin = (source[..., 0] * target[..., 1] - source[..., 1] * target[..., 0]).sum(1) / spread
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    shift = aim[:, None] - turn @ middle.transpose(1, 2)
    last = points.new_tensor([0.0, 0.0, 1.0]).expand(len(points), 1, 3)
    return torch.cat([torch.cat([turn, shift], 2), last], 1)


@exact
def bending_grid(matrix: Tensor, size: torch.Size) -> Tensor:
    """(N, H, W, 2) where `sample` finds the pixels of the bent picture: the whole plane within a square."""
    sides = matrix.new_tensor([size[1], size[0]])
    straight = (_unbent(pixels(size[0], size[1], matrix)[None] / sides * 2 - 1) + 1) / 2 * sides
    return _moved(torch.linalg.inv(matrix), straight) / sides * 2 - 1


@exact
def straightening_grid(matrix: Tensor, size: torch.Size) -> Tensor:
    """(N, H, W, 2) where `sample` finds the pixels of the original picture in the bent one."""
    sides = matrix.new_tensor([size[1], size[0]])
    return _bent(_moved(matrix, pixels(size[0], size[1], matrix)[None]) / sides * 2 - 1)


def _moved(matrix: Tensor, at: Tensor) -> Tensor:
    moved = torch.einsum("nij,nhwj->nhwi", matrix[:, :2, :2], at.expand(len(matrix), -1, -1, -1))
    return moved + matrix[:, None, None, :2, 2]


def _bent(u: Tensor) -> Tensor:
    """Linear in the middle; beyond 1 − factor a hyperbolic tangent that never leaves [−1, 1]."""
    straight = 1 - WARP_FACTOR
    beyond = (u.abs() - straight) / WARP_FACTOR
    return torch.where(beyond > 0, u.sign() * (beyond.tanh() * WARP_FACTOR + straight), u)


def _unbent(u: Tensor) -> Tensor:
    straight = 1 - WARP_FACTOR
    beyond = (u.abs() - straight) / WARP_FACTOR
    far = beyond.clamp(max=_LARGEST_TANH).arctanh()
    return torch.where(beyond > 0, u.sign() * (far * WARP_FACTOR + straight), u)


# --- published checkpoints --------------------------------------------------------------------------------------

_TOKENS_CELEBAMASK = {
    "background": "background",
    "neck": "neck",
    "face": "skin",
    "cloth": "cloth",
    "rightear": "l_ear",  # named by the picture's side, while the labels it learnt are named by the subject's
    "leftear": "r_ear",
    "rightbro": "l_brow",
    "leftbro": "r_brow",
    "righteye": "l_eye",
    "lefteye": "r_eye",
    "nose": "nose",
    "innermouth": "mouth",
    "lowerlip": "l_lip",
    "upperlip": "u_lip",
    "hair": "hair",
    "glass": "eye_g",
    "hat": "hat",
    "earring": "ear_r",
    "necklace": "neck_l",
}
"""Tokens of the published decoder in the order of its logits, and the class each stands for."""
_TOKENS_LAPA = {
    "background": "background",
    "face": "skin",
    "leftbro": "l_brow",
    "rightbro": "r_brow",
    "lefteye": "l_eye",
    "righteye": "r_eye",
    "nose": "nose",
    "upperlip": "u_lip",
    "innermouth": "mouth",
    "lowerlip": "l_lip",
    "hair": "hair",
}
_TOKENS: dict[Labels, dict[str, str]] = {"celebamask": _TOKENS_CELEBAMASK, "lapa": _TOKENS_LAPA}
PUBLISHED_ORDER: dict[Labels, tuple[str, ...]] = {labels: tuple(names.values()) for labels, names in _TOKENS.items()}
"""Classes in the order of the published networks' logits."""
