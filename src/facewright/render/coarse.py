"""A coarse head of our own, made by formula, so that the renderer works without any download.

A grid of rows and columns on an ellipsoid is pulled into a face by smooth bumps: nose, brow, cheeks, lips, chin, eye
sockets. The rows of eyes and mouth are slit, and lids and lips part there; behind them are eyeballs, a mouth cavity and
two rows of teeth. Identity modes and expressions are smooth fields of displacement over that face. It is derived from
no scan and no other model, and looks accordingly: for tests, examples and as a fallback. Lengths are centimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .morphable import MorphableData

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

HALF_WIDTH, HALF_DEPTH, TOP, BOTTOM = 7.4, 9.0, 13.0, 11.0
# heights of the rows, and columns by their x on the equator for the half on the picture's right, then by longitude
ROWS = (
    *(-10.4, -9.7, -9.0, -8.2, -7.4, -6.7, -6.15, -5.75, -5.4, -5.1, -4.85, -4.55, -4.15, -3.7, -3.2, -2.7, -2.2),
    *(-1.7, -1.2, -0.6, 0.0, 0.6, 1.1, 1.55, 1.95, 2.3, 2.6, 2.95, 3.35, 3.8, 4.3, 4.9, 5.6, 6.5, 7.6, 8.8, 10.0),
    *(11.2, 12.3),
)
COLUMNS = (0.0, 0.3, 0.7, 1.1, 1.5, 1.95, 2.5, 3.1, 3.7, 4.25, 4.75, 5.3, 5.9, 6.4, 6.8, 7.15)
BACK = (83.0, 92.0, 104.0, 118.0, 134.0, 150.0, 166.0)
MOUTH, EYE = -4.85, 2.6  # rows that are slit
MOUTH_END, EYE_INNER, EYE_OUTER = 6, 4, 10  # columns where the slits end
EYE_X, EYE_Z, EYE_RADIUS, EYE_HALF_WIDTH = 3.0, 6.3, 1.5, 1.6
LID_UP, LID_DOWN, LID_GAP = 0.36, 0.28, 0.16
JAW_AXIS = np.array([0.0, 0.6, 2.0])
JAW_DEGREES = 19.0
PARTS = ("face", "head", "mouth_socket", "teeth_upper", "teeth_lower", "eyeball_L", "eyeball_R")


@dataclass(frozen=True, slots=True)
class _Patch:
    """A piece of surface: rest position, triangles, texture, and what decides how its points move.

    `x`, `y` are the point's place on the face before it is shaped; `above_mouth` and `above_eye` are +1 or −1 by the
    side of the slit; `skin` is 1 where expressions act, `jaw` the share of the jaw's motion.
    """

    part: NDArray[np.int64]
    points: NDArray[np.float64]
    triangles: NDArray[np.int64]
    uv: NDArray[np.float64]
    triangles_uv: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    above_mouth: NDArray[np.float64]
    above_eye: NDArray[np.float64]
    skin: NDArray[np.float64]
    jaw: NDArray[np.float64]
    albedo: NDArray[np.float64]


@lru_cache(maxsize=1)
def coarse_face() -> MorphableData:
    """The model: 2,216 vertices, 19 identity modes, 46 expressions, 68 landmarks, colours, texture coordinates."""
    skin, grid = _skin()
    balls = [_eyeball(side) for side in (-1, 1)]
    head = _joined([skin, _cavity(skin, grid), _teeth(upper=True), _teeth(upper=False), *balls])
    expressions = _expressions(head)
    identity = _identity(head)
    triangle_part = head.part[head.triangles].min(1)
    return MorphableData(
        name="coarse",
        unit=0.01,
        mean=head.points.astype(np.float32),
        identity=np.stack(list(identity.values())).astype(np.float32),
        expression=np.stack(list(expressions.values())).astype(np.float32),
        expression_names=tuple(expressions),
        triangles=head.triangles,
        parts=PARTS,
        vertex_part=head.part,
        triangle_part=triangle_part,
        uv=head.uv.astype(np.float32),
        triangles_uv=head.triangles_uv,
        landmarks68=_landmarks(skin, grid),
        eyeballs=(("eyeball_R",), ("eyeball_L",)),
        albedo_mean=head.albedo.astype(np.float32),
        albedo_basis=_albedo_modes(head).astype(np.float32),
    )


def _step(low: float, high: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 below `low`, 1 above `high`, smooth between; falls instead of rising where `low` is the larger."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _bump(
    x: NDArray[np.float64], y: NDArray[np.float64], centre: tuple[float, float], width: tuple[float, float] | float
) -> NDArray[np.float64]:
    """A Gaussian of height 1 on the face; `width` is its standard deviation along x and y."""
    wide, high = (width, width) if isinstance(width, float) else width
    return np.asarray(np.exp(-(((x - centre[0]) / wide) ** 2 + ((y - centre[1]) / high) ** 2) / 2))


def _longitudes() -> NDArray[np.float64]:
    """Degrees of the columns, from the picture's left over the front (0) to the right and the back (180)."""
    right = np.concatenate([np.degrees(np.arcsin(np.array(COLUMNS[1:]) / HALF_WIDTH)), BACK])
    return np.concatenate([-right[::-1], [0.0], right, [180.0]])


