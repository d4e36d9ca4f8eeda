"""High dynamic range: between the signals of PQ and HLG videos and the pictures that networks know.

A network is trained on pictures of ordinary screens. A PQ or HLG signal, taken as such a picture, is pale and flat. So
frames go to display light (SMPTE ST 2084 and ITU-R BT.2100), the reference white of ITU-R BT.2408 becomes white, what
is brighter is rolled off, and the result is coded for an ordinary screen (sRGB). The way back is the exact inverse.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
REFERENCE_WHITE = 203.0  # cd/m², ITU-R BT.2408, table 1
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # the display for which BT.2100 gives the system gamma 1.2
PQ_PEAK = 10000.0
_BRIGHTEST = 128.0  # in reference whites: 10,000 cd/m² of one colour reach 82 in the red of BT.709
_KNEE = 0.75  # share of the reference white from which on light is rolled off

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])

# linear RGB of a set of primaries (white D65) → CIE XYZ; keys are colour primaries of ITU-T H.273
_CHROMATICITIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_WHITE_D65 = (0.3127, 0.3290)


def pq_to_light(signal: NDArray[Any]) -> NDArray[np.float64]:
    """PQ signal in [0, 1] to display light in cd/m² (SMPTE ST 2084, 5.1: the EOTF)."""
    power = np.clip(signal, 0, 1) ** (1 / _M2)
    return np.asarray(PQ_PEAK * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1), np.float64)


def light_to_pq(light: NDArray[Any]) -> NDArray[np.float64]:
    """Display light in cd/m² to the PQ signal in [0, 1] (SMPTE ST 2084, 5.2)."""
    power = np.clip(np.asarray(light) / PQ_PEAK, 0, 1) ** _M1
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2, np.float64)


def hlg_to_scene(signal: NDArray[Any]) -> NDArray[np.float64]:
    """HLG signal in [0, 1] to scene light in [0, 1] (ITU-R BT.2100, table 5: inverse OETF)."""
    signal = np.clip(signal, 0, 1)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12)


def scene_to_hlg(scene: NDArray[Any]) -> NDArray[np.float64]:
    """Scene light in [0, 1] to the HLG signal in [0, 1] (ITU-R BT.2100, table 5: OETF)."""
    scene = np.clip(scene, 0, 1)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), _A * np.log(np.maximum(12 * scene - _B, 1e-9)) + _C)


def hlg_to_light(signal: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 3) HLG signal to display light in cd/m² on a display of 1000 cd/m² (BT.2100, table 5: EOTF with OOTF)."""
    scene = hlg_to_scene(signal)
    luminance = (scene @ _LUMINANCE_2020)[..., None]
    return np.asarray(HLG_PEAK * scene * np.maximum(luminance, 1e-9) ** (HLG_GAMMA - 1), np.float64)


