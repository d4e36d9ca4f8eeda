"""Shapes, scenes and pictures the tests of the renderer share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.render import Renderer, SceneSampler, coarse_face

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.render import Rendered, Scene

SIZE = 128
PLAIN = {"hat": "none", "glasses": "none", "occluder": "none", "hair": "bald", "fringe": False}


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


@pytest.fixture(scope="session")
def sampler() -> SceneSampler:
    return SceneSampler(coarse_face(), seed=3, size=SIZE)


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    return Renderer(coarse_face())


@pytest.fixture(scope="session")
def frontal(sampler: SceneSampler) -> Scene:
    """A bald person who looks straight ahead at a camera without effects."""
    scene = sampler.scene(0)
    scene = replace(scene, pose=(0.0, 0.0, 0.0), gaze=((0.0, 0.0), (0.0, 0.0)), expression={}, look=scene.look | PLAIN)
    camera = replace(scene.camera, focal=0.5 * SIZE * 70 / 13, distance=70.0, centre=(63.5, 63.5))
    return replace(
        scene, camera=camera, effects=SceneSampler(coarse_face(), 0, size=SIZE, effects=False).scene(0).effects
    )


@pytest.fixture(scope="session")
def picture(renderer: Renderer, frontal: Scene) -> Rendered:
    return renderer.render(frontal)
