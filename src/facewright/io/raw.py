"""Camera raw files, developed by LibRaw through the optional library rawpy."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..errors import ImageReadError
from . import metadata
from .decoded import Decoded, check_page, check_size
from .kinds import BY_NAME

if TYPE_CHECKING:
    from types import ModuleType


def decode(data: bytes, label: str, *, page: int, max_pixels: int) -> Decoded:
    """The developed picture: 16-bit sRGB with the camera's white balance, upright.

    Raises ImageReadError, also where rawpy is not installed, and whatever a damaged file provokes.
    """
    check_page(page, 1, label)
    rawpy = _library(label)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            check_size((int(raw.sizes.width), int(raw.sizes.height)), label, max_pixels)
            pixels = raw.postprocess(
                use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB, gamma=(2.4, 12.92)
            )
    except rawpy.LibRawError as error:
        raise ImageReadError(
            f"{label} is a camera raw file that cannot be developed ({_reason(error)}); export it as TIFF or JPEG"
        ) from error
    return Decoded(
        pixels, None, "RAW", exif=_exif(data), notes=("developed from camera raw with the camera's white balance",)
    )


def _reason(error: Exception) -> str:
    content = error.args[0] if error.args else ""
    return content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)


def _library(label: str) -> ModuleType:
    needs = BY_NAME["RAW"].needs
    assert needs is not None
    try:
        import rawpy
    except ImportError:
        raise ImageReadError(
            f"{label} is a camera raw file; install a raw converter ({needs.advice}), or export it as TIFF or JPEG"
        ) from None
    module: ModuleType = rawpy
    return module


def _exif(data: bytes) -> bytes | None:
    """The camera's notes, where the file is a TIFF at heart."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    return metadata.tiff_exif(data, int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big"))[0]
