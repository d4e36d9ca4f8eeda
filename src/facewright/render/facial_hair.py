"""Brows and beards: hairs painted on the skin along the way they grow, each texel more or less covered.

A style is a smooth share of how densely hair grows at a place. Noise that is stretched along the growth stands for the
hairs: the denser they grow, the more of it rises above the skin, so that borders thin out hair by hair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .skin import below_jaw, noise, smoothstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

BEARDS = ("none", "stubble", "moustache", "goatee", "full")
HAIR_WIDTH, HAIR_LENGTH = 0.085, 0.8  # cm; a texel of the face is 0.06 cm
LOCK_WIDTH = 0.3
BROW_LEAN, BROW_HEIGHT = (60.0, 15.0), 5.8  # degrees off the level at the nose and at the temple; cm
FAN = 0.3  # height in cm of the point under the nose from which the moustache spreads


class Hairs(NamedTuple):
    """Of K texels: `cover` 0..1 by hair, `shade` of the hairs about 1, and `grey`, −1..1, that tells which turn grey
    first."""

    cover: NDArray[np.float32]
    shade: NDArray[np.float32]
    grey: NDArray[np.float32]


def beard(
    places: NDArray[np.float32],
    points: NDArray[np.float32],
    share: NDArray[np.float32],
    style: str,
    density: float,
    seed: int,
) -> Hairs:
    """A beard of one of `BEARDS` where its `share` (K,) grows; `places` (K, 2) on the chart in cm, `points` (K, 3)."""
    if style == "stubble":
        grain = 0.5 + 0.5 * noise(points, HAIR_WIDTH, seed)
        cover = share * density * (0.12 + 0.5 * smoothstep(0.45, 0.9, grain))
        return Hairs(cover.astype(np.float32), 0.7 + 0.6 * grain, 2 * grain - 1)
    hairs, locks = _strands(_beard_growth(places, points, seed), seed)
    full = share * (0.4 + 0.65 * density)
    shadow = 0.6 * density * share
    cover = np.maximum(shadow, _risen(hairs + 0.25 * locks, full))
    return Hairs(cover.clip(0, 0.97), (0.9 + 0.35 * hairs + 0.3 * locks).clip(0.3), hairs)


def brows(places: NDArray[np.float32], share: NDArray[np.float32], density: float, seed: int) -> Hairs:
    """Brows where their `share` (K,) grows: steep at the nose, more and more level towards the temples."""
    x, y = np.abs(places[:, 0]), places[:, 1]
    columns = np.linspace(0.5, 7.0, 40)
    lean = np.radians(np.interp(columns, [1.2, 5.5], BROW_LEAN))
    rise = np.cumsum(np.tan(lean)) * (columns[1] - columns[0])
    rise -= np.interp(3.0, columns, rise)
    across = np.interp(x, columns, np.cos(lean)) * (y - BROW_HEIGHT - np.interp(x, columns, rise))
    hairs, locks = _strands(_sided(places, across, x + y), seed)
    cover = _risen(hairs + 0.2 * locks, share * (0.3 + 0.55 * density))
    return Hairs(0.9 * cover, 0.95 + 0.3 * hairs, hairs)


def may_have_beard(places: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(K,) where `beard_share` can be more than 0."""
    return np.asarray((places[:, 1] < 5.6) & (points[:, 2] > 1.0))


def beard_share(
    places: NDArray[np.float32], points: NDArray[np.float32], style: str, seed: int = 0
) -> NDArray[np.float32]:
    """(K,) 0..1 how densely a style of `BEARDS` grows at places (K, 2) on the chart in cm, `points` (K, 3)."""
    x, y = np.abs(places[:, 0]), places[:, 1]
    edge = 0.3 * noise(points, 0.9, seed) + 0.15 * noise(points, 0.4, seed + 1)
    moustache = smoothstep(3.3, 2.1, x + edge) * smoothstep(-1.25, -1.8, y + 0.1 * x) * smoothstep(-4.0, -3.2, y)
    chin = smoothstep(3.7, 2.5, x + edge) * smoothstep(-4.2, -5.0, y - edge)
    beside = smoothstep(3.1, 2.5, x) * smoothstep(1.9, 2.5, x) * smoothstep(-2.0, -2.5, y) * smoothstep(-5.7, -5.3, y)
    cheek_line = np.interp(x, [0, 2.4, 4.0, 7.0, 9.5, 11.0], [-1.6, -2.3, -2.9, -0.8, 2.8, 5.0])
    cheeks = smoothstep(0.5, -0.9, y - cheek_line + edge) * smoothstep(2.0, 3.0, x)
    throat = smoothstep(2.6, 0.2, below_jaw(points) + edge)
    regions = {
        "moustache": moustache,
        "goatee": np.maximum.reduce([moustache, chin * throat, beside]),
        "full": np.maximum.reduce([moustache, chin * throat, cheeks * throat]),
    }
    regions["stubble"] = regions["full"]
    return np.asarray(regions[style] * smoothstep(1.0, 2.4, points[:, 2]), np.float32)


def _beard_growth(places: NDArray[np.float32], points: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """(K, 3) places across and along the hairs, in cm: the moustache fans out, the rest falls and leans outwards."""
    x, y = np.abs(places[:, 0]), places[:, 1]
    turn = np.arctan2(x, FAN - y)
    fan = (y > -3.6) & (x < 3.3) & (y < FAN)
    across = np.where(fan, 2.6 * turn, x + 0.25 * (y + 4.0))
    along = np.where(fan, np.hypot(x, FAN - y), points[:, 1] - points[:, 2])
    return _sided(places, across + 0.12 * noise(points, 0.7, seed + 2), along)


def _sided(
    places: NDArray[np.float32], across: NDArray[np.floating], along: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(K, 3) coordinates for noise that differ between left and right."""
    return np.stack([across, along, np.sign(places[:, 0]) * 3.0], -1).astype(np.float32)


def _strands(growth: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise −1..1 of single hairs and of locks, long along the growth (K, 3) and narrow across it."""
    stretch = np.array([1.0, HAIR_WIDTH / HAIR_LENGTH, 1.0], np.float32)
    return noise(growth * stretch, HAIR_WIDTH, seed + 3), noise(growth * stretch, LOCK_WIDTH, seed + 4)


def _risen(height: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K,) how much of the hairs' noise of that height rises above the skin where they grow with a share 0..1."""
    skin = 1.2 - 2.4 * share
    return smoothstep(-0.45, 0.45, height - skin) * smoothstep(0.0, 0.15, share)
