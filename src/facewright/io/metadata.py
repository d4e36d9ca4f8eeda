"""EXIF and XMP of a photo: kept, except for what no longer holds (orientation) or must not leave (GPS)."""

from __future__ import annotations

import io
import logging
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

_IPTC = 0x0404  # number of the IPTC-IIM record among Photoshop's resources
_HEADER = b"Exif\x00\x00"
# In a TIFF file the EXIF tags share a directory with the layout of the pixels; only these describe the photo.
_DESCRIPTIVE = (
    Base.DocumentName,
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.PageName,
    Base.PageNumber,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Rating,
    Base.RatingPercent,
    Base.Copyright,
    Base.ImageID,
    Base.ImageHistory,
    Base.SecurityClassification,
    Base.XPTitle,
    Base.XPComment,
    Base.XPAuthor,
    Base.XPKeywords,
    Base.XPSubject,
    Base.UniqueCameraModel,
    Base.CameraSerialNumber,
)


def orientation(picture: Image.Image) -> int:
    """The EXIF (or XMP) orientation, 1 to 8; 1 when there is none or it makes no sense.

    JPEG XL turns its pixels itself, and says so in EXIF nevertheless; only JPEGs inside it are as they were.
    """
    if picture.format == "JXL" and not getattr(picture, "jpeg", False):
        return 1
    try:
        value = picture.getexif().get(Base.Orientation, 1)
    except Exception as error:  # damaged EXIF fails in many ways inside Pillow
        logger.info("damaged EXIF, taken as upright: %s", error)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright_exif(picture: Image.Image) -> tuple[bytes | None, bool]:
    """EXIF for the upright, full-size pixels, and whether it could be read.

    Orientation is set to 1. The embedded thumbnail is left out: it shows the picture before restoration.
    """
    try:
        source = picture.getexif()
        wanted = _DESCRIPTIVE if picture.format == "TIFF" else tuple(source)
        return _upright(source, wanted), True
    except Exception as error:  # damaged EXIF fails in many ways inside Pillow
        logger.info("damaged EXIF, left out: %s", error)
        return None, False


@dataclass(frozen=True, slots=True)
class TiffTags:
    """What describes the photo among the tags of a TIFF; `readable` is whether the EXIF among them was."""

    orientation: int
    exif: bytes | None
    readable: bool
    xmp: bytes | None
    dpi: tuple[float, float] | None
    iptc: bytes | None


def tiff_tags(page: Any, head: Any, data: bytes) -> TiffTags:
    """The tags of a directory (of tifffile), and where it has none those of `head`, which leads to it."""
    big_endian = data[:4] == b"MM\0+"  # a BigTIFF that Pillow's parser does not take for one
    exif, readable = _plain_exif(head) if big_endian else tiff_exif(data, head.offset)
    return TiffTags(
        orientation=_tiff_orientation(page, head),
        exif=exif,
        readable=readable,
        xmp=_tiff_bytes(page, 700) or _tiff_bytes(head, 700),
        dpi=_tiff_resolution(page),
        iptc=_tiff_bytes(head, 33723) or iptc_of_photoshop(_tiff_bytes(head, 34377) or b""),
    )


def _tiff_orientation(page: Any, head: Any) -> int:
    for directory in (page, head):
        value = directory.tags.valueof(274, None)
        if value is not None and 1 <= int(value) <= 8:
            return int(value)
    return 1


def _tiff_bytes(page: Any, code: int) -> bytes | None:
    tag = page.tags.get(code)
    if tag is None:
        return None
    value = tag.value
    if isinstance(value, bytes):
        return value
    kind = {1: "u1", 7: "u1", 3: "u2", 4: "u4"}.get(int(tag.dtype))  # IPTC records are found as 32-bit numbers, too
    try:
        return None if kind is None else np.asarray(value).astype(page.parent.byteorder + kind).tobytes()
    except (ValueError, TypeError, OverflowError):
        return None


def _tiff_resolution(page: Any) -> tuple[float, float] | None:
    try:
        unit = int(page.tags.valueof(296, 2))
        per_inch = {2: 1.0, 3: 2.54}[unit]
        values = [page.tags.valueof(code) for code in (282, 283)]
        return clean_dpi([per_inch * numerator / denominator for numerator, denominator in values])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _plain_exif(head: Any) -> tuple[bytes | None, bool]:
    """The texts and numbers of a directory, without the blocks below it; whether it has none of those."""
    exif = Image.Exif()
    for tag in _DESCRIPTIVE:
        value = head.tags.valueof(tag)
        if isinstance(value, tuple) and int(head.tags[tag].dtype) == 1:
            value = bytes(value)
        if isinstance(value, str | bytes | int):
            exif[tag] = value
    return _marked_upright(exif), not any(block in head.tags for block in (IFD.Exif, IFD.GPSInfo))


