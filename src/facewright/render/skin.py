"""Skin of rendered faces: a statistical map of log reflectance, learned from photos, and procedural detail.

The chart is a cylinder around the head: u is the longitude, v runs down, both for a head that has been moved and
scaled so that its landmarks lie on those of the chart. Any model with 68 landmarks can therefore wear the skin.
`tools/fit_skin.py` makes the map: tone, a mean, and a few principal components (the albedo model of Blanz and Vetter
1999 in the logarithm, where tone, shading and freckles add up). Values are natural logarithms of linear reflectance.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from ..errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ASSET = Path(__file__).parent / "assets" / "skin.npz"
CHROMA = 0.6  # share kept of the components' colour, in which the coloured light of photos is still present
DARKEST = 0.01  # reflectance added before the logarithm


RADIUS = 9.0  # cm of the chart's cylinder where lengths are measured along it


class _Chart(NamedTuple):
    """Texels of the chart, the longitudes (radians) and heights (cm) it spans, and the axis it turns about."""

    height: int
    width: int
    longitude: float
    top: float
    bottom: float
    axis_z: float


CHART = _Chart(height=160, width=176, longitude=np.radians(75.0), top=11.0, bottom=-8.6, axis_z=1.0)


def linear_of_srgb(values: NDArray[Any]) -> NDArray[np.float32]:
    """Linear light of sRGB-coded values, both 0..1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb_from_linear(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """sRGB-coded values 0..1 of linear light, which is cut to 0..1 (IEC 61966-2-1)."""
    light = np.clip(values, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def chart_of(
    points: NDArray[np.float32], landmarks: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(K, 2) u, v of model points (K, 3), 0..1 on the chart, given the model's 68 landmarks and those of the chart."""
    scale, shift = onto(landmarks, reference)
    places = _cylinder(points * scale + shift)
    own, wanted = _cylinder(landmarks * scale + shift), _cylinder(reference)
    if np.abs(own - wanted).max() > 1e-4:
        warp = RBFInterpolator(own.astype(np.float64), wanted - own, smoothing=1e-3, kernel="thin_plate_spline")
        ahead = np.abs(places[:, 0] - 0.5) < 0.5
        places[ahead] += warp(places[ahead].astype(np.float64))
    return places.astype(np.float32)


def chart_cm(places: NDArray[Any]) -> NDArray[np.float32]:
    """Places u, v on the chart in cm: x along a cylinder of 9 cm from the middle to the picture's right, y up."""
    x = (places[..., 0] - 0.5) * 2 * CHART.longitude * RADIUS
    return np.stack([x, CHART.top - places[..., 1] * (CHART.top - CHART.bottom)], -1).astype(np.float32)


def chart_uv(places: NDArray[Any]) -> NDArray[np.float32]:
    """Places in cm as u, v; the inverse of `chart_cm`."""
    u = places[..., 0] / (2 * CHART.longitude * RADIUS) + 0.5
    return np.stack([u, (CHART.top - places[..., 1]) / (CHART.top - CHART.bottom)], -1).astype(np.float32)


def onto(landmarks: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
    """Scale and shift that lay the inner landmarks on the reference."""
    own, wanted = landmarks[17:], reference[17:]
    scale = float(np.sqrt(((wanted - wanted.mean(0)) ** 2).sum() / ((own - own.mean(0)) ** 2).sum()))
    return scale, wanted.mean(0) - scale * own.mean(0)


def _cylinder(points: NDArray[np.float32]) -> NDArray[np.float32]:
    longitude = np.arctan2(points[:, 0], points[:, 2] - CHART.axis_z)
    u = longitude / (2 * CHART.longitude) + 0.5
    return np.stack([u, (CHART.top - points[:, 1]) / (CHART.top - CHART.bottom)], -1)


class SkinStatistics(NamedTuple):
    """What `tools/fit_skin.py` learned: `covered` (H, W) texels of the chart with T of them true, `landmarks` (68, 3)
    of the chart's head in cm, `mean` (T, 3) and `basis` (K, T, 3) log reflectance relative to the tone, `by_age`
    (3, K) the scores' mean as a parabola of the age 0..1, `tone_mean` (3,) and `tone_axes` (3, 3), rows of one
    standard deviation, the strongest (lightness) first; the number of photos and the largest share one of them has in
    any component."""

    covered: NDArray[np.bool_]
    landmarks: NDArray[np.float32]
    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    by_age: NDArray[np.float32]
    tone_mean: NDArray[np.float32]
    tone_axes: NDArray[np.float32]
    photos: int
    largest_share: float


def read_statistics(path: Path) -> SkinStatistics:
    """The statistics in a file. Raises WeightsError where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            fields = {name: arrays[name] for name in SkinStatistics._fields}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} does not hold skin statistics ({error}); make it again with tools/fit_skin.py"
        ) from error
    texels = int(fields["covered"].sum())
    if fields["mean"].shape != (texels, 3) or fields["basis"].shape[1:] != (texels, 3):
        raise WeightsError(f"{path}: the skin's mean and components do not fit its chart; make it again")
    for name in ("mean", "basis"):
        fields[name] = fields[name].astype(np.float32)
    fields["photos"], fields["largest_share"] = int(fields["photos"]), float(fields["largest_share"])
    return SkinStatistics(**fields)


@lru_cache(maxsize=1)
def statistics() -> SkinStatistics:
    """The statistics that come with the package."""
    return read_statistics(ASSET)


def skin_colour(tone: Sequence[float]) -> NDArray[np.float32]:
    """(3,) linear reflectance of plain skin; `tone` are three standard scores, the first from dark to light."""
    known = statistics()
    return np.asarray(np.exp(known.tone_mean + np.asarray(tone, np.float32) @ known.tone_axes) - DARKEST, np.float32)


def skin_map(scores: Sequence[float], age: float) -> NDArray[np.float32]:
    """(H, W, 3) log reflectance relative to the tone on the chart, for standard scores (≤K) about the mean of an age.

    Beyond the texels that photos show, the map fades to zero, which is plain skin.
    """
    known = statistics()
    usual = np.array([1.0, age, age * age], np.float32) @ known.by_age
    usual[: len(scores)] += np.asarray(scores, np.float32)
    values = np.zeros((CHART.height, CHART.width, 3), np.float32)
    change = np.tensordot(usual, known.basis, 1)
    grey = change.mean(-1, keepdims=True)
    values[known.covered] = known.mean + grey + CHROMA * (change - grey)
    inside, nearest, fade = _extension()
    values = values[tuple(nearest)]
    soft = gaussian_filter(values, (6, 6, 0))
    return np.asarray((values * inside + soft * (1 - inside)) * fade, np.float32)


@lru_cache(maxsize=1)
def _extension() -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """How the map goes on where it is unknown: share of the known (H, W, 1), nearest known texel (2, H, W), fade."""
    distance, nearest = distance_transform_edt(~statistics().covered, return_indices=True)
    rows, columns = np.indices(distance.shape)
    from_edge = np.minimum.reduce([rows, CHART.height - 1 - rows, columns, CHART.width - 1 - columns])
    fade = np.minimum(smoothstep(14, 2, distance), smoothstep(0, 12, from_edge))
    return (distance == 0)[..., None].astype(np.float32), nearest, fade[..., None].astype(np.float32)


def below_jaw(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K,) cm by which points (K, 3) of the head lie below the jaw's contour, which goes on to the nape."""
    jaw = statistics().landmarks[8:17]
    angle = np.arctan2(np.abs(points[:, 0]), points[:, 2] - CHART.axis_z)
    own = np.arctan2(jaw[:, 0], jaw[:, 2] - CHART.axis_z)
    order = np.argsort(own)
    border = np.interp(angle, np.r_[own[order][:-2], np.pi / 2, np.pi], np.r_[jaw[order, 1][:-2], -2.5, -3.8])
    return np.asarray(border - points[:, 1], np.float32)


def sample_chart(values: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, C) bilinear samples of a map (H, W, C) that spans the chart, at u, v (K, 2); beyond, its border goes on."""
    size = np.array([[values.shape[0]], [values.shape[1]]])
    rows = places.T[::-1] * size - 0.5
    return np.stack(
        [map_coordinates(values[..., c], rows, order=1, mode="nearest") for c in range(values.shape[2])], -1
    )


def noise(points: NDArray[np.float32], cell: float, seed: int) -> NDArray[np.float32]:
    """(K,) smooth noise at points (K, 3), roughly −1..1, that changes over the length `cell`; without seams."""
    lattice = np.random.default_rng(seed).uniform(-1, 1, (24, 24, 24)).astype(np.float32)
    places = points.T / cell
    lowest = np.floor(places)
    share = places - lowest
    places = lowest + share * share * (3 - 2 * share)
    return np.asarray(map_coordinates(lattice, places, order=1, mode="grid-wrap"), np.float32)


def wrinkles(places: NDArray[np.float32], points: NDArray[np.float32], age: float, seed: int) -> NDArray[np.float32]:
    """(K,) log darkening ≤ 0 by the lines of age at places (K, 2), cm on the chart: forehead, crow's feet, folds."""
    x, y = np.abs(places[:, 0]), places[:, 1]
    wobble = 0.25 * noise(points, 2.0, seed)
    depth = np.clip(0.6 + 0.6 * noise(points, 1.5, seed + 1), 0, 1)
    forehead = (
        _ridges((y + wobble) / 0.85) * smoothstep(4.8, 2.5, x) * smoothstep(6.9, 7.6, y) * smoothstep(10.4, 9.6, y)
    )
    outwards, height = x - 4.6, y - 3.3
    angle = np.arctan2(height + 0.4 * wobble, outwards.clip(1e-3))
    feet = (
        _ridges(angle / 0.28)
        * smoothstep(0.0, 0.3, outwards)
        * smoothstep(1.6, 0.8, outwards)
        * smoothstep(0.9, 0.6, abs(angle))
    )
    fold_x = np.interp(y, [-3.6, -2.5, -1.2, 0.0], [2.75, 2.6, 2.05, 1.75])
    fold = np.exp(-(((x - fold_x - 0.3 * wobble) / 0.12) ** 2)) * smoothstep(-4.2, -3.0, y) * smoothstep(0.3, -0.5, y)
    strength = smoothstep(0.25, 0.95, age)
    return np.asarray(-strength * depth * (0.3 * forehead + 0.28 * feet + 0.3 * fold), np.float32)


def pores(points: NDArray[np.float32], age: float, seed: int) -> NDArray[np.float32]:
    """(K, 3) change of log reflectance by pores and by blotches of blood and pigment."""
    fine = 0.035 * noise(points, 0.07, seed) + 0.02 * noise(points, 0.16, seed + 1)
    flush = noise(points, 1.7, seed + 2)[:, None] * np.array([0.01, -0.025, -0.02], np.float32)
    spots = smoothstep(0.62, 0.8, noise(points, 0.55, seed + 3)) * smoothstep(0.45, 1.0, age)
    return np.asarray(fine[:, None] * (0.6 + age) + flush - 0.3 * spots[:, None], np.float32)


def freckles(places: NDArray[np.float32], points: NDArray[np.float32], amount: float, seed: int) -> NDArray[np.float32]:
    """(K, 3) change of log reflectance by freckles, densest over nose and cheeks."""
    x, y = places.T
    where = np.exp(-((x / 4.2) ** 2) - ((y - 1.0) / 2.2) ** 2)
    grains = np.maximum(noise(points, 0.17, seed), 0.9 * noise(points, 0.27, seed + 1))
    spots = smoothstep(0.75 - 0.45 * amount, 0.95, grains) * where * min(1.0, 3 * amount)
    return np.asarray(-spots[:, None] * np.array([0.25, 0.45, 0.6]), np.float32)


def _ridges(phase: NDArray[Any]) -> NDArray[np.float32]:
    """Narrow lines of height 1 at integers."""
    return np.asarray(np.exp(-(((phase - np.round(phase)) / 0.09) ** 2)), np.float32)


def smoothstep(low: float, high: float, values: NDArray[Any] | float) -> NDArray[np.float32]:
    """0 at `low`, 1 at `high`, smooth between, in either order."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