def _front_profile(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """z of the face's middle at height y, without nose and lips."""
    heights = [-11.0, -10.2, -9.3, -8.2, -6.8, -4.9, -2.2, 0.0, 2.6, 4.2, 6.5, 9.0, 11.5, 13.0]
    return np.interp(y, heights, [3.6, 6.0, 8.0, 8.9, 8.75, 9.1, 9.0, 8.7, 8.45, 8.95, 8.8, 7.4, 4.6, 0.0])


def _shaped(x: NDArray[np.float64], y: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 3) the ellipsoid at (x, y, longitude) with the face in its front."""
    latitude = np.sqrt(np.clip(1 - (y / np.where(y > 0, TOP, BOTTOM)) ** 2, 0, 1))
    z = HALF_DEPTH * np.cos(np.radians(longitude)) * latitude
    front, side = np.cos(np.radians(longitude)).clip(0), np.abs(x)
    wide = np.exp(-((x / 4.6) ** 2))
    z += (_front_profile(y) - HALF_DEPTH * latitude) * wide * front
    ridge = _step(3.0, -0.8, y) * _step(-2.2, -1.2, y)
    relief = 2.5 * ridge * np.exp(-((x / (0.62 + 0.09 * (2.6 - y).clip(0))) ** 2))
    relief += 0.75 * _bump(side, y, (0.95, -1.35), (0.34, 0.45))
    relief -= 0.95 * _bump(side, y, (2.3, 2.7), (1.2, 0.85))
    relief += 0.35 * _bump(side, y, (2.9, 4.1), (1.6, 0.5)) + 0.45 * _bump(side, y, (4.3, -0.3), (1.5, 1.3))
    relief += 0.42 * _bump(x, y, (0.0, -4.2), (1.5, 0.32)) + 0.5 * _bump(x, y, (0.0, -5.45), (1.4, 0.36))
    relief -= 0.25 * _bump(x, y, (0.0, MOUTH), (1.9, 0.16)) + 0.3 * _bump(x, y, (0.0, -6.7), (1.6, 0.4))
    z += relief * _step(0.0, 0.5, front)
    return np.stack([x, y, z], -1)


def _lid_opening(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """0..1 how far the lids stand apart along the slit."""
    return np.clip(1 - ((np.abs(x) - EYE_X) / EYE_HALF_WIDTH) ** 2, 0, 1)


def _near_slit(y: NDArray[np.float64], slit: float, reach: float) -> NDArray[np.float64]:
    return np.exp(-np.abs(y - slit) / reach)


def _over_eyeball(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """z of a ball a little larger than the eyeball at the points; beside it, far behind."""
    across = (np.abs(points[:, 0]) - EYE_X) ** 2 + (points[:, 1] - EYE) ** 2
    inside = (EYE_RADIUS + LID_GAP) ** 2 - across
    return np.where(inside > 0, EYE_Z + np.sqrt(inside.clip(0)), -BOTTOM)


def _skin() -> tuple[_Patch, NDArray[np.int64]]:
    """The outer surface and its vertices by [row, column, copy]: copies 0 and 1 lie below and above a slit."""
    longitude, y = np.meshgrid(_longitudes(), np.array(ROWS))
    rows, columns = y.shape
    latitude = np.sqrt(1 - (y / np.where(y > 0, TOP, BOTTOM)) ** 2)
    x = HALF_WIDTH * np.sin(np.radians(longitude)) * latitude
    grid = np.repeat(np.arange(rows * columns).reshape(rows, columns, 1), 2, 2)
    slits = [(ROWS.index(MOUTH), _columns(range(-MOUTH_END + 1, MOUTH_END)))]
    slits += [(ROWS.index(EYE), _columns(s * c for c in range(EYE_INNER + 1, EYE_OUTER))) for s in (-1, 1)]
    copied = np.concatenate([grid[row, cols, 0] for row, cols in slits])
    for row, cols in slits:
        grid[row, cols, 1] = rows * columns + np.searchsorted(np.sort(copied), grid[row, cols, 0])
    chosen = np.concatenate([np.arange(rows * columns), np.sort(copied)])
    upper = np.arange(len(chosen)) >= rows * columns
    x, y, longitude = (a.ravel()[chosen] for a in (x, y, longitude))
    above_mouth = np.where((y > MOUTH) | (upper & (y == MOUTH)), 1.0, -1.0)
    above_eye = np.where((y > EYE) | (upper & (y == EYE)), 1.0, -1.0)
    points = _with_lids(_shaped(x, y, longitude), x, y, above_eye, longitude)
    poles = np.array([[0.0, -BOTTOM, 1.5], [0.0, TOP, 0.0]])

    lower, higher = grid[:-1, :, 1], grid[1:, :, 0]
    turned = [np.roll(a, -1, 1) for a in (lower, higher)]
    quads = np.stack([lower, turned[0], turned[1], higher], -1).reshape(-1, 4)
    bottom, top = len(points), len(points) + 1
    caps = [np.stack([np.roll(grid[0, :, 0], -1), grid[0, :, 0], np.full(columns, bottom)], 1)]
    caps += [np.stack([grid[-1, :, 0], np.roll(grid[-1, :, 0], -1), np.full(columns, top)], 1)]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]], *caps])

    points = np.concatenate([points, poles])
    x, y = np.append(x, [0, 0]), np.append(y, [-BOTTOM, TOP])
    longitude = np.append(longitude, [0, 180])
    sides = [np.append(a, [-1.0, 1.0]) for a in (above_mouth, above_eye)]
    front = np.cos(np.radians(longitude)).clip(0)
    uv, triangles_uv = _cylinder(longitude, y, triangles)
    patch = _Patch(
        part=np.where(np.abs(longitude) < 100, 0, 1),
        points=points,
        triangles=triangles,
        uv=uv,
        triangles_uv=triangles_uv,
        x=x,
        y=y,
        above_mouth=sides[0],
        above_eye=sides[1],
        skin=_step(0.0, 0.4, front),
        jaw=_jaw_share(x, y, sides[0]) * _step(-0.2, 0.5, np.cos(np.radians(longitude))),
        albedo=_skin_colour(x, y, front),
    )
    return patch, grid


def _columns(offsets: Iterable[int]) -> NDArray[np.int64]:
    """Columns counted from the middle of the face."""
    return np.array(sorted(offsets)) + len(COLUMNS) - 1 + len(BACK)


def _with_lids(
    points: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    above: NDArray[np.float64],
    longitude: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The lids parted, and laid over the eyeball where they would cut into it."""
    parted = points.copy()
    opening = _lid_opening(x) * _near_slit(y, EYE, 0.6) * (np.abs(longitude) < 90)
    parted[:, 1] += np.where(above > 0, LID_UP, -LID_DOWN) * opening
    parted[:, 2] = np.where(np.abs(longitude) < 90, np.maximum(parted[:, 2], _over_eyeball(parted)), parted[:, 2])
    return parted


def _cylinder(
    longitude: NDArray[np.float64], y: NDArray[np.float64], triangles: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Texture points around the head; those at the back exist twice, at both ends of the texture."""
    v = (y + BOTTOM) / (TOP + BOTTOM)
    uv = np.stack([longitude / 360 + 0.5, v], -1)
    back = longitude == 180
    second = np.cumsum(back) - 1 + len(uv)
    left = (longitude[triangles] < -90).any(1, keepdims=True)
    corners = np.where(left & back[triangles], second[triangles], triangles)
    return np.concatenate([uv, uv[back] - [1, 0]]), corners


def _jaw_share(x: NDArray[np.float64], y: NDArray[np.float64], above: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 for what belongs to the skull, 1 for what belongs to the jaw; beside the mouth it changes gradually."""
    beside = np.clip((np.abs(x) / 2.6) ** 4, 0, 1)
    gradual = _step(-1.8, -7.6, y)
    return (1 - beside) * (above < 0) * _step(2.0, -0.5, y) + beside * gradual


def _skin_colour(x: NDArray[np.float64], y: NDArray[np.float64], front: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 3) linear RGB reflectance: skin with red lips, brows, and hair on top and at the back."""
    colour = np.tile(np.array([0.58, 0.34, 0.25]), (len(x), 1))
    lips = _step(3.0, 2.2, np.abs(x)) * _step(1.05, 0.75, np.abs(y - MOUTH)) * (front > 0.5)
    brows = _bump(np.abs(x), y, (2.9, 4.1), (1.3, 0.2)) * (front > 0.2)
    hair = np.maximum(_step(7.0, 8.6, y), _step(0.2, 0.0, front) * _step(-6.0, -4.0, y))
    for share, target in ((lips, (0.45, 0.13, 0.12)), (brows, (0.08, 0.05, 0.035)), (hair, (0.06, 0.04, 0.03))):
        colour += share[:, None] * (np.array(target) - colour)
    return colour


def _mouth_loop(grid: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vertices around the mouth's opening: over the upper lip to the picture's right, and back over the lower."""
    row = ROWS.index(MOUTH)
    upper = grid[row, _columns(range(-MOUTH_END, MOUTH_END + 1)), 1]
    lower = grid[row, _columns(range(-MOUTH_END + 1, MOUTH_END)), 0]
    return np.concatenate([upper, lower[::-1]])


def _cavity(skin: _Patch, grid: NDArray[np.int64]) -> _Patch:
    """The inside of the mouth: rings from the lips backwards, closed by a point."""
    loop = _mouth_loop(grid)
    above = skin.above_mouth[loop] * (np.abs(skin.x[loop]) < COLUMNS[MOUTH_END - 1])
    lips, count = skin.points[loop], len(loop)
    behind = lips + np.stack([np.zeros(count), 0.75 * above, np.full(count, -0.9)], -1)
    depth = behind * [0.85, 1, 1] - [0, 0, 3.0]
    points = np.concatenate([lips, behind, depth, depth.mean(0, keepdims=True) - [0, 0, 0.8]])
    near, far = np.arange(count), np.roll(np.arange(count), -1)
    bands = [np.stack([far + k, near + k, near + k + count, far + k + count], -1) for k in (0, count)]
    quads = np.concatenate(bands)
    fan = np.stack([far + 2 * count, near + 2 * count, np.full(count, 3 * count)], -1)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]], fan])
    source = np.concatenate([loop, loop, loop, loop[:1]])
    jaw = np.append(np.tile(skin.jaw[loop], 3), 0.3)
    shades = np.repeat([0.5, 0.3, 0.12], [count, count, count + 1])[:, None] * np.array([0.5, 0.2, 0.18])
    return _Patch(
        part=np.full(len(points), PARTS.index("mouth_socket")),
        points=points,
        triangles=triangles,
        uv=_planar(points),
        triangles_uv=triangles,
        x=skin.x[source],
        y=skin.y[source],
        above_mouth=skin.above_mouth[source],
        above_eye=np.full(len(points), -1.0),
        skin=np.append(np.tile(skin.skin[loop], 2), np.zeros(count + 1)),
        jaw=jaw,
        albedo=shades,
    )


