"""ICC profiles made from numbers: for colours that a file describes in other ways than by a profile.

Version 2 of the format (ICC.1:2001-04): three matrix columns or none, and one curve.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""x and y of red, green, blue and white."""

D65 = (0.3127, 0.3290)
SRGB_PRIMARIES: Chromaticities = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
ADOBE_RGB_PRIMARIES: Chromaticities = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)

D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_STEPS = 1024


def srgb_to_linear(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """IEC 61966-2-1, on 0..1."""
    values = np.asarray(values)
    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: NDArray[np.floating]) -> NDArray[np.floating]:
    """The inverse of `srgb_to_linear`."""
    light = np.asarray(light)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def to_xyz(primaries: Chromaticities) -> NDArray[np.float64]:
    """(3, 3) from linear RGB to XYZ, white at Y = 1. ValueError when these chromaticities span no colours."""
    red, green, blue, white = ([x / y, 1.0, (1 - x - y) / y] if y > 0 else [np.nan] * 3 for x, y in primaries)
    columns = np.array([red, green, blue]).T
    if not np.isfinite(columns).all() or not np.isfinite(white).all() or abs(np.linalg.det(columns)) < 1e-6:
        raise ValueError("invalid primaries")
    return np.asarray(columns * np.linalg.solve(columns, np.array(white)))


def to_d50(white: NDArray[np.floating]) -> NDArray[np.float64]:
    """(3, 3) Bradford adaptation of XYZ from a white to D50."""
    scale = (_BRADFORD @ D50) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD)


def rgb_profile(primaries: Chromaticities, curve: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> bytes:
    """A display profile. `curve` takes coded values to light, both 0..1. ValueError as in `to_xyz`."""
    matrix = to_xyz(primaries)
    colorants = to_d50(matrix.sum(1)) @ matrix
    tags = {name: _xyz(colorants[:, column]) for column, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve)))


def grey_profile(curve: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> bytes:
    """The same for grey."""
    return _profile(b"GRAY", {b"kTRC": _curve(curve)})


def _adobe_curve(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(values ** (563 / 256))


@lru_cache(maxsize=1)
def adobe_rgb() -> bytes:
    """Adobe RGB (1998), which cameras announce by EXIF's interoperability index R03."""
    return rgb_profile(ADOBE_RGB_PRIMARIES, _adobe_curve)


def code_points(icc: bytes) -> tuple[int, int] | None:
    """Primaries and transfer function (ITU-T H.273) of a profile with a `cicp` tag (ICC.1:2022, 9.2.17)."""
    if len(icc) < 132:
        return None
    for index in range(min(int.from_bytes(icc[128:132], "big"), 100)):
        entry = icc[132 + 12 * index : 144 + 12 * index]
        if entry[:4] == b"cicp" and len(entry) == 12:
            offset = int.from_bytes(entry[4:8], "big")
            content = icc[offset : offset + 12]
            return (content[8], content[9]) if len(content) == 12 else None
    return None


def _xyz(values: NDArray[np.floating]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _curve(curve: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> bytes:
    light = np.clip(curve(np.linspace(0, 1, _STEPS)), 0, 1)
    points = np.rint(np.maximum.accumulate(light) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", _STEPS) + bytes(points.tobytes())


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"facewright: colours as the file described them\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0no copyright, use freely\0",
        b"wtpt": _xyz(D50),
    } | tags
    body, table, places = b"", b"", dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        if content not in places:  # curves are shared
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", places[content], len(content))
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(struct.pack(">i", round(v * 65536)) for v in D50) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body
