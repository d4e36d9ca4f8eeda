"""From the bytes of a file to upright pixels and metadata. The content decides the format, never the file name.

Only the formats listed in `FORMATS` are tried. Sizes are read from the header and checked before anything is decoded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import stat
import threading
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import FacewrightError, ImageReadError, ImageTooLargeError
from . import colour, metadata
from .kinds import HEAD, PHOTOS, sniff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "JPEG2000", "PPM")
_PLUGINS = ("Jpeg", "Mpo", "Png", "Tiff", "WebP", "Avif", "Gif", "Bmp", "Jpeg2K", "Ppm")
_MIN_DECODED = 0.1  # a damaged file with less of the picture than this is of no use

_PNG_GREY_WITH_ALPHA = 4
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLES = 256, 257, 258, 262, 277
_WHITE_IS_ZERO = 0


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Upright pixels (H, W, 1 or 3), alpha (H, W) or None, both uint8 or uint16, and what came with them."""

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    format: str
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def read_file(path: Path) -> bytes:
    """The content of a picture file; refuses folders, devices and files whose first bytes are no picture's."""
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

    Raises ImageReadError (not an image, damaged beyond use, no such page) or ImageTooLargeError.
    """
    format_name = _sniff(data[:HEAD], label)
    with _failures_explained(label, format_name):
        picture = _open(data, format_name)
        if picture is None:
            return _decode_exotic_tiff(data, label, page, max_pixels)
        notes = _select_page(picture, label, page)
        check_size(picture.size, label, max_pixels)
        loaded, damage = _load(picture, data, format_name)
        decoded = from_pil(loaded, label)
        notes = (*notes, *decoded.notes)
        if damage is not None:
            return replace(decoded, notes=(*notes, damage))
        deep = _sixteen_bit_planes(data, format_name, loaded, page)
        if deep is not None:
            decoded, deep_notes = _with_deep_planes(decoded, *deep)
            notes = (*notes, *deep_notes)
        return replace(decoded, notes=notes)


def decode_pil(picture: Image.Image, label: str, *, max_pixels: int) -> Decoded:
    """Upright pixels of a PIL picture; same errors as `decode`."""
    with _failures_explained(label, picture.format or "PIL"):
        check_size(picture.size, label, max_pixels)
        picture.load()
        return from_pil(picture, label)


def check_size(size: tuple[int, int], label: str, max_pixels: int) -> None:
    """Raise when a (width, height) is empty or beyond the limit."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageReadError(f"{label} is empty: {width} x {height} pixels; nothing can be done with it")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{label} has {width} x {height} = {width * height / 1e6:.1f} million pixels, more than the limit of "
            f"{max_pixels / 1e6:g} million; raise max_pixels (--max-megapixels) if the file can be trusted"
        )


# --- finding the format -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Register the readers and writers of `FORMATS` with Pillow."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):  # Pillow may be built without one of them
            importlib.import_module(f"PIL.{name}ImagePlugin")
    import pillow_heif

    pillow_heif.register_heif_opener()


def _sniff(head: bytes, label: str) -> str:
    """The format that these first bytes announce."""
    load_plugins()
    if not head:
        raise ImageReadError(f"{label} is empty (0 bytes); get another copy of it")
    kind = sniff(head)
    if kind is not None and not kind.is_film:
        return kind.name
    what = f"it is a film ({kind.title})" if kind else _looks_like(head)
    raise ImageReadError(f"{label} is not a picture: {what}; readable are {', '.join(k.title for k in PHOTOS)}")


def _looks_like(head: bytes) -> str:
    known = ((b"%PDF", "it is a PDF document"), (b"PK\x03\x04", "it is a ZIP archive or office document"))
    for magic, description in known:
        if head.startswith(magic):
            return description
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "it contains text"
    return "its content is of no known format"


def _open(data: bytes, name: str) -> ImageFile.ImageFile | None:
    """Parse the header. None for a TIFF layout that Pillow does not know.

    The reader is called directly because `Image.open` imposes Pillow's own pixel limit through global state.
    """
    try:
        picture = Image.OPEN[name][0](io.BytesIO(data), "")
    except SyntaxError:
        if name == "TIFF":
            return None
        raise
    assert isinstance(picture, ImageFile.ImageFile)
    return picture


@contextlib.contextmanager
def _failures_explained(label: str, format_name: str) -> Iterator[None]:
    """Whatever a decoder throws at a damaged file becomes one ImageReadError; nothing is printed."""
    try:
        with _quiet_libraries, _quiet_terminal if format_name == "TIFF" else contextlib.nullcontext():
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
    log = logging.getLogger("PIL")
    undo.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL + 1)
    set_level = cv2.utils.logging.setLogLevel
    undo.callback(set_level, set_level(0))


