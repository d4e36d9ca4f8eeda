"""Colour profiles: from a photo's own colour space to sRGB, which the networks see, and back."""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from .icc import D50, SRGB_PRIMARIES, linear_to_srgb, to_d50, to_xyz

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Transform = ImageCms.ImageCmsTransform
Direction = Literal["to_srgb", "from_srgb"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG uses
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def luma(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """BT.601 luma of (..., 3) gamma-coded RGB, in the same range."""
    return np.asarray(np.asarray(rgb, np.float32) @ _LUMA, np.float32)


@lru_cache(maxsize=16)
def profile_space(icc: bytes) -> str | None:
    """The colour space of a profile ("RGB", "GRAY", "CMYK", "Lab"), None when it cannot be parsed."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile.xcolor_space.strip()
    except Exception as error:  # a damaged profile can fail in many ways, none of which should cost the user the photo
        logger.info("a colour profile of %d bytes cannot be parsed and is ignored: %s", len(icc), error)
        return None


def usable_profile(icc: bytes, channels: int) -> bool:
    """Whether a profile parses, describes a picture of 1 or 3 channels, and converts to sRGB."""
    space = profile_space(icc)
    if space == "GRAY":
        return channels == 1 and _grey_curve(icc) is not None
    return space == "RGB" and _is_convertible(icc)


def to_srgb(rgb: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """(H, W, 3) pixels in the colours of an RGB profile → sRGB. Relative colorimetric, black point compensated."""
    return _apply(rgb, icc, "to_srgb")


def from_srgb(rgb: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """The inverse of `to_srgb`."""
    return _apply(rgb, icc, "from_srgb")


def grey_to_srgb(levels: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """(H, W) levels of a grey profile → sRGB grey levels."""
    curve = _grey_curve(icc) if icc else None
    if curve is None:
        return levels
    table = np.clip(np.rint(curve), 0, 255).astype(np.uint8)
    return np.asarray(table[levels])


def grey_from_srgb(levels: NDArray[np.floating], icc: bytes | None) -> NDArray[np.float32]:
    """The inverse of `grey_to_srgb`, on fractional levels."""
    curve = _grey_curve(icc) if icc else None
    if curve is None:
        return np.asarray(levels, np.float32)
    return np.asarray(np.interp(levels, curve, np.arange(256)), np.float32)


def pixels_to_srgb(pixels: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """(H, W, 1 or 3) uint8 or uint16 in the colours of a profile → sRGB (RGB, or grey) of the same depth."""
    if pixels.shape[2] == 1 and profile_space(icc) != "RGB":
        curve = _grey_curve(icc)
        if curve is None:
            return pixels
        scale = 257 if pixels.dtype == np.uint16 else 1
        levels = np.interp(pixels / scale, np.arange(256), curve)
        return np.clip(np.rint(levels * scale), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, 2)
    if is_srgb(icc):
        return pixels
    return to_srgb(pixels, icc) if pixels.dtype == np.uint8 else _deep_to_srgb(pixels, icc, "rgb")


def _deep_to_srgb(pixels: NDArray[np.uint16], icc: bytes, space: str) -> NDArray[np.uint16]:
    values = imagecodecs.cms_transform(
        np.ascontiguousarray(pixels),
        icc,
        imagecodecs.cms_profile("srgb"),
        colorspace=space,
        outcolorspace="rgb",
        outdtype="u2",
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION,
    )
    return np.asarray(values, np.uint16)


def cmyk_to_srgb(picture: Image.Image, icc: bytes | None) -> Image.Image:
    """A CMYK picture → RGB: by its profile when it has a usable one, else by the plain complement."""
    if icc and profile_space(icc) == "CMYK":
        try:
            return _convert(picture, _open(icc))
        except ImageCms.PyCMSError as error:
            logger.info("a CMYK profile cannot be used, converting without it: %s", error)
    return picture.convert("RGB")


def inks_to_srgb(inks: NDArray[Any], icc: bytes | None) -> tuple[NDArray[Any], str]:
    """(H, W, 4) CMYK, full ink at the top of uint8 or uint16 → (H, W, 3) sRGB of the same depth, and how."""
    by_profile = icc is not None and profile_space(icc) == "CMYK"
    how = "by its colour profile" if by_profile else "without a colour profile"
    if inks.dtype == np.uint8:
        picture = Image.frombytes("CMYK", inks.shape[1::-1], np.ascontiguousarray(inks).tobytes())
        return np.asarray(cmyk_to_srgb(picture, icc)), how
    if icc is not None and by_profile:
        return _deep_to_srgb(inks, icc, "cmyk"), how
    light = 65535 - inks.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + 32767) // 65535).astype(np.uint16), how


def lab_to_srgb(
    lightness: NDArray[np.floating], a: NDArray[np.floating], b: NDArray[np.floating]
) -> NDArray[np.floating]:
    """CIE L*a*b* of white point D50 → (..., 3) gamma-coded sRGB 0..1, colours beyond it clipped."""
    y = (lightness + 16) / 116
    cubes = np.stack([y + a / 500, y, y - b / 200], -1)
    relative = np.where(cubes > 6 / 29, cubes**3, 3 * (6 / 29) ** 2 * (cubes - 4 / 29))
    matrix = to_xyz(SRGB_PRIMARIES)
    inverse = np.linalg.inv(to_d50(matrix.sum(1)) @ matrix)
    return linear_to_srgb(np.clip((relative * D50) @ inverse.T, 0, 1))


def _convert(picture: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        picture,
        source,
        _srgb(),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=_FLAGS,
    )
    assert converted is not None
    return converted


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _open(icc: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


def _apply(rgb: NDArray[np.uint8], icc: bytes | None, direction: Direction) -> NDArray[np.uint8]:
    if icc is None or profile_space(icc) != "RGB" or is_srgb(icc):
        return rgb
    return _run(_transform(icc, direction), rgb)


def _run(transform: Transform, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(transform.apply(Image.fromarray(np.ascontiguousarray(rgb))), np.uint8)


@lru_cache(maxsize=16)
def _transform(icc: bytes, direction: Direction) -> Transform:
    source, target = (_open(icc), _srgb()) if direction == "to_srgb" else (_srgb(), _open(icc))
    return ImageCms.buildTransform(
        source, target, "RGB", "RGB", renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=_FLAGS
    )


@lru_cache(maxsize=16)
def _is_convertible(icc: bytes) -> bool:
    try:
        _transform(icc, "to_srgb")
        _transform(icc, "from_srgb")
    except Exception as error:  # see profile_space
        logger.info("a colour profile cannot be converted to sRGB and is ignored: %s", error)
        return False
    return True


@lru_cache(maxsize=16)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile says sRGB in other words, so that converting would only add rounding errors."""
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(18, -1, 3)
    moved = _run(_transform(icc, "to_srgb"), probe)
    return int(np.abs(moved.astype(int) - probe).max()) <= 1


@lru_cache(maxsize=16)
def _grey_curve(icc: bytes) -> NDArray[np.float32] | None:
    """sRGB grey level of each of the 256 levels of a grey profile, None when it has no rising curve."""
    if profile_space(icc) != "GRAY":
        return None
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    try:
        curve = luma(np.asarray(_convert(ramp, _open(icc)), np.float32))[0]
    except Exception as error:  # see profile_space
        logger.info("a grey profile has no usable curve and is ignored: %s", error)
        return None
    if curve[255] - curve[0] < 64 or (np.diff(curve) < 0).any():
        return None
    # flat steps come from rounding to 8 bits; a hair of slope makes the inverse unique
    return np.asarray(curve + np.arange(256) * 1e-4, np.float32)
