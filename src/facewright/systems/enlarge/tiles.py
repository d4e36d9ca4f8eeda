"""Whole pictures through a convolutional network, tile by tile, so that memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import UsageError
from ..base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE, OVERLAP = 384, 16  # input pixels


class PictureNetwork(System):
    """Base of systems whose forward maps (N, 3, H, W) RGB in [0, 1] to the same picture `scale` times as large.

    `overlap`: pixels of the picture around a tile the network also sees.
    """

    overlap: int = OVERLAP

    @property
    def scale(self) -> int:
        """How many times larger; 1 for networks that only clean."""
        return 1

    @torch.inference_mode()
    def enlarge(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size to (H · scale, W · scale, 3)."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"enlarge needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        s, around = self.scale, self.overlap
        out = np.empty((height * s, width * s, 3), np.uint8)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                y0, x0 = max(top - around, 0), max(left - around, 0)
                y1, x1 = min(top + TILE, height), min(left + TILE, width)
                seen = self.normalise(image[y0 : y1 + around, x0 : x1 + around][None])
                drawn = self(seen)[0, :, (top - y0) * s : (y1 - y0) * s, (left - x0) * s : (x1 - x0) * s]
                pixels = drawn.float().mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
                out[top * s : y1 * s, left * s : x1 * s] = pixels.cpu().numpy()
        return out