def _teeth(*, upper: bool) -> _Patch:
    """A bent strip behind the lip; the lower one belongs to the jaw."""
    across = np.linspace(-2.0, 2.0, 9)
    heights = (-4.85, -3.7) if upper else (-5.75, -4.95)
    x, y = (a.ravel() for a in np.meshgrid(across, np.array(heights)))
    points = np.stack([x, y, (8.15 if upper else 8.0) - 0.28 * x**2], -1)
    near = np.arange(8)
    quads = np.stack([near, near + 1, near + 10, near + 9], -1)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return _rigid(
        "teeth_upper" if upper else "teeth_lower", points, triangles, 0.0 if upper else 1.0, (0.62, 0.58, 0.5)
    )


def _eyeball(side: int) -> _Patch:
    """A ball whose pole is the pupil; `side` −1 is the picture's left, the subject's right."""
    angles = np.radians([9.0, 11.0, 21.0, 24.0, 38.0, 55.0, 75.0, 100.0, 130.0])
    turn = np.arange(16) / 16 * 2 * np.pi
    angle, turn = (a.ravel() for a in np.meshgrid(angles, turn, indexing="ij"))
    ring = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], -1)
    unit = np.concatenate([ring, [[0, 0, 1]]])
    pole, near = len(ring), np.arange(16)
    far = (near + 1) % 16
    bands = [np.stack([near + k, near + k + 16, far + k + 16, far + k], -1) for k in range(0, len(ring) - 16, 16)]
    quads = np.concatenate(bands)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]], np.stack([near, far, np.full(16, pole)], -1)])
    degrees = np.degrees(np.arccos(unit[:, 2].clip(-1, 1)))
    white, iris = _step(21.0, 24.0, degrees)[:, None], _step(9.0, 11.0, degrees)[:, None]
    colour = white * np.array([0.75, 0.71, 0.68]) + (1 - white) * iris * np.array([0.12, 0.2, 0.28])
    points = unit * EYE_RADIUS + np.array([side * EYE_X, EYE, EYE_Z])
    return _rigid("eyeball_R" if side < 0 else "eyeball_L", points, triangles, 0.0, colour + 0.01)


