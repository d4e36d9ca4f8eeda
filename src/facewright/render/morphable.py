"""Morphable face models behind one interface: coefficients in, vertices, normals and landmarks out.

Blanz and Vetter's linear model (1999): vertices = mean + identity basis · coefficients + expression basis · weights.
Eyeballs are turned by the gaze about their centres. Where a published model does more, its module extends this one.
Model space: x to the picture's right, y up, z towards the viewer, in units of `MorphableData.unit` metres. Names ending
in _L and _R mean the subject's left and right, as those of ARKit do; the subject's left has x > 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError, WeightsError, nearest_name
from .camera import rotation_from_pose
from .conventions import EYES_68
from .rasteriser import Topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

NOSE_TIP_68, MOUTH_CORNERS_68 = 30, (48, 54)


@dataclass(frozen=True, slots=True, eq=False)
class MorphableData:
    """A linear face model as arrays; V vertices, F triangles (counter-clockwise from outside), T texture points.

    `mean` (V, 3); `identity` (I, V, 3) displacements of coefficients with unit variance; `expression` (E, V, 3) with
    names, for weights 0..1 if they are blend shapes; `uv` (T, 2) in 0..1 of each part's own texture, v up, with
    `triangles_uv` (F, 3) indexing it; `landmarks68` (68,) vertices in iBUG order; `vertex_part` and `triangle_part`
    index `parts`; `eyeballs` names the parts that make up each ball. `albedo_mean` (V, 3) and `albedo_basis` (A, V, 3)
    in 0..1 where the model has them. `unit` is the length of one unit in metres. Raises WeightsError when the arrays do
    not fit together.
    """

    name: str
    unit: float
    mean: NDArray[np.float32]
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    expression_names: tuple[str, ...]
    triangles: NDArray[np.int64]
    parts: tuple[str, ...]
    vertex_part: NDArray[np.int64]
    triangle_part: NDArray[np.int64]
    uv: NDArray[np.float32] | None = None
    triangles_uv: NDArray[np.int64] | None = None
    landmarks68: NDArray[np.int64] | None = None
    eyeballs: tuple[tuple[str, ...], ...] = ()
    albedo_mean: NDArray[np.float32] | None = None
    albedo_basis: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        vertices, triangles = len(self.mean), len(self.triangles)
        shapes = {
            "mean": (self.mean.shape, (vertices, 3)),
            "identity": (self.identity.shape[1:], (vertices, 3)),
            "expression": (self.expression.shape, (len(self.expression_names), vertices, 3)),
            "triangles": (self.triangles.shape, (triangles, 3)),
            "vertex_part": (self.vertex_part.shape, (vertices,)),
            "triangle_part": (self.triangle_part.shape, (triangles,)),
        }
        if self.triangles_uv is not None:
            shapes["triangles_uv"] = (self.triangles_uv.shape, (triangles, 3))
        if self.landmarks68 is not None:
            shapes["landmarks68"] = (self.landmarks68.shape, (68,))
        if self.albedo_mean is not None and self.albedo_basis is not None:
            shapes["albedo_mean"] = (self.albedo_mean.shape, (vertices, 3))
            shapes["albedo_basis"] = (self.albedo_basis.shape[1:], (vertices, 3))
        wrong = [f"{key} {got} instead of {wanted}" for key, (got, wanted) in shapes.items() if got != wanted]
        if wrong:
            raise WeightsError(f"arrays of the face model {self.name} do not fit together: {'; '.join(wrong)}")
        self._check_values()

    def _check_values(self) -> None:
        indices = {"triangles": self.triangles, "landmarks68": self.landmarks68}
        for key, values in indices.items():
            if values is not None and values.size and not 0 <= values.min() <= values.max() < len(self.mean):
                raise WeightsError(f"{key} of the face model {self.name} point to vertices it does not have")
        if self.triangles_uv is not None and (self.uv is None or self.triangles_uv.max() >= len(self.uv)):
            raise WeightsError(f"triangles_uv of the face model {self.name} point to texture points it does not have")
        for key, floats in {"mean": self.mean, "identity": self.identity, "expression": self.expression}.items():
            if not np.isfinite(floats).all():
                raise WeightsError(f"{key} of the face model {self.name} holds values that are not finite")

    def only(self, parts: Iterable[str]) -> Self:
        """The model reduced to some parts. Raises UsageError for parts it lacks or that hold landmarks left out."""
        wanted = [self._part(name) for name in parts]
        kept = np.flatnonzero(np.isin(self.triangle_part, wanted))
        if not len(kept):
            raise UsageError(f"no triangle of the face model {self.name} is left; it has parts {', '.join(self.parts)}")
        corners_uv = None if self.triangles_uv is None else self.triangles_uv[kept]
        return self._with_triangles(self.triangles[kept], corners_uv, self.triangle_part[kept])

    def decimated(self, levels: int) -> Self:
        """A coarser model: each level merges vertices with a neighbour and keeps about a quarter of them.

        The vertices that stay are vertices of the full model, so all coefficients keep their meaning; landmarks,
        borders of parts and seams of the texture stay where they are.
        """
        if levels < 0:
            raise UsageError(f"a face model can be decimated 0 times or more, not {levels}")
        model = self
        for _ in range(levels):
            model = model._merged(_representatives(model))
        return model

    def rescaled(self, unit: float, *, centre: NDArray[np.float32] | None = None) -> Self:
        """The same model in another unit (metres), with the origin moved to `centre` (3,) of the present space."""
        factor = np.float32(self.unit / unit)
        origin = np.zeros(3, np.float32) if centre is None else centre
        return replace(
            self,
            unit=unit,
            mean=(self.mean - origin) * factor,
            identity=self.identity * factor,
            expression=self.expression * factor,
        )

    def vertices_of(self, parts: Iterable[str]) -> NDArray[np.int64]:
        """Indices of the vertices of parts."""
        return np.flatnonzero(np.isin(self.vertex_part, [self._part(name) for name in parts]))

    def _part(self, name: str) -> int:
        if name not in self.parts:
            raise UsageError(f"the face model {self.name} has no part {name!r}{nearest_name(name, self.parts)}")
        return self.parts.index(name)

    def _merged(self, target: NDArray[np.int64]) -> Self:
        """Every vertex replaced by its target (V,); triangles that collapse or coincide are dropped."""
        triangles = target[self.triangles]
        sides = np.sort(triangles, axis=1)
        distinct = (np.diff(sides, axis=1) > 0).all(1)
        first = np.zeros(len(sides), bool)
        first[np.unique(sides, axis=0, return_index=True)[1]] = True
        kept = distinct & first
        corners_uv = None if self.triangles_uv is None else self._merged_uv(target)[kept]
        return self._with_triangles(triangles[kept], corners_uv, self.triangle_part[kept])

    def _merged_uv(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        """(F, 3) for each corner the texture point of its target vertex that is nearest on the texture."""
        assert self.uv is not None
        assert self.triangles_uv is not None
        pairs = np.unique(np.stack([self.triangles.ravel(), self.triangles_uv.ravel()], 1), axis=0)
        start = np.searchsorted(pairs[:, 0], np.arange(len(self.mean) + 1))
        corner, corner_uv = target[self.triangles.ravel()], self.triangles_uv.ravel()
        best = np.full(corner.shape, np.inf)
        chosen = corner_uv.copy()
        for k in range(int(np.diff(start).max())):
            has = start[corner] + k < start[corner + 1]
            candidate = pairs[np.where(has, start[corner] + k, 0), 1]
            distance = np.where(has, ((self.uv[candidate] - self.uv[corner_uv]) ** 2).sum(1), np.inf)
            chosen = np.where(distance < best, candidate, chosen)
            best = np.minimum(best, distance)
        return chosen.reshape(self.triangles.shape)

    def _with_triangles(
        self, triangles: NDArray[np.int64], corners_uv: NDArray[np.int64] | None, triangle_part: NDArray[np.int64]
    ) -> Self:
        """The model with other triangles between its vertices; what they do not use is dropped."""
        vertices, triangles = _renumbered(triangles)
        uv = self.uv
        if uv is not None and corners_uv is not None:
            points, corners_uv = _renumbered(corners_uv)
            uv = uv[points]
        landmarks = None
        if self.landmarks68 is not None:
            landmarks = np.searchsorted(vertices, self.landmarks68)
            if not np.array_equal(vertices[landmarks % len(vertices)], self.landmarks68):
                raise UsageError(f"the chosen parts of the face model {self.name} do not hold all 68 landmarks")
        present = {self.parts[i] for i in np.unique(triangle_part)}
        return replace(
            self,
            mean=self.mean[vertices],
            identity=self.identity[:, vertices],
            expression=self.expression[:, vertices],
            triangles=triangles,
            vertex_part=self.vertex_part[vertices],
            triangle_part=triangle_part,
            uv=uv,
            triangles_uv=corners_uv,
            landmarks68=landmarks,
            eyeballs=tuple(kept for ball in self.eyeballs if (kept := tuple(p for p in ball if p in present))),
            albedo_mean=None if self.albedo_mean is None else self.albedo_mean[vertices],
            albedo_basis=None if self.albedo_basis is None else self.albedo_basis[:, vertices],
        )


class MorphableModel(nn.Module):
    """A face model ready to compute, on any device; nothing in it is trainable, everything is differentiable."""

    mean: Tensor
    identity: Tensor
    expression: Tensor
    triangles: Tensor
    triangle_part: Tensor
    uv: Tensor | None
    triangles_uv: Tensor | None
    landmarks68: Tensor | None
    albedo_mean: Tensor | None
    albedo_basis: Tensor | None

    def __init__(self, data: MorphableData) -> None:
        super().__init__()
        self.data = data
        for key in ("mean", "identity", "expression", "uv", "triangles_uv", "landmarks68", "triangle_part"):
            values = getattr(data, key)
            self._keep(key, None if values is None else torch.from_numpy(np.ascontiguousarray(values)))
        for key, values in (("albedo_mean", data.albedo_mean), ("albedo_basis", data.albedo_basis)):
            self._keep(key, None if values is None else torch.from_numpy(np.ascontiguousarray(values)))
        topology = Topology.of(torch.from_numpy(data.triangles))
        for key in Topology.__dataclass_fields__:
            self._keep(key, getattr(topology, key))
        for number, ball in enumerate(data.eyeballs):
            vertices = data.vertices_of(ball)
            self._keep(f"eye_vertices{number}", torch.from_numpy(vertices))
            self._keep(f"eye_centre{number}", torch.from_numpy(_centre_weights(data.mean[vertices])))

    def _keep(self, name: str, values: Tensor | None) -> None:
        self.register_buffer(name, values, persistent=False)

    @property
    def topology(self) -> Topology:
        return Topology(*(getattr(self, key) for key in Topology.__dataclass_fields__))

    @property
    def expression_names(self) -> tuple[str, ...]:
        return self.data.expression_names

    def expression_weights(self, named: Mapping[str, float]) -> Tensor:
        """(1, E) weights with those named set. Raises UsageError for an unknown name, with the nearest one."""
        weights = self.mean.new_zeros(1, len(self.expression_names))
        for name, value in named.items():
            if name not in self.expression_names:
                hint = nearest_name(name, self.expression_names)
                raise UsageError(f"the face model {self.data.name} has no expression {name!r}{hint}")
            weights[0, self.expression_names.index(name)] = value
        return weights

    def vertices(
        self, identity: Tensor | None = None, expression: Tensor | None = None, gaze: Tensor | None = None
    ) -> Tensor:
        """(N, V, 3) vertices of N faces.

        `identity` (N, ≤I) in standard deviations, `expression` (N, ≤E); missing coefficients are 0. `gaze` (N, 2) yaw
        and pitch of both eyes relative to the head in degrees as in `Pose`, or (N, 2, 2) for each eyeball in the order
        of the model. A batch of one fits any other. Raises UsageError for coefficients that are too many or not finite.
        """
        batch = self._batch(identity, expression, gaze)
        vertices = self.mean.expand(batch, -1, -1)
        for basis, values, kind in (
            (self.identity, identity, "identity"),
            (self.expression, expression, "expression"),
        ):
            if values is not None:
                vertices = vertices + _blend(basis, values, kind)
        return vertices if gaze is None else self._look(vertices, gaze)

    def normals(self, vertices: Tensor) -> Tensor:
        """(N, V, 3) unit normals, the mean of the adjoining triangles' weighted by area."""
        return vertex_normals(vertices, self.triangles)

    def landmarks(self, vertices: Tensor) -> Tensor:
        """(N, 68, 3) landmarks in iBUG order. Raises UsageError where the model has none."""
        if self.landmarks68 is None:
            raise UsageError(f"the face model {self.data.name} was loaded without landmarks")
        return vertices[:, self.landmarks68]

    def albedo(self, coefficients: Tensor | None = None) -> Tensor:
        """(N, V, 3) RGB reflectance, not clamped. Raises UsageError where the model has none."""
        if self.albedo_mean is None or self.albedo_basis is None:
            raise UsageError(f"the face model {self.data.name} has no albedo; give it a texture")
        if coefficients is None:
            return self.albedo_mean[None]
        return self.albedo_mean + _blend(self.albedo_basis, coefficients, "albedo")

    def eye_centres(self, vertices: Tensor) -> Tensor:
        """(N, B, 3) points about which the B eyeballs turn."""
        return torch.stack([self._eye(vertices, number)[1][:, 0] for number in range(len(self.data.eyeballs))], 1)

    def _eye(self, vertices: Tensor, number: int) -> tuple[Tensor, Tensor]:
        index, weights = getattr(self, f"eye_vertices{number}"), getattr(self, f"eye_centre{number}")
        ball = vertices[:, index]
        return ball, (weights[:, None] * ball).sum(1, keepdim=True)

    def _look(self, vertices: Tensor, gaze: Tensor) -> Tensor:
        _check_finite(gaze, "gaze")
        each = gaze[:, None].expand(-1, len(self.data.eyeballs), -1) if gaze.ndim == 2 else gaze
        if each.shape[1:] != (len(self.data.eyeballs), 2):
            raise UsageError(f"gaze must be (N, 2) or (N, {len(self.data.eyeballs)}, 2), not {tuple(gaze.shape)}")
        for number in range(len(self.data.eyeballs)):
            rotation = rotation_from_pose(F.pad(each[:, number], (0, 1)))
            ball, centre = self._eye(vertices, number)
            turned = (ball - centre) @ rotation.transpose(1, 2) + centre
            vertices = vertices.index_copy(1, getattr(self, f"eye_vertices{number}"), turned)
        return vertices

    @staticmethod
    def _batch(*coefficients: Tensor | None) -> int:
        sizes = {len(c) for c in coefficients if c is not None} - {1}
        if len(sizes) > 1:
            raise UsageError(f"coefficients are for different numbers of faces: {', '.join(map(str, sorted(sizes)))}")
        return sizes.pop() if sizes else 1


