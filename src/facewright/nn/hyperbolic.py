"""The Poincaré ball: points, distances, and a classifier on it.

Ganea, Bécigneul and Hofmann, "Hyperbolic Neural Networks" (NeurIPS 2018, arXiv 1805.09112), with the guards of
Khrulkov et al.'s Hyperbolic Image Embeddings (CVPR 2020), so that networks made with it give the same numbers. The
ball of curvature −c has the radius 1/√c. Everything is computed in float32: in half precision the boundary is reached.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_LEAST = 1e-5
_MOST_TANH = 15.0
_INSIDE = 1 - 1e-3


def _norm(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return length.clamp_min(_LEAST)


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _tanh(x: Tensor) -> Tensor:
    return x.clamp(-_MOST_TANH, _MOST_TANH).tanh()


def artanh(x: Tensor) -> Tensor:
    """Inverse of tanh, finite at ±1."""
    inside = x.clamp(-1 + _LEAST, 1 - _LEAST)
    return (torch.log1p(inside) - torch.log1p(-inside)) / 2


def arsinh(x: Tensor) -> Tensor:
    """Inverse of sinh as the published networks compute it: what is logged is at least 1e-5."""
    return (x + (1 + x.square()).sqrt()).clamp_min(_LEAST).log()


def project(x: Tensor, c: float) -> Tensor:
    """Points (..., D) brought into the ball: norms are at most 0.999 of its radius."""
    most = _INSIDE / math.sqrt(c)
    norm = _norm(x)
    return torch.where(norm > most, x / norm * most, x)


def mobius_add(x: Tensor, y: Tensor, c: float) -> Tensor:
    """x ⊕ y of points (..., D) that broadcast."""
    product, xx, yy = (x * y).sum(-1, keepdim=True), _square(x), _square(y)
    above = (1 + 2 * c * product + c * yy) * x + (1 - c * xx) * y
    return above / (1 + 2 * c * product + c**2 * xx * yy + _LEAST)


def expmap0(u: Tensor, c: float) -> Tensor:
    """The point that a tangent vector (..., D) at the origin leads to."""
    norm = _norm(u)
    return _tanh(math.sqrt(c) * norm) * u / (math.sqrt(c) * norm)


def logmap0(y: Tensor, c: float) -> Tensor:
    """The tangent vector at the origin that leads to a point (..., D)."""
    norm = _norm(y)
    return y / norm / math.sqrt(c) * artanh(math.sqrt(c) * norm)


def expmap(x: Tensor, u: Tensor, c: float) -> Tensor:
    """The point that a tangent vector (..., D) at x leads to."""
    norm = _norm(u)
    scale = 2 / (1 - c * _square(x))
    step = _tanh(math.sqrt(c) / 2 * scale * norm) * u / (math.sqrt(c) * norm)
    return mobius_add(x, step, c)


def distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    """Geodesic distance (...) of points (..., D)."""
    return 2 / math.sqrt(c) * artanh(math.sqrt(c) * mobius_add(-x, y, c).norm(dim=-1))


def distance_matrix(x: Tensor, y: Tensor, c: float) -> Tensor:
    """Distances (N, M) of all pairs of (N, D) and (M, D)."""
    return distance(x[:, None], y[None], c)


class _Riemannian(torch.autograd.Function):
    """Points as they are; their gradient as the metric of the ball sees it."""

    @staticmethod
    def forward(context: Any, x: Tensor, c: float) -> Tensor:
        context.save_for_backward(x)
        context.c = c
        return x

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = context.saved_tensors
        return gradients[0] * (1 - context.c * _square(x)).square() / 4, None


class ToBall(nn.Module):
    """Euclidean features (N, D) to points of the ball, as tangent vectors at a learnt base point.

    Features longer than `clip` are shortened to it first (Guo et al., CVPR 2022). The gradient is the Riemannian one.
    """

    def __init__(self, dim: int, c: float, clip: float) -> None:
        super().__init__()
        self.c, self.clip = c, clip
        self.base = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        x = features.float()
        x = x * (self.clip / (x.norm(dim=-1, keepdim=True) + _LEAST)).clamp_max(1)
        base = project(expmap0(self.base, self.c), self.c)
        point: Tensor = _Riemannian.apply(project(expmap(base, x, self.c), self.c), self.c)  # type: ignore[no-untyped-call]
        return point


class HyperbolicLogits(nn.Module):
    """Logits (N, K) of points (N, D): signed distances to a hyperplane of the ball for every class, scaled.

    As c goes to 0 they become 4 ⟨x − p, a⟩, the logits of a Euclidean layer.
    """

    def __init__(self, dim: int, classes: int, c: float) -> None:
        super().__init__()
        self.c = c
        self.normals = nn.Parameter(torch.empty(classes, dim))
        self.offsets = nn.Parameter(torch.empty(classes, dim))
        for values in (self.normals, self.offsets):
            nn.init.kaiming_uniform_(values, a=math.sqrt(5))

    def forward(self, points: Tensor) -> Tensor:
        c, root = self.c, math.sqrt(self.c)
        planes = expmap0(self.offsets, c)
        flatness = 1 - c * _square(planes)  # (K, 1)
        normals = self.normals * flatness
        length = normals.norm(dim=-1)
        moved = mobius_add(-planes, points.float()[:, None], c)  # (N, K, D)
        height = 2 * root * (moved * normals).sum(-1) / (length * (1 - c * _square(moved)[..., 0]))
        logits: Tensor = (2 / flatness[:, 0]) * length / root * arsinh(height)
        return logits
