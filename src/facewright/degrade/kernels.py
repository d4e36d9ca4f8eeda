"""Blur kernels of blind face restoration: isotropic, rotated anisotropic Gaussian, linear motion.

Kernels are sampled on an integer grid, cut off at the kernel size and normalised to sum 1 (as BasicSR does); `blur`
gives what a plain 2-D filter with that kernel gives, by whichever way is the cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BlurKind = Literal["iso", "aniso", "motion"]

TAIL_SIGMAS = 6.0
"""A Gaussian is 1.5e-8 of its peak there: cutting the kernel further out changes nothing in float32."""
RANK_TOLERANCE = 1e-6
MAX_RANK = 3
"""Above this many separable passes one product in the Fourier domain is faster."""
DIRECT_SIZE = 11
"""Up to this kernel size OpenCV filters directly, which is the fastest."""
FOURIER_PIXELS = 2**20
"""Larger pictures go through OpenCV's tiled filter, which needs less memory."""


@dataclass(frozen=True, slots=True)
class Blur:
    """One drawn blur.

    `iso` uses `sigma_x` alone; `aniso` has `sigma_x` along the direction `theta` (radians) and `sigma_y` across it;
    `motion` is a line of `length` pixels in direction `theta`. Sigmas and length are in pixels; `size` is odd.
    """

    kind: BlurKind
    size: int
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    theta: float = 0.0
    length: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise UsageError(f"blur kernel size must be odd and positive, not {self.size}")


def kernel(blur: Blur) -> NDArray[np.float64]:
    """The (size, size) kernel of a blur, summing to 1."""
    if blur.kind == "motion":
        return motion_kernel(blur.length, blur.theta, blur.size)
    if blur.kind == "iso":
        row = gaussian_row(blur.sigma_x, blur.size)
        return np.outer(row, row)
    return gaussian_kernel(blur.sigma_x, blur.sigma_y, blur.theta, blur.size)


def gaussian_row(sigma: float, size: int) -> NDArray[np.float64]:
    """A (size,) Gaussian on the integers around 0, summing to 1; sigma 0 is the identity."""
    if sigma <= 0:
        return np.asarray(np.eye(1, size, size // 2)[0])
    grid = np.arange(size) - size // 2
    row = np.exp(-0.5 * (grid / sigma) ** 2)
    return np.asarray(row / row.sum())


def gaussian_kernel(sigma_x: float, sigma_y: float, theta: float, size: int) -> NDArray[np.float64]:
    """A (size, size) Gaussian with standard deviations `sigma_x`, `sigma_y` along axes turned by `theta` radians."""
    floor = 1e-3  # a direction without any spread is a delta on the grid, and has no inverse variance
    cos, sin = np.cos(theta), np.sin(theta)
    grid = np.arange(size) - size // 2
    x, y = np.meshgrid(grid, grid)
    along = (cos * x + sin * y) / max(sigma_x, floor)
    across = (cos * y - sin * x) / max(sigma_y, floor)
    values = np.exp(-0.5 * (along**2 + across**2))
    return np.asarray(values / values.sum())


def motion_kernel(length: float, theta: float, size: int) -> NDArray[np.float64]:
    """A (size, size) straight-line motion kernel: the time a moving point spends on each pixel, bilinearly shared."""
    reach = min(length, size - 1.0) / 2
    steps = np.linspace(-reach, reach, max(2, int(np.ceil(8 * reach)) + 1))
    centre = size // 2
    x, y = centre + steps * np.cos(theta), centre + steps * np.sin(theta)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - x0, y - y0
    values = np.zeros((size + 1, size + 1))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        np.add.at(values, (y0 + dy, x0 + dx), (fx if dx else 1 - fx) * (fy if dy else 1 - fy))
    values = values[:size, :size]
    return np.asarray(values / values.sum())


def blur_image(image: NDArray[np.float32], blur: Blur) -> NDArray[np.float32]:
    """Filter a (H, W, 3) float image with the kernel of `blur`; borders mirrored without repeating the edge pixel."""
    short = _cut_tail(blur)
    if short.size == 1:
        return image
    if short.kind == "iso":
        row = gaussian_row(short.sigma_x, short.size)
        return _separable(image, row, row)
    full = kernel(short)
    if short.size <= DIRECT_SIZE:
        return _filtered(image, full)
    u, s, vt = np.linalg.svd(full)
    rank = int((s > RANK_TOLERANCE).sum())
    if rank > MAX_RANK:
        small = image.shape[0] * image.shape[1] <= FOURIER_PIXELS
        return _fourier_filtered(image, full) if small else _filtered(image, full)
    out = _separable(image, s[0] * vt[0], u[:, 0])
    for k in range(1, rank):
        out += _separable(image, s[k] * vt[k], u[:, k])
    return out


def _cut_tail(blur: Blur) -> Blur:
    """The same blur with its kernel cut where it is numerically zero."""
    if blur.kind == "motion":
        needed = blur.length / 2 + 1
    elif blur.kind == "iso":
        needed = TAIL_SIGMAS * blur.sigma_x
    else:
        needed = TAIL_SIGMAS * max(blur.sigma_x, blur.sigma_y)
    size = min(blur.size, 2 * int(np.ceil(needed)) + 1)
    return Blur(blur.kind, size, blur.sigma_x, blur.sigma_y, blur.theta, blur.length)


def _filtered(image: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(cv2.filter2D(image, -1, weights.astype(np.float32), borderType=cv2.BORDER_REFLECT_101))


def _fourier_filtered(image: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """One real Fourier transform of the three channels and the kernel together, which SIMD runs in parallel."""
    height, width = image.shape[:2]
    reach = len(weights) // 2
    rows, columns = (next_fast_len(side + 2 * reach, real=True) for side in (height, width))
    padded = cv2.copyMakeBorder(
        image, reach, rows - height - reach, reach, columns - width - reach, cv2.BORDER_REFLECT_101
    )
    planes = np.zeros((4, rows, columns), dtype=np.float32)
    planes[:3] = np.moveaxis(padded, 2, 0)
    planes[3, : len(weights), : len(weights)] = weights[::-1, ::-1]
    spectra = rfft2(planes)
    blurred = irfft2(spectra[:3] * spectra[3], s=(rows, columns))
    inside = blurred[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return np.asarray(cv2.merge(list(inside)))


def _separable(
    image: NDArray[np.float32], row: NDArray[np.float64], column: NDArray[np.float64]
) -> NDArray[np.float32]:
    return np.asarray(cv2.sepFilter2D(image, cv2.CV_32F, row, column, borderType=cv2.BORDER_REFLECT_101))
