"""What people wear and what gets in the way: glasses, hats, jewellery, clothes, hands; meshes carried by the head.

All shapes are made by formula around the head of the skin's chart (centimetres, y up, z to the viewer) and carried
along by an affine map: the one that best takes the resting places of bony points of the face, which no expression
moves, to where they are. So they follow pose and the proportions of the person; colours are linear reflectance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ..errors import UsageError
from .skin import chart_cm, chart_of, noise, onto, statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .morphable import MorphableData

CENTRE = np.array([0.0, 4.5, 1.0])
"""Middle of the skull."""
ANCHORS = 48
HATS = ("none", "beanie", "cap", "brim")
GLASSES = ("none", "round", "square", "aviator")
EAR_STANDS_OFF = 0.3  # cm
NECK = -12.0  # height in cm that only models with a neck reach down to
OCCLUDERS = ("none", "hand", "phone", "microphone", "mug")
_ELEVATIONS, _AZIMUTHS = 61, 120
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A mesh of K vertices worn by a face: `part` names its CelebAMask-HQ class or is 'occluder'.

    `triangles` (M, 3), counter-clockwise from outside; `colour` (K, 3) linear reflectance 0..1; `gloss` and
    `roughness` are those of `lighting.Gloss`; `alpha` 1 is opaque, less lets through what is behind, highlights aside.
    `two_sided` surfaces are sheets: draw them without culling, with normals turned to the viewer. `places` (K, 4) times
    `solve` (4, A) times the vertices `anchors` (A,) of the face are the layer's vertices. `rounding` 0..1 is how far
    light takes the surface's normals for those of a ball around the skull's middle: strands scatter as a mass.
    """

    part: str
    triangles: Tensor
    colour: Tensor
    places: Tensor
    solve: Tensor
    anchors: Tensor
    alpha: float = 1.0
    gloss: float = 1.0
    roughness: float = 0.5
    two_sided: bool = False
    rounding: float = 0.0

    def vertices_of(self, face_vertices: Tensor) -> Tensor:
        """(N, K, 3) vertices for a face's (N, V, 3), in the same space, differentiable."""
        return self._carried(self.places, face_vertices)

    def shading_normals(self, face_vertices: Tensor, vertices: Tensor, normals: Tensor) -> Tensor:
        """(N, K, 3) the unit normals that light sees of the layer's `vertices` with unit `normals`, both (N, K, 3)."""
        middle = self._carried(torch.tensor([[*CENTRE, 1.0]]), face_vertices)
        outwards = F.normalize(vertices - middle, dim=-1)
        facing = torch.where((normals * outwards).sum(-1, keepdim=True) < 0, -normals, normals)
        return F.normalize(torch.lerp(facing, outwards, self.rounding), dim=-1)

    def _carried(self, places: Tensor, face_vertices: Tensor) -> Tensor:
        held = face_vertices[:, self.anchors]
        return places.to(held) @ (self.solve.to(held) @ held)


@dataclass(frozen=True, slots=True)
class Mesh:
    """Vertices (K, 3) and outward triangles (M, 3) while a shape is being made."""

    points: NDArray[np.float64]
    triangles: NDArray[np.int64]


