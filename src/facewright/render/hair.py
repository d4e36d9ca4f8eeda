"""Hair: a painted scalp below, and ribbons that grow from it, are combed, fall, and keep off the head.

Every style is a set of numbers for one growth: where strands part, how long they get, how far they stand off and how
they curl. Shapes live around the head of the skin's chart, in centimetres; colours are linear reflectance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .accessories import CENTRE, Mesh, ball, direction, hat_edge, sheet
from .skin import noise, smoothstep

if TYPE_CHECKING:
    from .accessories import Colour, Head, Layer

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Style:
    """How hair grows: `length` and `lift` off the head in cm, where it parts (x in cm, None: nowhere), whether it is
    combed backwards, curls of a radius in cm, how many ribbons of which width, and how dark the scalp is painted."""

    length: float = 0.0
    lift: float = 0.5
    parting: float | None = None
    back: float = 0.3
    curl: float = 0.0
    strands: int = 700
    width: float = 0.55
    scalp: float = 1.0
    shell: float = 0.0
    bun: bool = False


STYLES = {
    "bald": Style(scalp=0.0, strands=0),
    "buzz": Style(scalp=0.75, strands=0),
    "short": Style(length=2.6, lift=0.6, back=0.15, strands=1100, width=0.4),
    "side": Style(length=5.5, lift=1.0, parting=2.6, back=0.5, strands=1100, width=0.5),
    "curly": Style(length=6.5, lift=1.7, curl=0.55, back=0.2, strands=900, width=0.6, shell=1.5),
    "afro": Style(length=2.0, lift=4.2, curl=0.3, back=0.0, strands=700, width=0.35, shell=4.0),
    "bob": Style(length=17.0, lift=1.2, parting=0.4, back=0.45, strands=1000, width=0.75),
    "long": Style(length=31.0, lift=1.3, parting=-0.8, back=0.55, strands=1100, width=0.9),
    "bun": Style(length=15.0, lift=0.5, back=1.0, strands=900, width=0.6, bun=True),
}
# height in cm of the hair's border at angles from the front, in degrees: temples, before and behind the ear, nape
_ANGLES = (0, 20, 38, 50, 58, 66, 72, 80, 90, 104, 116, 128, 150, 180)
_HEIGHTS = (11.0, 10.9, 10.2, 8.6, 6.6, 5.0, 2.4, 2.0, 3.9, 4.0, 1.6, -1.4, -3.2, -3.8)
BUN = np.array([0.0, 13.6, -6.5])
GATHERED, GATHER = np.array([0.0, 0.0, -2.0]), np.array([0.025, 0.0, 0.03])
"""Where hanging hair is drawn to, and how strongly for each cm that it is away."""
STEP, CURLED_STEP = 1.0, 0.7  # cm of a ribbon's length between its points, at least
ROUNDING = 0.65  # how far ribbons are lit as one round mass


def hairline(points: NDArray[np.float64], receding: float = 0.0) -> NDArray[np.float64]:
    """(K,) cm by which points (K, 3) of the head lie above the hair's border; `receding` 0..1 raises it in front."""
    angle = np.degrees(np.arctan2(np.abs(points[:, 0]), points[:, 2] - 1.0))
    temples = 1.6 * receding * np.exp(-(((angle - 34) / 14) ** 2)) + 0.9 * receding * (angle < 60)
    return np.asarray(points[:, 1] - np.interp(angle, _ANGLES, _HEIGHTS) - temples)


def scalp_share(points: NDArray[np.float64], style: str, receding: float, seed: int) -> NDArray[np.float32]:
    """(K,) 0..1 how much the skin at points (K, 3) is covered by the hair's own colour."""
    fringe = 0.35 * noise(points.astype(np.float32), 0.35, seed)
    return np.asarray(STYLES[style].scalp * smoothstep(-0.35, 0.55, hairline(points, receding) + fringe), np.float32)


def wear_hair(
    head: Head,
    style: str,
    colour: Colour,
    *,
    length: float = 1.0,
    receding: float = 0.0,
    fringe: bool = False,
    hat: str = "none",
    seed: int = 0,
) -> list[Layer]:
    """The layers of a style of `STYLES` at `length` times its usual length; what a hat covers is left out."""
    kind = STYLES[style]
    rng = np.random.default_rng(seed)
    layers = []
    if kind.shell and hat == "none":
        mesh, tones = _shell(head, kind, receding, rng)
        layers.append(head.wear("hair", mesh, tones[:, None] * np.array(colour), gloss=0.4, roughness=0.7))
    if not kind.strands:
        return layers
    strands, tones = _grow(head, kind, kind.length * length, receding, fringe, rng)
    if hat != "none":
        strands, tones = _under(head, strands, tones, hat)
    if kind.bun and hat == "none":
        mesh, bun_tones = _bun(rng)
        layers.append(head.wear("hair", mesh, bun_tones[:, None] * np.array(colour), gloss=1.2, roughness=0.45))
    if len(strands):
        mesh, shades = _ribbons(strands, tones, kind.width, rng)
        layers.append(
            head.wear(
                "hair",
                mesh,
                shades[:, None] * np.array(colour),
                gloss=0.5 if kind.curl else 1.2,
                roughness=0.42,
                two_sided=True,
                rounding=ROUNDING,
            )
        )
    return layers