def vertex_normals(vertices: Tensor, triangles: Tensor, *, weighting: str = "area") -> Tensor:
    """(N, V, 3) unit normals of (N, V, 3) vertices: the sum of the adjoining triangles' normals.

    `weighting` is "area", or "equal" as in Deep3D, where every triangle counts the same.
    """
    if weighting not in ("area", "equal"):
        raise UsageError(f"normals are weighted by 'area' or 'equal', not {weighting!r}")
    a, b, c = (vertices[:, triangles[:, i]] for i in range(3))
    facing = torch.linalg.cross(b - a, c - a)
    if weighting == "equal":
        facing = F.normalize(facing, dim=-1)
    total = torch.zeros_like(vertices)
    for i in range(3):
        total = total.index_add(1, triangles[:, i], facing)
    return F.normalize(total, dim=-1, eps=1e-20)


def five_points(landmarks: Tensor) -> Tensor:
    """(N, 5, K) points as in `Face.points5` of (N, 68, K) landmarks; an eye is the mean of its contour."""
    eyes = [landmarks[:, start:end].mean(1) for start, end in EYES_68]
    return torch.stack([*eyes, landmarks[:, NOSE_TIP_68], *(landmarks[:, i] for i in MOUTH_CORNERS_68)], 1)


def _blend(basis: Tensor, coefficients: Tensor, kind: str) -> Tensor:
    if coefficients.ndim != 2 or coefficients.shape[1] > len(basis):
        raise UsageError(f"{kind} coefficients must be (N, up to {len(basis)}), not {tuple(coefficients.shape)}")
    _check_finite(coefficients, kind)
    count = coefficients.shape[1]
    return (coefficients.to(basis.dtype) @ basis[:count].flatten(1)).view(len(coefficients), -1, 3)