def _silence_terminal(undo: contextlib.ExitStack) -> None:
    """libtiff, as Pillow builds it, writes its complaints straight to file descriptor 2."""
    try:
        terminal = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a program without a terminal
        return
    undo.callback(os.close, terminal)
    undo.callback(os.dup2, terminal, 2)
    os.dup2(nowhere, 2)
    os.close(nowhere)


_quiet_libraries = _Shared(_silence_libraries)
_quiet_terminal = _Shared(_silence_terminal)


# --- pages and damage -------------------------------------------------------------------------------------------------


def _select_page(picture: ImageFile.ImageFile, label: str, page: int) -> tuple[str, ...]:
    try:
        count = int(getattr(picture, "n_frames", 1))
    except Exception:  # counting walks the whole file, which may be cut off after the first frame
        count = 1
    _check_page(page, count, label)
    if page > 0:
        picture.seek(page)
    if count == 1 or (picture.format == "MPO" and page == 0):  # a phone's JPEG with previews behind the photo
        return ()
    if picture.format == "TIFF":
        return (f"page {page + 1} of {count}",)
    return (f"{'first' if page == 0 else f'number {page + 1}'} of {count} frames",)


def _check_page(page: int, count: int, label: str) -> None:
    if not 0 <= page < count:
        pages = "only page 0" if count == 1 else f"pages 0 to {count - 1}"
        raise ImageReadError(f"{label} has no page {page}; it has {pages}")


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
    assert picture is not None
    picture.load()
    rows = np.asarray(picture).reshape(picture.size[1], -1)
    detailed = np.flatnonzero(np.ptp(rows, axis=1) > 0)
    if not len(detailed) or (detailed[-1] + 1) / len(rows) < _MIN_DECODED:
        raise OSError("too little of the picture is there")
    return picture, "damaged or cut off: later passes of the progressive JPEG are missing, details are coarse"


# --- from PIL modes to planes -----------------------------------------------------------------------------------------


