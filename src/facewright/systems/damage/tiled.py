"""Damage of whole prints, tile by tile, so that memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ..base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TiledFinder(System):
    """Base of finders of damage. Their forward takes a picture to logits (N, 1, H, W) of a pixel being lost.

    tile, overlap: side of a tile in pixels, and how much of it on every side is only looked at. threshold: the
    probability from which a pixel counts as lost for the network; `find` answers 0.5 there.
    """

    tile: ClassVar[int] = 512
    overlap: ClassVar[int] = 32
    threshold: ClassVar[float] = 0.5

    @torch.inference_mode()
    def find(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) uint8 RGB of any size to the probability (H, W) that a pixel is lost; constant memory beside it."""
        height, width = image.shape[:2]
        found = np.zeros((height, width), np.float32)
        step = self.tile - 2 * self.overlap
        for top in range(0, max(1, height), step):
            for left in range(0, max(1, width), step):
                self._tile(image, found, top, left, step)
        return found

    def _tile(self, image: NDArray[np.uint8], found: NDArray[np.float32], top: int, left: int, step: int) -> None:
        """Fill one tile of the answer from a part of the picture that reaches over its borders."""
        height, width = image.shape[:2]
        y0, x0 = max(0, top - self.overlap), max(0, left - self.overlap)
        y1, x1 = min(height, top + step + self.overlap), min(width, left + step + self.overlap)
        shares = self._shares(image[y0:y1, x0:x1])
        rows, columns = min(height, top + step) - top, min(width, left + step) - left
        inside = shares[top - y0 : top - y0 + rows, left - x0 : left - x0 + columns]
        found[top : top + rows, left : left + columns] = inside

    def _shares(self, part: NDArray[np.uint8]) -> NDArray[np.float32]:
        middle = float(np.log(self.threshold / (1 - self.threshold)))
        logits = self(self.normalise(part[None]))[0, 0].float()
        shares: NDArray[np.float32] = torch.sigmoid(logits - middle).cpu().numpy()
        return shares
