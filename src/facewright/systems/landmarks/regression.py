"""Landmark networks of others that answer with coordinates, run from their ONNX graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ...face import Landmarks
from ...geometry.similarity import invert, transform_points
from ..graph import GraphSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...face import Face

POINTS = 68


class GraphLandmarker(GraphSystem):
    """Base of systems whose graph answers for one crop with a row of coordinates, which `in_crop` reads.

    They say nothing of how sure they are: every confidence is 1.
    """

    def in_crop(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """A row of the graph's answer as (68, 2) points in pixels of the crop."""
        raise NotImplementedError(f"{type(self).__name__} must read its graph's answer")

    def answer(self, outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The output that holds the coordinates."""
        return outputs[0]

    def locate(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[Landmarks]:
        """Landmarks of the faces of an (H, W, 3) uint8 RGB photo in photo pixels, in the order of the faces."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"locate needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        located = []
        for face in faces:
            crop = self.preprocess.crop.cut(image, face)
            outputs = self.run(self.normalise(crop.image[None]).contiguous())
            points = transform_points(invert(crop.matrix), self.in_crop(self.answer(outputs).ravel()))
            located.append(Landmarks(points.astype(np.float32), np.ones(POINTS, np.float32)))
        return located