def light_to_hlg(light: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 3) display light in cd/m² to the HLG signal, the inverse of `hlg_to_light`."""
    light = np.clip(np.asarray(light) / HLG_PEAK, 0, 1)
    luminance = (light @ _LUMINANCE_2020)[..., None]
    return scene_to_hlg(light * np.maximum(luminance, 1e-9) ** ((1 - HLG_GAMMA) / HLG_GAMMA))


def srgb_encode(light: NDArray[Any]) -> NDArray[Any]:
    """Linear light in [0, 1] to the sRGB signal (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def srgb_decode(signal: NDArray[Any]) -> NDArray[Any]:
    """The sRGB signal in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(signal <= 0.04045, signal / 12.92, ((np.maximum(signal, 0.04045) + 0.055) / 1.055) ** 2.4)


@functools.cache
def primaries_matrix(source: int, target: int) -> NDArray[np.float64]:
    """(3, 3) from linear RGB of one set of primaries to another; unknown sets count as BT.2020."""
    return np.linalg.inv(_to_xyz(target)) @ _to_xyz(source)


def _to_xyz(primaries: int) -> NDArray[np.float64]:
    points = _CHROMATICITIES.get(primaries, _CHROMATICITIES[9])
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
    x, y = _WHITE_D65
    return np.asarray(columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y])), np.float64)


@dataclass(frozen=True, slots=True)
class WorkingSpace:
    """The way of one video's signal to the eight-bit pictures for the stage and back.

    `transfer` and `primaries` are the video's, `peak` is the brightest light of its mastering display in cd/m².
    """

    transfer: int
    primaries: int
    peak: float

    def to_working(self, signal: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """(H, W, 3) uint16 video signal, full range, to uint8 sRGB."""
        light = _pq_table()[signal] if self.transfer == PQ else _hlg_light(signal)
        linear = cv2.transform(light, primaries_matrix(self.primaries, 1).astype(np.float32) / REFERENCE_WHITE)
        # powers of every value would take seconds for a large frame: a table over the square root of light, in which
        # even the steepest part of the sRGB curve moves by less than a tenth of a step
        place = cv2.sqrt(np.clip(linear, 0, _BRIGHTEST, out=linear) * np.float32(65535**2 / _BRIGHTEST))
        return _screen_table(self)[place.astype(np.uint16)]

    def from_working(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(..., 3) uint8 sRGB to the video's signal in 0..65535."""
        linear = self._unroll(_srgb_table()[pixels])
        light = np.maximum(linear @ primaries_matrix(1, self.primaries).T, 0) * REFERENCE_WHITE
        return 65535 * (light_to_pq(light) if self.transfer == PQ else light_to_hlg(light))

    @property
    def _reach(self) -> float:
        """The peak in units of the rolled-off range above the knee."""
        return max(1.0, (self.peak / REFERENCE_WHITE - _KNEE) / (1 - _KNEE))

    def _roll_off(self, light: NDArray[Any]) -> NDArray[Any]:
        """Light up to the peak into [0, 1]: unchanged below the knee, above it t(1 + t/w²)/(1 + t), which has slope 1
        at the knee and reaches 1 at the peak (Reinhard et al. 2002, equation 4)."""
        over = np.clip((light - _KNEE) / (1 - _KNEE), 0, self._reach)
        rolled = over * (1 + over / self._reach**2) / (1 + over)
        return np.where(light <= _KNEE, light, _KNEE + (1 - _KNEE) * rolled)

    def _unroll(self, light: NDArray[Any]) -> NDArray[Any]:
        rolled = np.clip((light - _KNEE) / (1 - _KNEE), 0, 1)
        white = self._reach**2
        over = white / 2 * (rolled - 1 + np.sqrt((1 - rolled) ** 2 + 4 * rolled / white))
        return np.where(light <= _KNEE, light, _KNEE + (1 - _KNEE) * over)


def _hlg_light(signal: NDArray[np.uint16]) -> NDArray[np.float32]:
    """`hlg_to_light` of 16-bit signals, by table."""
    scene = _hlg_table()[signal]
    luminance = cv2.transform(scene, _LUMINANCE_2020.astype(np.float32)[None])
    gain = cv2.pow(np.maximum(luminance, np.float32(1e-9)), HLG_GAMMA - 1) * np.float32(HLG_PEAK)
    return np.asarray(scene * gain.reshape(*scene.shape[:2], 1), np.float32)


@functools.lru_cache(maxsize=4)
def _screen_table(space: WorkingSpace) -> NDArray[np.uint8]:
    light = (np.arange(65536) / 65535) ** 2 * _BRIGHTEST
    return np.asarray(np.clip(srgb_encode(space._roll_off(light)) * 255 + 0.5, 0, 255), np.float64).astype(np.uint8)


@functools.cache
def _hlg_table() -> NDArray[np.float32]:
    return hlg_to_scene(np.arange(65536) / 65535).astype(np.float32)


@functools.cache
def _pq_table() -> NDArray[np.float32]:
    return pq_to_light(np.arange(65536) / 65535).astype(np.float32)


@functools.cache
def _srgb_table() -> NDArray[np.float64]:
    return np.asarray(srgb_decode(np.arange(256) / 255), np.float64)


@dataclass(frozen=True, slots=True)
class Mastering:
    """HDR10's static metadata (SMPTE ST 2086, CTA-861.3), in the units HEVC's SEI messages use.

    Chromaticities (x, y) of red, green, blue and white in 0.00002, luminances (max, min) in 0.0001 cd/m²; the light
    levels MaxCLL and MaxFALL in cd/m². Each part is None where the video does not say it.
    """

    chromaticities: tuple[tuple[int, int], ...] | None = None
    luminances: tuple[int, int] | None = None
    light_levels: tuple[int, int] | None = None
    dynamic: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Mastering:
        """What a decoded frame says; for single frames only, like `colour.display_matrix`."""
        chromaticities = luminances = levels = None
        data: Any = frame.side_data.get("MASTERING_DISPLAY_METADATA")
        if data is not None:
            # AVMasteringDisplayMetadata: ten rationals, then whether primaries and luminances are there
            values = np.frombuffer(bytes(data), np.int32)
            numbers = values[:20:2] / np.maximum(values[1:20:2], 1)
            if values[20]:
                points = [round(float(v) * 50000) for v in numbers[:8]]
                chromaticities = tuple(zip(points[::2], points[1::2], strict=True))
            if values[21]:
                luminances = (round(float(numbers[9]) * 10000), round(float(numbers[8]) * 10000))
        data = frame.side_data.get("CONTENT_LIGHT_LEVEL")
        if data is not None:
            most, average = np.frombuffer(bytes(data)[:8], np.uint32)
            levels = (int(most), int(average))
        kinds = ("DYNAMIC_HDR_PLUS", "DOVI_METADATA", "DOVI_RPU_BUFFER", "DYNAMIC_HDR_VIVID")
        dynamic = any(frame.side_data.get(kind) is not None for kind in kinds)
        return cls(chromaticities, luminances, levels, dynamic)

    @property
    def peak(self) -> float:
        """Brightest light in cd/m²: the display's, 1000 where unknown or beyond sense."""
        peak = self.luminances[0] / 10000 if self.luminances else 0.0
        return peak if REFERENCE_WHITE < peak <= PQ_PEAK else 1000.0

    def x265(self) -> list[str]:
        """x265's parameters that write these messages."""
        parameters = []
        if self.chromaticities and self.luminances:
            red, green, blue, white = ("({},{})".format(*point) for point in self.chromaticities)
            light = "({},{})".format(*self.luminances)
            parameters.append(f"master-display=G{green}B{blue}R{red}WP{white}L{light}")
        if self.light_levels:
            parameters.append("max-cll={},{}".format(*self.light_levels))
        return parameters
