"""EXIF and XMP of a photo: kept, except for what no longer holds (orientation) or must not leave (GPS)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.ExifTags import IFD, Base

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER = b"Exif\x00\x00"
# In a TIFF file the EXIF tags share a directory with the layout of the pixels; only these describe the photo.
_DESCRIPTIVE = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Copyright,
    Base.Rating,
)
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")
_XMP_GPS = re.compile(
    rb"""\s*exif:GPS\w+\s*=\s*(?:"[^"]*"|'[^']*')|\s*<exif:GPS(\w+)(?:\s[^>]*)?(?:/>|>.*?</exif:GPS\1\s*>)""", re.DOTALL
)


def orientation(picture: Image.Image) -> int:
    """The EXIF (or XMP) orientation, 1 to 8; 1 when there is none or it makes no sense."""
    try:
        value = picture.getexif().get(Base.Orientation, 1)
    except Exception:  # damaged EXIF fails in many ways inside Pillow
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright_exif(picture: Image.Image) -> tuple[bytes | None, bool]:
    """EXIF for the upright, full-size pixels, and whether it could be read.

    Orientation is set to 1. The embedded thumbnail is left out: it shows the picture before restoration.
    """
    try:
        source = picture.getexif()
        wanted = _DESCRIPTIVE if picture.format == "TIFF" else tuple(source)
        exif = _copied(source, wanted, (IFD.Exif, IFD.GPSInfo))
        exif.pop(Base.Orientation, None)
        if not len(exif):
            return None, True
        exif[Base.Orientation] = 1
        return exif.tobytes(), True
    except Exception:  # damaged EXIF fails in many ways inside Pillow
        return None, False


def _copied(source: Image.Exif, wanted: Iterable[int], blocks: tuple[int, ...]) -> Image.Exif:
    """A new record with these tags and blocks of tags; `source` may belong to a picture of the caller."""
    out = Image.Exif()
    for tag in wanted:
        if tag in source and tag not in (IFD.Exif, IFD.GPSInfo):
            out[tag] = source[tag]
    for block in blocks:
        if content := source.get_ifd(block):
            out[block] = dict(content)
    return out


def exif_without_gps(exif: bytes) -> bytes | None:
    """The same EXIF without its GPS block; None when it cannot be parsed (then nothing of it may leave)."""
    try:
        tags = _load(exif)
        return _copied(tags, tuple(tags), (IFD.Exif,)).tobytes()
    except Exception:  # see orientation
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


def upright_xmp(xmp: bytes) -> bytes:
    """The same packet with `tiff:Orientation`, if present, set to 1."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def xmp_without_gps(xmp: bytes) -> bytes:
    """The same packet without its `exif:GPS…` properties."""
    return _XMP_GPS.sub(b"", xmp)


def clean_dpi(value: Any) -> tuple[float, float] | None:
    """A resolution as two sensible numbers of dots per inch, or None."""
    try:
        horizontal, vertical = (float(v) for v in value)
    except Exception:  # Pillow hands out whatever the file said
        return None
    if not all(math.isfinite(v) and 0 < v < 65536 for v in (horizontal, vertical)):
        return None
    return horizontal, vertical