class Head:
    """A model's resting head in the space of the chart.

    `points` (V, 3) cm, `landmarks` (68, 3), `places` (V, 2) on the chart in cm, `ears` (V,) bool.
    """

    def __init__(self, data: MorphableData) -> None:
        if data.landmarks68 is None:
            raise UsageError(f"the face model {data.name} was loaded without landmarks; appearance needs them")
        reference = statistics().landmarks
        own = data.mean[data.landmarks68]
        scale, shift = onto(own, reference)
        self.scale, self.shift = scale, shift
        self.points = (data.mean * scale + shift).astype(np.float64)
        self.landmarks = self.points[data.landmarks68]
        self.places = chart_cm(chart_of(data.mean, own, reference))
        outer = np.isin(data.vertex_part, [data.parts.index(p) for p in ("face", "head") if p in data.parts])
        self.outer = np.flatnonzero(outer)
        self._side = _side_of_skull(self.points[outer])
        self.ears = outer & self.is_ear(self.points)
        moved = np.abs(data.expression).max((0, 2)) * scale if len(data.expression) else np.zeros(len(data.mean))
        self.rigid = np.flatnonzero(outer & (moved < 0.15))
        self._radii = self._measure()

    @property
    def has_neck(self) -> bool:
        """Whether the model goes on below the chin, so that a necklace and a shirt have something to lie on."""
        return bool(self.points[self.outer, 1].min() < NECK)

    def is_ear(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (K, 3) of the skin belong to an ear: those that stand off the side of the skull."""
        return np.asarray(_beside(points) & (np.abs(points[:, 0]) > _paraboloid(points) @ self._side + EAR_STANDS_OFF))

    def _measure(self) -> NDArray[np.float64]:
        """(elevations, azimuths) distance of the skin without ears from the centre."""
        chosen = self.outer[~self.ears[self.outer]]
        offset = self.points[chosen] - CENTRE
        radius = np.linalg.norm(offset, axis=1)
        tree = cKDTree(offset / radius[:, None])
        elevation, azimuth = np.meshgrid(
            np.linspace(-np.pi / 2, np.pi / 2, _ELEVATIONS), np.linspace(-np.pi, np.pi, _AZIMUTHS), indexing="ij"
        )
        distance, index = tree.query(direction(elevation, azimuth), k=6)
        weight = 1 / (distance + 0.02)
        return np.asarray((radius[index] * weight).sum(-1) / weight.sum(-1))

    def radius(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """(...) distance of the skin from the centre along unit vectors (..., 3)."""
        elevation = np.arcsin(directions[..., 1].clip(-1, 1)) / np.pi + 0.5
        azimuth = np.arctan2(directions[..., 0], directions[..., 2]) / (2 * np.pi) + 0.5
        where = np.stack([elevation * (_ELEVATIONS - 1), azimuth * (_AZIMUTHS - 1)])
        found = map_coordinates(self._radii, where.reshape(2, -1), order=1, mode="nearest")
        return np.asarray(found.reshape(directions.shape[:-1]))

    def outside(self, points: NDArray[np.float64], lift: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """The points (..., 3), those nearer than `lift` to the skin or within moved outwards."""
        offset = points - CENTRE
        distance = np.linalg.norm(offset, axis=-1, keepdims=True).clip(1e-6)
        least = (self.radius(offset / distance) + lift)[..., None]
        return np.asarray(CENTRE + offset * np.maximum(least / distance, 1))

    def wear(
        self,
        part: str,
        mesh: Mesh,
        colour: NDArray[np.float64] | Colour,
        *,
        near: tuple[NDArray[np.float64], float] | None = None,
        alpha: float = 1.0,
        gloss: float = 1.0,
        roughness: float = 0.5,
        two_sided: bool = False,
        rounding: float = 0.0,
    ) -> Layer:
        """A mesh around the resting head as a layer; `near` (point, reach) limits what it is held by."""
        held = self.rigid
        if near is not None:
            held = held[np.linalg.norm(self.points[held] - near[0], axis=1) < near[1]]
        if len(held) < 12:
            held = self.outer[
                np.argsort(np.linalg.norm(self.points[self.outer] - mesh.points.mean(0), axis=1))[:ANCHORS]
            ]
        anchors = held[spread(self.points[held], ANCHORS)]
        # the model's vertices are in its own units, so places that are affine in chart space are affine in them too
        homogeneous = np.c_[self.points[anchors], np.ones(len(anchors))]
        solve = np.linalg.pinv(homogeneous, rcond=1e-3)
        shade = np.broadcast_to(np.asarray(colour, np.float64), mesh.points.shape)
        return Layer(
            part=part,
            triangles=torch.from_numpy(np.ascontiguousarray(mesh.triangles)),
            colour=torch.from_numpy(shade.clip(0, 1).astype(np.float32)),
            places=torch.from_numpy(np.c_[mesh.points, np.ones(len(mesh.points))].astype(np.float32)),
            solve=torch.from_numpy(solve.astype(np.float32)),
            anchors=torch.from_numpy(anchors),
            alpha=alpha,
            gloss=gloss,
            roughness=roughness,
            two_sided=two_sided,
            rounding=rounding,
        )


@lru_cache(maxsize=4)
def head_of(data: MorphableData) -> Head:
    """The head of a model; the last few are remembered. Raises UsageError for a model without landmarks."""
    return Head(data)


def _beside(points: NDArray[np.float64], margin: float = 0.0) -> NDArray[np.bool_]:
    """Which points (K, 3) lie where ears are, or up to `margin` cm around."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    height, depth = np.abs(y - 0.75) < 3.35 + margin, np.abs(z + 0.4) < 2.4 + margin
    return np.asarray((x > 4.5) & height & depth)


def _paraboloid(points: NDArray[np.float64]) -> NDArray[np.float64]:
    y, z = points[:, 1], points[:, 2]
    return np.stack([np.ones_like(y), y, z, y * y, y * z, z * z], -1)


def _side_of_skull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(6,) half width of the skull at the ears as a paraboloid in height and depth, fitted to what surrounds them."""
    around = points[_beside(points, 2.5) & ~_beside(points)]
    return np.asarray(np.linalg.lstsq(_paraboloid(around), np.abs(around[:, 0]), rcond=None)[0])


def spread(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Up to `count` of the points, each the farthest from those before."""
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmax())]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def direction(elevation: NDArray[np.float64], azimuth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (..., 3); azimuth 0 looks along +z, π/2 along +x."""
    return np.stack([np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)], -1)


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    start = np.cumsum([0, *(len(m.points) for m in meshes)])
    triangles = [m.triangles + k for m, k in zip(meshes, start)]
    return Mesh(np.concatenate([m.points for m in meshes]), np.concatenate(triangles))


def sheet(grid: NDArray[np.float64], *, closed: bool = False) -> Mesh:
    """The surface through points (rows, columns, 3); `closed` joins the last column with the first.

    Outside is where rows run up and columns to the right.
    """
    rows, columns = grid.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, 1) if closed else index[:, 1:]
    left = index if closed else index[:, :-1]
    quads = np.stack([left[:-1], right[:-1], right[1:], left[1:]], -1).reshape(-1, 4)
    return Mesh(grid.reshape(-1, 3), np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


def tube(path: NDArray[np.float64], radius: float, *, closed: bool = False, sides: int = 6) -> Mesh:
    """A round tube along a path (K, 3)."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True).clip(1e-9)
    aside = np.cross(ahead, np.eye(3)[np.abs(ahead.mean(0)).argmin()])
    aside /= np.linalg.norm(aside, axis=1, keepdims=True).clip(1e-9)
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = aside[:, None] * np.cos(turn)[:, None] + np.cross(ahead, aside)[:, None] * np.sin(turn)[:, None]
    grid = path[:, None] + radius * ring
    return sheet(np.concatenate([grid, grid[:1]]) if closed else grid, closed=True)


def ball(
    centre: Sequence[float] | NDArray[np.float64],
    radii: Sequence[float] | NDArray[np.float64] | float,
    rows: int = 10,
    columns: int = 16,
) -> Mesh:
    """An ellipsoid."""
    elevation, azimuth = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, rows), np.arange(columns) * 2 * np.pi / columns, indexing="ij"
    )
    return sheet(np.asarray(centre) + direction(elevation, azimuth) * np.asarray(radii), closed=True)


