"""Shapes the tests of the renderer share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def _sphere(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices (V, 3) and outward triangles of a unit sphere."""
    polar = torch.linspace(0, np.pi, rows, dtype=torch.float64)[1:-1]
    turn = torch.arange(columns, dtype=torch.float64) * 2 * np.pi / columns
    a, b = torch.meshgrid(polar, turn, indexing="ij")
    ring = torch.stack([a.sin() * b.sin(), a.cos(), a.sin() * b.cos()], -1).reshape(-1, 3)
    vertices = torch.cat([ring, torch.tensor([[0.0, 1, 0], [0, -1, 0]], dtype=torch.float64)])
    near, far = torch.arange(columns), (torch.arange(columns) + 1) % columns
    top, bottom, last = len(ring), len(ring) + 1, (rows - 3) * columns
    triangles = [torch.stack([torch.full_like(near, top), near, far], 1)]
    for k in range(0, last, columns):
        triangles += [torch.stack([near + k, near + k + columns, far + k + columns], 1)]
        triangles += [torch.stack([near + k, far + k + columns, far + k], 1)]
    triangles += [torch.stack([torch.full_like(near, bottom), far + last, near + last], 1)]
    return vertices, torch.cat(triangles)


@pytest.fixture(scope="session")
def sphere() -> Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """A function of the numbers of rows and columns that returns a sphere."""
    return _sphere
