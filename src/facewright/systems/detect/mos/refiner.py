"""A second look at every detected face: sharper landmarks and pose, and a veto on what is not a face after all.

Not part of the MOS paper. A one-pass detector places its points by one linear map of coarse features; alignment for
restoration needs them better. The face is cut out upright by its coarse points and a small network corrects them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....geometry.resample import crop_by_matrix
from ....geometry.similarity import invert, transform_points
from ....geometry.templates import template_points
from ....nn.batching import padded

if TYPE_CHECKING:
    from numpy.typing import NDArray


SIZE = 64
CROP = CropSpec.aligned(SIZE, "arcface", robust=False)  # of coarse points: all five count, as in training
TEMPLATE = template_points(CROP.template, SIZE)
EYE_DISTANCE = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])
ANGLE_UNIT = 30.0  # degrees


class Refinement(NamedTuple):
    """Corrections for K crops: `points` (K, 5, 2) in template eye distances from the template, `angles` (K, 3) yaw,
    pitch, roll in the crop in units of 30°, `logits` (K,) of being a face."""

    points: Tensor
    angles: Tensor
    logits: Tensor


class PointRefiner(nn.Module):
    """Small convolutional network on 64×64 upright crops."""

    CHANNELS: ClassVar[tuple[tuple[int, int], ...]] = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (96, 2))

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for cout, stride in self.CHANNELS:
            layers += [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
            cin = cout
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(cin * (SIZE // 16) ** 2, hidden)
        self.out = nn.Linear(hidden, 10 + 3 + 1)

    def forward(self, crops: Tensor) -> Refinement:
        """(K, 3, 64, 64) crops, RGB in [-1, 1]."""
        x = F.relu(self.hidden(self.features(crops).flatten(1)))
        out = self.out(x).float()
        return Refinement(out[:, :10].reshape(-1, 5, 2), out[:, 10:13], out[:, 13])


def crop_input(crops: Tensor) -> Tensor:
    """(K, 3, 64, 64) uint8 RGB to the refiner's input."""
    return (crops.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def rotation(matrix: NDArray[np.float64]) -> float:
    """Clockwise turn of a similarity in degrees."""
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))


def cut(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The (64, 64, 3) crop a photo→crop matrix describes."""
    return crop_by_matrix(image, matrix, SIZE, CROP.template).image


@torch.inference_mode()
def look_at(network: PointRefiner, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K, 64, 64, 3) uint8 RGB crops, K at least 1, to points (K, 5, 2) in them and logits (K,) of being a face."""
    parameter = next(network.parameters())
    images = padded(torch.from_numpy(crops).permute(0, 3, 1, 2)).to(parameter.device)
    found = network(crop_input(images).to(parameter.dtype))
    shifts = found.points[: len(crops)].cpu().double().numpy()
    return TEMPLATE + shifts * EYE_DISTANCE, found.logits[: len(crops)].cpu().double().numpy()


def refine_points(
    network: PointRefiner, image: NDArray[np.uint8], coarse: list[NDArray[np.float32]]
) -> list[tuple[NDArray[np.float32], NDArray[np.float64], float]]:
    """For each set of coarse points (5, 2) in an RGB photo: points, (yaw, pitch, roll) as in `face.Pose`, and the
    probability of being a face."""
    matrices = [CROP.align(points) for points in coarse]
    if not matrices:
        return []
    parameter = next(network.parameters())
    crops = padded(torch.from_numpy(np.stack([cut(image, m) for m in matrices])).permute(0, 3, 1, 2))
    found = network(crop_input(crops.to(parameter.device)).to(parameter.dtype))
    points, angles = (t.cpu().double().numpy() for t in (found.points, found.angles))
    scores = found.logits.sigmoid().cpu().tolist()
    results = []
    for matrix, shift, angle, score in zip(matrices, points, angles, scores):
        placed = transform_points(invert(matrix), TEMPLATE + shift * EYE_DISTANCE).astype(np.float32)
        results.append((placed, angle * ANGLE_UNIT - (0, 0, rotation(matrix)), float(score)))
    return results
