"""SCRFD: InsightFace's detector, run from its published ONNX graphs.

Paper: Guo, Deng, Lattas, Zafeiriou, "Sample and Computation Redistribution for Efficient Face Detection" (ICLR 2022,
arXiv 2105.04714). Two anchors a cell on three levels; a box is the distances of its sides from the cell's corner, and
points are offsets from it.
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
ANCHORS = 2


@dataclass(frozen=True)
class SCRFDConfig:
    """side: longest side of the picture the graph is given, in pixels; the published evaluation uses 640."""

    side: int = 640

    @classmethod
    def compact(cls) -> Self:
        """A published graph; there is no other."""
        return cls()


class SCRFD(GraphSystem, SingleShotDetector):
    """Face detector with five points."""

    slug: ClassVar[str] = "scrfd"
    Config: ClassVar[type[SCRFDConfig]] = SCRFDConfig
    config: SCRFDConfig

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """Whole photos, RGB, (p − 127.5) / 128."""
        return Preprocess(CropSpec.whole(), scale=1.0, mean=(127.5,) * 3, std=(128.0,) * 3)

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        widths = [shape[-1] for shape in graph.outputs.values() if shape]
        return widths == [1] * 3 + [4] * 3 + [10] * 3

    def side(self, max_side: int) -> int:
        return min(max_side, int(self.config.side))

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """A graph whose sides are fixed gets a picture of those."""
        fixed = self.session().get_inputs()[0].shape[2:]
        if all(isinstance(side, int) for side in fixed):
            return int(fixed[0]), int(fixed[1])
        return super().padded(height, width)

    def candidates(self, picture: Tensor) -> Candidates:
        outputs = [torch.from_numpy(out).float().reshape(-1, out.shape[-1]) for out in self.run(picture)]
        levels = []
        for number, stride in enumerate(STRIDES):
            scores, sides, points = outputs[number :: len(STRIDES)]
            cells = torch.arange(len(scores)) // ANCHORS
            columns = -(-picture.shape[3] // stride)
            corner = torch.stack((cells % columns, cells // columns), 1).float() * stride
            boxes = torch.cat((corner - sides[:, :2] * stride, corner + sides[:, 2:] * stride), 1)
            levels.append(Candidates(scores.flatten(), boxes, corner[:, None] + points.view(-1, 5, 2) * stride))
        return Candidates(*(torch.cat(parts) for parts in zip(*levels)))
