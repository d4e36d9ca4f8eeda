"""Spherical harmonics against quadrature and the Lambert sphere; highlights and shadows against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.render import (
    Gloss,
    Lights,
    Topology,
    deep3d_shading,
    directional,
    radiance_from_deep3d,
    sh_basis,
    sh_irradiance,
    sh_of_light,
    shadows,
)
from facewright.render.lighting import highlight


@pytest.fixture(scope="module")
def directions() -> torch.Tensor:
    """20,000 evenly spread unit vectors (Fibonacci)."""
    k = torch.arange(20000, dtype=torch.float64) + 0.5
    z, turn = 1 - k / 10000, k * math.pi * (3 - math.sqrt(5))
    r = (1 - z * z).sqrt()
    return torch.stack([r * turn.cos(), r * turn.sin(), z], -1)


def test_basis_is_orthonormal(directions):
    basis = sh_basis(directions)
    gram = basis.T @ basis * 4 * math.pi / len(directions)
    assert torch.allclose(gram, torch.eye(9, dtype=torch.float64), atol=1e-4)


def test_light_on_a_lambert_sphere(directions):
    towards = F.normalize(torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64), dim=0)
    irradiance = sh_irradiance(directions, sh_of_light(towards, torch.ones(1, dtype=torch.float64)))[:, 0]
    cosine = directions @ towards
    expected = 1 / 4 + cosine / 2 + 5 / 16 * (3 * cosine**2 - 1) / 2
    assert torch.allclose(irradiance, expected, atol=1e-12)
    exact = cosine.clamp_min(0)
    assert float(irradiance.mean()) == pytest.approx(float(exact.mean()), abs=1e-4)
    left_out = 1 / 6 - (1 / 16 + 1 / 12 + 5 / 256)  # energy of the cosine lobe beyond band 2
    assert float((irradiance - exact).pow(2).mean()) == pytest.approx(left_out, rel=1e-3)


def test_uniform_surroundings_give_pi(directions):
    radiance = torch.zeros(3, 9, dtype=torch.float64)
    radiance[:, 0] = math.sqrt(4 * math.pi)
    assert torch.allclose(sh_irradiance(directions, radiance), torch.full((1,), math.pi, dtype=torch.float64))


def test_deep3d_shading_by_its_published_constants():
    normals = F.normalize(torch.randn(30, 3, dtype=torch.float64), dim=-1)
    gamma = torch.randn(3, 9, dtype=torch.float64)
    a0, a1, a2 = math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
    c0, c1, c2 = 1 / math.sqrt(4 * math.pi), math.sqrt(3 / (4 * math.pi)), 3 * math.sqrt(5 / (12 * math.pi))
    x, y, z = normals.unbind(-1)
    terms = [a0 * c0 * torch.ones_like(x), -a1 * c1 * y, a1 * c1 * z, -a1 * c1 * x, a2 * c2 * x * y, -a2 * c2 * y * z]
    terms += [a2 * c2 / (2 * math.sqrt(3)) * (3 * z**2 - 1), -a2 * c2 * x * z, a2 * c2 / 2 * (x**2 - y**2)]
    ambient = gamma + torch.eye(1, 9, dtype=torch.float64) * 0.8
    expected = torch.stack(terms, -1) @ ambient.T
    assert torch.allclose(deep3d_shading(normals, gamma), expected)
    assert torch.allclose(sh_irradiance(normals, radiance_from_deep3d(gamma)) / math.pi, expected)


def test_each_picture_has_its_own_light():
    normals, picture = F.normalize(torch.randn(10, 3), dim=-1), torch.arange(10) % 2
    both = torch.randn(2, 3, 9)
    shaded = sh_irradiance(normals, both, picture)
    for k in range(2):
        assert torch.allclose(shaded[picture == k], sh_irradiance(normals[picture == k], both[k]), atol=1e-5)
    with pytest.raises(UsageError, match="lighting must be"):
        sh_irradiance(normals, both)


def test_directional_light_follows_lambert():
    normals = F.normalize(torch.tensor([[0.0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, -1]]), dim=-1)
    lights = Lights(torch.tensor([[[0.0, 0, 5]]]), torch.tensor([[[2.0, 1, 0.5]]]))
    albedo, picture = torch.full((4, 3), 0.6), torch.zeros(4, dtype=torch.long)
    radiance = directional(albedo, normals, normals, lights, picture)
    expected = torch.tensor([1, math.sqrt(0.5), 0, 0])[:, None] * torch.tensor([2, 1, 0.5]) * 0.6 / math.pi
    assert torch.allclose(radiance, expected, atol=1e-6)
    half = directional(albedo, normals, normals, lights, picture, visible=torch.full((4, 1), 0.5))
    assert torch.allclose(half, expected / 2, atol=1e-6)


def test_highlights_at_normal_incidence():
    z = torch.tensor([0.0, 0, 1])
    a2 = 0.4**4
    assert float(highlight(z, z, z, Gloss(roughness=0.4))) == pytest.approx(0.028 / (4 * math.pi * a2), rel=1e-4)
    assert float(highlight(z, z, z, Gloss(exponent=50.0))) == pytest.approx(0.028 * 58 / (8 * math.pi), rel=1e-4)


@pytest.mark.parametrize("gloss", [Gloss(roughness=0.3), Gloss(roughness=0.9), Gloss(exponent=20.0)])
def test_highlights_are_reciprocal_and_lose_energy(gloss, directions):
    upper = directions[directions[:, 2] > 0.01]
    z = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    view = F.normalize(torch.tensor([0.6, 0.1, 0.7], dtype=torch.float64), dim=0)
    there, back = highlight(z, view, upper, gloss), highlight(z, upper, view, gloss)
    assert torch.allclose(there, back)
    reflected = float((there * upper[:, 2]).mean()) * 2 * math.pi
    assert 0.005 < reflected < 0.12


def test_a_roof_casts_its_shadow_with_a_soft_edge():
    floor = [[-5.0, 0, -5], [5, 0, -5], [5, 0, 5], [-5, 0, 5]]
    roof = [[-1.0, 2, -1], [1, 2, -1], [1, 2, 1], [-1, 2, 1]]
    vertices = torch.tensor([floor + roof])
    topology = Topology.of(torch.tensor([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]]))
    x = torch.linspace(-4, 4, 161)
    points = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    up = torch.tensor([[0.0, 1, 0]]).expand_as(points)
    lights = Lights(torch.tensor([[[0.0, 1, 0], [1, 1, 0]]]), torch.ones(1, 2, 3))
    lit = shadows(points, up, torch.zeros(len(x), dtype=torch.long), vertices, topology, lights)
    assert (lit[x.abs() < 0.8, 0] == 0).all()
    assert (lit[x.abs() > 1.25, 0] == 1).all()
    assert ((lit[:, 0] > 0.1) & (lit[:, 0] < 0.9)).any()
    assert (lit[(x + 2).abs() < 0.75, 1] == 0).all()  # the slanted light moves it by the roof's height
    assert (lit[(x + 2).abs() > 1.3, 1] == 1).all()


def test_a_ball_does_not_shade_its_own_lit_side(sphere):
    vertices, triangles = sphere(30, 40)
    vertices = vertices.float()
    lights = Lights(torch.tensor([[[0.4, 0.3, 1.0]]]), torch.ones(1, 1, 3))
    picture = torch.zeros(len(vertices), dtype=torch.long)
    lit = shadows(vertices, vertices, picture, vertices[None], Topology.of(triangles), lights)[:, 0]
    cosine = vertices @ F.normalize(torch.tensor([0.4, 0.3, 1.0]), dim=0)
    assert lit[cosine > 0.25].min() == 1
    assert lit[cosine < -0.35].max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lights(torch.zeros(1, 1, 3), torch.ones(1, 1, 3)), "must not be zero"),
        (lambda: Lights(torch.ones(1, 4, 3), torch.ones(1, 4, 3)), "one to 3"),
        (lambda: Lights(torch.ones(1, 1, 3), torch.ones(1, 2, 3)), "of one shape"),
        (lambda: Gloss(roughness=0.0), "roughness"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()