def from_pil(picture: Image.Image, label: str) -> Decoded:
    """Planes and metadata of a loaded PIL picture of any mode."""
    turn = metadata.orientation(picture)
    exif, readable = metadata.upright_exif(picture)
    notes = [] if readable else ["unreadable EXIF left out"]
    icc = picture.info.get("icc_profile") or None
    planes, icc, more = _planes(picture, icc, label)
    notes += more
    pixels, alpha = split_alpha(planes)
    if icc is not None and not colour.usable_profile(icc, pixels.shape[2]):
        icc = None
        notes.append("unusable colour profile left out")
    xmp = picture.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return Decoded(
        pixels=_turned(pixels, turn),
        alpha=None if alpha is None else _turned(alpha, turn),
        format=_format_name(picture.format),
        icc=icc,
        exif=exif,
        xmp=metadata.upright_xmp(xmp) if isinstance(xmp, bytes) and xmp else None,
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
        return np.asarray(colour.lab_to_srgb(picture)), None, ["converted from CIELAB to sRGB"]
    if mode == "F":
        values, notes = _scaled_float(np.asarray(picture), label)
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
        tags = getattr(picture, "tag_v2", {})
        grey = values.astype(np.uint16)
        return (65535 - grey if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else grey), []
    clipped = np.clip(values, 0, 65535).astype(np.uint16)
    notes = ["32-bit values were clipped to 16 bits"] if (clipped != values).any() else []
    return clipped, notes


def _scaled_float(values: NDArray[np.floating], label: str) -> tuple[NDArray[np.uint16], list[str]]:
    """Floating-point samples → uint16. Taken as 0..1, 0..255 or 0..65535, whichever the largest value suggests."""
    if not np.isfinite(values).all():
        raise ImageReadError(
            f"{label} contains values that are not numbers (NaN or infinity); repair or export it again"
        )
    top = float(values.max())
    if top > 65535:
        raise ImageReadError(f"{label} has floating-point values up to {top:g}; scale them to 0..1 first")
    white = 1.0 if top <= 16 else 255.0 if top <= 255 else 65535.0  # up to 16: highlights above white, clipped
    scaled = np.clip(values.astype(np.float64) / white, 0, 1) * 65535
    return np.rint(scaled).astype(np.uint16), [f"floating-point values 0..{white:g} were scaled to 16 bits"]


def split_alpha(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colour (H, W, 1 or 3) and alpha (H, W) of (H, W[, 1..4]) values."""
    if values.ndim == 2:
        values = values[..., None]
    channels = values.shape[2]
    if channels in (2, 4):
        return values[..., :-1], values[..., -1]
    return values, None


def _turned(plane: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A plane as EXIF orientation 1..8 wants it shown."""
    transposed = plane.swapaxes(0, 1)
    upright = {
        1: plane,
        2: plane[:, ::-1],
        3: plane[::-1, ::-1],
        4: plane[::-1],
        5: transposed,
        6: transposed[:, ::-1],
        7: transposed[::-1, ::-1],
        8: transposed[::-1],
    }[orientation]
    return np.array(upright, order="C")


# --- 16 bits and floats in colour, which Pillow reduces to 8 bits or cannot read -----------------------------------


def _sixteen_bit_planes(
    data: bytes, name: str, picture: Image.Image, page: int
) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """Upright 16-bit planes of a file that Pillow read with 8 bits per channel; None if it has no more."""
    if picture.mode not in ("RGB", "RGBA"):
        return None
    if name == "PNG" and data[24] == 16:
        values = _cv_decode(_bare_png(data), 0)
        if data[25] == _PNG_GREY_WITH_ALPHA:
            values = values[..., [0, 3]]
        return split_alpha(_turned(values, metadata.orientation(picture)))
    if name == "TIFF" and max(getattr(picture, "tag_v2", {}).get(_TIFF_BITS, (8,))) == 16:
        return split_alpha(_cv_decode(data, page))  # both decoders turn TIFF files upright by themselves
    return None


def _with_deep_planes(
    decoded: Decoded, pixels: NDArray[Any], alpha: NDArray[Any] | None
) -> tuple[Decoded, tuple[str, ...]]:
    """Replace 8-bit planes by 16-bit ones, provided that two decoders agree on the picture."""
    if (alpha is None) != (decoded.alpha is None) or not _agree(pixels, decoded.pixels):
        return decoded, ("only 8 of 16 bits per channel could be read",)
    return replace(decoded, pixels=np.ascontiguousarray(pixels), alpha=alpha), ()


def _agree(deep: NDArray[Any], shallow: NDArray[Any]) -> bool:
    if deep.dtype != np.uint16 or deep.shape[:2] != shallow.shape[:2]:
        return False
    return int(np.abs((deep >> 8).astype(np.int16) - shallow).max()) <= 1


def _cv_decode(data: bytes, page: int) -> NDArray[Any]:
    """Unreduced RGB(A) or grey values by OpenCV."""
    buffer = np.frombuffer(data, np.uint8)
    if page == 0:
        values = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    else:
        found, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
        values = pages[0] if found and pages else None
    if values is None:
        raise OSError("unsupported pixel layout")
    if values.ndim == 3 and values.shape[2] >= 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return np.ascontiguousarray(values)


def _bare_png(data: bytes) -> bytes:
    """Only the chunks that make the pixels, so that libpng has nothing else to complain about on the terminal."""
    out, position = [data[:8]], 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            out.append(data[position:end])
        position = end
    return b"".join(out)


def _decode_exotic_tiff(data: bytes, label: str, page: int, max_pixels: int) -> Decoded:
    """A TIFF layout unknown to Pillow: floating-point colour, mostly."""
    tags, count = _tiff_directory(data, page)
    _check_page(page, count, label)
    check_size((int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])), label, max_pixels)
    values = _cv_decode(data, page)
    _check_complete(values, tags)
    notes = [f"page {page + 1} of {count}"] if count > 1 else []
    if values.dtype.kind == "f":
        values, more = _scaled_float(values, label)
        notes += more
    if values.dtype.itemsize > 2:
        raise OSError("unsupported pixel layout")
    pixels, alpha = split_alpha(values)
    return Decoded(np.ascontiguousarray(pixels), alpha, "TIFF", notes=tuple(notes))


def _check_complete(values: NDArray[Any], tags: ImageFileDirectory_v2) -> None:
    """OpenCV drops channels and bits of layouts it does not know without saying so."""
    channels = values.shape[2] if values.ndim == 3 else 1
    bits = 8 * values.dtype.itemsize
    if values.dtype.kind not in "uf" or tags.get(_TIFF_SAMPLES, 1) != channels or max(tags[_TIFF_BITS]) != bits:
        raise OSError("unsupported pixel layout")


def _tiff_directory(data: bytes, page: int) -> tuple[ImageFileDirectory_v2, int]:
    """The tags of a page (of the last one if there is no such page) and the number of pages."""
    file = io.BytesIO(data)
    directory = ImageFileDirectory_v2(file.read(8))
    wanted, offset, seen = directory, directory.next, set[int]()
    while offset and offset not in seen:
        directory = ImageFileDirectory_v2(data[:8])
        file.seek(offset)
        directory.load(file)
        if len(seen) <= page:
            wanted = directory
        seen.add(offset)
        offset = directory.next
    return wanted, len(seen)
