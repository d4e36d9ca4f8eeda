"""Colours by code points (ITU-T H.273, "CICP" or "nclx"): what HEIC, AVIF, PNG and JPEG XL say instead of a profile.

Ordinary transfer functions become an ICC profile; the pixels stay. High dynamic range (PQ and HLG, ITU-R BT.2100) has
no place in a photo for print and screen, nor in the networks: it is rendered for an ordinary screen, in the same
primaries. Reference white, 203 cd/m² (ITU-R BT.2408), becomes white; a picture that stays below it keeps its look
exactly, and of a brighter one the highlights are bent into the upper quarter of the range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import icc

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_C = (0.310, 0.316)
PRIMARIES: dict[int, icc.Chromaticities] = {
    1: icc.SRGB_PRIMARIES,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), icc.D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), icc.D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), icc.D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), icc.D65),
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), icc.D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), icc.D65),
}
NAMES = {1: "BT.709", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
UNSPECIFIED = 2
PQ, HLG = 16, 18
_SRGB_LIKE = frozenset({0, 1, UNSPECIFIED, 3, 6, 13, 14, 15})
"""Transfer functions that every screen shows as it shows sRGB (BT.709's camera curve and its kin), or none."""
_GAMMAS = {4: 2.2, 5: 2.8, 7: 2.2, 8: 1.0, 17: 2.6}

REFERENCE_WHITE = 203.0
"""Luminance of diffuse white in cd/m², ITU-R BT.2408, 3.2; what 58 % PQ and 75 % HLG signal stand for."""
_PQ_PEAK, _HLG_PEAK, _HLG_GAMMA = 10_000.0, 1_000.0, 1.2
_KNEE = 0.75


@dataclass(frozen=True, slots=True)
class CodePoints:
    """Primaries and transfer function by their numbers in H.273."""

    primaries: int
    transfer: int

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def name(self) -> str:
        """For notes: "PQ, BT.2020"."""
        transfer = {PQ: "PQ", HLG: "HLG"}.get(self.transfer, f"transfer function {self.transfer}")
        return f"{transfer}, {NAMES.get(self.primaries, f'primaries {self.primaries}')}"


def profile(points: CodePoints, *, grey: bool = False) -> bytes | None:
    """The profile that says the same as the code points, None for sRGB. HDR counts as already rendered (`to_sdr`)."""
    transfer = UNSPECIFIED if points.is_hdr else points.transfer
    primaries = PRIMARIES.get(points.primaries, icc.SRGB_PRIMARIES)
    curve = _curve(transfer)
    if grey:
        return None if transfer in _SRGB_LIKE else icc.grey_profile(curve)
    if primaries == icc.SRGB_PRIMARIES and transfer in _SRGB_LIKE:
        return None
    if points.primaries == 10:
        return None  # XYZ has no profile of this form
    return icc.rgb_profile(primaries, curve)


def _curve(transfer: int) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    gamma = _GAMMAS.get(transfer)
    if gamma is None:
        return icc.srgb_to_linear
    return lambda values: np.asarray(values) ** gamma


# --- high dynamic range -----------------------------------------------------------------------------------------------


def pq_to_light(signal: NDArray[np.floating]) -> NDArray[np.floating]:
    """PQ signal 0..1 → cd/m² (SMPTE ST 2084, the EOTF of BT.2100)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = np.asarray(signal, np.float64) ** (1 / m2)
    return np.asarray(_PQ_PEAK * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1))


def light_to_pq(light: NDArray[np.floating]) -> NDArray[np.floating]:
    """The inverse of `pq_to_light`."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = (np.asarray(light, np.float64) / _PQ_PEAK) ** m1
    return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)


def hlg_to_scene(signal: NDArray[np.floating]) -> NDArray[np.floating]:
    """HLG signal 0..1 → scene light 0..1 (inverse OETF of BT.2100)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    signal = np.asarray(signal, np.float64)
    return np.asarray(np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12))


def hlg_to_light(signal: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., 3) HLG signal → cd/m² on BT.2100's reference screen of 1000 cd/m² (system gamma 1.2).

    `weights` take linear RGB to luminance.
    """
    scene = hlg_to_scene(signal)
    luminance = scene @ np.asarray(weights)
    return np.asarray(_HLG_PEAK * np.maximum(luminance, 1e-12)[..., None] ** (_HLG_GAMMA - 1) * scene)


def to_sdr(pixels: NDArray[Any], points: CodePoints) -> NDArray[np.uint16]:
    """(H, W, 1 or 3) uint8 or uint16 PQ or HLG → uint16 with sRGB's curve in the same primaries."""
    top = np.iinfo(pixels.dtype).max
    weights = icc.to_xyz(PRIMARIES.get(points.primaries, PRIMARIES[9]))[1]
    peak = max(float(_relative(pixels[rows], points, top, weights).max()) for rows in _bands(pixels))
    out = np.empty(pixels.shape, np.uint16)
    for rows in _bands(pixels):
        light = _relative(pixels[rows], points, top, weights)
        brightest = light.max(-1, keepdims=True)
        light *= np.divide(_bent(brightest, peak), brightest, out=np.ones_like(brightest), where=brightest > 0)
        out[rows] = np.rint(icc.linear_to_srgb(np.clip(light, 0, 1)) * 65535)
    return out


def _bands(pixels: NDArray[Any]) -> list[slice]:
    """Rows in portions of about a million samples: the arithmetic is in 64 bits."""
    height = max(1, 1_000_000 // max(1, pixels.shape[1] * pixels.shape[2]))
    return [slice(start, start + height) for start in range(0, len(pixels), height)]


def _relative(
    pixels: NDArray[Any], points: CodePoints, top: int, weights: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Light as a share of reference white."""
    signal = pixels.astype(np.float64) / top
    if points.transfer == PQ:
        return pq_to_light(signal) / REFERENCE_WHITE
    if signal.shape[-1] == 1:
        return hlg_to_light(np.repeat(signal, 3, -1), weights)[..., :1] / REFERENCE_WHITE
    return hlg_to_light(signal, weights) / REFERENCE_WHITE


def _bent(value: NDArray[np.floating], peak: float) -> NDArray[np.floating]:
    """Identity up to the knee, from there smoothly up to 1 at `peak`; identity where nothing is above white.

    Above the knee k, at x = value − k, it is k + s·x/(x + s): slope 1 at the knee, and 1 at `peak`.
    """
    if peak <= 1:
        return value
    room, excess = 1 - _KNEE, peak - _KNEE
    steepness = room * excess / (excess - room)
    above = np.maximum(value - _KNEE, 0)
    return np.asarray(np.where(value <= _KNEE, value, _KNEE + steepness * above / (above + steepness)))
