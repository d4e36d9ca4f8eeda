"""More than 8 bits per channel, which Pillow reduces to 8: read again by a library that does not, and compared.

Two decoders that do not agree on a picture cannot both be right; such a file is refused.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np

from ..errors import ImageReadError
from . import bmff, metadata
from .decoded import split_alpha, turned, widened
from .described import png_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_PNG_GREY_WITH_ALPHA = 4
_LOSSY = frozenset({"HEIF", "AVIF", "JXL"})


def planes(
    data: bytes, name: str, picture: Image.Image, page: int, label: str
) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None] | None:
    """Upright 16-bit colour and alpha of a file that Pillow read into `picture` with 8 bits; None if it has no more.

    Raises ImageReadError when the two readings differ.
    """
    if picture.mode not in ("L", "LA", "RGB", "RGBA"):
        return None
    values = _values(data, name, page)
    if values is None:
        return None
    shallow = np.asarray(picture).reshape(*picture.size[::-1], -1)
    if values.shape[2] in (1, 2) and shallow.shape[2] >= 3:
        values = values[..., [0, 0, 0, 1][: shallow.shape[2]]]
    if values.shape[2] in (2, 4) and shallow.shape[2] == values.shape[2] - 1:  # a colour key, which Pillow notes apart
        comparable = values[..., :-1]
    else:
        comparable = values
    if not _agree(comparable, shallow, name):
        raise ImageReadError(
            f"{label} cannot be read with certainty: two decoders see different pictures in it; "
            "export it again as PNG or TIFF"
        )
    return split_alpha(turned(values, metadata.orientation(picture)))


def _values(data: bytes, name: str, page: int) -> NDArray[np.uint16] | None:
    """(H, W, 1..4) uint16 over the full range, as stored; None for pictures of 8 bits."""
    reader = {
        "PNG": _png,
        "PPM": _ppm,
        "JPEG2000": _jpeg2000,
        "HEIF": _heif,
        "AVIF": _avif,
        "JXL": _jpeg_xl,
    }.get(name)
    values = None if reader is None else reader(data, page)
    if values is None:
        return None
    return values[..., None] if values.ndim == 2 else values


def _agree(deep: NDArray[np.uint16], shallow: NDArray[np.uint8], name: str) -> bool:
    if deep.shape != shallow.shape:
        return False
    difference = np.abs((deep.astype(np.float32) / 257) - shallow)
    if name == "JPEG2000":  # Pillow rounds white up to 256 and stores that as black
        difference = np.minimum(difference, 256 - difference)
    if name in _LOSSY:  # colours of lower resolution are enlarged by different filters
        return float(difference.mean()) <= 1.5 and float((difference > 12).mean()) <= 0.01
    return float(difference.max()) <= 1.5  # some reducers round up


def _png(data: bytes, page: int) -> NDArray[np.uint16] | None:
    if data[24] != 16 or page:
        return None
    values = cv2.imdecode(np.frombuffer(_bare_png(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise OSError("unsupported pixel layout")
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    if data[25] == _PNG_GREY_WITH_ALPHA:
        return np.asarray(values[..., [0, 3]])
    key = next((content for kind, content in png_chunks(data) if kind == b"tRNS"), b"")
    if values.ndim == 3 and values.shape[2] == 3 and len(key) == 6:
        clear = (values == np.frombuffer(key, ">u2").astype(np.uint16)).all(-1)
        values = np.dstack([values, np.where(clear, 0, 65535).astype(np.uint16)])
    return np.asarray(values)


def _bare_png(data: bytes) -> bytes:
    """Only the chunks that make the pixels, so that libpng has nothing else to complain about on the terminal."""
    out, position = [data[:8]], 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in (b"IHDR", b"PLTE", b"IDAT"):
            out.append(data[position:end])
        position = end
    return b"".join([*out, b"\0\0\0\0IEND\xaeB`\x82"])


_PPM_HEAD = re.compile(
    rb"P([36])(?:\s|#[^\n\r]*[\n\r])+(\d+)(?:\s|#[^\n\r]*[\n\r])+(\d+)(?:\s|#[^\n\r]*[\n\r])+(\d+)\s"
)


def _ppm(data: bytes, page: int) -> NDArray[np.uint16] | None:
    """Colour of more than 8 bits, binary or in digits; Pillow reads the grey ones itself."""
    head = _PPM_HEAD.match(data[:4096])
    if head is None:
        return None
    width, height, top = (int(head[i]) for i in (2, 3, 4))
    if not 255 < top < 65536:
        return None
    if head[1] == b"6":
        values = np.frombuffer(data, ">u2", width * height * 3, head.end())
    else:
        digits = re.sub(rb"#[^\n\r]*", b"", data[head.end() :]).split()
        values = np.array(digits[: width * height * 3], np.uint32)
    scaled = (np.minimum(values, top).astype(np.uint64) * 131070 + top) // (2 * top)
    return np.asarray(scaled.reshape(height, width, 3).astype(np.uint16))


def _jpeg2000(data: bytes, page: int) -> NDArray[np.uint16] | None:
    start = data.find(b"\xff\x4f\xff\x51")
    depth = data[start + 42]  # Ssiz of the first component
    if start < 0 or not 8 < depth + 1 <= 16:  # the highest bit stands for signed samples
        return None
    return _whole(imagecodecs.jpeg2k_decode(data), depth + 1)


def _heif(data: bytes, page: int) -> NDArray[np.uint16] | None:
    import pillow_heif

    file: Any = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index if page == 0 else page]
    bits = int(image.info.get("bit_depth", 8))
    if bits <= 8 or not image.mode.endswith(";16"):
        return None
    return _whole(np.asarray(image) >> (16 - bits), bits)  # they come shifted to the top of 16 bits


def _avif(data: bytes, page: int) -> NDArray[np.uint16] | None:
    configuration = next(bmff.inside(data, b"meta", b"iprp", b"ipco", b"av1C"), None)
    if configuration is None or not data[configuration.start + 2] & 0x40:
        return None
    bits = 12 if data[configuration.start + 2] & 0x20 else 10
    return _whole(imagecodecs.avif_decode(data, page), bits)


def _jpeg_xl(data: bytes, page: int) -> NDArray[np.uint16] | None:
    values = np.asarray(imagecodecs.jpegxl_decode(data, 0, keeporientation=False))
    if values.dtype.kind == "f":
        return np.rint(np.clip(values.astype(np.float64), 0, 1) * 65535).astype(np.uint16)
    return values if values.dtype == np.uint16 else None


def _whole(values: NDArray[Any], bits: int) -> NDArray[np.uint16]:
    if values.dtype != np.uint16:
        raise OSError("unsupported pixel layout")
    return np.asarray(widened(values, bits))
