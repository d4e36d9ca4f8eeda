"""What archives and phones put beside the picture: captions, comments, texts, and the video of a motion photo."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import PngImagePlugin

from . import bmff, xmp
from .metadata import iptc_of_photoshop

if TYPE_CHECKING:
    from PIL import Image

_IPTC = 0x0404
_RAW_PROFILE = "Raw profile type "
_XMP_KEY = "XML:com.adobe.xmp"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_MOTION_BOX = b"mpvd"
_GAIN_MAP_MARKS = (b"hdr-gain-map", b"HDRGainMap", b"urn:iso:std:iso:ts:21496")


@dataclass(frozen=True, slots=True)
class Extras:
    """Everything besides colour profile, EXIF and XMP.

    `iptc` is a bare IPTC-IIM record; `comment` a JPEG's or GIF's comment; `texts` are keys and values of a PNG.
    `attached` is what follows the picture in its file and is announced by its XMP; `beside` names all that came with
    it ("motion photo", "gain map"), whether it can be attached again or not.
    """

    iptc: bytes | None = field(default=None, repr=False)
    comment: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    attached: bytes | None = field(default=None, repr=False)
    beside: tuple[str, ...] = ()


def gather(picture: Image.Image, data: bytes, name: str, packet: bytes | None, *, turned: bool) -> Extras:
    """What came with a picture that Pillow has loaded; `packet` is its XMP, `turned` whether its pixels were."""
    info: dict[Any, Any] = picture.info
    texts = _texts(picture) if name == "PNG" else {}
    attached = _attached(data, name)
    beside = _beside(info, attached, packet)
    announced = xmp.announced(packet) if packet else ()
    kept = bool(attached and announced) and not (turned and xmp.GAIN_MAP in beside) and xmp.EXTENDED not in announced
    return Extras(
        iptc=_iptc(info, texts),
        comment=_comment(info.get("comment")) if name in ("JPEG", "GIF") else None,
        texts=tuple((str(k), str(v)) for k, v in texts.items() if k != _XMP_KEY and not k.startswith(_RAW_PROFILE)),
        attached=attached if kept else None,
        beside=beside,
    )


def _texts(picture: Image.Image) -> dict[str, str]:
    try:
        return dict(getattr(picture, "text", None) or {})
    except Exception:  # those behind the pixels of a file that is cut off
        return {str(k): v for k, v in picture.info.items() if isinstance(v, PngImagePlugin.iTXt)}


def _comment(value: Any) -> bytes | None:
    if isinstance(value, str):
        value = value.encode()
    return value if isinstance(value, bytes) and value.strip(b"\0 ") else None


def _iptc(info: dict[Any, Any], texts: dict[str, str]) -> bytes | None:
    blocks = info.get("photoshop")
    if isinstance(blocks, dict) and isinstance(blocks.get(_IPTC), bytes):
        return blocks[_IPTC] or None
    text = texts.get(f"{_RAW_PROFILE}iptc")
    return None if text is None else _raw_profile(text)


def _raw_profile(text: str) -> bytes | None:
    """Bytes as ImageMagick and ExifTool put them into a PNG: a name, a length, and lines of hexadecimal digits."""
    lines = text.strip().split("\n")
    try:
        content = bytes.fromhex("".join(lines[2:]))
    except ValueError:
        return None
    return iptc_of_photoshop(content) if content.startswith(b"8BIM") else content or None


def raw_profile(name: str, content: bytes) -> str:
    """The inverse, as text of the key "Raw profile type …"."""
    digits = content.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return "\n".join(["", name, f"{len(content):8d}", *lines, ""])


def _attached(data: bytes, name: str) -> bytes | None:
    if name == "JPEG":
        end = _jpeg_end(data)
        return data[end:] or None if end else None
    if name in ("HEIF", "AVIF"):
        return next((data[box.first : box.end] for box in bmff.boxes(data) if box.kind == _MOTION_BOX), None)
    return None


def _jpeg_end(data: bytes) -> int | None:
    """Where the first picture of a JPEG file ends; None for a file that is cut off."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xD9:
            return position + 2
        if marker == 0xFF:
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # the coded picture has no length: it ends at the next marker
            found = _MARKER.search(data, position)
            if found is None:
                return None
            position = found.start()
    return None


def _beside(info: dict[Any, Any], attached: bytes | None, packet: bytes | None) -> tuple[str, ...]:
    found = list(xmp.announced(packet)) if packet else []
    if attached and (b"MotionPhoto_Data" in attached or attached[4:8] == _MOTION_BOX):
        found.append(xmp.MOTION_PHOTO)
    if attached and attached.startswith(b"\xff\xd8") and any(mark in attached for mark in _GAIN_MAP_MARKS):
        found.append(xmp.GAIN_MAP)
    if any("hdrgainmap" in str(urn) for urn in info.get("aux") or ()):
        found.append(xmp.GAIN_MAP)
    if info.get("depth_images"):
        found.append(xmp.DEPTH_MAP)
    return tuple(dict.fromkeys(found))
