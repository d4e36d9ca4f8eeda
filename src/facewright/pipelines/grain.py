"""The grain of a picture: measured around a face and laid over the restored face, so that it does not look pasted in.

A restorer removes noise and film grain. Hair, clothes and background keep theirs, and the eye sees the border. Grain is
what is left of flat places when their light is taken away; its strength in luma and chroma and its size (how alike
neighbouring pixels are) are measured, and as much is added to the face as it lacks. The dots of a print screen are no
grain: they repeat, and noise in their place would be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..geometry.paste import FacePatch

    Floats = NDArray[np.float32]

LEAST = 1.0  # grey levels of 255 below which grain cannot be seen
_SMOOTH = 2.0  # px: σ of the light that is taken away
_FLAT = 0.5  # share of the pixels, those with the smallest gradients, that count as flat
_LEAST_PIXELS = 400
_MAD = 1.4826  # median absolute deviation to standard deviation of a normal distribution
_RING = 0.15  # of the face's longer side: how far around it grain is measured
_WIDEST = 2.5  # px: σ of the coarsest grain
_SCREEN_LAGS = (3, 12)  # px: how far apart the dots of a print screen lie in scans
_SCREEN = 0.3  # correlation at such a distance from which a pattern repeats; grain stays below 0.1


@dataclass(frozen=True, slots=True)
class Grain:
    """Grain of a place: standard deviations in grey levels of luma and of the two colour differences; `size` is the σ
    in pixels of the blur that white noise needs to have grains as large."""

    luma: float
    chroma: float
    size: float

    @property
    def visible(self) -> bool:
        return self.luma >= LEAST or self.chroma >= LEAST


NONE = Grain(0.0, 0.0, 0.0)


def measure(image: NDArray[np.uint8] | Floats, where: NDArray[np.bool_]) -> Grain:
    """The grain of an (H, W, 3) RGB picture in grey levels of 255, at the places (H, W) that are asked for.

    Of these only the flatter half counts, as texture is not grain. `NONE` where there are too few.
    """
    return _Separated.of(image).grain(where)


@dataclass(frozen=True, slots=True, eq=False)
class _Separated:
    """A picture without its light: luma (H, W), its smooth slopes, and what is finer than the light (H, W, 3)."""

    luma: Floats
    slope: Floats
    rest: Floats

    @classmethod
    def of(cls, image: NDArray[np.uint8] | Floats) -> Self:
        planes = cv2.cvtColor(np.asarray(image, np.float32), cv2.COLOR_RGB2YCrCb)
        light = cv2.GaussianBlur(planes, (0, 0), _SMOOTH)
        smooth = np.ascontiguousarray(light[..., 0])
        slope = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        luma = np.ascontiguousarray(planes[..., 0], np.float32)
        return cls(luma, np.asarray(slope, np.float32), np.asarray(planes - light, np.float32))

    def grain(self, where: NDArray[np.bool_]) -> Grain:
        """As `measure`."""
        unclipped = where & (self.luma > 4) & (self.luma < 251)
        if int(unclipped.sum()) < _LEAST_PIXELS:
            return NONE
        flat = unclipped & (self.slope <= np.quantile(self.slope[unclipped], _FLAT))
        if _repeats(self.rest[..., 0], flat):
            return NONE
        size, left = _size(self.rest[..., 0], flat)
        spread = [_spread(values) / left for values in self.rest[flat].T]
        return Grain(spread[0], float(np.mean(spread[1:])), size)


def _repeats(rest: Floats, flat: NDArray[np.bool_]) -> bool:
    """Whether what is finer than the light repeats at some distance, as the dots of a print screen do."""
    farthest = _SCREEN_LAGS[1]
    shape = [cv2.getOptimalDFTSize(length + farthest) for length in rest.shape]
    weights = np.fft.rfft2(flat.astype(np.float32), shape)
    values = np.fft.rfft2(np.where(flat, rest, 0), shape)
    pairs = np.fft.irfft2(np.abs(weights) ** 2, shape)
    products = np.fft.irfft2(np.abs(values) ** 2, shape)
    alike = np.where(pairs > _LEAST_PIXELS, products / np.maximum(pairs, 1), 0)
    if alike[0, 0] < 1e-6:
        return False
    lags = [np.minimum(np.arange(length), length - np.arange(length)) for length in shape]
    distance = np.hypot(lags[0][:, None], lags[1][None])
    apart = (distance >= _SCREEN_LAGS[0]) & (distance <= farthest)
    return bool((alike[apart] / alike[0, 0]).max() > _SCREEN)


def _spread(values: Floats) -> float:
    return float(_MAD * np.median(np.abs(values - np.median(values))))


def _size(rest: Floats, flat: NDArray[np.bool_]) -> tuple[float, float]:
    """σ of the blur that explains how alike neighbours are, and which share of such grain is left in `rest`."""
    correlations = []
    for axis in (0, 1):
        both = flat & np.roll(flat, -1, axis)
        here, there = rest[both], np.roll(rest, -1, axis)[both]
        power = float((here**2).mean()) if len(here) else 0.0
        correlations.append(float((here * there).mean()) / power if power > 1e-6 else 0.0)
    sizes, shares, expected = _table()
    nearest = int(np.argmin(np.abs(expected - np.mean(correlations))))
    return float(sizes[nearest]), float(shares[nearest])


@cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For grains of every size: σ; the share of their amplitude that is left without the light; how alike neighbours
    in the rest are. From the spectra of the blurs, on a torus of 64 px."""
    frequency = 2 * np.pi * np.fft.fftfreq(64)
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    kept = 1 - np.exp(-squared * _SMOOTH**2 / 2)
    sizes = np.linspace(0, _WIDEST, 51)
    shares, alike = [], []
    for size in sizes:
        power = np.exp(-squared * size**2)
        rest = power * kept**2
        shares.append(np.sqrt(rest.sum() / power.sum()))
        alike.append((rest * np.cos(frequency)[None]).sum() / rest.sum())
    return sizes, np.array(shares), np.array(alike)


