"""From pixels and metadata to the bytes of a file."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import OutputError, UsageError
from . import colour, metadata
from .decode import load_plugins
from .extras import Extras, raw_profile
from .kinds import BY_NAME, PHOTOS
from .xmp import without_announcements

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = {suffix: kind.name for kind in PHOTOS for suffix in kind.writes}
XMP_FORMATS = frozenset({"JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF", "JXL"})
"""Formats that carry EXIF and XMP. The others (BMP, GIF, JPEG 2000, PPM) hold nothing but the picture here."""
_ICC_FORMATS = XMP_FORMATS - {"JXL"}
_IPTC_FORMATS = frozenset({"JPEG", "PNG", "TIFF"})
_COMMENT_FORMATS = frozenset({"JPEG", "PNG", "GIF"})
_BITS = {"PNG": 16, "TIFF": 16, "PPM": 16, "JPEG2000": 16, "HEIF": 10}
_OPAQUE_FORMATS = frozenset({"JPEG", "BMP", "PPM"})
_ATTACHING = (frozenset({"JPEG"}), frozenset({"HEIF", "AVIF"}))
_OPENJPEG_SRGB, _OPENJPEG_GREY = 1, 2
_RESOLUTION_FORMATS = frozenset({"JPEG", "PNG", "TIFF", "BMP"})
_SCREENS = ((72.0, 72.0), (96.0, 96.0))  # what programs write that know nothing better
_LEAST_BAND, _LONGER = 32, 1.05  # rows on which the ways of compressing a PNG are compared, and what speed may cost
_JPEG_SEGMENT = 65_500  # EXIF, XMP and IPTC have to fit into one JPEG segment each


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What to write: (H, W, 1 or 3) pixels and (H, W) alpha or None, both uint8 or uint16, with their metadata.

    `source_format` is the format that `extras.attached` comes from.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    extras: Extras = field(default_factory=Extras)
    source_format: str = ""


def format_of(path: PurePath | str, format_name: str | None = None) -> str:
    """The format a file will have: the one asked for, else by suffix. UsageError lists the possible ones."""
    if format_name is not None:
        name = {"JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF"}.get(format_name.upper(), format_name.upper())
        if name not in SUFFIXES.values():
            raise UsageError(
                f"unknown picture format {format_name!r}; known: {', '.join(dict.fromkeys(SUFFIXES.values()))}"
            )
        return _with_library(name)
    suffix = PurePath(path).suffix.lower()
    if suffix not in SUFFIXES:
        what = f"unknown suffix {suffix!r}" if suffix else "no suffix"
        raise UsageError(f"{path}: {what}, so the picture format is unclear; use one of {' '.join(SUFFIXES)}")
    return _with_library(SUFFIXES[suffix])


def _with_library(format_name: str) -> str:
    """The format itself; UsageError when the library that writes it is missing."""
    kind = BY_NAME[format_name]
    if kind.needs is not None and not kind.readable:
        raise UsageError(f"{kind.title} cannot be written without a further library; {kind.needs.advice}, or write PNG")
    return format_name


def encode(picture: Picture, file: IO[bytes], format_name: str, quality: int) -> None:
    """Write a picture. UsageError when the format cannot hold its transparency."""
    load_plugins()
    picture = _fitting(picture, format_name)
    deep = picture.pixels.dtype == np.uint16
    if format_name == "TIFF":
        TiffPages(file).add(picture)
    elif format_name == "PNG" and deep:
        _write_deep_png(picture, file)
    elif format_name == "PPM" and deep:
        _write_deep_ppm(picture, file)
    elif format_name == "JPEG2000" and deep:
        file.write(_deep_jpeg2000(picture))
    elif format_name == "HEIF" and deep and picture.pixels.shape[2] == 3:
        _write_deep_heif(picture, file, quality)
    else:
        options = _pillow_options(picture, format_name, quality)
        pil = to_pil(eight_bit(picture.pixels), None if picture.alpha is None else eight_bit(picture.alpha))
        if format_name == "GIF" and pil.mode == "RGB":
            pil = pil.quantize(256)
        if format_name == "PNG":
            options["compress_type"] = _png_strategy(pil)
        pil.save(file, format_name, **options)
    if picture.extras.attached:
        file.write(picture.extras.attached)


def losses(picture: Picture, format_name: str) -> tuple[str, ...]:
    """What of a picture its file in a format will lack, in words."""
    title, extras = BY_NAME[format_name].title, picture.extras
    bits, found = _BITS.get(format_name, 8), []
    if format_name == "HEIF" and picture.pixels.shape[2] == 1:
        bits = 8
    if picture.pixels.dtype == np.uint16 and bits < 16:
        found.append(f"16 bits per channel were rounded to {bits}, {title} holds no more here")
    if picture.icc and format_name not in _ICC_FORMATS:
        found.append(f"colours were converted to sRGB, {title} has no place for a colour profile here")
    if (picture.exif or picture.xmp) and format_name not in XMP_FORMATS:
        found.append(f"EXIF and XMP were left out, {title} has no place for them here")
    if picture.dpi and not picture.exif and format_name not in _RESOLUTION_FORMATS and picture.dpi not in _SCREENS:
        found.append(f"the resolution ({picture.dpi[0]:g} dpi) was left out, {title} has no place for it here")
    if format_name == "JPEG" and max(len(picture.exif or b""), len(picture.xmp or b"")) > _JPEG_SEGMENT:
        found.append("EXIF or XMP was left out, it is too long for a JPEG")
    if extras.iptc and (format_name not in _IPTC_FORMATS or len(extras.iptc) > _JPEG_SEGMENT):
        found.append(f"the IPTC record was left out, {title} has no place for it")
    if extras.comment and format_name not in _COMMENT_FORMATS:
        found.append(f"the comment was left out, {title} has no place for it")
    if extras.texts and format_name != "PNG":
        names = ", ".join(key for key, _ in extras.texts[:6]) + (" ..." if len(extras.texts) > 6 else "")
        found.append(f"texts were left out ({names}), {title} has no place for them")
    if extras.beside and not _attaches(picture, format_name):
        found.append(f"left out with the record of it: {', '.join(extras.beside)}")
    return tuple(found)


def _attaches(picture: Picture, format_name: str) -> bool:
    """Whether what came behind the picture in its file can follow it in the new one."""
    pair = {picture.source_format, format_name}
    return picture.extras.attached is not None and any(pair <= family for family in _ATTACHING)


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
    extras = picture.extras
    if extras.beside and not _attaches(picture, format_name):
        extras = replace(extras, attached=None)
        xmp = without_announcements(xmp) if xmp else None
    if format_name == "JPEG":
        xmp = xmp if xmp and len(xmp) <= _JPEG_SEGMENT else None
    if exif is not None:
        exif = metadata.exif_sized(exif, picture.pixels.shape[1], picture.pixels.shape[0])
    pixels, icc = picture.pixels, picture.icc
    if icc and format_name not in _ICC_FORMATS:
        pixels, icc = colour.pixels_to_srgb(pixels, icc), None
    return replace(picture, pixels=pixels, alpha=alpha, icc=icc, exif=exif, xmp=xmp, extras=extras)


def _pillow_options(picture: Picture, format_name: str, quality: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    extras = picture.extras
    if format_name in XMP_FORMATS:
        if picture.icc:
            options["icc_profile"] = picture.icc
        if picture.exif:
            options["exif"] = picture.exif
        if picture.xmp and format_name != "PNG":
            options["xmp"] = picture.xmp
    if format_name == "PNG":
        options["pnginfo"] = _png_texts(picture)
    if format_name == "JPEG" and extras.iptc and len(extras.iptc) <= _JPEG_SEGMENT:
        content = b"Photoshop 3.0\0" + metadata.photoshop_of_iptc(extras.iptc)
        options["extra"] = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
    if format_name in ("JPEG", "GIF") and extras.comment:
        options["comment"] = extras.comment
    if picture.dpi and format_name in ("JPEG", "PNG", "BMP"):
        options["dpi"] = picture.dpi
    return options | _quality_options(format_name, quality)


def _png_strategy(pil: Image.Image) -> int:
    """Run lengths where they are as short as zlib's search on a band from the middle: mostly, in a third of the time.

    Grey photos stored in colour, drawings and text have repeats that only the search finds.
    """
    height = min(pil.height, max(_LEAST_BAND, pil.height // 16))
    top = (pil.height - height) // 2
    band = pil.crop((0, top, pil.width, top + height))
    sizes = []
    for strategy in (Image.DEFAULT_STRATEGY, Image.RLE):
        file = BytesIO()
        band.save(file, "PNG", compress_type=strategy)
        sizes.append(file.tell())
    return int(Image.RLE if sizes[1] <= _LONGER * sizes[0] else Image.DEFAULT_STRATEGY)


def _png_texts(picture: Picture) -> PngImagePlugin.PngInfo:
    """XMP, and texts as they were; IPTC as ImageMagick and ExifTool store and find it."""
    info = PngImagePlugin.PngInfo()
    for key, value in picture.extras.texts:
        if all(ord(letter) < 256 for letter in value):
            info.add_text(key, value)
        else:
            info.add_itxt(key, value)
    comment = picture.extras.comment
    if comment and "Comment" not in dict(picture.extras.texts):
        info.add_itxt("Comment", comment.decode("utf-8", "replace"))
    if picture.extras.iptc:
        blocks = metadata.photoshop_of_iptc(picture.extras.iptc)
        info.add_text("Raw profile type iptc", raw_profile("iptc", blocks), zip=True)
    if picture.xmp:
        info.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    return info


def _quality_options(format_name: str, quality: int) -> dict[str, Any]:
    if format_name == "JPEG":
        return {"quality": quality, "subsampling": "4:4:4", "optimize": True}
    if format_name == "JXL":
        return {"quality": quality, "use_container": True}
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
    for kind, content, _ in _png_texts(picture).chunks:
        _png_chunk(file, kind, content)
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


def _write_deep_ppm(picture: Picture, file: IO[bytes]) -> None:
    height, width, channels = picture.pixels.shape
    file.write(f"P{6 if channels == 3 else 5}\n{width} {height}\n65535\n".encode())
    file.write(picture.pixels.astype(">u2").tobytes())


def _deep_jpeg2000(picture: Picture) -> bytes:
    values = _joined(picture)
    values = values[..., 0] if values.shape[2] == 1 else values
    grey = values.ndim == 2 or values.shape[2] == 2
    content = imagecodecs.jpeg2k_encode(
        np.ascontiguousarray(values),
        level=0,
        reversible=True,
        codecformat="jp2",
        colorspace=_OPENJPEG_GREY if grey else _OPENJPEG_SRGB,
    )
    return bytes(content)


def _write_deep_heif(picture: Picture, file: IO[bytes], quality: int) -> None:
    """Ten bits per channel, as cameras write them."""
    import pillow_heif

    values = np.ascontiguousarray(_joined(picture))
    mode = "RGB;16" if picture.alpha is None else "RGBA;16"
    image = pillow_heif.from_bytes(mode, values.shape[1::-1], values.tobytes())
    if picture.icc:
        image.info["icc_profile"], image.info["icc_profile_type"] = picture.icc, "prof"
    options = {name: value for name in ("exif", "xmp") if (value := getattr(picture, name))}
    image.save(file, **_quality_options("HEIF", quality), **options)


class TiffPages:
    """Deflate-compressed pages of 8 or 16 bits, one after the other into an open file.

    Pillow, which cannot write 16-bit colour, lays out the tags.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._link: int | None = None  # where the place of the next page belongs

    def add(self, picture: Picture) -> None:
        """Append a page. OutputError beyond the 4 GiB that TIFF can address."""
        values = _joined(picture)
        if values.shape[2] == 2 and values.dtype == np.uint16:  # no common reader takes 16-bit grey with alpha
            values = values[..., [0, 0, 0, 1]]
        strip = zlib.compress(_tiff_samples(values))
        tags = _tiff_tags(picture, values, len(strip))
        if self._link is None:
            self._file.write(b"II*\0\x08\0\0\0")
        self._file.write(bytes(self._file.tell() % 2))
        offset = self._file.tell()
        directory = tags.tobytes(offset)
        if offset + len(directory) + len(strip) >= 1 << 32:
            raise OutputError("a TIFF cannot be larger than 4 GiB; write fewer pages, or one file for each")
        if self._link is not None:
            self._file.seek(self._link)
            self._file.write(struct.pack("<I", offset))
            self._file.seek(offset)
        self._file.write(directory)
        self._file.write(strip)
        self._link = offset + 2 + 12 * int.from_bytes(directory[:2], "little")


def _tiff_tags(picture: Picture, values: NDArray[Any], length: int) -> ImageFileDirectory_v2:
    height, width, channels = values.shape
    tags = _tiff_metadata(picture)
    tags[256], tags[257], tags[258] = width, height, (8 * values.dtype.itemsize,) * channels
    tags[259], tags[317] = 8, 2  # deflate after horizontal differencing
    tags[262] = 2 if channels >= 3 else 1  # RGB, or grey with zero for black
    tags[277], tags[284] = channels, 1
    if picture.alpha is not None:
        tags[338] = 2  # not premultiplied
    tags[273], tags[278], tags[279] = 0, height, length  # Pillow moves the strip's offset behind the tags
    return tags


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
    if picture.extras.iptc:
        tags[33723] = picture.extras.iptc
        tags.tagtype[33723] = 7
    if picture.dpi:
        tags[282], tags[283], tags[296] = *picture.dpi, 2
    return tags


def _joined(picture: Picture) -> NDArray[Any]:
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
