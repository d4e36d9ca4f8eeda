"""Colours that a file describes without a profile: code points, PNG's own chunks, EXIF's Adobe RGB."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

from . import bmff, cicp, colour, icc
from .cicp import CodePoints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .decoded import Decoded

_UNCALIBRATED, _ADOBE_RGB = 65535, 2
_INTEROP_INDEX = 1


def with_colours(decoded: Decoded, picture: Image.Image, data: bytes, name: str) -> Decoded:
    """The picture with a profile that says what the file says in other words, and high dynamic range rendered."""
    points = _code_points(decoded, picture, data, name)
    grey = decoded.pixels.shape[2] == 1
    if points is not None and points.is_hdr:
        note = f"high dynamic range ({points.name}) was rendered for ordinary screens"
        alpha = decoded.alpha
        if alpha is not None and alpha.dtype == np.uint8:
            alpha = alpha.astype(np.uint16) * np.uint16(257)
        pixels = cicp.to_sdr(decoded.pixels, points)
        profile = cicp.profile(points, grey=grey)
        return replace(decoded, pixels=pixels, alpha=alpha, icc=profile, notes=(*decoded.notes, note))
    if points is not None:
        return replace(decoded, icc=cicp.profile(points, grey=grey))
    if decoded.icc is not None:
        return decoded
    profile = _png_profile(picture, grey=grey) if name == "PNG" else None
    if profile is None and not grey and _is_adobe_rgb(decoded.exif):
        profile = icc.adobe_rgb()
    return replace(decoded, icc=profile)


def _code_points(decoded: Decoded, picture: Image.Image, data: bytes, name: str) -> CodePoints | None:
    """The code points that hold: PNG's come before a profile, those of other formats after it.

    A profile may carry code points itself. They count only for high dynamic range, which its curves cannot render.
    """
    if name == "PNG" and (content := _png_chunk(data, b"cICP")):
        return CodePoints(content[0], content[1]) if len(content) == 4 else None
    if decoded.icc is not None:
        announced = icc.code_points(decoded.icc)
        points = None if announced is None else CodePoints(*announced)
        return points if points is not None and points.is_hdr else None
    if name == "HEIF" and (nclx := picture.info.get("nclx_profile")):
        return CodePoints(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    if name == "AVIF":
        return _nclx(data)
    return None


def _nclx(data: bytes) -> CodePoints | None:
    for box in bmff.inside(data, b"meta", b"iprp", b"ipco", b"colr"):
        if data[box.start : box.start + 4] == b"nclx" and box.end - box.start >= 11:
            return CodePoints(*struct.unpack(">HH", data[box.start + 4 : box.start + 8]))
    return None


def jpeg2000_profile(data: bytes) -> bytes | None:
    """The ICC profile of a JP2 file (methods 2 and 3 of its `colr` box)."""
    for box in bmff.inside(data, b"jp2h", b"colr"):
        if data[box.start] in (2, 3):
            return data[box.start + 3 : box.end]
    return None


# --- PNG --------------------------------------------------------------------------------------------------------------


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks before the pixels."""
    position = 8
    while position + 12 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind in (b"IDAT", b"IEND"):
            return
        yield kind, data[position + 8 : position + 8 + size]
        position += 12 + size


def _png_chunk(data: bytes, wanted: bytes) -> bytes | None:
    return next((content for kind, content in png_chunks(data) if kind == wanted), None)


def _png_profile(picture: Image.Image, *, grey: bool) -> bytes | None:
    """From gAMA and cHRM, unless an sRGB chunk says that they are only an approximation of it."""
    info = picture.info
    if "srgb" in info:
        return None
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity")
    if gamma is None and chromaticity is None:
        return None
    if gamma is not None and not 0.05 <= gamma <= 5:
        return None
    curve = _gamma_curve(gamma)
    if grey:
        return None if curve is icc.srgb_to_linear else icc.grey_profile(curve)
    primaries = icc.SRGB_PRIMARIES if chromaticity is None else _chromaticities(chromaticity)
    try:
        profile = icc.rgb_profile(primaries, curve)
    except ValueError:
        return None
    return None if colour.is_srgb(profile) else profile


def _gamma_curve(gamma: float | None) -> Any:
    """PNG's gamma 1/2.2 stands for sRGB's curve, as programs write it."""
    if gamma is None or abs(gamma - 1 / 2.2) < 0.005:
        return icc.srgb_to_linear
    return lambda values: values ** (1 / gamma)


def _chromaticities(values: tuple[float, ...]) -> icc.Chromaticities:
    white, red, green, blue = ((float(x), float(y)) for x, y in zip(values[::2], values[1::2]))
    return red, green, blue, white


# --- EXIF -------------------------------------------------------------------------------------------------------------


def _is_adobe_rgb(exif: bytes | None) -> bool:
    """The option file format of DCF 2.0: cameras announce Adobe RGB by a colour space and an interoperability index."""
    if exif is None:
        return False
    try:
        tags = Image.Exif()
        tags.load(exif)
        block = tags.get_ifd(IFD.Exif)
        space = block.get(Base.ColorSpace)
        index = tags.get_ifd(IFD.Interop).get(_INTEROP_INDEX) or ""
        return space == _ADOBE_RGB or (space == _UNCALIBRATED and str(index).strip("\0 ") == "R03")
    except Exception:  # damaged EXIF fails in many ways inside Pillow
        return False
