"""What published detectors that look at a photo once have in common: fit the photo, decode, choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...face import Face
from ...nn.boxes import nms
from ..base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Candidates(NamedTuple):
    """Candidates in pixels of the picture the network saw: scores (A,), corners (A, 4), points (A, 5, 2)."""

    scores: Tensor
    boxes: Tensor
    points: Tensor


class SingleShotDetector(System):
    """Base of detectors whose `candidates` decodes one fitted picture.

    `stride`: sides of a picture are padded to a multiple of it. `overlap`: intersection over union from which on the
    lesser of two boxes is dropped.
    """

    stride: int = 32
    overlap: float = 0.4

    def candidates(self, picture: Tensor) -> Candidates:
        """(1, 3, H, W), as `normalise` makes it, to all candidates."""
        raise NotImplementedError(f"{type(self).__name__} must decode its outputs")

    def side(self, max_side: int) -> int:
        """The longest side a picture may have."""
        return max_side

    @torch.inference_mode()
    def detect(
        self, image: NDArray[np.uint8], *, threshold: float = 0.5, min_size: float = 12, max_side: int = 1280
    ) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB photo of any size, best score first; empty when there are none.

        `threshold` in (0, 1) is the least score; faces smaller than `min_size` photo pixels (geometric mean of the box
        sides) are left out. The photo is looked at once, with its long side at most `max_side`. These networks give no
        pose.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"detect needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        factor = min(1.0, self.side(max_side) / max(image.shape[:2]))
        found = self.candidates(self.normalise(self._fitted(image, factor)[None]))
        kept = (found.scores >= threshold).nonzero().flatten()
        kept = kept[nms(found.boxes[kept], found.scores[kept], self.overlap)]
        parts = (part[kept].float().cpu().numpy() for part in found)
        faces = [Face(box, float(score), points).scaled(1 / factor) for score, box, points in zip(*parts)]
        return [face for face in faces if np.sqrt(max(face.width, 0) * max(face.height, 0)) >= min_size]

    def _fitted(self, image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
        """The photo at the network's size, padded with black at the right and the bottom."""
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        if factor < 1:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        rows, columns = self.padded(height, width)
        return np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)))

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size of the picture a network sees of one of that size."""
        return -(-height // self.stride) * self.stride, -(-width // self.stride) * self.stride
