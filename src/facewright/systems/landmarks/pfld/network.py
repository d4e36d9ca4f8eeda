"""PFLD: 68 landmarks from a network of a few megabytes, run from a published ONNX graph.

Paper: Guo, Li, Yu, Zhang, Ma, Ma, Liu, Ling, "PFLD: A Practical Facial Landmark Detector" (arXiv 1902.10859), in the
form trained by cunjian/pytorch_face_landmark, whose crop and decoding this follows.
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

_MARGIN = 0.05  # the published crop is 1.1 times the longer side of the box


@dataclass(frozen=True)
class PFLDConfig:
    """size: side of the crop in pixels."""

    size: int = 112

    @classmethod
    def compact(cls) -> Self:
        """The published graph; there is no other."""
        return cls()


class PFLD(GraphLandmarker):
    """68 landmarks of a face (arXiv 1902.10859), run from the published graph."""

    slug: ClassVar[str] = "pfld"
    Config: ClassVar[type[PFLDConfig]] = PFLDConfig
    config: PFLDConfig

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """RGB in [0, 1]; the crop's middle is at half its side."""
        crop = CropSpec.boxed(config.size, margin=_MARGIN, offset=0.5)
        return Preprocess(crop, mean=(0.0,) * 3, std=(1.0,) * 3)

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        """A crop in, 68 points out; beside them there may be features."""
        return graph.side == cls.Config.size and [2 * POINTS] in [shape[-1:] for shape in graph.outputs.values()]

    def answer(self, outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return next(output for output in outputs if output.shape[-1] == 2 * POINTS)

    def in_crop(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coordinates run from 0 to 1 across the crop."""
        return answer.reshape(POINTS, 2) * self.config.size