def tiff_exif(data: bytes, offset: int) -> tuple[bytes | None, bool]:
    """EXIF of the directory at this place of a TIFF file, and whether it could be read."""
    try:
        tags = _directory(data, offset)
        exif = Image.Exif()
        for tag in _DESCRIPTIVE:
            if tag in tags:
                exif[tag] = tags[tag]
        for block in (IFD.Exif, IFD.GPSInfo):
            if block in tags:
                exif[block] = _directory(data, int(tags[block]), block)
        return _marked_upright(exif), True
    except Exception as error:  # see orientation
        logger.info("damaged EXIF of a TIFF, left out: %s", error)
        return None, False


def _directory(data: bytes, offset: int, group: int | None = None) -> dict[int, Any]:
    """The tags there, single numbers as such."""
    directory = ImageFileDirectory_v2(data[: 16 if data[2:4] == b"+\0" else 8], group=group)
    file = io.BytesIO(data)
    file.seek(offset)
    directory.load(file)
    return {
        tag: value[0] if isinstance(value, tuple) and len(value) == 1 else value for tag, value in directory.items()
    }


def _upright(source: Image.Exif, wanted: Iterable[int]) -> bytes | None:
    exif = _copied(source, wanted, (IFD.Exif, IFD.GPSInfo))
    exif.pop(Base.Orientation, None)
    return _marked_upright(exif)


def _marked_upright(exif: Image.Exif) -> bytes | None:
    if not len(exif):
        return None
    exif[Base.Orientation] = 1
    return exif.tobytes()


def iptc_of_photoshop(blocks: bytes) -> bytes | None:
    """The IPTC-IIM record among Photoshop's resource blocks (number 0x0404)."""
    position = 0
    while blocks[position : position + 4] == b"8BIM" and position + 12 <= len(blocks):
        number = int.from_bytes(blocks[position + 4 : position + 6], "big")
        start = position + 6 + (blocks[position + 6] // 2 + 1) * 2  # a name of even length with its count
        size = int.from_bytes(blocks[start : start + 4], "big")
        content = blocks[start + 4 : start + 4 + size]
        if number == _IPTC and content:
            return content
        position = start + 4 + size + size % 2
    return None


def photoshop_of_iptc(iptc: bytes) -> bytes:
    """The inverse of `iptc_of_photoshop`."""
    return b"8BIM" + struct.pack(">H", _IPTC) + b"\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)


def _copied(source: Image.Exif, wanted: Iterable[int], blocks: tuple[int, ...]) -> Image.Exif:
    """A new record with these tags and blocks of tags; `source` may belong to a picture of the caller."""
    out = Image.Exif()
    for tag in wanted:
        if tag in source and tag not in (IFD.Exif, IFD.GPSInfo):
            out[tag] = source[tag]
    for block in blocks:
        if content := dict(source.get_ifd(block)):
            if block == IFD.Exif and IFD.Interop in content:
                content[IFD.Interop] = dict(source.get_ifd(IFD.Interop))
            out[block] = content
    return out


def exif_without_gps(exif: bytes) -> bytes | None:
    """The same EXIF without its GPS block; None when it cannot be parsed (then nothing of it may leave)."""
    try:
        tags = _load(exif)
        return _copied(tags, tuple(tags), (IFD.Exif,)).tobytes()
    except Exception as error:  # see orientation
        logger.info("EXIF whose GPS part cannot be taken out, left out: %s", error)
        return None


def exif_sized(exif: bytes, width: int, height: int) -> bytes:
    """The same EXIF with its record of the picture's size, if there is one, brought up to date."""
    try:
        tags = _load(exif)
        block: dict[int, Any] = dict(tags.get_ifd(IFD.Exif))
        if not {Base.ExifImageWidth, Base.ExifImageHeight} & block.keys():
            return exif
        block.update({Base.ExifImageWidth: width, Base.ExifImageHeight: height})
        tags[IFD.Exif] = block
        return tags.tobytes()
    except Exception:  # see orientation
        return exif


def _load(exif: bytes) -> Image.Exif:
    tags = Image.Exif()
    tags.load(exif)
    return tags


def without_header(exif: bytes) -> bytes:
    """The bare TIFF block of an EXIF chunk, as PNG and WebP store it."""
    return exif.removeprefix(_HEADER)


def clean_dpi(value: Any) -> tuple[float, float] | None:
    """A resolution as two sensible numbers of dots per inch, or None."""
    try:
        horizontal, vertical = (float(v) for v in value)
    except Exception:  # Pillow hands out whatever the file said
        return None
    if not all(math.isfinite(v) and 0 < v < 65536 for v in (horizontal, vertical)):
        return None
    return horizontal, vertical
