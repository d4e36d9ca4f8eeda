"""NIQE (Mittal et al., "Making a 'Completely Blind' Image Quality Analyzer", 2013): naturalness without a reference.

Locally normalised luma of natural pictures follows a generalised Gaussian closely. NIQE fits 36 such parameters to
every 96×96 block and measures how far their mean and covariance lie from those of good pictures; lower is better.

The embedded model of good pictures is fitted to 352 pictures of the Berkeley segmentation set (JPEG, at three quarters
of their size), by `python -m facewright.metrics.niqe --fit FOLDER --out MODEL.npz`. It is not the model of the original
release, so values are comparable with each other, not with published ones: for those load the authors'
`modelparameters.mat` with `NiqeModel.load`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
from scipy.special import gamma

from ..errors import UsageError, WeightsError
from .full_reference import as_picture, studio_luma

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

BLOCK = 96
WINDOW, WINDOW_SIGMA = 7, 7 / 6
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
FEATURES = 36
SHARP_SHARE = 0.75
"""Blocks at least that sharp, relative to the sharpest of their picture, count as good (section II.B of the paper)."""
EMBEDDED_MODEL = Path(__file__).with_name("niqe_pristine.npz")


@dataclass(frozen=True, slots=True, eq=False)
class NiqeModel:
    """Mean (36,) and covariance (36, 36) of the features of good pictures."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From an `.npz` (ours, or BasicSR's) or the `.mat` file of the original release. Raises WeightsError."""
        file = Path(path)
        try:
            data = _read_arrays(file)
            mean = next(data[k] for k in ("mean", "mu_pris_param", "mu_prisparam") if k in data)
            covariance = next(data[k] for k in ("covariance", "cov_pris_param", "cov_prisparam") if k in data)
        except (OSError, ValueError, StopIteration) as error:
            raise WeightsError(f"{file} is not a NIQE model: an .npz or .mat with mean and covariance") from error
        if mean.size != FEATURES or covariance.shape != (FEATURES, FEATURES):
            raise WeightsError(f"{file} is not a NIQE model: needs {FEATURES} features, has {mean.size}")
        return cls(np.asarray(mean, float).ravel(), np.asarray(covariance, float))

    def save(self, path: str | Path) -> None:
        """Write an `.npz` that `load` reads."""
        np.savez(path, mean=self.mean, covariance=self.covariance)


def _read_arrays(file: Path) -> dict[str, Any]:
    if file.suffix == ".mat":
        from scipy.io import loadmat

        return dict(loadmat(file))
    with np.load(file, allow_pickle=False) as archive:
        return dict(archive)


@cache
def default_model() -> NiqeModel:
    """The embedded model; see the module's description for what it was fitted to."""
    return NiqeModel.load(EMBEDDED_MODEL)


def niqe(image: Any, model: NiqeModel | None = None, *, data_range: float = 255.0) -> float:
    """NIQE of one RGB picture, (H, W, 3) numpy or (3, H, W) torch with values 0…`data_range`; lower is better.

    Raises UsageError for pictures with fewer than two 96×96 blocks, or without any texture.
    """
    pristine = default_model() if model is None else model
    features, _ = block_features(luma_of(image, data_range))
    if len(features) < 2:
        raise UsageError(f"NIQE needs a picture of at least {BLOCK}×{2 * BLOCK} pixels")
    textured = features[~np.isnan(features).any(1)]
    if not len(textured):
        raise UsageError("NIQE is undefined for a picture without any texture")
    covariance = np.cov(textured, rowvar=False) if len(textured) > 1 else np.zeros_like(pristine.covariance)
    difference = pristine.mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((pristine.covariance + covariance) / 2)
    return float(np.sqrt(max(0.0, difference @ inverse @ difference)))


def fit_pristine(images: Iterable[Any], *, data_range: float = 255.0) -> NiqeModel:
    """A model of good pictures from RGB pictures: the features of the sharp blocks of each."""
    kept = []
    for image in images:
        features, sharpness = block_features(luma_of(image, data_range))
        if len(features):
            kept.append(features[sharpness > SHARP_SHARE * sharpness.max()])
    good = np.concatenate(kept) if kept else np.empty((0, FEATURES))
    good = good[~np.isnan(good).any(1)]
    if len(good) <= FEATURES:
        raise UsageError(f"a NIQE model needs many more than {FEATURES} sharp blocks, these pictures have {len(good)}")
    return NiqeModel(good.mean(0), np.cov(good, rowvar=False))


