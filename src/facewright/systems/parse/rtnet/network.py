"""RTNet: parses the face in a box of any photo, without landmarks, through the RoI tanh-polar view.

Paper: Lin, Shen, Wang, Pantic, "RoI Tanh-polar Transformer Network for Face Parsing in the Wild" (Image and Vision
Computing 2021, arXiv 2102.02717).

The view keeps the whole photo but gives most room to the face. Hybrid blocks convolve half of their channels in it,
where a turned face is a shifted one, and half in the Cartesian view, where shapes keep their form. Training code was
never published; the baselines are a ResNet-50 on the same view, with the same head or that of DeepLabV3+.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.resnet import Bottleneck, ResNet, resnet
from ....nn.tanh_polar import cartesian_to_polar, polar_restore, polar_to_cartesian, polar_warp
from ....tasks.card import Preprocess
from ...base import System
from ..taxonomy import IBUG_11, IBUG_14

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

Trunk = Literal["rtnet50", "rtnet101", "resnet50"]
Head = Literal["fcn", "deeplabv3plus"]
CLASSES = {11: IBUG_11, 14: IBUG_14}
BLOCKS: dict[str, tuple[int, int, int, int]] = {"rtnet50": (3, 4, 6, 3), "rtnet101": (3, 4, 23, 3)}
EXPANSION = 4
ASPP_WIDTH, LOW_WIDTH, ASPP_RATES = 256, 48, (6, 12, 18)
DROPOUT = 0.1
_FIRST_SCALE = 0.01  # published as 0, which lets the first step teach the rest of a block nothing
_REACH = 4.0  # half sides of the box beyond which a photo is taken for background
_MARGIN, _CROP = (_REACH - 1) / 2, 2  # crops hold all that the view reaches; their side in sides of the view


@dataclass(frozen=True)
class RTNetConfig:
    """Shape of the network; the defaults are RTNet-50 with 11 classes (27.3 M parameters).

    size: side of the square polar view. trunk, head: see the module. classes: 11 or 14.
    width: channels of the first stage, before the expansion by 4.
    """

    size: int = 513
    trunk: Trunk = "rtnet50"
    head: Head = "fcn"
    classes: int = 11
    width: int = 64

    @classmethod
    def rtnet101(cls) -> Self:
        """The larger published network, with ears and glasses as classes."""
        return cls(trunk="rtnet101", classes=14)

    @classmethod
    def compact(cls) -> Self:
        """A quarter of the channels on views of 129 px."""
        return cls(size=129, width=16)

    @classmethod
    def baseline(cls) -> Self:
        """ResNet-50 with the head of DeepLabV3+ on the same view."""
        return cls(trunk="resnet50", head="deeplabv3plus", classes=14)


class MixedPad(nn.Module):
    """Padding of a polar map: rows, the angle, go round; columns, the radius, repeat their ends."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        p = self.width
        return F.pad(F.pad(x, (0, 0, p, p), mode="circular"), (p, p, 0, 0), mode="replicate")


class HybridBlock(nn.Module):
    """A bottleneck whose 3×3 convolution is split: half in the polar, half in the Cartesian view.

    Where not `hybrid` both halves see the polar view and differ in their padding only.
    """

    def __init__(self, c_in: int, width: int, *, stride: int = 1, dilation: int = 1, hybrid: bool = True) -> None:
        super().__init__()
        half, c_out = width // 2, width * EXPANSION
        self.hybrid = hybrid
        self.reduce_polar = _conv_norm(c_in, half, 1)
        self.reduce_cartesian = _conv_norm(c_in, half, 1)
        self.polar = nn.Sequential(MixedPad(dilation), *_conv_norm(half, half, 3, stride, 0, dilation))
        self.cartesian = _conv_norm(half, half, 3, stride, dilation, dilation)
        self.expand = _conv_norm(width, c_out, 1)
        self.shortcut = _conv_norm(c_in, c_out, 1, stride) if stride > 1 or c_in != c_out else None
        nn.init.constant_(self.expand[1].weight, _FIRST_SCALE)  # type: ignore[arg-type]

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        polar = self.polar(F.relu(self.reduce_polar(x)))
        other = F.relu(self.reduce_cartesian(x))
        if self.hybrid:
            flat = self.cartesian(polar_to_cartesian(other, boxes, *other.shape[2:]))
            other = cartesian_to_polar(flat, boxes, *flat.shape[2:])
        else:
            other = self.cartesian(other)
        change = self.expand(torch.cat([F.relu(polar), F.relu(other)], 1))
        return F.relu(change + (x if self.shortcut is None else self.shortcut(x)))


class PolarBottleneck(Bottleneck):
    """An ordinary bottleneck among hybrid blocks; it has no use for the boxes."""

    def forward(self, x: Tensor, boxes: Tensor | None = None) -> Tensor:
        return super().forward(x)


