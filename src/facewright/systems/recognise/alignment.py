"""Faces on the template of restorers, seen as recognisers want them, without leaving the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...geometry.similarity import fit_similarity
from ...geometry.templates import template_points

if TYPE_CHECKING:
    from numpy.typing import NDArray


def aligned(image: Tensor, side: int, points: NDArray[np.float64] | None = None) -> Tensor:
    """Images (N, 3, S, S) on the `ffhq` template to ArcFace's, (N, 3, side, side); gradients pass.

    `points` (5, 2), where the five points of the template come to lie instead.
    """
    size = image.shape[3]
    target = template_points("arcface", side) if points is None else points
    back = fit_similarity(target, template_points("ffhq", size))
    # pixel centres at whole numbers, to the corners −1 and 1 that grids count from
    out_of, into = (np.array([[s / 2, 0, (s - 1) / 2], [0, s / 2, (s - 1) / 2], [0, 0, 1]]) for s in (side, size))
    theta = (np.linalg.inv(into) @ np.vstack([back, [0, 0, 1]]) @ out_of)[:2]
    matrix = torch.from_numpy(theta).to(image)[None].expand(len(image), -1, -1)
    grid = F.affine_grid(matrix, [len(image), 3, side, side], align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", align_corners=False)