def _rigid(
    part: str,
    points: NDArray[np.float64],
    triangles: NDArray[np.int64],
    jaw: float,
    albedo: tuple[float, float, float] | NDArray[np.float64],
) -> _Patch:
    """A patch that no expression bends; it moves as its middle does."""
    count = len(points)
    middle = (points.min(0) + points.max(0)) / 2
    return _Patch(
        part=np.full(count, PARTS.index(part)),
        points=points,
        triangles=triangles,
        uv=_planar(points),
        triangles_uv=triangles,
        x=np.full(count, middle[0]),
        y=np.full(count, middle[1]),
        above_mouth=np.full(count, 1.0 - 2 * jaw),
        above_eye=np.zeros(count),
        skin=np.zeros(count),
        jaw=np.full(count, jaw),
        albedo=np.broadcast_to(np.asarray(albedo, float), (count, 3)).copy(),
    )


def _planar(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Texture points by x and y, filling 0.02..0.98."""
    flat = points[:, :2]
    middle, extent = (flat.min(0) + flat.max(0)) / 2, np.ptp(flat, axis=0).max()
    return np.asarray(0.5 + 0.96 * (flat - middle) / extent)


def _joined(patches: Sequence[_Patch]) -> _Patch:
    """All patches as one, their triangles renumbered."""
    first = np.cumsum([0] + [len(p.points) for p in patches])
    first_uv = np.cumsum([0] + [len(p.uv) for p in patches])
    fields = {k: np.concatenate([getattr(p, k) for p in patches]) for k in _Patch.__dataclass_fields__}
    fields["triangles"] = np.concatenate([p.triangles + k for p, k in zip(patches, first)])
    fields["triangles_uv"] = np.concatenate([p.triangles_uv + k for p, k in zip(patches, first_uv)])
    return _Patch(**fields)


def _identity(head: _Patch) -> dict[str, NDArray[np.float64]]:
    """Displacements (V, 3) of one standard deviation of each mode."""
    x, y, side = head.x, head.y, np.abs(head.x)
    out = np.sign(head.x)
    low, high = _step(-2.0, -8.0, y), _step(3.0, 8.0, y)
    front = _step(-2.0, 6.0, head.points[:, 2])
    lips = _bump(x, y, (0, MOUTH), (2.2, 1.0)) * front
    cheek, mouth_height = _bump(side, y, (4.3, -3.0), 1.7), _bump(x, y, (0, MOUTH), (3.0, 1.6)) * front
    nose = _bump(x, y, (0, -0.9), (1.1, 1.0)) * front
    eyes = _bump(side, y, (EYE_X, EYE), (1.8, 1.2)) * front
    brow = _bump(side, y, (2.9, 4.1), (2.0, 0.7)) * front
    bridge = _bump(x, y, (0, 1.2), (0.7, 1.2)) * front
    lid = _lid_opening(x) * _near_slit(y, EYE, 0.6) * front * head.skin * head.above_eye
    modes: dict[str, Sequence[NDArray[np.float64] | float]] = {
        "width": (0.055 * x, 0, 0),
        "height": (0, 0.035 * y, 0),
        "depth": (0, 0, 0.05 * head.points[:, 2]),
        "jaw width": (0.09 * x * low, 0, 0),
        "chin length": (0, -0.5 * low, 0),
        "chin forward": (0, 0, 0.5 * _bump(x, y, (0, -8.4), (2.4, 1.5)) * front),
        "forehead slope": (0, 0, -0.45 * high * front),
        "cheekbones": (0.3 * out * _bump(side, y, (5.2, 0.0), 1.8), 0, 0.25 * _bump(side, y, (4.6, 0.0), 1.5) * front),
        "cheek fullness": (0.35 * out * cheek, 0, 0.2 * cheek * front),
        "nose length": (0, -0.32 * nose, 0),
        "nose projection": (0, 0, 0.4 * nose),
        "nose width": (0.28 * x * nose, 0, 0),
        "nose bridge": (0, 0, 0.3 * bridge),
        "eye distance": (0.16 * out * eyes, 0, 0),
        "eye opening": (0, 0.06 * lid, 0.03 * np.abs(lid)),
        "brow height": (0, 0.22 * brow, 0.12 * brow),
        "mouth width": (0.1 * x * lips, 0, 0),
        "lip fullness": (0, 0.1 * lips * head.above_mouth * _step(0.0, 0.8, np.abs(y - MOUTH)), 0.2 * lips),
        "mouth height": (0, 0.2 * mouth_height, 0),
    }
    return {name: _field(head, parts) for name, parts in modes.items()}


def _field(head: _Patch, parts: Sequence[NDArray[np.float64] | float]) -> NDArray[np.float64]:
    return np.stack([np.broadcast_to(np.asarray(p, float), head.x.shape) for p in parts], -1)


def _expressions(head: _Patch) -> dict[str, NDArray[np.float64]]:
    """Displacements (V, 3) at full weight, named as in ARKit."""
    shapes = _jaw_shapes(head) | _mouth_shapes(head)
    for suffix, side in (("_L", 1), ("_R", -1)):
        half = _step(-0.5, 0.5, side * head.x) * head.skin
        one_sided = _eye_shapes(head, side) | _side_shapes(head, side)
        shapes |= {name + suffix: half[:, None] * field for name, field in one_sided.items()}
    return dict(sorted(shapes.items()))


def _jaw_shapes(head: _Patch) -> dict[str, NDArray[np.float64]]:
    angle = np.radians(JAW_DEGREES)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    share = head.jaw[:, None]
    opened = (head.points - JAW_AXIS) @ turn.T + JAW_AXIS - head.points
    moves = {"jawForward": (0, 0, 0.8), "jawLeft": (0.8, 0, 0), "jawRight": (-0.8, 0, 0)}
    return {"jawOpen": share * opened} | {name: share * np.array(move) for name, move in moves.items()}


def _mouth_shapes(head: _Patch) -> dict[str, NDArray[np.float64]]:
    x, y, above = head.x, head.y, head.above_mouth
    lips = _bump(x, y, (0, MOUTH), (2.3, 1.1)) * head.skin
    whole = _bump(x, y, (0, MOUTH), (3.0, 1.6)) * head.skin
    lower = lips * (above < 0)
    return {
        "mouthFunnel": _field(head, (-0.22 * x * lips, 0.3 * above * lips, 0.7 * lips)),
        "mouthPucker": _field(head, (-0.4 * x * lips, -0.12 * (y - MOUTH) * lips, 0.75 * lips)),
        "mouthLeft": _field(head, (0.8 * whole, 0, 0)),
        "mouthRight": _field(head, (-0.8 * whole, 0, 0)),
        "mouthShrugLower": _field(head, (0, 0.3 * whole, 0.3 * lower)),
        "mouthShrugUpper": _field(head, (0, 0.3 * lips * (above > 0), 0.3 * lips * (above > 0))),
    }


def _eye_shapes(head: _Patch, side: int) -> dict[str, NDArray[np.float64]]:
    """Lids that slide over the eyeball, and the brow."""
    x, y, above = head.x, head.y, head.above_eye
    reach = _lid_opening(x) * _near_slit(y, EYE, 0.6)
    squeezed = 0.35 * _bump(side * x, y, (EYE_X, 1.9), (1.6, 0.5))
    inner, outer = _bump(side * x, y, (1.3, 4.1), (1.0, 0.8)), _bump(side * x, y, (4.4, 4.1), (1.1, 0.8))
    whole = _bump(side * x, y, (2.6, 4.0), (1.6, 0.8))
    return {
        "eyeBlink": _lids(head, np.where(above > 0, -0.85 * (LID_UP + LID_DOWN), 0.15 * (LID_UP + LID_DOWN)) * reach),
        "eyeWide": _lids(head, np.where(above > 0, 0.2, -0.08) * reach),
        "eyeSquint": _lids(head, np.where(above > 0, -0.1, 0.2) * reach)
        + _field(head, (0, 0.4 * squeezed, 0.3 * squeezed)),
        "eyeLookUp": _lids(head, np.where(above > 0, 0.16, 0.05) * reach),
        "eyeLookDown": _lids(head, np.where(above > 0, -0.26, -0.06) * reach),
        "browInnerUp": _field(head, (0, 0.7 * inner, 0.15 * inner)),
        "browOuterUp": _field(head, (0, 0.7 * outer, 0.1 * outer)),
        "browDown": _field(head, (-0.15 * side * whole, -0.5 * whole, 0.1 * whole)),
    }


def _lids(head: _Patch, rise: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V, 3) lids moved up by `rise`, following the curve of the eyeball."""
    moved = head.points + rise[:, None] * np.array([0, 1, 0])
    before, after = _over_eyeball(head.points), _over_eyeball(moved)
    follow = np.where((before > 0) & (after > 0), after - before, 0)
    share = np.clip(np.abs(rise) / 0.05, 0, 1)
    return np.stack([np.zeros_like(rise), rise, share * follow], -1)


def _side_shapes(head: _Patch, side: int) -> dict[str, NDArray[np.float64]]:
    x, y, above = side * head.x, head.y, head.above_mouth
    corner = _bump(x, y, (2.5, MOUTH), (1.2, 1.1))
    cheek = _bump(x, y, (4.0, -1.2), (1.3, 1.2))
    pouch = _bump(x, y, (4.4, -4.0), (1.6, 1.6))
    wing = _bump(x, y, (0.95, -1.2), (0.6, 0.7))
    lip = _bump(x, y, (1.2, MOUTH), (1.0, 0.9))
    return {
        "mouthSmile": _field(head, (0.55 * side * corner, 0.75 * corner + 0.3 * cheek, -0.3 * corner + 0.3 * cheek)),
        "mouthFrown": _field(head, (0.1 * side * corner, -0.65 * corner, -0.1 * corner)),
        "mouthStretch": _field(head, (0.6 * side * corner, -0.2 * corner, -0.3 * corner)),
        "mouthDimple": _field(head, (0.35 * side * corner, 0.1 * corner, -0.35 * corner)),
        "mouthPress": _field(
            head, (0.1 * side * lip, -0.12 * above * lip * _step(0.1, 0.6, np.abs(y - MOUTH)), -0.1 * lip)
        ),
        "mouthUpperUp": _field(head, (0, 0.45 * lip * (above > 0), 0.1 * lip * (above > 0))),
        "mouthLowerDown": _field(head, (0, -0.45 * lip * (above < 0), 0.1 * lip * (above < 0))),
        "cheekPuff": _field(head, (0.7 * side * pouch, 0, 0.5 * pouch)),
        "cheekSquint": _field(head, (0, 0.35 * cheek, 0.25 * cheek)),
        "noseSneer": _field(head, (0.05 * side * wing, 0.35 * wing, 0.1 * wing)),
    }


def _landmarks(skin: _Patch, grid: NDArray[np.int64]) -> NDArray[np.int64]:
    """(68,) vertices in iBUG order, from the picture's left; below each eye and lip the lower copy of the slit."""

    def at(row: float, *offsets: int, above: bool = True) -> list[int]:
        return [int(v) for v in grid[ROWS.index(row), np.array(offsets) + len(COLUMNS) - 1 + len(BACK), int(above)]]

    angle = np.linspace(0, np.pi, 17)
    contour = np.stack([-7.0 * np.cos(angle), 2.0 - 11.2 * np.sin(angle)], -1)
    ahead = np.where(skin.skin > 0.5)[0]
    distance = np.linalg.norm(contour[:, None] - skin.points[None, ahead, :2], axis=-1)
    jaw = ahead[distance.argmin(1)].tolist()
    brows = [*at(3.8, -11), *at(4.3, -9, -7, -5), *at(3.8, -3), *at(3.8, 3), *at(4.3, 5, 7, 9), *at(3.8, 11)]
    nose = [*at(2.6, 0), *at(1.55, 0), *at(0.6, 0), *at(-0.6, 0), *at(-1.7, -3, -2, 0, 2, 3)]
    left_eye = [*at(EYE, -10, -8, -6, -4), *at(EYE, -6, -8, above=False)]
    right_eye = [*at(EYE, 4, 6, 8, 10), *at(EYE, 8, 6, above=False)]
    outer = [*at(MOUTH, -7), *at(-4.15, -4, -2, 0, 2, 4), *at(MOUTH, 7), *at(-5.75, 4, 2, 0, -2, -4)]
    inner = [*at(MOUTH, -6, -2, 0, 2, 6), *at(MOUTH, 2, 0, -2, above=False)]
    return np.array(jaw + brows + nose + left_eye + right_eye + outer + inner)


def _albedo_modes(head: _Patch) -> NDArray[np.float64]:
    """(3, V, 3) lighter skin, redder skin, lighter hair and brows."""
    skin = (head.part <= PARTS.index("head")) & (head.albedo[:, 0] > 0.3)
    dark = (head.part <= PARTS.index("head")) & ~skin
    modes = [(skin, (0.09, 0.075, 0.065)), (skin, (0.03, -0.02, -0.015)), (dark, (0.05, 0.03, 0.015))]
    return np.stack([chosen[:, None] * np.array(change) for chosen, change in modes])
