"""From pixels and metadata to the bytes of a file."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import UsageError
from . import metadata
from .decode import load_plugins
from .kinds import PHOTOS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = {suffix: kind.name for kind in PHOTOS for suffix in kind.writes}
XMP_FORMATS = frozenset({"JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF"})
"""Formats that carry EXIF and XMP. The others (BMP, GIF, JPEG 2000, PPM) hold nothing but the picture here."""
_OPAQUE_FORMATS = frozenset({"JPEG", "BMP", "PPM"})
_JPEG_SEGMENT = 65_500  # EXIF and XMP have to fit into one JPEG segment each


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What to write: (H, W, 1 or 3) pixels and (H, W) alpha or None, both uint8 or uint16, with their metadata."""

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None


def format_of(path: PurePath | str, format_name: str | None = None) -> str:
    """The format a file will have: the one asked for, else by suffix. UsageError lists the possible ones."""
    if format_name is not None:
        name = {"JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF"}.get(format_name.upper(), format_name.upper())
        if name not in SUFFIXES.values():
            raise UsageError(
                f"unknown picture format {format_name!r}; known: {', '.join(dict.fromkeys(SUFFIXES.values()))}"
            )
        return name
    suffix = PurePath(path).suffix.lower()
    if suffix not in SUFFIXES:
        what = f"unknown suffix {suffix!r}" if suffix else "no suffix"
        raise UsageError(f"{path}: {what}, so the picture format is unclear; use one of {' '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def encode(picture: Picture, file: IO[bytes], format_name: str, quality: int) -> None:
    """Write a picture. UsageError when the format cannot hold its transparency."""
    load_plugins()
    picture = _fitting(picture, format_name)
    deep = picture.pixels.dtype == np.uint16
    if format_name == "TIFF":
        _write_tiff(picture, file)
    elif format_name == "PNG" and deep:
        _write_deep_png(picture, file)
    else:
        options = _pillow_options(picture, format_name, quality)
        pil = to_pil(eight_bit(picture.pixels), None if picture.alpha is None else eight_bit(picture.alpha))
        if format_name == "GIF" and pil.mode == "RGB":
            pil = pil.quantize(256)
        pil.save(file, format_name, **options)


def to_pil(pixels: NDArray[Any], alpha: NDArray[Any] | None) -> Image.Image:
    """A PIL picture of mode L, LA, RGB or RGBA, or I;16 for 16-bit grey; 16-bit colour is rounded to 8 bits."""
    if pixels.dtype == np.uint16 and (pixels.shape[2] == 3 or alpha is not None):
        pixels, alpha = eight_bit(pixels), None if alpha is None else eight_bit(alpha)
    values = pixels if alpha is None else np.dstack([pixels, alpha])
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))


