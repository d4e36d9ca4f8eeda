"""From the bytes of a file to upright pixels and metadata. The content decides the format, never the file name.

Only the kinds of `kinds.PHOTOS` are tried. Sizes are read from the header and checked before anything is decoded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import stat
import threading
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image, ImageFile

from ..errors import FacewrightError, ImageReadError
from . import colour, deep, jpegxl, metadata, raw, tiff, xmp
from .decoded import Decoded, check_page, check_size, scaled_float, split_alpha, turned
from .described import jpeg2000_profile, with_colours
from .extras import gather
from .kinds import HEAD, PHOTOS, Kind, sniff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_PLUGINS = ("Jpeg", "Mpo", "Png", "Tiff", "WebP", "Avif", "Gif", "Bmp", "Jpeg2K", "Ppm")
_MIN_DECODED = 0.1  # a damaged file with less of the picture than this is of no use


def read_file(path: Path) -> bytes:
    """The content of a picture file; refuses folders, devices and files that do not start like a picture."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageReadError(f"{path} is a folder; give a picture file")
        if not stat.S_ISREG(mode):
            raise ImageReadError(f"{path} is not a regular file; give a picture file")
        with open(path, "rb") as file:
            head = file.read(HEAD)
            _sniff(head, str(path))
            return head + file.read()
    except FileNotFoundError:
        raise ImageReadError(f"{path} does not exist; check the spelling of the path") from None
    except PermissionError:
        raise ImageReadError(f"no permission to read {path}; change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        raise ImageReadError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def decode(data: bytes, label: str, *, page: int, max_pixels: int) -> Decoded:
    """Decode one page of an image file. `label` names it in messages.

    Raises ImageReadError (not an image, damaged beyond use, no such page, a library is missing) or ImageTooLargeError.
    """
    kind = _sniff(data[:HEAD], label)
    with _failures_explained(label, kind.title):
        if kind.name == "RAW" or (kind.name == "TIFF" and tiff.is_camera_raw(data)):
            return raw.decode(data, label, page=page, max_pixels=max_pixels)
        if kind.name == "TIFF":
            return tiff.decode(data, label, page=page, max_pixels=max_pixels)
        return _decode_by_pillow(data, kind, label, page, max_pixels)


def _decode_by_pillow(data: bytes, kind: Kind, label: str, page: int, max_pixels: int) -> Decoded:
    if kind.name == "JXL":
        check_size(jpegxl.size(data), label, max_pixels)  # its reader decodes everything at once
    if data[:2] == b"PF":
        return _decode_colour_pfm(data, label, page, max_pixels)
    picture = _open(data, kind.name)
    notes = _select_page(picture, label, page)
    check_size(picture.size, label, max_pixels)
    loaded, damage = _load(picture, data, kind.name)
    if kind.name == "JXL":
        loaded, notes = _completed_jpeg_xl(loaded, data)
    if damage is None and (planes := deep.planes(data, kind.name, loaded, page, label)):
        decoded = from_pil(loaded, label, planes)
    else:
        decoded = from_pil(loaded, label)
    decoded = _with_extras(decoded, loaded, data, kind.name)
    if kind.name == "JPEG2000" and decoded.icc is None:
        decoded = _with_profile(decoded, jpeg2000_profile(data))
    decoded = with_colours(decoded, loaded, data, kind.name)
    whole = damage is None and not notes
    return replace(decoded, whole=whole, notes=(*notes, *decoded.notes, *([damage] if damage else [])))


def _completed_jpeg_xl(picture: Image.Image, data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """With what its reader leaves out: the XMP packet, and the first frame of an animation instead of the last."""
    if packet := jpegxl.xmp(data):
        picture.info.setdefault("xmp", packet)
    if not jpegxl.is_animated(data):
        return picture, ()
    frame = Image.fromarray(np.asarray(imagecodecs.jpegxl_decode(data, 0, keeporientation=False)))
    frame.format, frame.info = picture.format, picture.info
    return frame, ("first frame of an animation",)


def _decode_colour_pfm(data: bytes, label: str, page: int, max_pixels: int) -> Decoded:
    """A portable float map in colour, which Pillow reads in grey only: lines from below, the sign is the byte order."""
    check_page(page, 1, label)
    words = data[:200].split(maxsplit=4)
    width, height, scale = int(words[1]), int(words[2]), float(words[3])
    check_size((width, height), label, max_pixels)
    start = data.index(words[3], data.index(words[2], data.index(words[1], 2) + len(words[1])) + len(words[2]))
    order = "<f4" if scale < 0 else ">f4"
    values = np.frombuffer(data, order, width * height * 3, start + len(words[3]) + 1).reshape(height, width, 3)[::-1]
    pixels, notes = scaled_float(values.astype(np.float32), label)
    return Decoded(pixels, None, "PPM", notes=tuple(notes))


def _with_extras(decoded: Decoded, picture: Image.Image, data: bytes, name: str) -> Decoded:
    turned = metadata.orientation(picture) != 1
    return replace(decoded, extras=gather(picture, data, name, decoded.xmp, turned=turned))


def _with_profile(decoded: Decoded, icc: bytes | None) -> Decoded:
    usable = icc is not None and colour.usable_profile(icc, decoded.pixels.shape[2])
    return replace(decoded, icc=icc) if usable else decoded


def decode_pil(picture: Image.Image, label: str, *, max_pixels: int) -> Decoded:
    """Upright pixels of a PIL picture; same errors as `decode`."""
    with _failures_explained(label, picture.format or "PIL"):
        check_size(picture.size, label, max_pixels)
        picture.load()
        return from_pil(picture, label)


# --- finding the format -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Register the readers and writers of `kinds.PHOTOS` with Pillow."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):  # Pillow may be built without one of them
            importlib.import_module(f"PIL.{name}ImagePlugin")
    import pillow_heif

    pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_jxl")


def _sniff(head: bytes, label: str) -> Kind:
    """The kind of picture that these first bytes announce."""
    load_plugins()
    if not head:
        raise ImageReadError(f"{label} is empty (0 bytes); get another copy of it")
    kind = sniff(head)
    if kind is not None and not kind.is_video:
        if kind.needs is not None and not kind.readable:
            raise ImageReadError(
                f"{label} is a {kind.title} picture; install a reader ({kind.needs.advice}), "
                "or export it as TIFF or JPEG"
            )
        return kind
    what = f"it is a video ({kind.title})" if kind else _looks_like(head)
    raise ImageReadError(f"{label} is not a picture: {what}; readable formats: {', '.join(k.title for k in PHOTOS)}")


def _looks_like(head: bytes) -> str:
    known = ((b"%PDF", "it is a PDF document"), (b"PK\x03\x04", "it is a ZIP archive or office document"))
    for magic, description in known:
        if head.startswith(magic):
            return description
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "it contains text"
    return "its content is of no known format"


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    """Parse the header.

    The reader is called directly because `Image.open` imposes Pillow's own pixel limit through global state.
    """
    picture = Image.OPEN[name][0](io.BytesIO(data), "")
    assert isinstance(picture, ImageFile.ImageFile)
    return picture


@contextlib.contextmanager
def _failures_explained(label: str, format_name: str) -> Iterator[None]:
    """Whatever a decoder throws at a damaged file becomes one ImageReadError; nothing is printed."""
    try:
        with _quiet_libraries:
            yield
    except FacewrightError:
        raise
    except MemoryError as error:
        raise ImageReadError(f"{label} does not fit into memory; reduce its size first") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageReadError(
            f"{label} is damaged or cut off and cannot be decoded as {format_name} ({reason}); get another copy of it"
        ) from error


class _Shared:
    """A change to process-wide settings that holds while any thread is inside, undone when the last one leaves.

    Threads that saved and restored such settings one by one would restore each other's changes.
    """

    def __init__(self, change: Callable[[contextlib.ExitStack], None]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._change(self._undo)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()


def _silence_libraries(undo: contextlib.ExitStack) -> None:
    undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for name in ("PIL", "tifffile"):
        log = logging.getLogger(name)
        undo.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL + 1)
    set_level = cv2.utils.logging.setLogLevel
    undo.callback(set_level, set_level(0))


_quiet_libraries = _Shared(_silence_libraries)


# --- pages and damage -------------------------------------------------------------------------------------------------


def _select_page(picture: ImageFile.ImageFile, label: str, page: int) -> tuple[str, ...]:
    try:
        count = int(getattr(picture, "n_frames", 1))
    except Exception:  # counting walks the whole file, which may be cut off after the first frame
        count = 1
    check_page(page, count, label)
    if page > 0:
        picture.seek(page)
    if picture.format == "MPO" and page == 0:
        return _other_pictures(picture, count)
    if count == 1:
        return ()
    return (f"{'first' if page == 0 else f'number {page + 1}'} of {count} frames",)


def _other_pictures(picture: ImageFile.ImageFile, count: int) -> tuple[str, ...]:
    """A phone's JPEG has previews behind the photo; those of the same size are a stereo pair or a series."""
    size, equals = picture.size, 1
    for index in range(1, count):
        try:
            picture.seek(index)
        except Exception as error:  # whatever is wrong behind the photo does not concern it
            logger.debug("data behind the photo cannot be read: %s", error)
            break
        equals += picture.size == size
    picture.seek(0)
    return (f"first of {equals} pictures of the same size",) if equals > 1 else ()


def _load(picture: ImageFile.ImageFile, data: bytes, name: str) -> tuple[Image.Image, str | None]:
    """Decode the pixels; of a damaged file as much as there is, with a note about what is missing."""
    try:
        picture.load()
        return picture, None
    except Exception:
        if name not in ("JPEG", "PNG", "BMP", "GIF"):
            raise
        if note := _note_missing_rows(picture):
            picture.tile = []  # tells Pillow that what has been decoded is all there is
            return picture, note
        if name != "JPEG":
            raise
    return _load_cut_off_progressive(data)


def _note_missing_rows(picture: ImageFile.ImageFile) -> str | None:
    """Where a partly decoded picture ends (rows not reached are all zero); None if too little of it is there."""
    picture.tile, tile = [], picture.tile
    values = np.asarray(picture)
    picture.tile = tile
    filled = np.flatnonzero(values.reshape(len(values), -1).any(1))
    if not len(filled) or (filled[-1] - filled[0] + 1) / len(values) < _MIN_DECODED:
        return None
    above, below = int(filled[0]), len(values) - 1 - int(filled[-1])
    side, rows = ("upper", above) if above > below else ("lower", below)
    return f"damaged or cut off: the {side} {100 * rows / len(values):.0f} % is missing"


def _load_cut_off_progressive(data: bytes) -> tuple[Image.Image, str]:
    """A progressive JPEG has all rows early, but libjpeg gives them out only once it sees an end-of-image marker."""
    picture = _open(data + b"\xff\xd9", "JPEG")
    picture.load()
    rows = np.asarray(picture).reshape(picture.size[1], -1)
    detailed = np.flatnonzero(np.ptp(rows, axis=1) > 0)
    if not len(detailed) or (detailed[-1] + 1) / len(rows) < _MIN_DECODED:
        raise OSError("too little of the picture is there")
    return picture, "damaged or cut off: later passes of the progressive JPEG are missing, details are coarse"


# --- from PIL modes to planes -----------------------------------------------------------------------------------------


def from_pil(
    picture: Image.Image, label: str, deep_planes: tuple[NDArray[Any], NDArray[Any] | None] | None = None
) -> Decoded:
    """Planes and metadata of a loaded PIL picture of any mode; `deep_planes` are its upright planes, read better."""
    turn = metadata.orientation(picture)
    exif, readable = metadata.upright_exif(picture)
    notes = [] if readable else ["unreadable EXIF left out"]
    icc = picture.info.get("icc_profile") or None
    if deep_planes is None:
        planes, icc, more = _planes(picture, icc, label)
        notes += more
        pixels, alpha = split_alpha(turned(planes, turn))
    else:
        pixels, alpha = deep_planes
    if icc is not None and not colour.usable_profile(icc, pixels.shape[2]):
        icc = None
        notes.append("unusable colour profile left out")
    packet = picture.info.get("xmp")
    if isinstance(packet, str):
        packet = packet.encode()
    return Decoded(
        pixels=pixels,
        alpha=alpha,
        format=_format_name(picture.format),
        icc=icc,
        exif=exif,
        xmp=xmp.upright(packet, turn, picture.size) if isinstance(packet, bytes) and packet else None,
        dpi=metadata.clean_dpi(picture.info.get("dpi")),
        notes=tuple(notes),
    )


def _format_name(name: str | None) -> str:
    return {"MPO": "JPEG", "DIB": "BMP", None: ""}.get(name, name or "")


def _planes(picture: Image.Image, icc: bytes | None, label: str) -> tuple[NDArray[Any], bytes | None, list[str]]:
    """(H, W) or (H, W, 2..4) values, the profile that still applies, and notes."""
    mode = picture.mode
    if mode == "CMYK":
        by_profile = icc is not None and colour.profile_space(icc) == "CMYK"
        how = "by its colour profile" if by_profile else "without a colour profile"
        rgb = colour.cmyk_to_srgb(_proper_cmyk(picture), icc)
        return np.asarray(rgb), None, [f"converted from CMYK to sRGB {how}"]
    if mode == "LAB":
        lab = np.asarray(picture, np.float64)
        levels = colour.lab_to_srgb(lab[..., 0] * (100 / 255), lab[..., 1] - 128, lab[..., 2] - 128)
        return np.rint(levels * 255).astype(np.uint8), None, ["converted from CIELAB to sRGB"]
    if mode == "F":
        values, notes = scaled_float(np.asarray(picture), label)
        return values, icc, notes
    if mode.startswith("I"):
        values, notes = _sixteen_bit_grey(picture)
        return values, icc, notes
    return np.asarray(_simple_mode(picture)), icc, []


def _simple_mode(picture: Image.Image) -> Image.Image:
    """One of L, LA, RGB, RGBA that loses nothing."""
    mode = picture.mode
    transparent = "transparency" in picture.info
    if mode in ("1", "L"):
        return picture.convert("LA") if transparent else picture.convert("L")
    if mode in ("LA", "La"):
        return picture.convert("LA")
    if mode in ("RGBA", "RGBa", "PA") or transparent:
        return picture.convert("RGBA")
    return picture.convert("RGB")


def _proper_cmyk(picture: Image.Image) -> Image.Image:
    """Pillow inverts every CMYK JPEG as Adobe's programs need it; one without Adobe's mark is not inverted."""
    if picture.format not in ("JPEG", "MPO") or "adobe" in picture.info:
        return picture
    return Image.frombytes("CMYK", picture.size, (255 - np.asarray(picture)).tobytes())


def _sixteen_bit_grey(picture: Image.Image) -> tuple[NDArray[np.uint16], list[str]]:
    values = np.asarray(picture)
    if values.dtype.itemsize == 2:
        return values.astype(np.uint16), []
    clipped = np.clip(values, 0, 65535).astype(np.uint16)
    notes = ["32-bit values were clipped to 16 bits"] if (clipped != values).any() else []
    return clipped, notes
