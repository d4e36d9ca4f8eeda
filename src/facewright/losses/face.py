"""Losses that look at a face as a recogniser does: is it the same person, and are its features where they were."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..geometry.similarity import fit_similarity
from ..geometry.templates import template_points
from ..metrics.perceptual import map_distance
from ..nn.iresnet import IResNet
from ..nn.sampling import sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..systems.parse.segface.network import SegFace
    from ..systems.recognise.recogniser import Recogniser

COMPARED_MAPS = 3
"""The first so many feature maps are compared: at 56, 28 and 14 px; the last is as good as the embedding."""


@dataclass(frozen=True, slots=True)
class FaceDistance:
    """Differentiable means over a batch. `identity`: 1 − cosine of the embeddings. `features`: of the feature maps."""

    identity: Tensor
    features: Tensor


class FaceLoss(nn.Module):
    """Identity and perceptual distance between faces on the `ffhq` template, by a frozen IResNet recogniser.

    forward: `prediction` and `target` (N, 3, S, S) RGB in [−1, 1] to a `FaceDistance`. Both are cut to the recogniser's
    own template on the way. Feature maps are compared as in LPIPS (Zhang et al., CVPR 2018) without its learned
    weights: unit length per position, squared difference summed over channels, mean over positions and maps.
    Gradients reach `prediction` only.

    The recogniser is copied and takes RGB in [−1, 1]; UsageError for other backbones.
    """

    grid: Tensor

    def __init__(self, recogniser: Recogniser, size: int = 256) -> None:
        super().__init__()
        if not isinstance(recogniser.backbone, IResNet):
            raise UsageError("a face loss compares the feature maps of IResNet recognisers only")
        self.network = copy.deepcopy(recogniser.backbone).eval().requires_grad_(False)
        grid = template_grid(size, recogniser.preprocess.size, recogniser.preprocess.crop.template)
        self.grid = torch.from_numpy(grid)  # no buffer: it would lose its precision with the network's

    def forward(self, prediction: Tensor, target: Tensor) -> FaceDistance:
        with torch.no_grad():
            wanted_embedding, wanted_maps = self._look(target)
        embedding, maps = self._look(prediction)
        identity = 1 - F.cosine_similarity(embedding.float(), wanted_embedding.float(), dim=1).mean()
        features = torch.stack([map_distance(a, b).mean() for a, b in zip(maps, wanted_maps)]).mean()
        return FaceDistance(identity, features)

    def _look(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        grid = self.grid.to(image.device).expand(len(image), -1, -1, -1)
        crop = sample(image.float(), grid, align_corners=False, padding_mode="border")
        maps = self.network.feature_maps(crop.contiguous(memory_format=torch.channels_last))
        return self.network.embed_map(maps[-1]), maps[:COMPARED_MAPS]


class ParserLoss(nn.Module):
    """Perceptual distance between faces on the `ffhq` template in the maps of a frozen face parser's backbone.

    forward: `prediction` and `target` (N, 3, S, S) RGB in [−1, 1], S a multiple of the parser's side, to a scalar. The
    first three maps (1/4, 1/8, 1/16 of the parser's picture) are compared as in `FaceLoss`. A parser knows eyes, lips
    and hair, but not who a person is, so that a recogniser can still judge what was trained with it. Gradients reach
    `prediction` only. The backbone is copied.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, parser: SegFace) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(parser.net.backbone).eval().requires_grad_(False)
        self.side = parser.preprocess.size
        for name in ("mean", "std"):
            values = torch.tensor(getattr(parser.preprocess, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._look(target)
        return torch.stack([map_distance(a, b).mean() for a, b in zip(self._look(prediction), wanted)]).mean()

    def _look(self, image: Tensor) -> list[Tensor]:
        small = F.avg_pool2d(image, image.shape[-1] // self.side)
        ready = ((small + 1) / 2 - self.mean) / self.std
        maps: list[Tensor] = self.backbone(ready.contiguous(memory_format=torch.channels_last))
        return maps[:COMPARED_MAPS]


def template_grid(size: int, side: int, template: str = "arcface") -> NDArray[np.float32]:
    """Sampling grid (1, side, side, 2) that cuts a `template` crop out of an `ffhq` crop of `size` pixels.

    Coordinates as `torch.nn.functional.grid_sample` takes them with `align_corners=False`.
    """
    matrix = fit_similarity(template_points(template, side), template_points("ffhq", size))
    y, x = np.mgrid[:side, :side].astype(np.float64)
    points = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    return ((2 * points + 1) / size - 1).astype(np.float32)[None]
