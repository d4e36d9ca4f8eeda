"""Whether a face is as sharp as a face of its size can be, by the spectrum of its crop at the photo's own resolution.

A sharp picture has energy in every octave; what was blurred, enlarged, or compressed hard lacks the finest. Noise has
energy there, too, but as much in flat places as at edges. Eight numbers of the luma say so; a logistic model on them
and their products, fitted on sharp faces × damage × size, gives the probability that most of the detail is left
(`reproductions/gate`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FACE = np.s_[0.27:0.83, 0.2:0.8]
"""Rows and columns of a crop on the `ffhq` template that show the face, as shares of its side."""
SHARP = 0.5
"""Probability from which a face counts as sharp."""
LEAST_SIDE, MOST_SIDE = 48, 512
WEIGHTS_FILE = "sharpness.json"
_LEVELS = 4
_TINY = 1e-2  # squared grey levels: what rounding to 8 bits leaves of nothing
_STEEPEST = (0.97, 0.995)
_FLAT, _STEEP = 0.4, 0.8  # shares of the pixels by slope that count as flat, and from which they are edges


def signals(crop: NDArray[np.uint8]) -> Floats:
    """(8,) of a square (S, S, 3) uint8 RGB crop on the `ffhq` template that was not enlarged.

    Log energies of the three finest octaves against the one below each; how much more the finest has at edges than in
    flat places, and the second finest likewise; the finest in flat places, which is mostly noise; by how much smoothing
    lowers the steepest slopes, at two shares.
    """
    luma = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.float32)
    slopes = [_slopes(luma, sigma) for sigma in (0.6, 1.8)]
    widths = [float(np.log10((np.quantile(slopes[0], q) + 0.1) / (np.quantile(slopes[1], q) + 0.1))) for q in _STEEPEST]
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
    return np.array([logs[0] - logs[1], logs[1] - logs[2], logs[2] - logs[3], *contrast, floor, *widths])


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
    """(..., 8) signals to them, their products and squares, (..., 44)."""
    first, second = np.triu_indices(values.shape[-1])
    return np.concatenate([values, values[..., first] * values[..., second]], -1)


@dataclass(frozen=True, slots=True, eq=False)
class SharpnessModel:
    """A logistic model on expanded signals: (44,) mean, spread and weights, and a bias."""

    mean: Floats
    spread: Floats
    weights: Floats
    bias: float

    def __call__(self, values: Floats) -> Floats:
        """(..., 8) signals to probabilities (...)."""
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


def sharpness(crop: NDArray[np.uint8]) -> float:
    """The probability, 0 to 1, that most of the detail of a face is left; for a crop as `signals` takes it."""
    return float(shipped_model()(signals(crop)))
