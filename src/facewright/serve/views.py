"""What can be asked of a result afterwards: other formats, another strength, before and after for a screen, sheets.

Nothing here runs a network.
"""

from __future__ import annotations

import io
import secrets
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..io.image import read
from ..tasks.declare import entry
from . import work
from .problems import Problem, not_found
from .requests import FORMATS, WriteOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..io.image import Photo
    from .jobs import Job
    from .work import Made

SCREEN_QUALITY = 92


class File(NamedTuple):
    """A file to send: bytes, its type, and the name under which to save it."""

    content: bytes
    media_type: str
    name: str


MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".heic": "image/heic",
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".jp2": "image/jp2",
    ".jxl": "image/jxl",
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
}


def media_type(name: str) -> str:
    """The media type of a file by its suffix."""
    return MEDIA_TYPES.get(f".{name.rpartition('.')[2].lower()}", "application/octet-stream")


def written(job: Job, made: Made, *, format: str | None, quality: int | None, strength: float | None) -> File:
    """The edited picture in another format or at another strength. Problem where the result has no strength, or the
    format is unknown or cannot hold it."""
    from ..runtime.editing import save_photo

    assert job.order is not None
    writing = job.order.writing
    assert isinstance(writing, WriteOptions)
    if format is not None and format.upper() not in FORMATS:
        raise Problem(422, "invalid", f"no picture format {format!r}; choose one of {', '.join(FORMATS)}")
    writing = replace(writing, format=format.upper() if format else writing.format, quality=quality or writing.quality)
    value = at_strength(made.value, strength)
    folder = job.folder / f"view-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        target = folder / work.target_name(replace(job.order, writing=writing))
        save_photo(value, target, work.save_options(writing, made.value.image.width * made.value.image.height))
        return File(target.read_bytes(), media_type(target.name), target.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def at_strength(value: Any, strength: float | None) -> Any:
    """A result blended anew with its input."""
    if strength is None:
        return value
    if not hasattr(value, "with_strength"):
        raise Problem(422, "invalid", "this result has no strength that could be changed")
    return value.with_strength(strength)


def has_strength(made: Made) -> bool:
    return hasattr(made.value, "with_strength")


def screen(made: Made, which: str, *, strength: float | None, side: int | None) -> File:
    """The picture before or after, upright and in sRGB, as every browser shows it: JPEG, or PNG with transparency.

    Before is as large as after, so that both lie on each other.
    """
    photo = before(made) if which == "before" else after(made, strength)
    return File(*_for_screen(photo, side), f"{which}.jpg")


def before(made: Made) -> Photo:
    """The photo as it came, at the size of the result."""
    base: Photo | None = getattr(made.value, "original", None) or made.photo
    if base is None:
        raise not_found()
    result = getattr(made.value, "image", None)
    if result is not None and result.width != base.width:
        return base.resized(result.width / base.width)
    return base


def after(made: Made, strength: float | None) -> Photo:
    image: Photo | None = getattr(at_strength(made.value, strength), "image", None)
    if image is None:
        raise not_found()
    return image


def _for_screen(photo: Photo, side: int | None) -> tuple[bytes, str]:
    rgb: NDArray[np.uint8] = photo.rgb()
    alpha = None if photo.alpha is None else (photo.alpha >> (photo.bit_depth - 8)).astype(np.uint8)
    scale = 1.0 if side is None else side / max(photo.width, photo.height)
    if scale < 1:
        size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        alpha = None if alpha is None else np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.uint8)
    file = io.BytesIO()
    if alpha is not None:
        Image.fromarray(np.dstack([rgb, alpha])).save(file, "PNG", compress_level=1)
        return file.getvalue(), "image/png"
    Image.fromarray(rgb).save(file, "JPEG", quality=SCREEN_QUALITY, subsampling=0)
    return file.getvalue(), "image/jpeg"


def sheet(made: Made, strength: float | None) -> File:
    """The before/after sheet of a result that has one."""
    value = at_strength(made.value, strength)
    if not hasattr(value, "compare"):
        raise not_found()
    return File(_png(value.compare().rgb()), "image/png", "before_after.png")


def drawn(job: Job, made: Made) -> File:
    """The photo with what was found drawn on it."""
    if job.order is None or not job.order.task.draw or made.photo is None:
        raise not_found()
    picture = entry(job.order.task.draw)(made.photo.rgb(), made.value)
    return File(_png(read(picture).rgb()), "image/png", "found.png")


def _png(rgb: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG", compress_level=4)
    return file.getvalue()