def luma_of(image: Any, data_range: float) -> NDArray[np.float64]:
    """(H, W) luma in 16…235, rounded to whole grey levels as the published implementations do."""
    return np.rint(studio_luma(as_picture(image), data_range))


def block_features(luma: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, 36) features of the whole 96×96 blocks of a picture, from two scales, and their (B,) sharpness."""
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    if rows * columns == 0:
        return np.empty((0, FEATURES)), np.empty(0)
    whole = luma[: rows * BLOCK, : columns * BLOCK]
    normalised, deviation = mscn(whole)
    coarse, _ = mscn(halved(whole))
    features = np.concatenate([_features(_blocks(normalised, BLOCK)), _features(_blocks(coarse, BLOCK // 2))], axis=1)
    return features, _blocks(deviation, BLOCK).mean((1, 2))


def mscn(luma: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean-subtracted, contrast-normalised luma and the local standard deviation, both (H, W)."""

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), WINDOW_SIGMA, borderType=cv2.BORDER_REPLICATE))

    mean = local_mean(luma)
    deviation = np.sqrt(np.abs(local_mean(luma * luma) - mean * mean))
    return (luma - mean) / (deviation + 1), deviation


def halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the size by antialiased bicubic interpolation (Keys, a = -0.5, stretched over eight pixels).

    Sides must be even; borders are mirrored.
    """
    distance = np.abs(np.arange(8) - 3.5) / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far)
    taps /= taps.sum()

    def rows_halved(values: NDArray[np.float64]) -> NDArray[np.float64]:
        padded = np.pad(values, ((3, 3), (0, 0)), mode="symmetric")
        return np.asarray(sum(tap * padded[k : k + len(values) : 2] for k, tap in enumerate(taps)))

    return rows_halved(rows_halved(image).T).T


def fit_aggd(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Asymmetric generalised Gaussian by moment matching of (B, N) samples: shape α, left and right scale β, (B,) each.

    α is found on a grid from 0.2 to 10 in steps of 0.001 (Lasmar et al. 2009).
    """
    grid, ratios = _shape_table()
    squares = samples**2
    negative, positive = samples < 0, samples > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt((squares * negative).sum(1) / negative.sum(1))
        right = np.sqrt((squares * positive).sum(1) / positive.sum(1))
        balance = left / right
        ratio = np.abs(samples).mean(1) ** 2 / squares.mean(1)
        ratio *= (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    middle = (ratios[1:] + ratios[:-1]) / 2
    alpha = grid[np.searchsorted(middle, np.nan_to_num(ratio))]
    alpha = np.where(np.isnan(ratio), np.nan, alpha)
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * scale, right * scale


@cache
def _shape_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shapes and their E|x|² / E x², which rises with the shape."""
    grid = np.arange(0.2, 10.0005, 0.001)
    return grid, gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))


def _features(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 18): shape and mean scale of the values, and shape, mean and scales of their products with 4 neighbours."""
    alpha, left, right = fit_aggd(blocks.reshape(len(blocks), -1))
    columns = [alpha, (left + right) / 2]
    for shift in NEIGHBOURS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        alpha, left, right = fit_aggd(products.reshape(len(blocks), -1))
        mean = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
        columns += [alpha, mean, left, right]
    return np.stack(columns, axis=1)


def _blocks(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(B, side, side) tiles of a (H, W) array whose sides are multiples of `side`."""
    rows, columns = values.shape[0] // side, values.shape[1] // side
    return values.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _pictures(folder: Path) -> Iterable[NDArray[np.uint8]]:
    from PIL import Image

    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}:
            with Image.open(path) as picture:
                yield np.asarray(picture.convert("RGB"))


def main(arguments: list[str] | None = None) -> None:
    """Fit a model of good pictures to a folder and write it."""
    parser = argparse.ArgumentParser(prog="python -m facewright.metrics.niqe", description=main.__doc__)
    parser.add_argument("--fit", type=Path, required=True, metavar="FOLDER", help="folder with good pictures")
    parser.add_argument("--out", type=Path, default=EMBEDDED_MODEL, metavar="MODEL.npz", help="file to write")
    options = parser.parse_args(arguments)
    if not options.fit.is_dir():
        parser.error(f"{options.fit} is not a folder")
    fit_pristine(_pictures(options.fit)).save(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
