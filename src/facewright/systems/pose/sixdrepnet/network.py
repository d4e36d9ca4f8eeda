"""6DRepNet: head pose as six numbers that always make a rotation.

Paper: Hempel, Abdelrahman, Al-Hamadi, "6D Rotation Representation For Unconstrained Head Pose Estimation" (ICIP 2022,
arXiv 2202.12555). Angles jump and quaternions have two signs; two vectors made orthonormal (Zhou et al., CVPR 2019) do
neither. The trunk is RepVGG-B1g2 (Ding et al., CVPR 2021), whose branches are one convolution in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import Pose
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

_EPS = 1e-8
_LOCKED = 1e-6
_BATCH = 16
_MARGIN = 0.2  # of the box, on every side, as the published demonstration adds


@dataclass(frozen=True)
class SixDRepNetConfig:
    """Shape of the network; the defaults are the published RepVGG-B1g2 (39.3 M parameters).

    size: side of the crop in pixels. widths, blocks: of the four stages. groups: of every second convolution.
    """

    size: int = 224
    stem: int = 64
    widths: tuple[int, ...] = (128, 256, 512, 2048)
    blocks: tuple[int, ...] = (4, 6, 16, 1)
    groups: int = 2

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and a block a stage, for experiments."""
        return cls(size=64, stem=8, widths=(8, 16, 16, 32), blocks=(1, 1, 1, 1))


class SixDRepNet(System):
    """Head pose by a 6-D representation of rotations (arXiv 2202.12555).

    forward: (N, 3, S, S) RGB, normalised as ImageNet, a crop around the face's box, to rotation matrices (N, 3, 3).
    """

    slug: ClassVar[str] = "sixdrepnet"
    Config: ClassVar[type[SixDRepNetConfig]] = SixDRepNetConfig
    config: SixDRepNetConfig

    def __init__(self, config: SixDRepNetConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if len(c.widths) != 4 or len(c.blocks) != 4:
            raise UsageError(f"6DRepNet has four stages, not {len(c.widths)}")
        self.stem = _conv(3, c.stem, 2, 1)
        self.stages = nn.ModuleList()
        c_in, number = c.stem, 1
        for width, count in zip(c.widths, c.blocks):
            stage = nn.Sequential()
            for index in range(count):
                stage.append(_conv(c_in, width, 1 if index else 2, 1 if number % 2 else c.groups))
                c_in, number = width, number + 1
            self.stages.append(stage)
        self.head = nn.Linear(c_in, 6)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        crop = CropSpec.boxed(config.size, margin=_MARGIN)
        return Preprocess(crop, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def forward(self, crop: Tensor) -> Tensor:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this 6DRepNet takes crops (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        x = F.relu(self.stem(crop))
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            for conv in stage:
                x = F.relu(conv(x))
        return rotations(self.head(x.mean((2, 3))))

    @torch.inference_mode()
    def poses(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[Pose]:
        """Pose of the faces of an (H, W, 3) uint8 RGB photo, in their order."""
        found: list[Pose] = []
        for group in batches(faces, _BATCH):
            cuts = [self.preprocess.crop.cut(photo, face) for face in group]
            matrices = self.inference()(self.normalise(np.stack([cut.image for cut in cuts]))).double().cpu()
            for face, row in zip(group, angles(matrices)):
                yaw, pitch, roll = (float(value) for value in row)
                found.append(Pose(yaw, pitch, _wrapped(roll + face.turn)))
        return found


def _conv(c_in: int, c_out: int, stride: int, groups: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, 1, groups=groups)


def rotations(six: Tensor) -> Tensor:
    """(N, 6), two vectors, to rotation matrices (N, 3, 3) whose first columns they are, made orthonormal."""
    with torch.autocast(six.device.type, enabled=False):
        six = six.float() if six.dtype != torch.float64 else six
        x = F.normalize(six[:, :3], dim=1, eps=_EPS)
        z = F.normalize(torch.linalg.cross(x, six[:, 3:]), dim=1, eps=_EPS)
        return torch.stack((x, torch.linalg.cross(z, x), z), 2)


def angles(matrices: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3) to yaw, pitch and roll (N, 3) in degrees, in facewright's convention.

    The published network turns by pitch, then yaw, then roll, and its yaw is positive towards the picture's left; here
    it is to the right. At a yaw of 90° only the difference of the others is known, and the roll is taken to be 0.
    """
    r = matrices
    across = torch.hypot(r[:, 0, 0], r[:, 1, 0])
    locked = across < _LOCKED
    pitch = torch.where(locked, torch.atan2(-r[:, 1, 2], r[:, 1, 1]), torch.atan2(r[:, 2, 1], r[:, 2, 2]))
    roll = torch.where(locked, torch.zeros_like(pitch), torch.atan2(r[:, 1, 0], r[:, 0, 0]))
    yaw = -torch.atan2(-r[:, 2, 0], across)
    return torch.rad2deg(torch.stack((yaw, pitch, roll), 1))


def _wrapped(degrees: float) -> float:
    """An angle as one from −180 up to 180."""
    return (degrees + 180) % 360 - 180