def glasses(head: Head, style: str, frame: Colour, tint: float) -> list[Layer]:
    """Frame and lenses; `tint` 0 is clear, 1 black sun glasses."""
    eyes = head.landmarks[36:48].reshape(2, 6, 3).mean(1)
    bridge = head.landmarks[27]
    wide, high, power = {"round": (2.35, 2.2, 2.0), "square": (2.75, 1.75, 4.5), "aviator": (2.8, 2.2, 2.6)}[style]
    turn = np.linspace(0, 2 * np.pi, 41)[:-1]
    bend = 1.15 if style != "aviator" else 0.85
    rims, lenses = [], []
    for eye in eyes:
        side = np.sign(eye[0])
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * wide
        y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * high
        if style == "aviator":
            y = np.where(y < 0, y * 1.15, y * 0.85)
        centre = np.array([side * max(abs(eye[0]), wide + 0.65), eye[1] - 0.25, bridge[2] + 0.75])
        rim = centre + np.stack([x, y, -0.09 * (x * side + wide) ** 2 / bend * 0.6], -1)
        rims.append(rim)
        middle = rim.mean(0) + np.array([0, 0, 0.18])
        near = np.arange(len(rim))
        fan = np.stack([near, np.roll(near, -1), np.full(len(rim), len(rim))], 1)
        lenses.append(Mesh(np.vstack([rim, middle]), fan))
    thickness = 0.11 if style == "aviator" else 0.19
    parts = [tube(rim, thickness, closed=True) for rim in rims]
    across = np.linspace(-1, 1, 9)[:, None]
    inner = rims[1][np.abs(rims[1][:, 0]).argmin()]
    parts.append(
        tube(
            inner * [1, 0, 1] * np.c_[across, across * 0 + 1, across * 0 + 1]
            + np.c_[across * 0, inner[1] + 0.55 * (1 - across**2) + 0.3, 0.3 * (1 - across**2)],
            thickness,
        )
    )
    for rim, side in zip(rims, (-1, 1)):
        hinge = rim[(rim[:, 0] * side + 0.4 * rim[:, 1]).argmax()]
        ear = np.array([side * (np.abs(head.points[head.outer, 0]).clip(0, 7.9).max() - 0.1), 4.6, 1.0])
        share = np.linspace(0, 1, 10)[:, None]
        arm = hinge * (1 - share) + ear * share + np.array([side * 0.5, 0.3, 0]) * np.sin(np.pi * share)
        tip = arm[-1] + np.array([[0, -0.7, -0.9], [0, -1.9, -1.5]])
        parts.append(tube(np.vstack([head.outside(arm, 0.25), tip]), thickness))
    held = (bridge, 7.5)
    worn = [head.wear("eye_g", joined(parts), frame, near=held, gloss=2.0, roughness=0.25)]
    tone = (0.02 + 0.03 * (1 - tint),) * 3
    clear = 0.06 + 0.84 * tint
    worn.append(
        head.wear("eye_g", joined(lenses), tone, near=held, alpha=clear, gloss=2.5, roughness=0.12, two_sided=True)
    )
    return worn


