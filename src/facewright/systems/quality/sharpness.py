"""Whether a face is as sharp as a face of its size can be, by the spectrum of its crop at the photo's own resolution.

A sharp picture has energy in every octave; what was blurred, enlarged, or compressed hard lacks the finest. Noise has
energy there, too, but as much in flat places as at edges. Ten numbers of the luma say so. JPEG puts edges of its own
where detail was, so three more look in the photo itself for its grid of 8 px and the frequencies that are gone there. A
logistic model on the thirteen and their products, fitted on sharp faces × damage × size, gives the probability that
most of the detail is left (`reproductions/gate`).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from ...geometry.crop import CropSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...face import Face

    Floats = NDArray[np.float64]

FACE = np.s_[0.27:0.83, 0.2:0.8]
"""Rows and columns of a crop on the `ffhq` template that show the face, as shares of its side."""
SHARP = 0.65
"""Probability from which a face counts as sharp: at this one both errors are about as frequent."""
LEAST_SIDE, MOST_SIDE = 48, 512
WEIGHTS_FILE = "sharpness.json"
_LEVELS = 4
_TINY = 1e-2  # squared grey levels: what rounding to 8 bits leaves of nothing
_STEEPEST = (0.97, 0.995)
_FLAT, _STEEP = 0.4, 0.8  # shares of the pixels by slope that count as flat, and from which they are edges
_BLOCK = 8  # px, JPEG's
_DCT = np.asarray(cv2.dct(np.eye(_BLOCK), flags=cv2.DCT_ROWS).T, np.float32)
_BANDS = ((2, 4), (5, 8))  # orders of the frequencies, low and high, whose absence is counted
_OCTAVE = ((4, 6), (7, 9), (11, 14))  # orders of the bands within the finest octave
_GONE = 0.75  # grey levels below which a coefficient is 0 but for rounding
_LEAST_STEP = 0.05  # grey levels: a grid that stands out less does not stand out
NO_GRID = (float(np.log10(_LEAST_STEP)), 0.0, 0.0)
"""`grid_signals` of a picture that was never compressed, or was made smaller since."""
_MOST_REDUCED = 1.25  # photo pixels per crop pixel above which the grid's steps are no longer in the crop


def signals(crop: NDArray[np.uint8], native: NDArray[np.uint8] | None = None) -> Floats:
    """(13,) of a face: ten of its crop and the three of `grid_signals`.

    Args:
        crop: Square (S, S, 3) uint8 RGB crop on the `ffhq` template that was not enlarged.
        native: (H, W, 3) uint8 RGB, the part of the photo that shows the face, with the photo's own pixels; None where
            the crop is a reduction of it, in which no grid is left.
    """
    grid = NO_GRID if native is None else grid_signals(native)
    return np.array([*_crop_signals(crop), *grid])


def _crop_signals(crop: NDArray[np.uint8]) -> list[float]:
    """The first ten signals.

    Log energies of the three finest octaves against the one below each; how much more the finest has at edges than in
    flat places, and the second finest likewise; the finest in flat places, which is mostly noise; by how much smoothing
    lowers the steepest slopes, at two shares; how steeply the spectrum falls within the finest octave, in two steps.
    """
    luma = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.float32)
    slopes = [_slopes(luma, sigma) for sigma in (0.6, 1.8)]
    widths = [float(np.log10((np.quantile(slopes[0], q) + 0.1) / (np.quantile(slopes[1], q) + 0.1))) for q in _STEEPEST]
    within = _slopes_of_spectrum(luma)
    bands = []
    for _ in range(_LEVELS):
        below = cv2.pyrDown(luma)
        bands.append(luma - cv2.pyrUp(below, dstsize=luma.shape[::-1]))
        luma = np.asarray(below, np.float32)
    energies = [_part(band) ** 2 for band in bands]
    logs = [float(np.log10(energy.mean() + _TINY)) for energy in energies]
    steep = [_steepness(bands[level + 1], energies[level].shape) for level in (0, 1)]
    contrast = []
    for energy, slope in zip(energies, steep):
        flat = energy[slope <= np.quantile(slope, _FLAT)].mean()
        edges = energy[slope >= np.quantile(slope, _STEEP)].mean()
        contrast.append(float(np.log10((edges + _TINY) / (flat + _TINY))))
    floor = float(np.log10(energies[0][steep[0] <= np.quantile(steep[0], _FLAT)].mean() + _TINY))
    return [logs[0] - logs[1], logs[1] - logs[2], logs[2] - logs[3], *contrast, floor, *widths, *within]


def _slopes_of_spectrum(luma: NDArray[np.float32]) -> list[float]:
    """Log ratios of the energies of neighbouring bands of frequencies: an enlarged picture ends between two of them."""
    energy = _coefficients(_part(luma), 0, 0) ** 2
    logs = [float(np.log10(energy[..., _between(*band)].mean() + _TINY)) for band in _OCTAVE]
    return [finer - coarser for coarser, finer in itertools.pairwise(logs)]


def grid_signals(native: NDArray[np.uint8]) -> Floats:
    """(3,) of what JPEG left in an (H, W, 3) uint8 RGB picture of at least 24 px a side.

    By how many grey levels the borders of blocks stand out from the other pixels, as a logarithm; which share more of
    the low, and of the high, frequencies is gone from the blocks of that grid than from blocks shifted by half of one.
    """
    luma = np.asarray(cv2.cvtColor(native, cv2.COLOR_RGB2GRAY), np.float32)
    if min(luma.shape) < 3 * _BLOCK:
        return np.array(NO_GRID)
    (left, across), (top, down) = _grid(luma), _grid(luma.T)
    half = _BLOCK // 2
    there = _coefficients(luma, top, left)
    shifted = _coefficients(luma, (top + half) % _BLOCK, (left + half) % _BLOCK)
    gone = []
    for orders in _BANDS:
        band = _between(*orders)
        gone.append(float((there[..., band] < _GONE).mean() - (shifted[..., band] < _GONE).mean()))
    return np.array([np.log10(max(min(across, down), 0.0) + _LEAST_STEP), *gone])


def _between(low: int, high: int) -> NDArray[np.bool_]:
    """(8, 8), which coefficients are of these orders."""
    order = np.add.outer(np.arange(_BLOCK), np.arange(_BLOCK))
    return np.asarray((order >= low) & (order <= high))


def _grid(luma: NDArray[np.float32]) -> tuple[int, float]:
    """Where the columns of blocks most likely begin, 0 to 7, and by how many grey levels their borders stand out."""
    step = np.abs(np.diff(luma, axis=1))
    excess = (step[:, 1:-1] - (step[:, :-2] + step[:, 2:]) / 2).mean(0)
    phases = excess[: len(excess) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).mean(0)
    best = int(phases.argmax())
    return (best + 2) % _BLOCK, float(phases[best] - np.median(phases))


def _coefficients(luma: NDArray[np.float32], top: int, left: int) -> NDArray[np.float32]:
    """(rows, columns, 8, 8) sizes of the DCT coefficients of the whole blocks from a corner on."""
    rows, columns = ((side - start) // _BLOCK for side, start in zip(luma.shape, (top, left)))
    blocks = luma[top : top + rows * _BLOCK, left : left + columns * _BLOCK]
    blocks = blocks.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2)
    return np.asarray(np.abs(_DCT @ blocks @ _DCT.T), np.float32)


def _slopes(luma: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    smooth = np.asarray(cv2.GaussianBlur(luma, (0, 0), sigma), np.float32)
    return _part(np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)))


def _part(band: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = (slice(*(round(v * len(band)) for v in (s.start, s.stop))) for s in FACE)
    return band[rows, columns]


def _steepness(coarser: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """How steep the next octave is at every pixel of the face's part of a finer one."""
    size = np.asarray(cv2.GaussianBlur(np.abs(_part(coarser)), (0, 0), 1.0), np.float32)
    return np.asarray(cv2.resize(size, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def expanded(values: Floats) -> Floats:
    """(..., 13) signals to them, their products and squares, (..., 104)."""
    first, second = np.triu_indices(values.shape[-1])
    return np.concatenate([values, values[..., first] * values[..., second]], -1)


@dataclass(frozen=True, slots=True, eq=False)
class SharpnessModel:
    """A logistic model on expanded signals: (104,) mean, spread and weights, and a bias."""

    mean: Floats
    spread: Floats
    weights: Floats
    bias: float

    def __call__(self, values: Floats) -> Floats:
        """(..., 13) signals to probabilities (...)."""
        odds = ((expanded(values) - self.mean) / self.spread) @ self.weights + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -50, 50))))

    def to_json(self) -> str:
        """The content of the weights' file."""
        lists = {name: [round(float(v), 5) for v in getattr(self, name)] for name in ("mean", "spread", "weights")}
        return json.dumps(lists | {"bias": round(self.bias, 5)}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The model of what `to_json` wrote."""
        data = json.loads(text)
        mean, spread, weights = (np.array(data[name]) for name in ("mean", "spread", "weights"))
        return cls(mean, spread, weights, float(data["bias"]))


@cache
def shipped_model() -> SharpnessModel:
    """The fitted model of this package."""
    return SharpnessModel.from_json((files(__package__ or "") / WEIGHTS_FILE).read_text(encoding="utf-8"))


def native_side(scale: float, size: int) -> int:
    """The side of a crop that shows a face at the photo's own resolution, at most `MOST_SIDE`.

    `scale` is crop pixels per photo pixel of a crop of `size`.
    """
    return int(np.clip(round(size / max(scale, 1e-6)), LEAST_SIDE, MOST_SIDE))


def native_part(photo: NDArray[np.uint8], matrix: Floats, size: int) -> NDArray[np.uint8] | None:
    """The pixels of a photo that show a face, upright, at most `MOST_SIDE` px a side.

    Args:
        photo: (H, W, 3) uint8 RGB.
        matrix: (2, 3), from the photo to a crop of `size` px on the `ffhq` template.
        size: Side of that crop, px: the one whose sharpness is asked for.

    Returns:
        None where the crop is a reduction of the photo, or where nothing of the face is in the photo.
    """
    if np.hypot(matrix[0, 0], matrix[1, 0]) * _MOST_REDUCED < 1:
        return None
    rows, columns = ((s.start * size, s.stop * size) for s in FACE)
    corners = np.array([[x, y] for x in columns for y in rows])
    there = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T
    middle, spread = (there.max(0) + there.min(0)) / 2, np.minimum((there.max(0) - there.min(0)) / 2, MOST_SIDE / 2)
    (x0, y0), (x1, y1) = (
        np.clip(np.rint(end), 0, photo.shape[1::-1]).astype(int) for end in (middle - spread, middle + spread)
    )
    return photo[y0:y1, x0:x1] if x1 > x0 and y1 > y0 else None


def sharpness_of(photo: NDArray[np.uint8], face: Face) -> float:
    """`sharpness` of a face of an (H, W, 3) uint8 RGB photo, at the photo's own resolution up to `MOST_SIDE`."""
    spec = CropSpec.aligned(MOST_SIDE)
    return sharpness_at(photo, face, spec, native_side(spec.cut(photo, face).scale, MOST_SIDE))


def sharpness_at(photo: NDArray[np.uint8], face: Face, spec: CropSpec, side: int) -> float:
    """The same for a crop of `side` px, which `native_side` gives, cut as `spec` says."""
    crop = replace(spec, size=side).cut(photo, face)
    return sharpness(crop.image, native_part(photo, crop.matrix, side))


def sharpness(crop: NDArray[np.uint8], native: NDArray[np.uint8] | None = None) -> float:
    """The probability, 0 to 1, that most of the detail of a face is left; arguments as of `signals`."""
    return float(shipped_model()(signals(crop, native)))
