"""Whole pictures through a convolutional network, tile by tile, so that memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from ..base import System

if TYPE_CHECKING:
    from collections.abc import Callable

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

        def draw(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
            drawn = self(self.normalise(part[None]))[0]
            pixels = drawn.float().mul(255).round().clamp(0, 255).to(torch.uint8)
            return np.asarray(pixels.permute(1, 2, 0).cpu().numpy(), np.uint8)

        return in_tiles(image, draw, self.scale, self.overlap)


def in_tiles(
    image: NDArray[np.uint8], draw: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], scale: int, overlap: int
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, drawn tile by tile: (H · scale, W · scale, 3).

    `draw` maps a part of the picture, at most TILE and twice the overlap wide, to one `scale` times as large.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(f"enlarge needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    out = np.empty((height * scale, width * scale, 3), np.uint8)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            y0, x0 = max(top - overlap, 0), max(left - overlap, 0)
            y1, x1 = min(top + TILE, height), min(left + TILE, width)
            drawn = draw(image[y0 : y1 + overlap, x0 : x1 + overlap])
            rows, columns = slice((top - y0) * scale, (y1 - y0) * scale), slice((left - x0) * scale, (x1 - x0) * scale)
            out[top * scale : y1 * scale, left * scale : x1 * scale] = drawn[rows, columns]
    return out


def padded(image: Tensor, unit: int) -> Tensor:
    """(N, C, H, W) with its last row and column repeated until both sides are multiples of `unit`."""
    below, right = (-side % unit for side in image.shape[2:])
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image