def _check_finite(values: Tensor, kind: str) -> None:
    if not torch.isfinite(values).all():
        raise UsageError(f"{kind} coefficients must be finite, but some are NaN or infinite")


def _centre_weights(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K,) weights that sum to 1 and give the centre of the sphere through the points, moving with them affinely."""
    exact = points.astype(np.float64)
    system = np.concatenate([2 * exact, np.ones((len(exact), 1))], 1)
    centre = np.linalg.lstsq(system, (exact**2).sum(1), rcond=None)[0][:3]
    homogeneous = np.concatenate([exact, np.ones((len(exact), 1))], 1).T
    return np.asarray(np.linalg.lstsq(homogeneous, np.append(centre, 1.0), rcond=None)[0], dtype=np.float32)


def _renumbered(corners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices that occur, sorted, and the corners pointing into them."""
    used, inverse = np.unique(corners, return_inverse=True)
    return used, inverse.reshape(corners.shape)


def _representatives(data: MorphableData) -> NDArray[np.int64]:
    """(V,) for each vertex the one it is merged with: itself, or a neighbour.

    Those that stay form a maximal independent set of the mesh, so every other vertex has one beside it. Vertices on
    feature edges (borders, seams of the texture, borders between parts) merge along those only, and first, so that the
    lines lose vertices but keep their course.
    """
    count = len(data.mean)
    edges, feature = _edges(data)
    degree = np.bincount(edges[feature].ravel(), minlength=count)
    on_feature = degree > 0
    locked = on_feature & (degree != 2)
    if data.landmarks68 is not None:
        locked[data.landmarks68] = True
    moves = np.concatenate([edges, edges[:, ::-1]])  # from the first vertex to the second
    moves = moves[(np.tile(feature, 2) | ~on_feature[moves[:, 0]]) & ~locked[moves[:, 0]]]
    stays = _independent(moves, count, [locked, on_feature, np.ones(count, bool)])
    moves = moves[stays[moves[:, 1]] & ~stays[moves[:, 0]]]
    lengths = np.linalg.norm(data.mean[moves[:, 0]] - data.mean[moves[:, 1]], axis=1)
    moves = moves[np.lexsort((lengths, moves[:, 0]))]
    merged, first = np.unique(moves[:, 0], return_index=True)
    target = np.arange(count)
    target[merged] = moves[first, 1]
    return target