def hat_edge(style: str, directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) how far above a hat's edge unit vectors (..., 3) from the skull's middle point, in radians."""
    tilt, height = {"beanie": (0.3, 0.12), "cap": (0.25, 0.22), "brim": (0.22, 0.24)}[style]
    return np.asarray(np.arcsin(directions[..., 1].clip(-1, 1)) - height - tilt * (directions[..., 2] - 0.2))


def hat(head: Head, style: str, colour: Colour) -> list[Layer]:
    """A beanie, a cap with a visor, or a hat with a brim."""
    azimuth = np.linspace(-np.pi, np.pi, 65)[:-1]
    share = np.linspace(0, 1, 16)
    level = np.zeros_like(azimuth)
    for _ in range(6):  # where the edge is, by fixed point
        level = level - 0.8 * hat_edge(style, direction(level, azimuth))
    elevation = level + (np.pi / 2 - level) * share[:, None]
    towards = direction(elevation, np.broadcast_to(azimuth, elevation.shape))
    radius = _rounded(head.radius(towards)) + _thickness(style, share)[:, None]
    dome = CENTRE + towards * radius[..., None]
    if style == "brim":
        flat = CENTRE[1] + 12.5 + 0.02 * dome[..., 2]
        dome[..., 1] = np.minimum(dome[..., 1] + 1.5 * share[:, None], flat)
    knit = 0.12 * np.sin(64 * azimuth) if style == "beanie" else 0.05 * np.cos(6 * azimuth)
    weave = noise(dome.reshape(-1, 3).astype(np.float32), 0.5, 3).reshape(dome.shape[:2])
    shade = 1 + knit + 0.12 * weave
    if style == "beanie":
        shade = np.where(share[:, None] < 0.3, shade * 0.85, shade)
    meshes, shades = [sheet(dome, closed=True)], [shade.ravel()]
    inner = np.stack([CENTRE + towards[0] * (radius[0] - 0.7)[:, None], dome[0]])
    meshes.append(sheet(inner, closed=True))
    shades.append(np.full(inner.size // 3, 0.5))
    plate = _plate(style, dome[0], azimuth)
    if plate is not None:
        meshes.append(plate)
        shades.append(np.full(len(plate.points), 0.9))
    worn = joined(meshes)
    tones = np.concatenate(shades)[:, None] * np.array(colour)
    return [head.wear("hat", worn, tones, gloss=0.3, roughness=0.8, two_sided=True)]


def _rounded(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radii smoothed around the head, as cloth spans over dents."""
    return np.maximum(radius, (np.roll(radius, 2, 1) + np.roll(radius, -2, 1)) / 2)


