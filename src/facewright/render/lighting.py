"""Light on a surface: spherical-harmonics irradiance, directional lights with a highlight, and soft shadows.

Everything is linear (not sRGB-coded) light and works on points (P, …) with normals, as the fragments of a rasterised
picture give them; `picture` (P,) tells which of N lightings a point has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .camera import WeakPerspective, place
from .rasteriser import Topology, rasterise

BANDS = (0, 1, 1, 1, 2, 2, 2, 2, 2)
MOST_LIGHTS = 3
TAPS = 4  # a shadow is the mean of TAPS² comparisons
DEEP3D_AMBIENT = 0.8
DIELECTRIC = 0.028  # reflectance of skin facing the viewer: refractive index 1.4

# real orthonormal spherical harmonics up to band 2 in the order of Ramamoorthi and Hanrahan:
# 1, y, z, x, xy, yz, 3z² − 1, xz, x² − y²
_Y0 = math.sqrt(1 / (4 * math.pi))
_Y1 = math.sqrt(3 / (4 * math.pi))
_Y2 = math.sqrt(15 / (4 * math.pi))
_FACTORS = (_Y0, _Y1, _Y1, _Y1, _Y2, _Y2, _Y2 / (2 * math.sqrt(3)), _Y2, _Y2 / 2)
LAMBERT = (math.pi, 2 * math.pi / 3, math.pi / 4)
"""What the cosine lobe multiplies each band by (Ramamoorthi and Hanrahan, An Efficient Representation for Irradiance
Environment Maps, 2001)."""
_DEEP3D_LOBE = (math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8))
_DEEP3D_SIGNS = (1, -1, 1, -1, 1, -1, 1, -1, 1)


def sh_basis(directions: Tensor) -> Tensor:
    """(..., 9) real orthonormal spherical harmonics at unit vectors (..., 3)."""
    x, y, z = directions.unbind(-1)
    polynomials = [torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]
    return torch.stack(polynomials, -1) * directions.new_tensor(_FACTORS)


def sh_of_light(direction: Tensor, colour: Tensor) -> Tensor:
    """(..., C, 9) coefficients of a distant light of irradiance `colour` (..., C) towards unit `direction` (..., 3)."""
    return colour[..., None] * sh_basis(direction)[..., None, :]


def sh_irradiance(normals: Tensor, radiance: Tensor, picture: Tensor | None = None) -> Tensor:
    """(P, C) irradiance at normals (P, 3) under radiance (C, 9), or (N, C, 9) with `picture`.

    A white diffuse surface shows irradiance / π; a uniform environment of radiance 1 gives π everywhere.
    """
    lobe = normals.new_tensor([LAMBERT[band] for band in BANDS])
    return _weighted(sh_basis(normals) * lobe, radiance, picture)


def deep3d_shading(normals: Tensor, lighting: Tensor, picture: Tensor | None = None) -> Tensor:
    """(P, 3) what Deep3D multiplies the albedo with, for its coefficients (3, 9) or (N, 3, 9); ambient 0.8 is added."""
    lobe = normals.new_tensor(_DEEP3D_SIGNS) * normals.new_tensor([_DEEP3D_LOBE[band] for band in BANDS])
    ambient = F.one_hot(torch.tensor(0), 9).to(lighting) * DEEP3D_AMBIENT
    return _weighted(sh_basis(normals) * lobe, lighting + ambient, picture)


def radiance_from_deep3d(lighting: Tensor) -> Tensor:
    """Orthonormal radiance (..., 9) under which a white diffuse surface shows what Deep3D's coefficients make of it."""
    ambient = F.one_hot(torch.tensor(0), 9).to(lighting) * DEEP3D_AMBIENT
    ratio = [s * _DEEP3D_LOBE[b] * math.pi / LAMBERT[b] for s, b in zip(_DEEP3D_SIGNS, BANDS)]
    return (lighting + ambient) * lighting.new_tensor(ratio)


def _weighted(basis: Tensor, coefficients: Tensor, picture: Tensor | None) -> Tensor:
    if coefficients.shape[-1] != 9 or coefficients.ndim != (2 if picture is None else 3):
        raise UsageError(
            f"lighting must be (C, 9), or (N, C, 9) with the picture of each point, not {coefficients.shape}"
        )
    if picture is None:
        return basis @ coefficients.T
    if len(coefficients) == 1:
        return basis @ coefficients[0].T
    return (coefficients[picture] @ basis[..., None])[..., 0]