def _edges(data: MorphableData) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(E, 2) edges and which of them are feature edges: at a border, a seam of the texture or between parts."""
    corners = data.triangles if data.triangles_uv is None else data.triangles_uv
    sides = [np.stack([data.triangles[:, i], data.triangles[:, (i + 1) % 3]], 1) for i in range(3)]
    ends = [np.stack([corners[:, i], corners[:, (i + 1) % 3]], 1) for i in range(3)]
    side, end = np.concatenate(sides), np.concatenate(ends)
    backward = side[:, 0] > side[:, 1]
    side[backward], end[backward] = side[backward, ::-1], end[backward, ::-1]
    looks = np.concatenate([end, np.tile(data.triangle_part, 3)[:, None]], 1)
    edges, inverse, uses = np.unique(side, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    first = np.cumsum(uses) - uses
    second = np.minimum(first + 1, len(order) - 1)
    same = (looks[order[first]] == looks[order[second]]).all(1)
    return edges, (uses != 2) | ~same


def _independent(moves: NDArray[np.int64], count: int, stages: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """(count,) a maximal set of vertices none of which could move to another; candidates come in stages.

    From each vertex chosen the search goes on two steps away, which keeps the set regular and sparse.
    """
    order = np.argsort(moves[:, 1], kind="stable")
    start = np.searchsorted(moves[order, 1], np.arange(count + 1)).tolist()
    sources = moves[order, 0].tolist()
    beside = [sources[a:b] for a, b in zip(start[:-1], start[1:])]
    stays, settled = [False] * count, [False] * count
    for stage in stages:
        candidate = stage.tolist()
        for root in np.flatnonzero(stage).tolist():
            queue = deque([root])
            while queue:
                vertex = queue.popleft()
                if settled[vertex]:
                    continue
                stays[vertex] = settled[vertex] = True
                for near in beside[vertex]:
                    settled[near] = True
                for near in beside[vertex]:
                    queue.extend(v for v in beside[near] if candidate[v] and not settled[v])
    return np.array(stays)