def _roots(head: Head, count: int, receding: float, rng: np.random.Generator) -> Points:
    """(S, 3) roots spread evenly over the scalp."""
    even = np.arange(4 * count) + 0.5
    elevation = np.arcsin(1 - 2 * even / len(even))
    azimuth = np.pi * (1 + 5**0.5) * even + rng.normal(0, 0.05, len(even))
    towards = direction(elevation, (azimuth + np.pi) % (2 * np.pi) - np.pi)
    points = CENTRE + towards * head.radius(towards)[:, None]
    inside = points[hairline(points, receding) > 0.15]
    return inside[rng.permutation(len(inside))[:count]]


def _grow(
    head: Head, kind: Style, length: float, receding: float, fringe: bool, rng: np.random.Generator
) -> tuple[Points, NDArray[np.float64]]:
    """Strands (S, P, 3) from root to tip, and their shades (S,)."""
    roots = _roots(head, kind.strands, receding, rng)
    count = len(roots)
    steps = int(np.clip(length / (CURLED_STEP if kind.curl else STEP), 4, 16))
    reach = length / steps * rng.uniform(0.75, 1.1, (count, 1))
    side = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    if kind.parting is not None:
        side = np.sign(roots[:, 0] - kind.parting + rng.normal(0, 0.12, count))
    aim = BUN if kind.bun else None
    lift = kind.lift * rng.uniform(0.25, 1.1, count)
    if kind.parting is not None:
        lift = lift * (0.35 + 0.65 * np.clip(np.abs(roots[:, 0] - kind.parting) / 2.0, 0, 1))
    ahead_of_ears = (roots[:, 2] > 1.5) & (roots[:, 1] < 7.0)
    reach[ahead_of_ears & (length < 8)] *= 0.4
    forward = fringe & (roots[:, 2] > 5.0) & (np.abs(roots[:, 0]) < 6)
    reach[forward] = np.minimum(reach[forward], 6.0 / steps)
    point, heading = roots, _outwards(roots)
    strands = [roots]
    phase, pace = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.9, 1.5, count)
    for step in range(steps):
        heading = heading * 0.45 + 0.55 * _comb(point, side, kind, aim, forward)
        heading += rng.normal(0, 0.07, heading.shape)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        rise = lift * np.minimum(1, 0.35 + 0.65 * (step + 1) / 4)
        point = head.outside(point + reach * heading, rise)
        point = _off_the_face(point, side, forward)
        strands.append(point)
    grown = np.stack(strands, 1)
    if kind.curl:
        turn = phase[:, None] + pace[:, None] * 1.6 * length / steps * np.arange(steps + 1)
        ramp = np.minimum(1, np.arange(steps + 1) / 3)
        swing = np.stack([np.cos(turn), np.sin(turn), np.cos(turn + 1.3)], -1)
        grown = grown + kind.curl * ramp[:, None] * swing
        grown = head.outside(grown, 0.15)
    locks = noise(roots.astype(np.float32), 1.6, int(rng.integers(2**31)))
    return grown, 1 + 0.22 * locks + rng.normal(0, 0.1, count)


def _comb(
    point: Points, side: NDArray[np.float64], kind: Style, aim: Points | None, forward: NDArray[np.bool_]
) -> Points:
    """(S, 3) where strands at points want to go."""
    if aim is not None:
        wanted = aim - point
        return np.asarray(wanted / np.linalg.norm(wanted, axis=1, keepdims=True).clip(0.5))
    if kind.shell > 2:
        return _outwards(point)
    top = smoothstep(7.0, 12.5, point[:, 1]) * smoothstep(9.0, 6.0, np.abs(point[:, 0]))
    across = top * side * (1.0 if kind.parting is not None else 0.35)
    ahead = -kind.back * (0.4 + top) + np.where(kind.parting is None, 0.35 * top * (point[:, 2] > 0), 0)
    wanted = np.stack([across, np.full(len(point), -0.9), ahead], -1)
    hanging = smoothstep(5.0, 1.0, point[:, 1])[:, None]
    wanted -= hanging * (point - GATHERED) * GATHER
    wanted[forward] = np.stack([0.1 * side[forward], np.full(forward.sum(), -0.7), np.full(forward.sum(), 0.6)], -1)
    return np.asarray(wanted / np.linalg.norm(wanted, axis=1, keepdims=True))


