"""LiveCheck: a small network that says of every part of a face whether it looks live, printed, shown or masked.

An own system, not a paper's. Supervision of every cell of a coarse map is that of DeepPixBiS (George and Marcel, ICB
2019); here a cell tells four species, and the face's logits are the mean of its cells', so that the map *is* the
decision. Beside the picture the network sees its fine detail alone, for paper and screens differ from skin there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.resnet import BasicBlock
from ....tasks.card import Preprocess
from ....tasks.liveness import LivenessEvidence
from ...base import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

KINDS = ("live", "print", "replay", "mask")
"""What a cell can look like; cut prints count as prints."""

_DETAIL = 4.0  # gain of the fine detail, whose deviation is about a quarter of the picture's
_STRIDE = 8
_BATCH = 32


@dataclass(frozen=True)
class LiveCheckConfig:
    """size: side of the crop in pixels. widths: channels of the stem and of the three stages. depth: blocks a stage."""

    size: int = 80
    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    depth: int = 2

    @classmethod
    def compact(cls) -> Self:
        """What ships: 0.1 M parameters."""
        return cls(widths=(16, 24, 48, 64), depth=1)


class LiveCheck(System):
    """Liveness of a face in a single photo.

    forward: (N, 3, S, S) RGB in [−1, 1], aligned loosely by the `arcface` template, to logits (N, 4, S/8, S/8) of
    `KINDS` for every cell.

    scale, offset: of the calibration; log odds of live are scale · (those of the mean logits) + offset.
    """

    slug: ClassVar[str] = "livecheck"
    Config: ClassVar[type[LiveCheckConfig]] = LiveCheckConfig
    config: LiveCheckConfig
    scale: Tensor
    offset: Tensor

    def __init__(self, config: LiveCheckConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.size % _STRIDE:
            raise UsageError(f"LiveCheck takes crops whose side is a multiple of {_STRIDE}, not {c.size}")
        stem, *stages = c.widths
        self.stem = nn.Sequential(nn.Conv2d(6, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.stages = nn.Sequential()
        before = stem
        for width, stride in zip(stages, (2, 2, 1), strict=True):
            for number in range(c.depth):
                self.stages.append(BasicBlock(before, width, stride if number == 0 else 1))
                before = width
        self.cells = nn.Conv2d(before, len(KINDS), 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size, "arcface", zoom=0.85))

    def forward(self, crop: Tensor) -> Tensor:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this LiveCheck takes images (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        smooth = F.avg_pool2d(F.pad(crop, (1, 1, 1, 1), mode="replicate"), 3, 1)
        logits: Tensor = self.cells(self.stages(self.stem(torch.cat([crop, _DETAIL * (crop - smooth)], 1))))
        return logits

    @torch.inference_mode()
    def cell_logits(self, crops: NDArray[np.uint8]) -> Tensor:
        """(N, S, S, 3) uint8 RGB crops to the logits of their cells, (N, 4, S/8, S/8) float32."""
        network = self.inference(torch.float32)
        parts = [network(self.normalise(crops[i : i + _BATCH])).float() for i in range(0, len(crops), _BATCH)]
        side = self.config.size // _STRIDE
        return torch.cat(parts) if parts else torch.zeros(0, len(KINDS), side, side)

    def log_odds(self, logits: Tensor) -> Tensor:
        """Calibrated log odds of live from (..., 4) logits."""
        return self.scale * live_log_odds(logits) + self.offset

    @torch.inference_mode()
    def examine(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[LivenessEvidence]:
        """(H, W, 3) uint8 RGB and N faces in it to what each looks like, and where."""
        cut = [self.preprocess.crop.cut(photo, face) for face in faces]
        side = self.config.size
        crops = np.stack([crop.image for crop in cut]) if cut else np.zeros((0, side, side, 3), np.uint8)
        cells = self.cell_logits(crops)
        means = cells.mean((2, 3))
        live = self.log_odds(means).sigmoid().double().cpu().numpy()
        attacks = means[:, 1:].softmax(1).double().cpu().numpy()
        maps = 1 - self.log_odds(cells.movedim(1, -1)).sigmoid().cpu().numpy()
        return [
            LivenessEvidence(float(p), dict(zip(KINDS[1:], map(float, share))), where, crop.matrix, side)
            for p, share, where, crop in zip(live, attacks, maps, cut)
        ]

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the calibrated probability (N,) that each is live."""
        return np.array([one.live for one in self.examine(photo, faces)], np.float64)


def live_log_odds(logits: Tensor) -> Tensor:
    """(..., 4) logits of `KINDS` to log odds (...) of live against all attacks together."""
    return logits[..., 0] - logits[..., 1:].logsumexp(-1)