def eight_bit(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """8- or 16-bit values rounded to 8 bits."""
    if plane.dtype == np.uint8:
        return plane
    return ((plane.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _fitting(picture: Picture, format_name: str) -> Picture:
    """The picture without what the format cannot hold, if nothing visible is lost by that."""
    alpha, exif, xmp = picture.alpha, picture.exif, picture.xmp
    if alpha is not None and format_name in _OPAQUE_FORMATS:
        if int(alpha.min()) < np.iinfo(alpha.dtype).max:
            raise UsageError(f"{format_name} cannot hold transparency; write PNG, WebP or TIFF instead")
        alpha = None
    if format_name == "JPEG":
        exif = exif if exif and len(exif) <= _JPEG_SEGMENT else None
        xmp = xmp if xmp and len(xmp) <= _JPEG_SEGMENT else None
    if exif is not None:
        exif = metadata.exif_sized(exif, picture.pixels.shape[1], picture.pixels.shape[0])
    return Picture(picture.pixels, alpha, picture.icc, exif, xmp, picture.dpi)


def _pillow_options(picture: Picture, format_name: str, quality: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if format_name in XMP_FORMATS:
        if picture.icc:
            options["icc_profile"] = picture.icc
        if picture.exif:
            options["exif"] = picture.exif
        if picture.xmp and format_name == "PNG":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        elif picture.xmp:
            options["xmp"] = picture.xmp
    if picture.dpi and format_name in ("JPEG", "PNG", "BMP"):
        options["dpi"] = picture.dpi
    return options | _quality_options(format_name, quality)


def _quality_options(format_name: str, quality: int) -> dict[str, Any]:
    if format_name == "JPEG":
        return {"quality": quality, "subsampling": "4:4:4", "optimize": True}
    if format_name == "WEBP":
        return {"quality": quality, "method": 4}
    if format_name == "HEIF":
        return {"quality": quality, "chroma": "444"}
    if format_name == "AVIF":
        return {"quality": quality, "subsampling": "4:4:4"}
    return {}


def _write_deep_png(picture: Picture, file: IO[bytes]) -> None:
    """A 16-bit PNG (ISO/IEC 15948), which Pillow can only write in grey."""
    values = _joined(picture)
    height, width, channels = values.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(b"\x89PNG\r\n\x1a\n")
    _png_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    if picture.icc:
        _png_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc))
    if picture.dpi:
        horizontal, vertical = (round(v / 0.0254) for v in picture.dpi)
        _png_chunk(file, b"pHYs", struct.pack(">IIB", horizontal, vertical, 1))
    if picture.exif:
        _png_chunk(file, b"eXIf", metadata.without_header(picture.exif))
    if picture.xmp:
        _png_chunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp)
    _png_chunk(file, b"IDAT", zlib.compress(_png_rows(values)))
    _png_chunk(file, b"IEND", b"")


def _png_chunk(file: IO[bytes], kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def _png_rows(values: NDArray[np.uint16]) -> bytes:
    """Big-endian rows under PNG's filter 1 (each byte minus the same byte of the pixel to the left)."""
    height, _, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = rows.copy()
    filtered[:, 2 * channels :] -= rows[:, : -2 * channels]
    return np.hstack([np.ones((height, 1), np.uint8), filtered]).tobytes()


def _write_tiff(picture: Picture, file: IO[bytes]) -> None:
    """A deflate-compressed TIFF of 8 or 16 bits; Pillow, which cannot write 16-bit colour, lays out the tags."""
    values = _joined(picture)
    if values.shape[2] == 2 and values.dtype == np.uint16:  # no common reader takes 16-bit grey with alpha
        values = values[..., [0, 0, 0, 1]]
    height, width, channels = values.shape
    strip = zlib.compress(_tiff_samples(values))
    tags = _tiff_metadata(picture)
    tags[256], tags[257], tags[258] = width, height, (8 * values.dtype.itemsize,) * channels
    tags[259], tags[317] = 8, 2  # deflate after horizontal differencing
    tags[262] = 2 if channels >= 3 else 1  # RGB, or grey with zero for black
    tags[277], tags[284] = channels, 1
    if picture.alpha is not None:
        tags[338] = 2  # not premultiplied
    tags[273], tags[278], tags[279] = 0, height, len(strip)  # Pillow moves the strip's offset behind the tags
    tags.save(file)
    file.write(strip)


def _tiff_samples(values: NDArray[Any]) -> bytes:
    differences = values.copy()
    differences[:, 1:] -= values[:, :-1]
    return differences.astype(values.dtype.newbyteorder("<")).tobytes()


def _tiff_metadata(picture: Picture) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2()
    if picture.exif:
        exif = Image.Exif()
        exif.load(picture.exif)
        for tag, value in exif.items():
            tags[tag] = exif.get_ifd(tag) if tag in (0x8769, 0x8825) else value
    tags[274] = 1
    if picture.icc:
        tags[34675] = picture.icc
        tags.tagtype[34675] = 7
    if picture.xmp:
        tags[700] = picture.xmp
        tags.tagtype[700] = 1
    if picture.dpi:
        tags[282], tags[283], tags[296] = *picture.dpi, 2
    return tags


def _joined(picture: Picture) -> NDArray[Any]:
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