def _off_the_face(point: Points, side: NDArray[np.float64], forward: NDArray[np.bool_]) -> Points:
    """Strands that would hang over the face are led to its sides."""
    x, y, z = point.T
    narrow = np.interp(y, [-12.0, -6.0, 3.0, 7.0, 10.5], [7.5, 7.2, 7.3, 6.6, 0.0])
    wanted = np.maximum(np.abs(x), np.where((z > 1.0) & ~forward, narrow, 0))
    return np.stack([np.where(x == 0, side, np.sign(x)) * wanted, y, z], -1)


def _outwards(points: Points) -> Points:
    offset = points - CENTRE
    return np.asarray(offset / np.linalg.norm(offset, axis=-1, keepdims=True))


def _ribbons(
    strands: Points, tones: NDArray[np.float64], width: float, rng: np.random.Generator
) -> tuple[Mesh, NDArray[np.float64]]:
    """Strands (S, P, 3) as flat tapering ribbons that face outwards, and the shade of each vertex."""
    count, steps = strands.shape[:2]
    along = np.gradient(strands, axis=1)
    aside = np.cross(_outwards(strands), along)
    aside /= np.linalg.norm(aside, axis=-1, keepdims=True).clip(1e-6)
    share = np.linspace(0, 1, steps)
    taper = np.minimum(1, 0.45 + 2 * share) * np.sqrt(1 - share**2).clip(0.2)
    half = width / 2 * taper[:, None] * rng.uniform(0.5, 1.3, (count, 1, 1)) * aside
    edges = np.stack([strands - half, strands + half], 2)
    index = np.arange(count * steps * 2).reshape(count, steps, 2)
    quads = np.stack([index[:, :-1, 0], index[:, :-1, 1], index[:, 1:, 1], index[:, 1:, 0]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]])
    shades = tones[:, None] * (0.7 + 0.45 * share) + rng.normal(0, 0.05, (count, steps))
    shades = np.repeat(shades[..., None], 2, 2) * np.array([0.92, 1.08])
    return Mesh(edges.reshape(-1, 3), triangles), shades.ravel().clip(0.2)


def _shell(head: Head, kind: Style, receding: float, rng: np.random.Generator) -> tuple[Mesh, NDArray[np.float64]]:
    """A bumpy mass of hair over the scalp that ends under the skin at its border, and the shade of each vertex."""
    elevation, azimuth = np.meshgrid(
        np.linspace(-0.9, np.pi / 2, 72), np.linspace(-np.pi, np.pi, 161)[:-1], indexing="ij"
    )
    towards = direction(elevation, azimuth)
    radius = head.radius(towards)
    skin = CENTRE + towards * radius[..., None]
    above = hairline(skin.reshape(-1, 3), receding).reshape(radius.shape)
    seed = int(rng.integers(2**31))
    curls = noise(skin.reshape(-1, 3).astype(np.float32), 0.6, seed).reshape(radius.shape)
    curls += 0.6 * noise(skin.reshape(-1, 3).astype(np.float32), 0.3, seed + 1).reshape(radius.shape)
    dome = np.sqrt(smoothstep(-0.3, 1.2 + kind.shell, above))
    thick = kind.shell * dome * (0.95 + 0.06 * curls)
    inside = above < -0.2
    grid = CENTRE + towards * (radius + np.where(inside, -0.6, thick))[..., None]
    mesh = sheet(grid, closed=True)
    seen = mesh.triangles[~inside.ravel()[mesh.triangles].all(1)]  # an expression would push the face through the rest
    used, corners = np.unique(seen, return_inverse=True)
    return Mesh(mesh.points[used], corners.reshape(-1, 3)), (0.75 + 0.3 * curls).clip(0.3).ravel()[used]


def _bun(rng: np.random.Generator) -> tuple[Mesh, NDArray[np.float64]]:
    mesh = ball(BUN + np.array([0, 0.4, -0.6]), (2.7, 2.3, 2.5), 24, 40)
    offset = mesh.points - BUN
    turn = np.arctan2(offset[:, 0], offset[:, 1])
    winding = np.sin(9 * turn + 2.2 * offset[:, 2])
    points = BUN + offset * (1 + 0.05 * winding)[:, None]
    return Mesh(points, mesh.triangles), 0.9 + 0.2 * winding + rng.normal(0, 0.05, len(points))


def _under(head: Head, strands: Points, tones: NDArray[np.float64], hat: str) -> tuple[Points, NDArray[np.float64]]:
    """The strands that come out from below a hat; those that never do are left out, the rest kept close inside it."""
    offset = strands - CENTRE
    distance = np.linalg.norm(offset, axis=-1, keepdims=True)
    above = hat_edge(hat, offset / distance) > -0.03
    seen = (~above).mean(1) > 0.25
    close = head.radius(offset / distance)[..., None] + 0.4
    flat = np.where(above[..., None], np.minimum(distance, close), distance)
    return (CENTRE + offset / distance * flat)[seen], tones[seen]
