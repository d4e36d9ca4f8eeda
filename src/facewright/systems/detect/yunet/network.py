"""YuNet: a detector of 76 thousand parameters with five points, run from its published ONNX graph.

Paper: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector" (Machine Intelligence Research 2023). Without
anchors: every cell of three levels gives one box, how likely it is a face, how sure it is of the box, and five points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...graph import GraphSystem
from ..single_shot import Candidates, SingleShotDetector

if TYPE_CHECKING:
    from ....weights.graphs import GraphSketch

STRIDES = (8, 16, 32)
OUTPUTS = ("cls", "obj", "bbox", "kps")


@dataclass(frozen=True)
class YuNetConfig:
    """side: of the square picture the published graph takes, in pixels."""

    side: int = 640

    @classmethod
    def compact(cls) -> Self:
        """The published graph; there is no other."""
        return cls()


class YuNet(GraphSystem, SingleShotDetector):
    """Face detector with five points; photos are fitted into a square of 640 px, so faces below about 1/60 of the long
    side are missed."""

    slug: ClassVar[str] = "yunet"
    Config: ClassVar[type[YuNetConfig]] = YuNetConfig
    config: YuNetConfig
    overlap = 0.3

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """Whole photos, BGR, 0–255."""
        return Preprocess(CropSpec.whole(), colour="BGR", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        return {f"{name}_{stride}" for name in OUTPUTS for stride in STRIDES} <= graph.outputs.keys()

    def side(self, max_side: int) -> int:
        return int(self.config.side)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        return int(self.config.side), int(self.config.side)

    def candidates(self, picture: Tensor) -> Candidates:
        names = [value.name for value in self.session().get_outputs()]
        outputs = {name: torch.from_numpy(out)[0].float() for name, out in zip(names, self.run(picture))}
        levels = [self._level(outputs, stride, picture.shape[3] // stride) for stride in STRIDES]
        return Candidates(*(torch.cat(parts) for parts in zip(*levels)))

    def _level(self, outputs: dict[str, Tensor], stride: int, columns: int) -> Candidates:
        """The candidates of one level: cells run row by row; boxes and points are in units of the stride."""
        face, sure, boxes, points = (outputs[f"{name}_{stride}"] for name in OUTPUTS)
        cells = torch.arange(len(boxes))
        corner = torch.stack((cells % columns, cells // columns), 1).float()
        scores = (face.flatten().clamp(0, 1) * sure.flatten().clamp(0, 1)).sqrt()
        centres, half = (corner + boxes[:, :2]) * stride, boxes[:, 2:].exp() * stride / 2
        spots = (points.view(-1, 5, 2) + corner[:, None]) * stride
        return Candidates(scores, torch.cat((centres - half, centres + half), 1), spots)