def _thickness(style: str, share: NDArray[np.float64]) -> NDArray[np.float64]:
    if style == "beanie":
        return np.where(share < 0.3, 1.25, 0.95 + 1.6 * np.clip(share - 0.3, 0, 1))
    return np.asarray(0.95 + 0.7 * np.sin(np.pi * share.clip(0, 0.9)))


def _plate(style: str, edge: NDArray[np.float64], azimuth: NDArray[np.float64]) -> Mesh | None:
    """Visor or brim, from the hat's edge (K, 3) outwards."""
    reach = np.linspace(0, 1, 7)[:, None]
    if style == "cap":
        width = np.cos(azimuth * np.pi / 2 / 1.1).clip(0) * (np.abs(azimuth) < 1.1)
        length, drop = 7.0 * np.sqrt(width), 1.9
    elif style == "brim":
        length, drop = np.full(azimuth.shape, 5.5), 0.7
    else:
        return None
    out = np.stack([np.sin(azimuth), np.zeros_like(azimuth), np.cos(azimuth)], -1)
    if style == "cap":
        out = np.stack([0.35 * np.sin(azimuth), np.zeros_like(azimuth), np.ones_like(azimuth)], -1)
    grid = edge[None] + out * (length * reach)[..., None]
    curl = np.where(style == "cap", drop * reach**1.5 + 0.03 * edge[:, 0] ** 2 * reach, drop * np.sin(np.pi * reach))
    grid[..., 1] -= np.where(length > 0, curl, 0)
    return sheet(grid[::-1], closed=True)


def earrings(head: Head, style: str, colour: Colour) -> list[Layer]:
    """One at each ear: a stud or a hoop."""
    worn = []
    for side in (-1, 1):
        lobe = _lobe(head, side)
        if style == "stud":
            mesh = ball(lobe + np.array([side * 0.15, 0, 0.2]), 0.33)
        else:
            turn = np.linspace(0, 2 * np.pi, 25)[:-1]
            ring = np.stack([0.2 * np.cos(turn), np.sin(turn), np.cos(turn)], -1) * 1.25
            mesh = tube(lobe + np.array([side * 0.15, -1.1, 0.2]) + ring, 0.13, closed=True)
        worn.append(head.wear("ear_r", mesh, colour, near=(lobe, 4.5), gloss=4.0, roughness=0.2))
    return worn


