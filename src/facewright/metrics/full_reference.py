"""PSNR, SSIM and GMSD of a picture against the truth, and how much of the truth's detail energy it has.

Pictures are numpy (H, W) or (H, W, C), or torch (C, H, W) or (1, C, H, W); all values of a pair share one range whose
width is `data_range` (255 for 8 bit, 1 for [0, 1], 2 for [-1, 1]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter, laplace, prewitt

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
K1, K2 = 0.01, 0.03
GMSD_C = 170.0
LUMA = np.array([0.299, 0.587, 0.114])
BT601_Y = np.array([65.481, 128.553, 24.966])


def psnr(a: Any, b: Any, *, data_range: float, mask: ArrayLike | None = None, crop_border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures.

    `mask` (H, W) limits it to the pixels that are true; `crop_border` first drops that many pixels on every side.
    """
    x, y, valid = _pair(a, b, mask, crop_border)
    return _decibel(((x - y) ** 2)[valid].mean(), data_range)


def psnr_y(a: Any, b: Any, *, data_range: float, mask: ArrayLike | None = None, crop_border: int = 0) -> float:
    """PSNR in dB of the luma of two RGB pictures, BT.601 with Y in 16…235 against a peak of 255 (as BasicSR)."""
    x, y, valid = _pair(a, b, mask, crop_border)
    return _decibel(((studio_luma(x, data_range) - studio_luma(y, data_range)) ** 2)[valid].mean(), 255.0)


def studio_luma(rgb: NDArray[np.float64], data_range: float) -> NDArray[np.float64]:
    """BT.601 luma in 16…235 of (..., 3) RGB whose values span 0…`data_range`."""
    if rgb.shape[-1] != 3:
        raise UsageError(f"luma needs three channels, the picture has {rgb.shape[-1]}")
    return np.asarray(16 + (rgb / data_range) @ BT601_Y)


def ssim(a: Any, b: Any, *, data_range: float, mask: ArrayLike | None = None, crop_border: int = 0) -> float:
    """Structural similarity (Wang et al. 2004): 11×11 Gaussian window of sigma 1.5, averaged over the channels.

    The mean is over the pixels whose window lies inside the picture, and inside `mask` (H, W) if there is one (a
    window may reach five pixels beyond the mask). Raises UsageError for pictures under 11 pixels.
    """
    x, y, valid = _pair(a, b, mask, crop_border)
    inner = np.s_[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]
    if min(x.shape[:2]) <= 2 * SSIM_RADIUS or not valid[inner].any():
        raise UsageError(f"SSIM needs {2 * SSIM_RADIUS + 1} valid pixels each way, got {x.shape[1]}×{x.shape[0]}")
    return float(ssim_map(x, y, data_range=data_range)[inner][valid[inner]].mean())


def ssim_map(x: NDArray[np.float64], y: NDArray[np.float64], *, data_range: float) -> NDArray[np.float64]:
    """(H, W, C) SSIM of every pixel and channel; borders mirrored."""

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, (SSIM_SIGMA, SSIM_SIGMA, 0), radius=(SSIM_RADIUS, SSIM_RADIUS, 0)))

    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    similarity = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return np.asarray(similarity)


def gmsd(a: Any, b: Any, *, data_range: float, mask: ArrayLike | None = None) -> float:
    """Gradient magnitude similarity deviation (Xue et al., IEEE TIP 2014): 0 for equal pictures, larger is worse.

    Of the luma of RGB pictures, or of the single channel, averaged in 2×2 pixels and halved first, as in the paper;
    Prewitt gradients, c = 170 for 8 bit. A halved pixel counts when its four pixels are inside `mask` (H, W).
    """
    x, y, valid = _pair(a, b, mask, 0)
    sizes, sizes_b = (_gradient(_halved(_luma(v) * (255 / data_range))) for v in (x, y))
    similarity = (2 * sizes * sizes_b + GMSD_C) / (sizes**2 + sizes_b**2 + GMSD_C)
    height, width = similarity.shape
    whole = valid[: 2 * height, : 2 * width].reshape(height, 2, width, 2).all((1, 3))
    if not whole.any():
        raise UsageError("no valid pixel is left to compare")
    return float(similarity[whole].std())


def detail_ratio(image: Any, truth: Any, *, mask: ArrayLike | None = None) -> float:
    """Energy of the Laplacian (4 neighbours) of the luma against that of the truth; 1 means as much fine detail.

    Noise counts as detail: the measure says how sharp a picture looks, not whether it is right.
    """
    x, y, valid = _pair(image, truth, mask, 0)
    seen, true = (float(np.square(laplace(_luma(v), mode="mirror"))[valid].mean()) for v in (x, y))
    if true == 0:
        raise UsageError("the truth shows no detail to compare with")
    return seen / true


def _luma(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(picture @ LUMA) if picture.shape[-1] == 3 else picture.mean(-1)


def _halved(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = (side // 2 for side in grey.shape)
    if min(height, width) < 1:
        raise UsageError(f"GMSD needs pictures of at least 2×2 pixels, not {grey.shape[1]}×{grey.shape[0]}")
    return np.asarray(grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3)))


def _gradient(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(*(prewitt(grey, axis, mode="constant") / 3 for axis in (0, 1))))


def as_picture(image: Any) -> NDArray[np.float64]:
    """(H, W, C) float64 of a numpy (H, W[, C]) or torch ([1,] C, H, W) picture; values unchanged."""
    if hasattr(image, "detach"):
        tensor = image.detach().cpu().double()
        if tensor.ndim == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.ndim != 3:
            raise UsageError(f"one picture at a time: (C, H, W) or (1, C, H, W), not {tuple(image.shape)}")
        return np.asarray(tensor.permute(1, 2, 0).numpy())
    values = np.asarray(image, dtype=np.float64)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise UsageError(f"one picture at a time: (H, W) or (H, W, C), not {values.shape}")
    return values


def _pair(
    a: Any, b: Any, mask: ArrayLike | None, crop_border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    x, y = as_picture(a), as_picture(b)
    if x.shape != y.shape:
        raise UsageError(f"pictures to compare differ in shape: {x.shape} and {y.shape}")
    valid = np.ones(x.shape[:2], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if valid.shape != x.shape[:2]:
        raise UsageError(f"mask of shape {valid.shape} does not fit pictures of {x.shape[:2]}")
    if crop_border:
        inner = np.s_[crop_border:-crop_border, crop_border:-crop_border]
        x, y, valid = x[inner], y[inner], valid[inner]
    if not valid.any():
        raise UsageError("no valid pixel is left to compare")
    return x, y, valid


def _decibel(mean_squared_error: float, peak: float) -> float:
    return float("inf") if mean_squared_error == 0 else float(10 * np.log10(peak**2 / mean_squared_error))