def lacking(around: Grain, inside: Grain) -> Grain:
    """What has to be added inside to have the grain of around; nothing where inside has as much."""

    def missing(wanted: float, there: float) -> float:
        return float(np.sqrt(max(0.0, wanted**2 - there**2)))

    found = Grain(missing(around.luma, inside.luma), missing(around.chroma, inside.chroma), around.size)
    return found if found.visible else NONE


def make(grain: Grain, shape: tuple[int, int], seed: int) -> Floats:
    """Grain to add to an RGB picture of `shape` (height, width), (H, W, 3) in grey levels; the same for a seed."""
    height, width = shape
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((height, width, 3), dtype=np.float32)
    if grain.size > 0:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain.size), np.float32)
    noise /= np.maximum(noise.std((0, 1)), 1e-6)
    planes = noise * np.array([grain.luma, grain.chroma, grain.chroma], np.float32)
    luma, red, blue = planes[..., 0], planes[..., 1], planes[..., 2]
    # YCrCb to RGB of differences (ITU-R BT.601)
    return np.dstack([luma + 1.403 * red, luma - 0.714 * red - 0.344 * blue, luma + 1.773 * blue]).astype(np.float32)


def with_grain(patch: FacePatch, rgb: NDArray[np.uint8]) -> FacePatch:
    """A patch whose face gets the grain of the photo (H, W, 3) around it, but no more than it had before."""
    return grained(patch, missing_grain(patch, rgb))


def missing_grain(patch: FacePatch, rgb: NDArray[np.uint8]) -> Grain:
    """The grain that a patch lacks beside the photo (H, W, 3) around it; no more than the face had before."""
    x0, y0, x1, y1 = patch.box
    width = max(6, round(_RING * max(x1 - x0, y1 - y0)))
    left, top = max(0, x0 - width), max(0, y0 - width)
    place = rgb[top : y1 + width, left : x1 + width]
    mask = np.zeros(place.shape[:2], np.float32)
    inside = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    mask[inside] = patch.mask
    after = place.astype(np.float32)
    after[inside] += patch.change * patch.mask[..., None]
    face = mask > 0.7
    original = _Separated.of(place)
    outside, before, restored = original.grain(around(mask, width)), original.grain(face), measure(after, face)
    wanted = Grain(min(outside.luma, before.luma), min(outside.chroma, before.chroma), outside.size)
    return lacking(wanted, restored)


def grained(patch: FacePatch, missing: Grain, frame: int = 0) -> FacePatch:
    """A patch with grain laid over it: other grains in every `frame` of a video, and at every place of a photo."""
    if not missing.visible:
        return patch
    x0, y0, x1, y1 = patch.box
    noise = make(missing, (y1 - y0, x1 - x0), seed=(x0 * 73_856_093) ^ (y0 * 19_349_663) ^ (frame * 83_492_791))
    # where the mask fades out, and what lies before the face, the picture's own grain is still there
    noise *= np.clip((patch.mask - 0.2) / 0.4, 0, 1)[..., None]
    return replace(patch, change=np.asarray(patch.change + noise, np.float32))


def around(mask: Floats, width: int) -> NDArray[np.bool_]:
    """The ring of `width` px around what a mask (H, W) covers."""
    outside = (mask <= 0.02).astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray((outside > 0) & (distance <= width))
