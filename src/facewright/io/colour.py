"""Colour profiles: from a photo's own colour space to sRGB, which the networks see, and back."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    except Exception:  # a damaged profile can fail in many ways, none of which should cost the user the photo
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


def cmyk_to_srgb(picture: Image.Image, icc: bytes | None) -> Image.Image:
    """A CMYK picture → RGB: by its profile when it has a usable one, else by the plain complement."""
    if icc and profile_space(icc) == "CMYK":
        try:
            return _convert(picture, _open(icc))
        except ImageCms.PyCMSError:
            pass
    return picture.convert("RGB")


def lab_to_srgb(picture: Image.Image) -> Image.Image:
    """A CIELAB picture → RGB."""
    return _convert(picture, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))


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
    if icc is None or profile_space(icc) != "RGB" or _is_srgb(icc):
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
    except Exception:  # see profile_space
        return False
    return True


@lru_cache(maxsize=16)
def _is_srgb(icc: bytes) -> bool:
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
    except Exception:  # see profile_space
        return None
    if curve[255] - curve[0] < 64 or (np.diff(curve) < 0).any():
        return None
    # flat steps come from rounding to 8 bits; a hair of slope makes the inverse unique
    return np.asarray(curve + np.arange(256) * 1e-4, np.float32)
