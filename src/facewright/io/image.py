"""Photos: read any common format, change only what was asked for, write it back with everything else intact."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from ..errors import FacewrightError, ImageReadError, OutputError, PageError, UsageError
from . import colour, decode, encode, metadata
from . import xmp as xmp_packets
from .atomic import atomic_output
from .decoded import Decoded, check_size, split_alpha
from .extras import Extras

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 200_000_000
"""Default limit against decompression bombs."""

_DEEP = 257  # one 8-bit level in 16-bit levels: 255 * 257 = 65535

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """One picture in memory, upright, in its own colour space and bit depth.

    `pixels` is (H, W, C) uint8 or uint16 with C = 1 (grey) or 3 (RGB order); `alpha` is (H, W) of the same type, or
    None. The EXIF orientation has been applied to both and is 1 in `exif`. `icc` is the colour profile of `pixels`
    (None: sRGB). `dpi` is (horizontal, vertical). `format` is the name of the file format ("" for arrays), `source`
    names the photo in messages, and `notes` says in plain words what reading had to change or leave out. `extras` are
    captions, comments and what else came along; `pages` is the number of full-size pages of a TIFF; `whole` is False
    when the file holds more than this picture, or is damaged.
    """

    pixels: NDArray[Any] = field(repr=False)
    alpha: NDArray[Any] | None = field(default=None, repr=False)
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    xmp: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    format: str = ""
    source: str = "picture"
    notes: tuple[str, ...] = ()
    extras: Extras = field(default_factory=Extras)
    pages: int = 1
    whole: bool = True

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def bit_depth(self) -> int:
        """8 or 16 bits per channel."""
        return 8 * int(self.pixels.dtype.itemsize)

    @property
    def is_grey(self) -> bool:
        """Whether the picture has no colour: one channel, or three that agree up to what JPEG does to a grey scan."""
        if self.pixels.shape[2] == 1:
            return True
        step = max(1, int(np.sqrt(self.width * self.height / 250_000)))
        sample = encode.eight_bit(self.pixels[::step, ::step])
        red, green, blue = sample[..., 0], sample[..., 1], sample[..., 2]
        # not np.ptp: along an axis of three it is ten times slower
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        return bool(np.mean(spread > 3) < 0.001)

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 in sRGB, as the networks see it. Alpha is ignored, not composited."""
        return self._srgb(self.pixels)

    def patched(
        self, box: Box, rgb: NDArray[np.floating], mask: NDArray[np.floating], *, keep_grey: bool = True
    ) -> Photo:
        """The photo with a part blended in; pixels where `mask` is 0, and alpha everywhere, are bit-equal.

        `box` is (x0, y0, x1, y1) inside the photo, right and lower edge exclusive; `rgb` is (h, w, 3) in sRGB, 0..255;
        `mask` is (h, w), 0..1. What is added is the *difference* between `rgb` and the photo's own sRGB rendering,
        taken back to the photo's colour space: 16-bit detail and colours outside sRGB survive, and an unchanged
        `rgb` changes nothing. A grey photo receives the luma of the difference and stays grey, one of three channels
        only if `keep_grey`.
        """
        x0, y0, x1, y1 = self._checked_box(box, rgb, mask)
        old = self.pixels[y0:y1, x0:x1]
        scale = _DEEP if self.bit_depth == 16 else 1
        delta = self._native_delta(old, np.asarray(rgb, np.float32), keep_grey) * scale
        weight = np.asarray(mask, np.float32)[..., None]
        top = np.iinfo(old.dtype).max
        blended = np.clip(np.rint(old + weight * delta), 0, top).astype(old.dtype)
        pixels = self.pixels.copy()
        pixels[y0:y1, x0:x1] = np.where(weight > 0, blended, old)
        return replace(self, pixels=pixels)

    def resized(self, factor: float) -> Photo:
        """Pixels and alpha enlarged by Lanczos (or shrunk by area averaging), bit depth and metadata kept.

        Lengths are rounded to the nearest pixel, at least 1. Raises UsageError unless `factor` is a positive number.
        """
        if not np.isfinite(factor) or factor <= 0:
            raise UsageError(f"cannot resize by {factor}; give a positive factor such as 2")
        size = max(1, round(self.width * factor)), max(1, round(self.height * factor))
        if size == (self.width, self.height):
            return self
        pixels = _resize(self.pixels, size)
        alpha = None if self.alpha is None else _resize(self.alpha, size)[..., 0]
        return replace(self, pixels=pixels, alpha=alpha)

    def to_pil(self) -> Image.Image:
        """Mode L, LA, RGB or RGBA, or I;16 for 16-bit grey; 16-bit colour is rounded to 8 bits. Keeps the profile."""
        picture = encode.to_pil(self.pixels, self.alpha)
        if self.icc:
            picture.info["icc_profile"] = self.icc
        return picture

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        quality: int = 95,
        keep_gps: bool = True,
        xmp: bytes | None = None,
        format: str | None = None,
    ) -> Path:
        """Write the photo completely or not at all, in the format of the suffix (or `format`), and return the path.

        Colour profile, EXIF, XMP, resolution, captions and alpha go along where the format has a place for them
        (`not_kept` says what has none); PNG, TIFF, JPEG 2000 and PPM keep 16 bits, HEIC 10, others 8. `quality` (1 to
        100) is for JPEG (always 4:4:4), WebP, HEIC, AVIF and JPEG XL. `keep_gps=False` leaves out where the photo was
        taken (and a motion photo's video, which may say so, too). `xmp` replaces the photo's own XMP packet.

        Raises UsageError (unknown suffix, quality out of range, transparency in a format without it) or OutputError
        (exists already, folder missing, no permission, disk full, larger than the format allows).
        """
        target = Path(path)
        name = encode.format_of(target, format)
        if not 1 <= quality <= 100:
            raise UsageError(f"quality {quality} is out of range; give a number from 1 to 100")
        picture = self.picture(self.xmp if xmp is None else xmp, keep_gps=keep_gps)
        with atomic_output(target, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
            try:
                encode.encode(picture, file, name, quality)
            except FacewrightError as error:
                raise type(error)(f"{target}: {error}") from error
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk's fault, explained by atomic_output
                raise OutputError(f"cannot write {target} as {name}: {error}; try PNG or TIFF") from error
        return target

    def not_kept(
        self, path: str | os.PathLike[str], *, keep_gps: bool = True, format: str | None = None
    ) -> tuple[str, ...]:
        """What `save` to this path would have to leave out or reduce because of the format, in plain words."""
        return encode.losses(self.picture(self.xmp, keep_gps=keep_gps), encode.format_of(Path(path), format))

    def picture(self, xmp: bytes | None, *, keep_gps: bool) -> encode.Picture:
        """What the encoders take; `xmp` replaces the photo's own packet."""
        exif, extras = self.exif, self.extras
        if not keep_gps:
            exif = metadata.exif_without_gps(exif) if exif else None
            xmp = xmp_packets.without_gps(xmp) if xmp else None
            texts = tuple((key, value) for key, value in extras.texts if "gps" not in key.lower())
            extras = replace(extras, attached=None, texts=texts)
        return encode.Picture(self.pixels, self.alpha, self.icc, exif, xmp, self.dpi, extras, self.format)

    def _srgb(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        levels = encode.eight_bit(pixels)
        if levels.shape[2] == 1:
            grey = colour.grey_to_srgb(levels[..., 0], self.icc)
            levels = np.repeat(grey[..., None], 3, axis=2)
        return colour.to_srgb(levels, self.icc)

    def _native_delta(self, old: NDArray[Any], rgb: NDArray[np.float32], keep_grey: bool) -> NDArray[np.float32]:
        """What to add to `old`, in 8-bit levels of the photo's colour space, to turn its look into `rgb`."""
        shown = self._srgb(old)
        if old.shape[2] == 1 and not self._has_rgb_profile:
            return np.expand_dims(self._grey_level(rgb) - self._grey_level(shown), 2)
        if keep_grey and self.is_grey:
            rgb = np.repeat(colour.luma(rgb)[..., None], 3, axis=2)
            shown_grey = np.repeat(colour.luma(shown)[..., None], 3, axis=2)
            grey_delta = self._native_levels(rgb) - self._native_levels(shown_grey)
            return np.asarray(grey_delta.mean(2, keepdims=True), np.float32)
        return self._native_levels(rgb) - self._native_levels(shown)

    @property
    def _has_rgb_profile(self) -> bool:
        return self.icc is not None and colour.profile_space(self.icc) == "RGB"

    def _grey_level(self, rgb: NDArray[Any]) -> NDArray[np.float32]:
        return colour.grey_from_srgb(colour.luma(rgb), self.icc)

    def _native_levels(self, rgb: NDArray[Any]) -> NDArray[np.float32]:
        """sRGB → the photo's RGB, 0..255. Profiles are applied to whole levels; fractions are carried along as is."""
        whole = np.clip(np.rint(rgb), 0, 255)
        return np.asarray(colour.from_srgb(whole.astype(np.uint8), self.icc) + (rgb - whole), np.float32)

    def _checked_box(self, box: Box, rgb: NDArray[Any], mask: NDArray[Any]) -> Box:
        x0, y0, x1, y1 = (int(v) for v in box)
        if not (0 <= x0 < x1 <= self.width and 0 <= y0 < y1 <= self.height):
            raise UsageError(f"box {tuple(box)} is not inside the photo of {self.width} x {self.height} pixels")
        shape = (y1 - y0, x1 - x0)
        if rgb.shape != (*shape, 3) or mask.shape != shape:
            raise UsageError(
                f"box {tuple(box)} needs rgb {(*shape, 3)} and mask {shape}, got {rgb.shape}, {mask.shape}"
            )
        return x0, y0, x1, y1


def read(
    source: str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any] | Photo,
    *,
    page: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Photo:
    """Read a photo from a path, bytes, an open binary file, a PIL picture, or an (H, W[, 1..4]) array in RGB order.

    Formats: JPEG, PNG, TIFF, WebP, HEIC, AVIF, GIF, BMP, JPEG 2000, PPM, and with further libraries JPEG XL and camera
    raw (`facewright.io.kinds`); the content decides, not the name. `page` (from 0) chooses among the pages of a TIFF
    or the frames of an animation. CMYK and CIELAB are converted to sRGB, high dynamic range is rendered for ordinary
    screens; truncated JPEG, PNG, BMP and GIF files give the part that is there. What was changed or left out is in
    `Photo.notes`.

    Raises ImageReadError (missing, unreadable, not a picture, damaged beyond use, no such page) and its child
    ImageTooLargeError (more than `max_pixels` pixels, found in the header before decoding).
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _photo(decode.decode_pil(source, "picture", max_pixels=max_pixels), "picture")
    data, label = _content(source)
    return _photo(decode.decode(data, label, page=page, max_pixels=max_pixels), label)


def read_page(path: str | os.PathLike[str], page: int | None, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """A page of each of many files: of one that has only one page, that one. Otherwise as `read`."""
    try:
        return read(path, page=page or 0, max_pixels=max_pixels)
    except PageError as error:
        if error.count != 1:
            raise
        return read(path, max_pixels=max_pixels)


def save_rgb(
    pixels: NDArray[np.uint8], path: str | os.PathLike[str], *, overwrite: bool = False, quality: int = 95
) -> Path:
    """Write an (H, W, 3) or (H, W) uint8 sRGB array; see `Photo.save`."""
    return read(pixels).save(path, overwrite=overwrite, quality=quality)


def _content(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "picture"
    if isinstance(source, str | os.PathLike):
        return decode.read_file(Path(source)), str(source)
    label = str(getattr(source, "name", "picture"))
    try:
        return source.read(), label
    except (OSError, ValueError) as error:
        raise ImageReadError(f"cannot read {label}: {error}") from error


def _photo(decoded: Decoded, label: str) -> Photo:
    return Photo(
        pixels=np.ascontiguousarray(decoded.pixels),
        alpha=None if decoded.alpha is None else np.ascontiguousarray(decoded.alpha),
        icc=decoded.icc,
        exif=decoded.exif,
        xmp=decoded.xmp,
        dpi=decoded.dpi,
        format=decoded.format,
        source=label,
        notes=decoded.notes,
        extras=decoded.extras,
        pages=decoded.pages,
        whole=decoded.whole,
    )


def _from_array(values: NDArray[Any], max_pixels: int) -> Photo:
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageReadError(f"array of type {values.dtype}: convert it to uint8 (0..255) or uint16 (0..65535) first")
    if values.ndim not in (2, 3) or (values.ndim == 3 and not 1 <= values.shape[2] <= 4):
        raise ImageReadError(f"array of shape {values.shape}: give (H, W), or (H, W, C) with C from 1 to 4")
    check_size((values.shape[1], values.shape[0]), "array", max_pixels)
    pixels, alpha = split_alpha(values)
    return Photo(pixels.copy(), None if alpha is None else alpha.copy(), source="array")


def _resize(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    grows = size[0] * size[1] >= plane.shape[0] * plane.shape[1]
    resized = cv2.resize(plane, size, interpolation=cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA)
    return np.asarray(resized if resized.ndim == 3 else resized[..., None])
