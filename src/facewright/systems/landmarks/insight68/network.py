"""The 68 landmarks of InsightFace's packs, 1k3d68: a network that places a mesh, of which 68 points are landmarks.

There is no paper; crop and decoding follow insightface's program. Of its three coordinates the depth is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ..regression import POINTS, GraphLandmarker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ....weights.graphs import GraphSketch

_NUMBERS = 3309  # three for each of 1,103 points, the landmarks last
_MARGIN = 0.25  # the published crop is one and a half times the longer side of the box


@dataclass(frozen=True)
class Insight68Config:
    """size: side of the crop in pixels."""

    size: int = 192

    @classmethod
    def compact(cls) -> Self:
        """The published graph; there is no other."""
        return cls()


class Insight68(GraphLandmarker):
    """68 landmarks of a face, large poses included, run from the published graph."""

    slug: ClassVar[str] = "insight68"
    Config: ClassVar[type[Insight68Config]] = Insight68Config
    config: Insight68Config

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """RGB, 0–255; the crop's middle is at half its side."""
        crop = CropSpec.boxed(config.size, margin=_MARGIN, offset=0.5)
        return Preprocess(crop, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        return graph.side == cls.Config.size and [shape[-1:] for shape in graph.outputs.values()] == [[_NUMBERS]]

    def in_crop(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coordinates run from −1 to 1 across the crop."""
        return (answer.reshape(-1, 3)[-POINTS:, :2] + 1) * (self.config.size / 2)