def _conv_norm(
    c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class RTNetTrunk(nn.Module):
    """Polar views (N, 3, S, S) and boxes to the outputs of the four stages, at strides 4, 8, 8 and 8.

    The first block of every stage is a hybrid block that stays in the polar view; then follow bottlenecks in the first
    stage, hybrid blocks in the others. The last two stages are dilated by 2 and 4, their first blocks by half of that.
    """

    def __init__(self, blocks: tuple[int, int, int, int], width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.stages = nn.ModuleList()
        c_in = 64
        for index, (count, dilation) in enumerate(zip(blocks, (1, 1, 2, 4))):
            planes, stride = width * 2**index, 2 if index == 1 else 1
            first = HybridBlock(c_in, planes, stride=stride, dilation=max(1, dilation // 2), hybrid=False)
            c_in = planes * EXPANSION
            rest = [_later(c_in, planes, dilation, hybrid=index > 0) for _ in range(count - 1)]
            self.stages.append(nn.ModuleList([first, *rest]))
        self.widths = tuple(width * 2**i * EXPANSION for i in range(4))

    def forward(self, views: Tensor, boxes: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(views))), 3, 2, 1)
        maps = []
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, boxes)
            maps.append(x)
        return maps


def _later(c_in: int, width: int, dilation: int, *, hybrid: bool) -> nn.Module:
    return HybridBlock(c_in, width, dilation=dilation) if hybrid else PolarBottleneck(c_in, width, 1)


class ResNetTrunk(nn.Module):
    """ResNet-50 whose last two stages are dilated instead of strided, as torchvision does it; ignores the boxes."""

    widths = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.body: ResNet = resnet("resnet50")
        for name, dilation in (("layer3", 2), ("layer4", 4)):
            blocks: Any = self.body.get_submodule(name)
            for index, block in enumerate(blocks):
                rate = dilation // 2 if index == 0 else dilation
                block.conv2.stride, block.conv2.dilation, block.conv2.padding = (1, 1), (rate, rate), (rate, rate)
                if block.downsample is not None:
                    block.downsample[0].stride = (1, 1)

    def forward(self, views: Tensor, boxes: Tensor | None = None) -> list[Tensor]:
        return self.body.feature_maps(views)


class FCNHead(nn.Sequential):
    """3×3 convolution to a quarter of the channels, norm, ReLU, dropout, 1×1 to the classes, from the last map."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        hidden = widths[-1] // 4
        super().__init__(
            nn.Conv2d(widths[-1], hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Conv2d(hidden, classes, 1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for layer in self:
            x = layer(x)
        return x


class DeepLabHead(nn.Module):
    """The head of DeepLabV3+ (Chen et al., ECCV 2018) without pooling over the picture, at stride 4.

    The published 1×1 convolution after the pyramid pads by one pixel, so that its map is two larger with a border that
    has seen nothing. It is kept, for the weights were trained with it.
    """

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        rates = [(1, 0, 1), *((3, rate, rate) for rate in ASPP_RATES)]
        self.pyramid = nn.ModuleList(_biased(widths[-1], ASPP_WIDTH, *rate) for rate in rates)
        self.pyramid_out = _biased(len(rates) * ASPP_WIDTH, ASPP_WIDTH, 1, 1)
        self.low = _biased(widths[0], LOW_WIDTH, 1, 0)
        self.mix = nn.Sequential(
            _biased(ASPP_WIDTH + LOW_WIDTH, ASPP_WIDTH, 3, 1), _biased(ASPP_WIDTH, ASPP_WIDTH, 3, 1)
        )
        self.out = nn.Conv2d(ASPP_WIDTH, classes, 1, bias=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        pyramid = self.pyramid_out(torch.cat([branch(maps[-1]) for branch in self.pyramid], 1))
        low = self.low(maps[0])
        high = F.interpolate(pyramid, size=low.shape[2:], mode="bilinear", align_corners=True)
        logits: Tensor = self.out(self.mix(torch.cat([low, high], 1)))
        return logits


def _biased(c_in: int, c_out: int, kernel: int, padding: int, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation)
    nn.init.kaiming_normal_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class RTNet(System):
    """Face parsing in the RoI tanh-polar view (arXiv 2102.02717).

    forward: polar views (N, 3, S, S) BGR in [−1, 1] and boxes (N, 4), of which the ratio of the sides matters, to
    logits (N, C, S, S) in the view; without boxes they are taken for squares. `parse` and `probabilities` go from any
    picture that has the face in it, such as the whole photo, to labels of that picture.
    Raises UsageError for other shapes and for configurations that do not exist.
    """

    slug: ClassVar[str] = "rtnet"
    Config: ClassVar[type[RTNetConfig]] = RTNetConfig
    config: RTNetConfig

    def __init__(self, config: RTNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        heads: dict[str, type[FCNHead] | type[DeepLabHead]] = {"fcn": FCNHead, "deeplabv3plus": DeepLabHead}
        if c.trunk not in (*BLOCKS, "resnet50") or c.head not in heads or c.classes not in CLASSES:
            raise UsageError(f"RTNet has no trunk {c.trunk!r} with head {c.head!r} for {c.classes} classes")
        self.trunk = ResNetTrunk() if c.trunk == "resnet50" else RTNetTrunk(BLOCKS[c.trunk], c.width)
        self.head = heads[c.head](self.trunk.widths, c.classes)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.boxed(_CROP * config.size, margin=_MARGIN), colour="BGR")

    @classmethod
    def earlier_crop_for(cls, config: Any) -> CropSpec:
        return CropSpec.whole(config.size)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return CLASSES[self.config.classes]

    def forward(self, views: Tensor, boxes: Tensor | None = None) -> Tensor:
        if boxes is None:
            boxes = views.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(views), 4)
        if views.dim() != 4 or views.shape[1] != 3 or boxes.shape != (len(views), 4):
            raise UsageError(f"RTNet takes (N, 3, S, S) and (N, 4), not {tuple(views.shape)} and {tuple(boxes.shape)}")
        logits = self.head(self.trunk(views, boxes))
        return F.interpolate(logits, size=views.shape[2:], mode="bilinear", align_corners=False)

    def parse(self, crops: NDArray[np.uint8], *, faces: Sequence[Face] | None = None) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 RGB pictures of a face each to (N, H, W) uint8 labels.

        The boxes of `faces`, in pixels of the pictures, say where to look; without, the pictures are crops as
        `preprocess` cuts them around a square box. Raises UsageError for other shapes and for boxes without an area.
        """
        return self._each(crops, faces, lambda scores: scores.argmax(0).to(torch.uint8))

    def probabilities(self, crops: NDArray[np.uint8], *, faces: Sequence[Face] | None = None) -> NDArray[np.float32]:
        """As `parse`, to (N, C, H, W) float32 probabilities; what no view reaches is background."""
        return self._each(crops, faces, lambda scores: scores)

    @torch.inference_mode()
    def _each(self, crops: NDArray[np.uint8], faces: Sequence[Face] | None, finish: Any) -> NDArray[Any]:
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise UsageError(f"RTNet parses uint8 pictures (N, H, W, 3), not {crops.dtype} {crops.shape}")
        if faces is not None and len(faces) != len(crops):
            raise UsageError(f"{len(crops)} pictures need as many faces, not {len(faces)}")
        middle = _middle_box(*crops.shape[1:3])
        boxes = [middle] * len(crops) if faces is None else [np.asarray(face.box, np.float32) for face in faces]
        if any((box[2:] <= box[:2]).any() for box in boxes):
            raise UsageError("a box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        maps = [finish(self._scores(c, torch.from_numpy(b)[None])).cpu().numpy() for c, b in zip(crops, boxes)]
        if not maps:
            empty = finish(torch.zeros(len(self.classes), *crops.shape[1:3])).numpy()
            return np.zeros((0, *empty.shape), empty.dtype)
        return np.stack(maps)

    def _scores(self, photo: NDArray[np.uint8], box: Tensor) -> Tensor:
        """(C, H, W) probabilities; computed around the box alone, for the rest of a large photo is background."""
        height, width = photo.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float()
        size = self.config.size
        view = polar_warp(pixels, box, size, size).round()
        x = self.normalise(view.byte().permute(0, 2, 3, 1).numpy())
        seen = self(x, box.to(x.device)).softmax(1).cpu()
        seen[:, 0] = 1 - seen[:, 0]  # what lies outside the view is sampled as 0 and must become background
        x0, y0, x1, y1 = _surroundings(box[0], height, width)
        shifted = box - torch.tensor([x0, y0, x0, y0])
        around = polar_restore(seen, shifted, y1 - y0, x1 - x0)[0]
        scores = torch.zeros(len(around), height, width)
        scores[:, y0:y1, x0:x1] = around
        scores[0] = 1 - scores[0]
        return scores


def _middle_box(height: int, width: int) -> NDArray[np.float32]:
    """The box of the face in a crop of this size as `preprocess` cuts it."""
    half = min(height, width) / (2 * (1 + 2 * _MARGIN))
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([x - half, y - half, x + half, y + half], np.float32)


def _surroundings(box: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Whole pixels (x0, y0, x1, y1) of the photo within some half sides of the box, at least one pixel."""
    x0, y0, x1, y1 = box.tolist()
    reach_x, reach_y = (_REACH - 1) * (x1 - x0) / 2, (_REACH - 1) * (y1 - y0) / 2
    left, top = int(min(max(x0 - reach_x, 0), width - 1)), int(min(max(y0 - reach_y, 0), height - 1))
    right, bottom = int(min(max(x1 + reach_x + 1, left + 1), width)), int(min(max(y1 + reach_y + 1, top + 1), height))
    return left, top, right, bottom


# --- published checkpoints --------------------------------------------------------------------------------------
