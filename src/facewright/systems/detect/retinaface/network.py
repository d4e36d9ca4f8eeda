"""RetinaFace: one look at the photo gives boxes, scores and five points on three levels.

Paper: Deng, Guo, Ververas, Kotsia, Zafeiriou, "RetinaFace: Single-Shot Multi-Level Face Localisation in the Wild"
(CVPR 2020, arXiv 1905.00641), in the form most restorers come with: without dense regression, on ResNet-50 or a
MobileNet of a quarter of the width. A pyramid joins three levels, a context module widens what each cell sees, and
1×1 convolutions give two anchors a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....nn.boxes import decode_boxes, decode_points, make_anchors
from ....nn.resnet import RESNETS, ResNet
from ....tasks.card import Preprocess
from ..single_shot import Candidates, SingleShotDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

Body = Literal["resnet50", "mobilenet"]

STRIDES = (8, 16, 32)
SIZES = ((16, 32), (64, 128), (256, 512))
_MOBILENET = (
    ((8, 2), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
    ((128, 2), *(((128, 1),) * 5)),
    ((256, 2), (256, 1)),
)
_NARROW = 64  # up to this width activations leak


@dataclass(frozen=True)
class RetinaFaceConfig:
    """body: the trunk; the default is ResNet-50 (27.3 M parameters)."""

    body: Body = "resnet50"

    @classmethod
    def compact(cls) -> Self:
        """On a MobileNet of a quarter of the width (0.43 M parameters)."""
        return cls("mobilenet")


def _conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, leak: float | None, groups: int = 1
) -> list[nn.Module]:
    """Convolution, norm and, with a `leak`, activation."""
    layers = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return [*layers, *([] if leak is None else [nn.LeakyReLU(leak)])]


class MobileNet(nn.Module):
    """Three stages of depthwise convolutions at 1/8, 1/16 and 1/32 of the picture."""

    widths = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        c_in = 3
        for number, rows in enumerate(_MOBILENET, 1):
            stage = nn.Sequential()
            for width, stride in rows:
                whole = c_in == 3
                first = [] if whole else _conv(c_in, c_in, 3, stride, leak=0.1, groups=c_in)
                last = _conv(c_in, width, 3 if whole else 1, stride if whole else 1, leak=0.1)
                stage.append(nn.Sequential(*first, *last))
                c_in = width
            self.add_module(f"stage{number}", stage)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in range(1, 4):
            x = self.get_submodule(f"stage{stage}")(x)
            maps.append(x)
        return maps


class Pyramid(nn.Module):
    """Feature pyramid of three levels of one width."""

    def __init__(self, widths: Sequence[int], width: int, leak: float) -> None:
        super().__init__()
        for level, c_in in enumerate(widths, 1):
            self.add_module(f"output{level}", nn.Sequential(*_conv(c_in, width, 1, leak=leak)))
        self.merge1 = nn.Sequential(*_conv(width, width, 3, leak=leak))
        self.merge2 = nn.Sequential(*_conv(width, width, 3, leak=leak))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (self.get_submodule(f"output{i}")(x) for i, x in enumerate(maps, 1))
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return [fine, middle, coarse]


class Context(nn.Module):
    """3×3, 5×5 and 7×7 receptive fields side by side (SSH, Najibi et al. 2017)."""

    def __init__(self, width: int, leak: float) -> None:
        super().__init__()
        quarter = width // 4
        self.conv3 = nn.Sequential(*_conv(width, width // 2, 3, leak=None))
        self.trunk5 = nn.Sequential(*_conv(width, quarter, 3, leak=leak))
        self.conv5 = nn.Sequential(*_conv(quarter, quarter, 3, leak=None))
        self.trunk7 = nn.Sequential(*_conv(quarter, quarter, 3, leak=leak))
        self.conv7 = nn.Sequential(*_conv(quarter, quarter, 3, leak=None))

    def forward(self, x: Tensor) -> Tensor:
        trunk = self.trunk5(x)
        return F.relu(torch.cat((self.conv3(x), self.conv5(trunk), self.conv7(self.trunk7(trunk))), 1))


class RetinaFace(SingleShotDetector):
    """Face detector with five points.

    forward: (N, 3, H, W) BGR, 0…255 less the mean of ImageNet, to class logits (N, A, 2), box codes (N, A, 4) and point
    codes (N, A, 10) of A anchors: two a cell, level by level.
    """

    slug: ClassVar[str] = "retinaface"
    Config: ClassVar[type[RetinaFaceConfig]] = RetinaFaceConfig
    config: RetinaFaceConfig

    def __init__(self, config: RetinaFaceConfig | None = None) -> None:
        super().__init__(config)
        self.body: nn.Module
        if self.config.body == "resnet50":
            block, blocks = RESNETS["resnet50"]
            self.body, widths, width = ResNet(block, blocks), (512, 1024, 2048), 256
        else:
            self.body, widths, width = MobileNet(), MobileNet.widths, 64
        leak = 0.1 if width <= _NARROW else 0.0
        self.fpn = Pyramid(widths, width, leak)
        self.context = nn.ModuleList(Context(width, leak) for _ in STRIDES)
        heads = {"classes": 2, "boxes": 4, "points": 10}
        for name, count in heads.items():
            self.add_module(name, nn.ModuleList(nn.Conv2d(width, 2 * count, 1) for _ in STRIDES))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """Whole photos of any size, BGR, 0–255 minus the ImageNet mean."""
        return Preprocess(CropSpec.whole(), colour="BGR", scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps: list[Tensor] = self.body.feature_maps(image)[-3:]  # type: ignore[operator]
        levels = [context(level) for context, level in zip(self.context, self.fpn(maps))]
        return self._head("classes", levels), self._head("boxes", levels), self._head("points", levels)

    def _head(self, name: str, levels: Sequence[Tensor]) -> Tensor:
        """(N, A, c) from the c channels each of the two anchors of a cell has."""
        heads = cast("nn.ModuleList", self.get_submodule(name))
        rows = [head(level).permute(0, 2, 3, 1) for head, level in zip(heads, levels)]
        return torch.cat([row.reshape(len(row), -1, row.shape[3] // 2) for row in rows], 1)

    def candidates(self, picture: Tensor) -> Candidates:
        classes, boxes, points = self(picture)
        height, width = picture.shape[2:]
        anchors = make_anchors(height, width, STRIDES, SIZES, picture.device)
        scores = classes[0].float().softmax(-1)[:, 1]
        return Candidates(
            scores,
            decode_boxes(boxes[0].float(), anchors),
            decode_points(points[0].float().view(-1, 5, 2), anchors),
        )