def _lobe(head: Head, side: int) -> NDArray[np.float64]:
    """Where an ear ends below, or the side of a head without ears."""
    points = head.points[head.outer]
    here = (points[:, 0] * side > 6.5) & (points[:, 1] > -2.4) & (points[:, 1] < 0.8) & (points[:, 2] < 4.5)
    ears = points[here & head.ears[head.outer]]
    if len(ears):
        return np.asarray(ears[np.argsort(ears[:, 1])[: max(len(ears) // 8, 1)]].mean(0))
    return np.asarray(head.outside(np.array([[side * 7.0, -0.8, 2.0]]), 0.0)[0])


def necklace(head: Head, colour: Colour) -> list[Layer]:
    """A chain of beads on the neck."""
    turn = np.linspace(-np.pi, np.pi, 49)[:-1]
    path = np.stack([6.6 * np.sin(turn), -13.0 - 2.0 * np.cos(turn), 1.0 + 5.6 * np.cos(turn)], -1)
    beads = [ball(p, 0.36, 5, 8) for p in head.outside(path, 0.35)]
    return [head.wear("neck_l", joined(beads), colour, gloss=3.0, roughness=0.3)]


def below_collar(points: NDArray[np.float64], collar: float) -> NDArray[np.float64]:
    """(K,) cm by which points (K, 3) lie below the neckline of a shirt that closes `collar` 0..1 around the neck."""
    angle = np.arctan2(points[:, 0], points[:, 2])
    low = (4.2 - 3.4 * collar) * ((np.cos(angle) + 1) / 2) ** 2
    return np.asarray(-10.9 - low - points[:, 1])


def cloth(head: Head, colour: Colour) -> list[Layer]:
    """The shoulders that continue the bust, on which the shirt's upper part is painted."""
    azimuth = np.linspace(-np.pi, np.pi, 49)[:-1]
    profile = np.array(
        [[12.5, 7.0, -15.6], [16.0, 8.5, -15.9], [19.5, 9.5, -17.2], [21.5, 10.5, -20.0], [22.5, 11, -30]]
    )
    rows = np.linspace(0, len(profile) - 1, 24)
    wide, deep, y = (np.interp(rows, np.arange(len(profile)), column)[:, None] for column in profile.T)
    grid = np.stack([wide * np.sin(azimuth), y + 0 * azimuth, -1.2 + deep * np.cos(azimuth)], -1)
    folds = noise(grid.reshape(-1, 3).astype(np.float32), 2.5, 11).reshape(grid.shape[:2])
    grid += 0.3 * folds[..., None]
    centre = np.array([[0.0, -15.4, -1.0]])
    mesh = sheet(grid[::-1], closed=True)
    cap = np.stack([np.arange(48) + 23 * 48, (np.arange(48) + 1) % 48 + 23 * 48, np.full(48, 24 * 48)], 1)
    mesh = Mesh(np.concatenate([mesh.points, centre]), np.concatenate([mesh.triangles, cap]))
    shade = np.append((1 + 0.15 * folds)[::-1].ravel(), 1.0)
    return [head.wear("cloth", mesh, shade[:, None] * np.array(colour), gloss=0.2, roughness=0.9, two_sided=True)]


def occluder(head: Head, style: str, side: float, height: float, skin: Colour, colour: Colour) -> list[Layer]:
    """Something before the face; `side` −1..1 across it, `height` 0 at the chin to 1 at the eyes."""
    at = np.array([side * 4.5, -7.0 + 10.0 * height, 0.0])
    at[2] = head.outside(np.array([[at[0], at[1], 1.0]]), 0.0)[0, 2] + 2.0
    at[2] = max(at[2], 10.5)
    if style == "hand":
        return [head.wear("occluder", _hand(at, side), skin, gloss=0.8, roughness=0.5)]
    if style == "phone":
        shape = ball((0, 0, 0), np.array([3.6, 7.2, 0.45]) * 1.6, 24, 24)
        points = np.clip(shape.points, [-3.4, -7.0, -0.4], [3.4, 7.0, 0.4]) + at + np.array([0, 0, 1.5])
        return [head.wear("occluder", Mesh(points, shape.triangles), (0.03, 0.03, 0.035), gloss=2.0, roughness=0.2)]
    if style == "mug":
        turn = np.linspace(-np.pi, np.pi, 33)[:-1]
        heights, radii = np.array([-3.6, -3.5, 0, 3.5, 3.6]), np.array([0.1, 3.0, 3.2, 3.3, 3.1])
        ring = np.stack([np.sin(turn), np.zeros(32), np.cos(turn)], -1)
        grid = (
            at
            + np.array([0, -1.5, 3.5])
            + ring[None] * radii[:, None, None]
            + np.array([0, 1, 0]) * heights[:, None, None]
        )
        return [head.wear("occluder", sheet(grid, closed=True), colour, gloss=2.0, roughness=0.2, two_sided=True)]
    mouth = head.landmarks[62] + np.array([side * 2.0, -2.5, 2.8])
    stick = mouth + np.linspace(0, 1, 12)[:, None] * np.array([side * 5.0, -16.0, 6.0])
    parts = joined([ball(mouth, 2.1, 14, 20), tube(stick, 1.0, sides=12)])
    return [head.wear("occluder", parts, (0.05, 0.05, 0.055), gloss=1.5, roughness=0.4)]


def _hand(at: NDArray[np.float64], side: float) -> Mesh:
    """A palm with four fingers and a thumb, held before the face from below."""
    lean = np.array(
        [[np.cos(0.5 * side), np.sin(0.5 * side), 0], [-np.sin(0.5 * side), np.cos(0.5 * side), 0], [0, 0, 1]]
    )
    pieces = [ball((0, -3.6, 0), (3.9, 4.4, 1.3), 14, 20), ball((0.3, -10, 0), (2.7, 6.0, 1.9), 12, 18)]
    for k, (x, length) in enumerate(((-2.9, 5.6), (-1.0, 6.6), (0.95, 6.2), (2.75, 4.9))):
        reach = np.linspace(0, 1, 9)[:, None]
        path = np.array([x, -0.8, 0.2]) + reach * [x * 0.12, length, 0] + np.array([0, 0, -1.1]) * reach**2
        pieces.append(_finger(path, 0.92 - 0.05 * k))
    reach = np.linspace(0, 1, 9)[:, None]
    pieces.append(
        _finger(np.array([-3.0, -4.6, 0.5]) + reach * [-2.6, 3.6, 0] + np.array([0, 0, -0.8]) * reach**2, 1.0)
    )
    mesh = joined(pieces)
    flip = np.array([1.0 if side >= 0 else -1.0, 1, 1])
    triangles = mesh.triangles if side >= 0 else mesh.triangles[:, ::-1]
    return Mesh(at + np.array([0, 0, 1.2]) + (mesh.points * flip) @ lean.T, triangles)


def _finger(path: NDArray[np.float64], radius: float) -> Mesh:
    """A tube with rounded ends that is a little thicker at its joints."""
    share = np.linspace(0, 1, len(path))
    mesh = tube(path, 1.0, sides=12)
    profile = radius * (1 - 0.18 * share + 0.05 * np.cos(share * 4 * np.pi)) * np.sqrt((1 - share**8).clip(0.02))
    centre = np.repeat(path, 12, axis=0)
    return Mesh(centre + (mesh.points - centre) * np.repeat(profile, 12)[:, None], mesh.triangles)
