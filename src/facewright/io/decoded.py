"""What every decoder hands over, and what all of them need on the way there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageReadError, ImageTooLargeError, PageError
from .extras import Extras

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Upright pixels (H, W, 1 or 3), alpha (H, W) or None, both uint8 or uint16, and what came with them.

    `pages` is the number of full-size pages of a TIFF, of which this is one; `whole` is False when the file holds more
    than this (pages, frames), or is damaged.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    format: str
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    extras: Extras = field(default_factory=Extras)
    pages: int = 1
    whole: bool = True
    notes: tuple[str, ...] = ()


def check_size(size: tuple[int, int], label: str, max_pixels: int) -> None:
    """Raise when a (width, height) is empty or beyond the limit."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageReadError(f"{label} is empty: {width} x {height} pixels; it cannot be processed")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{label} has {width} x {height} = {width * height / 1e6:.1f} million pixels, more than the limit of "
            f"{max_pixels / 1e6:g} million; raise max_pixels (--max-megapixels) if the file can be trusted"
        )


def check_page(page: int, count: int, label: str) -> None:
    """Raise when a file of `count` pages has no such page."""
    if not 0 <= page < count:
        pages = "only page 0" if count == 1 else f"pages 0 to {count - 1}"
        raise PageError(f"{label} has no page {page}; it has {pages}", count)


def split_alpha(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colour (H, W, 1 or 3) and alpha (H, W) of (H, W[, 1..4]) values."""
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] in (2, 4):
        return values[..., :-1], values[..., -1]
    return values, None


def turned(plane: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A plane as EXIF orientation 1..8 wants it shown."""
    transposed = plane.swapaxes(0, 1)
    upright = {
        1: plane,
        2: plane[:, ::-1],
        3: plane[::-1, ::-1],
        4: plane[::-1],
        5: transposed,
        6: transposed[:, ::-1],
        7: transposed[::-1, ::-1],
        8: transposed[::-1],
    }[orientation]
    return np.array(upright, order="C")


def widened(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Whole numbers of `bits` bits → the full range of uint8 (up to 8 bits) or uint16, to the nearest level."""
    if bits in (8, 16):
        return values.astype(np.uint8 if bits == 8 else np.uint16)
    top = 255 if bits < 8 else 65535
    wide = np.uint32 if bits < 15 else np.uint64
    white = (1 << bits) - 1
    if bits >= 32:
        scaled = np.rint(values.astype(np.float64) * (top / white))
    else:
        numbers: NDArray[Any] = values.astype(wide)
        scaled = (numbers * (2 * top) + white) // (2 * white)
    return np.asarray(scaled.astype(np.uint8 if bits < 8 else np.uint16))


def scaled_float(values: NDArray[np.floating], label: str) -> tuple[NDArray[np.uint16], list[str]]:
    """Floating-point samples → uint16. Taken as 0..1, 0..255 or 0..65535, whichever the largest value suggests."""
    if not np.isfinite(values).all():
        raise ImageReadError(
            f"{label} contains values that are not numbers (NaN or infinity); repair or export it again"
        )
    top = float(values.max())
    if top > 65535:
        raise ImageReadError(f"{label} has floating-point values up to {top:g}; scale them to 0..1 first")
    white = 1.0 if top <= 16 else 255.0 if top <= 255 else 65535.0  # up to 16: highlights above white, clipped
    scaled = np.clip(values.astype(np.float64) / white, 0, 1) * 65535
    notes = [f"floating-point values 0..{white:g} were scaled to 16 bits"]
    if float(values.min()) < 0:
        notes.append("negative values became black")
    if top > white:
        notes.append("values above white became white")
    return np.rint(scaled).astype(np.uint16), notes
