"""SUR-LID: a detector of forgeries that learns one kind after another without forgetting the earlier ones.

Paper: Cheng, Yan, Zhang, Hao, Ai, Zou, Li and Wang, "Stacking Brick by Brick: Aligned Feature Isolation for Incremental
Face Forgery Detection" (CVPR 2025, arXiv 2411.11396).

An EfficientNet-B4 gives one feature vector. Every task of the stream, such as a data set of forgeries, has a linear
head of its own; at the end the heads vote. What keeps old tasks alive is in `training`: a replay that is spread evenly
over each class, features of every (task, label) isolated from the others, and heads aligned after every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.batching import padded
from ....nn.efficientnet_b import EfficientNetB4
from ....tasks.card import Preprocess
from ....tasks.forensics import Examination
from ...base import System, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

Backbone = Literal["efficientnet_b4", "compact"]
BATCH = 8
_ZOOM, _CENTRE = 1.0, (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class SurLidConfig:
    """Size of the network; the defaults are the published ones.

    size: side of the crop in pixels. backbone: `efficientnet_b4` (DeepfakeBench's, with a stem that does not pad) or
    `compact`, five plain convolutions. tasks: heads there are. learnt: heads that vote, the first of them.
    """

    size: int = 256
    backbone: Backbone = "efficientnet_b4"
    tasks: int = 4
    learnt: int = 4

    @classmethod
    def compact(cls) -> Self:
        """96 px crops and a 128-d feature."""
        return cls(size=96, backbone="compact")


class CompactTrunk(nn.Sequential):
    """(N, 3, S, S) to maps (N, 128, S / 16, S / 16)."""

    width = 128

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out, stride in ((3, 24, 1), (24, 32, 2), (32, 64, 2), (64, 96, 2), (96, 128, 2)):
            layers += [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class SurLid(System):
    """Trunk and heads; see the module's text.

    forward: (N, 3, S, S) RGB in [−1, 1] to logits (N, 2), real and fake, the mean of the heads that are learnt.
    """

    slug: ClassVar[str] = "surlid"
    Config: ClassVar[type[SurLidConfig]] = SurLidConfig
    config: SurLidConfig

    def __init__(self, config: SurLidConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.backbone not in get_args(Backbone) or not 1 <= c.learnt <= c.tasks:
            raise UsageError(f"surlid has no backbone {c.backbone!r}, or {c.learnt} of {c.tasks} heads cannot vote")
        self.backbone: nn.Module = CompactTrunk() if c.backbone == "compact" else EfficientNetB4(padded_stem=False)
        width: Any = self.backbone.width
        self.heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(c.tasks))

    @classmethod
    def preprocess_for(cls, config: SurLidConfig) -> Preprocess:
        """FFHQ's template, which shows about what DeepfakeBench's crops show."""
        return Preprocess(CropSpec.aligned(config.size, "ffhq", zoom=_ZOOM, centre=_CENTRE))

    def forward(self, image: Tensor) -> Tensor:
        return self.vote(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, S, S) to pooled features (N, D)."""
        return self.backbone(image).mean((2, 3))  # type: ignore[no-any-return]

    def vote(self, features: Tensor) -> Tensor:
        """The mean logits of the learnt heads: at test no task is known."""
        return torch.stack([head(features) for head in self.heads[: self.config.learnt]]).mean(0)

    def by_task(self, features: Tensor, tasks: Tensor) -> Tensor:
        """(N, D) features, each judged by the head of its own task (N,): how the heads are trained."""
        logits = torch.stack([head(features) for head in self.heads], 1)
        return logits[torch.arange(len(features), device=features.device), tasks]

    @torch.inference_mode()
    def examine(self, crops: NDArray[np.uint8]) -> Examination:
        """(N, S, S, 3) uint8 RGB crops to what is said; the map is where the evidence for a forgery lies.

        The heads are linear and features are means over the crop, so that every place of the trunk's map has its share
        in the logit of "fake". The shares above their mean are drawn, from 0 to 1.
        """
        side = self.config.size
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3) or crops.dtype != np.uint8:
            raise UsageError(f"{self.slug} takes uint8 crops (N, {side}, {side}, 3), not {crops.shape} {crops.dtype}")
        found = [self._examined(part) for part in batches(crops, BATCH)]
        if not found:
            return Examination.of_kinds(np.zeros((0, 2)), np.zeros((0, side, side), np.float32))
        kinds, maps = zip(*found)
        return Examination.of_kinds(np.concatenate(kinds), np.concatenate(maps))

    def _examined(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        maps = self.backbone(padded(self.normalise(crops)))
        kinds = self.vote(maps.mean((2, 3))).softmax(1)
        heads = cast("list[nn.Linear]", list(self.heads[: self.config.learnt]))
        towards = torch.stack([head.weight[1] - head.weight[0] for head in heads]).mean(0)
        evidence = torch.einsum("nchw,c->nhw", maps, towards)
        shares = (evidence - evidence.mean((1, 2), keepdim=True)).clamp_min(0)[:, None]
        drawn = F.interpolate(shares, size=crops.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
        drawn = drawn / drawn.amax((1, 2), keepdim=True).clamp_min(1e-6)
        count = len(crops)
        return kinds[:count].double().cpu().numpy(), drawn[:count].cpu().numpy()