@dataclass(frozen=True, slots=True, eq=False)
class Lights:
    """Up to three distant lights for each of N pictures: `direction` (N, L, 3) towards the light, of any length, and
    `irradiance` (N, L, 3), RGB on a surface that faces it."""

    direction: Tensor
    irradiance: Tensor

    def __post_init__(self) -> None:
        if self.direction.ndim != 3 or self.direction.shape != self.irradiance.shape or self.direction.shape[-1] != 3:
            raise UsageError(
                f"lights need directions and irradiances of one shape (N, L, 3), not {tuple(self.direction.shape)} "
                f"and {tuple(self.irradiance.shape)}"
            )
        if not 1 <= self.direction.shape[1] <= MOST_LIGHTS:
            raise UsageError(f"one to {MOST_LIGHTS} directional lights are possible, not {self.direction.shape[1]}")
        if not (self.direction.norm(dim=-1) > 0).all():
            raise UsageError("a light's direction must not be zero")

    def at(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Unit directions and irradiances (P, L, 3) for points of those pictures."""
        unit = F.normalize(self.direction, dim=-1)
        return unit[picture], self.irradiance[picture]


@dataclass(frozen=True, slots=True)
class Gloss:
    """A dielectric highlight: GGX with `roughness` 0..1, or Blinn–Phong where `exponent` is given, times `strength`."""

    strength: float = 1.0
    roughness: float = 0.5
    exponent: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.roughness <= 1 or self.strength < 0 or (self.exponent is not None and self.exponent <= 0):
            raise UsageError(f"a highlight needs strength ≥ 0, roughness in (0, 1] and a positive exponent, not {self}")


def directional(
    albedo: Tensor,
    normals: Tensor,
    view: Tensor,
    lights: Lights,
    picture: Tensor,
    *,
    gloss: Gloss | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """(P, 3) radiance towards the viewer of a diffuse surface with a highlight under directional lights.

    `albedo`, unit `normals` and `view` (towards the camera) are (P, 3); `visible` (P, L) is the share of each light
    that is not in shadow.
    """
    towards, irradiance = lights.at(picture)
    cosine = (towards * normals[:, None]).sum(-1).clamp_min(0)
    received = irradiance * (cosine if visible is None else cosine * visible)[..., None]
    reflected = received.sum(1) * albedo / math.pi
    if gloss is None:
        return reflected
    return reflected + (received * highlight(normals[:, None], view[:, None], towards, gloss)[..., None]).sum(1)


def highlight(normals: Tensor, view: Tensor, light: Tensor, gloss: Gloss) -> Tensor:
    """(...) the reflectance distribution of the highlight, without the cosine, for unit vectors (..., 3).

    Schlick's Fresnel term times the distribution of half vectors: Blinn–Phong normalised by (n + 8) / 8π, or GGX
    (Walter et al. 2007, α = roughness²) with the height-correlated shadowing of Smith.
    """
    half = F.normalize(view + light, dim=-1, eps=1e-9)
    n_h, v_h = ((half * v).sum(-1).clamp(0, 1) for v in (normals, view))
    fresnel = DIELECTRIC + (1 - DIELECTRIC) * (1 - v_h) ** 5
    if gloss.exponent is not None:
        lobe = (gloss.exponent + 8) / (8 * math.pi) * n_h.clamp_min(1e-6) ** gloss.exponent
        return gloss.strength * fresnel * lobe
    a2 = gloss.roughness**4
    n_l, n_v = ((normals * v).sum(-1).clamp_min(1e-4) for v in (light, view))
    distribution = a2 / (math.pi * (n_h * n_h * (a2 - 1) + 1) ** 2)
    masking = 0.5 / (n_l * torch.sqrt(n_v**2 * (1 - a2) + a2) + n_v * torch.sqrt(n_l**2 * (1 - a2) + a2))
    return gloss.strength * fresnel * distribution * masking


@torch.no_grad()
def shadows(
    points: Tensor,
    normals: Tensor,
    picture: Tensor,
    vertices: Tensor,
    topology: Topology,
    lights: Lights,
    *,
    softness: float = 0.02,
    resolution: int = 192,
) -> Tensor:
    """(P, L) share of each light that reaches points (P, 3) of the surfaces (N, V, 3), by a shadow map; no gradients.

    The map is a picture of the surface seen from the light. `softness` is the width over which shadows blur, as a share
    of the model's largest extent from its middle. Points are compared a texel's slope in front of where they are, so
    that no surface shades itself.
    """
    middle = (vertices.amin(1) + vertices.amax(1)) / 2
    centred = vertices - middle[:, None]
    reach = float(centred.norm(dim=-1).max())
    side = (resolution - 1) / 2
    camera = WeakPerspective(resolution, resolution, (side - 1) / reach, (side, side))
    texel, width = 1 / camera.scale, softness * reach
    unit = F.normalize(lights.direction, dim=-1)
    shares = []
    for k in range(unit.shape[1]):
        rotation = _facing(unit[:, k])
        screen = camera.project(place(centred, rotation))
        nearest = rasterise(screen, topology, resolution, resolution).depth_map()
        cosine = (normals * unit[picture, k]).sum(-1).clamp(0.2, 1)
        margin = (texel + width / 2) * (1 / cosine**2 - 1).sqrt() + texel
        local = (rotation[picture] @ (points - middle[picture])[..., None])[..., 0]
        seen = camera.project(local[None])
        shares.append(_lit(nearest, picture, seen.xy[0], seen.depth[0] - margin, width * camera.scale))
    return torch.stack(shares, -1)


def _facing(direction: Tensor) -> Tensor:
    """(N, 3, 3) rotations that turn unit directions (N, 3) to the z axis."""
    aside = torch.eye(3).to(direction)[direction.abs().argmin(-1)]
    x = F.normalize(torch.linalg.cross(aside, direction), dim=-1)
    return torch.stack([x, torch.linalg.cross(direction, x), direction], 1)


def _lit(nearest: Tensor, picture: Tensor, xy: Tensor, depth: Tensor, width: float) -> Tensor:
    """(P,) share of a square of `width` texels around points (P, 2) in which nothing lies before their depth (P,)."""
    resolution = nearest.shape[-1]
    flat, offset = nearest.flatten(), picture * resolution**2
    share = torch.zeros_like(depth)
    steps = ((torch.arange(TAPS) + 0.5) / TAPS - 0.5) * width
    for dy in steps.tolist():
        for dx in steps.tolist():
            column, row = (xy + xy.new_tensor([dx, dy])).round().long().clamp(0, resolution - 1).unbind(-1)
            share += flat[offset + row * resolution + column] >= depth
    return share / TAPS**2
