"""FAN: four hourglasses in a row draw a heat map for each of the 68 landmarks.

Paper: Bulat, Tzimiropoulos, "How far are we from solving the 2D & 3D Face Alignment problem? (and a dataset of 230,000
3D facial landmarks)" (ICCV 2017, arXiv 1703.07332), section 3.1, in the form that the package face-alignment publishes.
Every hourglass (Newell et al., ECCV 2016) is made of the hierarchical blocks of Bulat and Tzimiropoulos (ICCV 2017)
and corrects what the one before it drew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import Landmarks
from ....geometry.crop import CropSpec
from ....geometry.similarity import invert, transform_points
from ....nn.batching import padded
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

POINTS = 68
_HEAT = 4  # pixels of the crop under one of a heat map
_DEPTH = 4  # halvings inside an hourglass
_STEP = 0.25  # of a heat map's pixel towards its higher neighbour
_MARGIN = (2 * 200 / 195 - 1) / 2  # the published crop: 200/195 of the sum of the box's sides
_LIFT = 0.12
_BATCH = 8


@dataclass(frozen=True)
class FANConfig:
    """Shape of the network; the defaults are 2DFAN-4 (23.8 M parameters).

    size: side of the crop in pixels. width: channels of the hourglasses. stacks: how many there are.
    """

    size: int = 256
    width: int = 256
    stacks: int = 4

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and one narrow hourglass, for experiments."""
        return cls(size=64, width=32, stacks=1)


class HierarchicalBlock(nn.Module):
    """Three 3×3 convolutions, each behind norm and ReLU, whose outputs lie side by side; added to the input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half, quarter = c_out // 2, c_out // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, half, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(quarter), nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample = (
            None
            if c_in == c_out
            else nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.cat((first, second, third), 1) + skip


class Hourglass(nn.Module):
    """Down to a sixteenth of the side and up again, with a block on every way; (N, C, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for level in range(1, _DEPTH + 1):
            for way in ("b1", "b2", "b3"):
                self.add_module(f"{way}_{level}", HierarchicalBlock(width, width))
        self.add_module("b2_plus_1", HierarchicalBlock(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self._level(_DEPTH, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        straight: Tensor = self.get_submodule(f"b1_{level}")(x)
        low = self.get_submodule(f"b2_{level}")(F.avg_pool2d(x, 2))
        low = self._level(level - 1, low) if level > 1 else self.get_submodule("b2_plus_1")(low)
        low = self.get_submodule(f"b3_{level}")(low)
        return straight + F.interpolate(low, scale_factor=2, mode="nearest")


class FAN(System):
    """Landmarks from heat maps (arXiv 1703.07332).

    forward: (N, 3, S, S) RGB in [0, 1], a crop around the face's box, to heat maps (stacks, N, 68, S/4, S/4), the last
    of which counts.
    """

    slug: ClassVar[str] = "fan"
    Config: ClassVar[type[FANConfig]] = FANConfig
    config: FANConfig

    def __init__(self, config: FANConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.size % (_HEAT * 2**_DEPTH) or c.width % 4:
            raise UsageError(f"FAN needs crops of {_HEAT * 2**_DEPTH} px times n and a width divisible by 4")
        width = c.width
        self.conv1, self.bn1 = nn.Conv2d(3, width // 4, 7, 2, 3), nn.BatchNorm2d(width // 4)
        self.conv2 = HierarchicalBlock(width // 4, width // 2)
        self.conv3 = HierarchicalBlock(width // 2, width // 2)
        self.conv4 = HierarchicalBlock(width // 2, width)
        for i in range(c.stacks):
            self.add_module(f"m{i}", Hourglass(width))
            self.add_module(f"top_m_{i}", HierarchicalBlock(width, width))
            self.add_module(f"conv_last{i}", nn.Conv2d(width, width, 1))
            self.add_module(f"bn_end{i}", nn.BatchNorm2d(width))
            self.add_module(f"l{i}", nn.Conv2d(width, POINTS, 1))
            if i < c.stacks - 1:
                self.add_module(f"bl{i}", nn.Conv2d(width, width, 1))
                self.add_module(f"al{i}", nn.Conv2d(POINTS, width, 1))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        crop = CropSpec.boxed(config.size, margin=_MARGIN, mean_side=True, lift=_LIFT)
        return Preprocess(crop, mean=(0.0,) * 3, std=(1.0,) * 3)

    def forward(self, crop: Tensor) -> Tensor:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this FAN takes crops (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        x = F.avg_pool2d(self.conv2(F.relu(self.bn1(self.conv1(crop)))), 2)
        x = self.conv4(self.conv3(x))
        drawn = []
        for i in range(self.config.stacks):
            part = self.get_submodule
            seen = part(f"top_m_{i}")(part(f"m{i}")(x))
            seen = F.relu(part(f"bn_end{i}")(part(f"conv_last{i}")(seen)))
            drawn.append(part(f"l{i}")(seen))
            if i < self.config.stacks - 1:
                x = x + part(f"bl{i}")(seen) + part(f"al{i}")(drawn[-1])
        return torch.stack(drawn)

    @torch.inference_mode()
    def landmarks(self, crops: NDArray[np.uint8]) -> Landmarks:
        """(N, S, S, 3) uint8 RGB crops, cut by `preprocess.crop`, to landmarks in crop pixels."""
        heat = [torch.zeros(0, POINTS, self.config.size // _HEAT, self.config.size // _HEAT)]
        for group in batches(crops, _BATCH):
            maps = self.inference()(padded(self.normalise(np.asarray(group))))[-1]
            heat.append(maps[: len(group)].float().cpu())
        points, peaks = peaks_of(torch.cat(heat))
        return Landmarks(points.numpy(), peaks.clamp(0, 1).numpy())

    def locate(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[Landmarks]:
        """Landmarks of the faces of an (H, W, 3) uint8 RGB photo in photo pixels, in the order of the faces.

        The confidence is the height of the heat map's peak, cut at 1, and no measured probability.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"locate needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        located: list[Landmarks] = []
        for group in batches(faces, _BATCH):
            crops = [self.preprocess.crop.cut(image, face) for face in group]
            for cut, points, sure in zip(crops, *self.landmarks(np.stack([cut.image for cut in crops]))):
                located.append(Landmarks(transform_points(invert(cut.matrix), points).astype(np.float32), sure))
        return located


def peaks_of(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Where heat maps (N, K, h, w) are highest, (N, K, 2) in pixels of the crop, and how high, (N, K).

    A peak is moved a quarter of a pixel towards the higher of its neighbours, in either direction, as published.
    """
    height, width = heat.shape[2:]
    peaks, place = heat.flatten(2).max(2)
    column, row = place % width, place // width
    inside = (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)

    def slope(dx: int, dy: int) -> Tensor:
        ahead, behind = (
            heat.flatten(2).gather(2, _index(row + step * dy, column + step * dx, height, width)).squeeze(2)
            for step in (1, -1)
        )
        return (ahead - behind).sign() * inside

    x, y = column + 0.5 + _STEP * slope(1, 0), row + 0.5 + _STEP * slope(0, 1)
    return torch.stack((x, y), 2) * _HEAT - 0.5, peaks


def _index(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """(N, K) rows and columns to (N, K, 1) places in flattened maps, kept within them."""
    return (row.clamp(0, height - 1) * width + column.clamp(0, width - 1))[..., None]
