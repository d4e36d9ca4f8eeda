"""TIFF in every layout, by one reader (tifffile with imagecodecs): equal to what is stored, or refused by name.

A TIFF file is a chain of directories, each with a picture or a reduced copy, and each with a chain of its own below
it. The pages of the photo are the full-size ones.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import tifffile

from ..errors import ImageReadError
from . import colour, icc, metadata, xmp
from .decoded import Decoded, check_page, check_size, scaled_float, turned, widened
from .extras import Extras

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2  # value of SubfileType
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK_PICTURE, _INKS, _YCBCR, _CIELAB, _ICCLAB, _ITULAB = (
    *range(7),
    8,
    9,
    10,
)
_CFA, _LINEAR_RAW = 32803, 34892
_COLOURS = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _INKS: 4,
    _YCBCR: 3,
    _CIELAB: 3,
    _ICCLAB: 3,
    _ITULAB: 3,
}
_RAW_COMPRESSIONS = frozenset({262, 32767, 32769, 32770, 32772, 34713, 65000, 65535})
_JPEG_COMPRESSIONS = frozenset({6, 7, 34892, 33007})
_PREMULTIPLIED, _STRAIGHT = 1, 2
_MAX_SAMPLES = 16
_PREVIEW_SIDE = 4096


class _Unsupported(Exception):
    """A layout that is named in the message and not read."""


@dataclass(frozen=True, slots=True)
class _Samples:
    """(H, W, colours) samples with a note or two; `alpha` (H, W) of the same type, not premultiplied."""

    colours: NDArray[Any]
    alpha: NDArray[Any] | None
    notes: tuple[str, ...]


def is_camera_raw(data: bytes) -> bool:
    """Whether a TIFF file (DNG, NEF, ARW and their kin are) holds a sensor's data. Never raises."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            directories = [d for page in file.pages for d in _directories(page)]
            return any(
                int(d.photometric or 0) in (_CFA, _LINEAR_RAW) or int(d.compression) in _RAW_COMPRESSIONS
                for d in directories
            )
    except Exception:  # a damaged file is explained by whoever decodes it
        return False


def decode(data: bytes, label: str, *, page: int, max_pixels: int) -> Decoded:
    """One full-size page of a TIFF. Raises ImageReadError and its children, and whatever a damaged file provokes."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = _full_size_pages(file, max_pixels)
        if not pages:
            raise ImageReadError(f"{label} holds no picture, only masks or nothing; export it again")
        check_page(page, len(pages), label)
        chosen, head = pages[page]
        check_size((chosen.imagewidth, chosen.imagelength), label, max_pixels)
        with _refusals_named(chosen, label):
            samples = _samples(chosen, len(data), label)
        tags = metadata.tiff_tags(chosen, head, data)
        pixels, profile, notes = _in_rgb(samples, chosen, chosen.iccprofile or head.iccprofile)
    alpha = samples.alpha
    if profile is not None and not colour.usable_profile(profile, pixels.shape[2]):
        profile = None
        notes.append("unusable colour profile left out")
    if len(pages) > 1:
        notes.insert(0, f"page {page + 1} of {len(pages)}")
    if not tags.readable:
        notes.append("unreadable EXIF left out")
    return Decoded(
        pixels=turned(pixels, tags.orientation),
        alpha=None if alpha is None else turned(alpha, tags.orientation),
        format="TIFF",
        icc=profile,
        exif=tags.exif,
        xmp=xmp.upright(tags.xmp, tags.orientation, samples.colours.shape[1::-1]) if tags.xmp else None,
        dpi=tags.dpi,
        extras=Extras(iptc=tags.iptc),
        pages=len(pages),
        whole=len(pages) == 1,
        notes=tuple(notes),
    )


# --- pages ------------------------------------------------------------------------------------------------------------


def _directories(page: Any) -> list[Any]:
    """A directory of the chain and those below it."""
    below = [] if page.pages is None else [d for sub in page.pages for d in _directories(sub)]
    return [page, *below]


def _is_picture(directory: Any) -> bool:
    """Whether a directory holds a picture of its own: no reduced copy, no mask, no depth map."""
    old = directory.tags.valueof(255, 0)
    kind = int(directory.subfiletype)
    return not (kind & (_REDUCED | _MASK) or kind & 8 or old == _OLD_REDUCED) and directory.photometric != _MASK_PICTURE


def _pixels(directory: Any) -> int:
    return int(directory.imagewidth) * int(directory.imagelength)


def _full_size_pages(file: tifffile.TiffFile, max_pixels: int) -> list[tuple[Any, Any]]:
    """The directory of every page, and the one that heads its chain, where what describes the photo may be."""
    chains = [_directories(page) for page in file.pages]
    pages = [(max(own, key=_pixels), chain[0]) for chain in chains if (own := [d for d in chain if _is_picture(d)])]
    if not pages:  # all are called reduced: the largest is what there is
        all_of = [(d, chain[0]) for chain in chains for d in chain if d.photometric != _MASK_PICTURE]
        return [max(all_of, key=lambda pair: _pixels(pair[0]))] if all_of else []
    return [pair for pair in pages if not any(_is_preview(pair[0], other, max_pixels) for other, _ in pages)]


def _is_preview(small: Any, large: Any, max_pixels: int) -> bool:
    """Whether a page is a reduced copy of another that nothing declares as such."""
    width, height = small.imagewidth, small.imagelength
    if max(width, height) > _PREVIEW_SIDE or large.imagewidth < 2 * width or _pixels(large) > max_pixels:
        return False
    if abs(width * large.imagelength - height * large.imagewidth) > 2 * max(large.imagewidth, large.imagelength):
        return False
    try:
        first, second = _thumbnail(small), _thumbnail(large)
    except Exception:  # what cannot be read is no reason to leave a page out
        return False
    return float(np.abs(first - second).mean()) < 8 and float(np.corrcoef(first.ravel(), second.ravel())[0, 1]) > 0.97


def _thumbnail(page: Any) -> NDArray[np.float32]:
    values = _stored(page)
    if values.dtype.kind != "u":
        raise _Unsupported("no whole numbers")
    grey = values[..., : min(3, values.shape[2])].astype(np.float32).mean(2) * np.float32(255 / _white(page))
    return np.asarray(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA), np.float32)


# --- samples ----------------------------------------------------------------------------------------------------------


def _layout(page: Any) -> str:
    """For messages: "16-bit CIELAB, separate planes, LZW"."""
    names = {_WHITE_IS_ZERO: "grey", _BLACK_IS_ZERO: "grey", _INKS: "inks"}
    photometric = page.photometric
    colours = names.get(photometric, getattr(photometric, "name", f"photometric {photometric}"))
    compression = getattr(page.compression, "name", f"compression {page.compression}")
    kind = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}.get(_sample_format(page), "")
    return f"{page.bitspersample}-bit {kind}{colours}, {page.samplesperpixel} samples, {compression}"


def _sample_format(page: Any) -> int:
    value = page.sampleformat
    return int(value[0] if isinstance(value, tuple) else value or 1)


@contextmanager
def _refusals_named(page: Any, label: str) -> Iterator[None]:
    try:
        yield
    except (ImageReadError, MemoryError):
        raise
    except _Unsupported as error:
        raise ImageReadError(
            f"{label} is an unsupported kind of TIFF ({_layout(page)}: {error}); "
            "export it as RGB or grey of 8 or 16 bits"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageReadError(
            f"{label} is damaged or cut off, or has a layout that cannot be decoded ({_layout(page)}: {reason}); "
            "get another copy of it, or export it as RGB or grey of 8 or 16 bits"
        ) from error


def _samples(page: Any, length: int, label: str) -> _Samples:
    _check_layout(page)
    _check_complete(page, length)
    stored = _stored(page)
    count = _COLOURS[page.photometric]
    if stored.shape[2] < count:
        raise _Unsupported(f"{count} samples are needed")
    colours, others = stored[..., :count], stored[..., count:]
    notes: list[str] = []
    if page.photometric == _PALETTE:
        colours = _looked_up(colours[..., 0], page)
    else:
        colours, notes = _levels(colours, page, label)
    kinds = tuple(int(k) for k in page.extrasamples or ())
    alpha, more = _alpha(others, kinds, page, label)
    if alpha is not None and alpha.dtype != colours.dtype:
        alpha = widened(alpha, 8 * colours.dtype.itemsize) if colours.dtype == np.uint8 else _deepened(alpha)
    if alpha is not None and kinds[_alpha_index(kinds)] == _PREMULTIPLIED:
        colours = _divided(colours, alpha)
    return _Samples(np.ascontiguousarray(colours), alpha, (*notes, *more))


def _check_layout(page: Any) -> None:
    if page.photometric not in _COLOURS:
        raise _Unsupported("these colours are not known")
    if page.samplesperpixel > _MAX_SAMPLES:
        raise _Unsupported("too many samples a pixel")
    if page.imagedepth != 1:
        raise _Unsupported("a volume, not a picture")
    if _sample_format(page) not in (1, 2, 3, 4):
        raise _Unsupported("these numbers are not known")
    if page.photometric == _INKS and page.tags.valueof(332, 1) != 1:
        raise _Unsupported("inks other than CMYK")
    if page.photometric == _ITULAB:
        raise _Unsupported("ITU Lab")
    _check_packing(page)
    if page.is_tiled and page.tilewidth * page.tilelength > 4 * max(_pixels(page), 1 << 24):
        raise _Unsupported("tiles far larger than the picture")


def _check_packing(page: Any) -> None:
    """Samples that are no whole numbers of bytes, or three, of which programs have written different things."""
    bits = int(page.bitspersample)
    if bits == 24 and _sample_format(page) == 1:
        raise _Unsupported("programs do not agree on the order of three bytes")
    by_tifffile = str(page.tags.valueof(305, "")).startswith("tifffile")
    if by_tifffile and page.parent.byteorder == ">" and bits > 8 and bits % 8:
        raise _Unsupported("tifffile garbles the bits of these when it writes them in big-endian order")


def _check_complete(page: Any, length: int) -> None:
    """Parts that are missing read as black; a photo has none."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) != len(counts) or not offsets:
        raise ValueError("no picture data")
    if any(offset <= 0 or count <= 0 or offset + count > length for offset, count in zip(offsets, counts)):
        raise ValueError("parts of the picture are missing")
    _, _, rows, columns, _ = page.shaped
    planes = page.shaped[0]
    step = (page.tilelength, page.tilewidth) if page.is_tiled else (max(page.rowsperstrip, 1), columns)
    wanted = planes * -(-rows // step[0]) * -(-columns // step[1])
    if len(offsets) < wanted and not page.is_contiguous:
        raise ValueError("parts of the picture are missing")


def _stored(page: Any) -> NDArray[Any]:
    """(H, W, samples) as they are in the file, separate planes put together."""
    values = page.asarray(squeeze=False)  # planes, depth, rows, columns, samples
    planes, _, rows, columns, samples = values.shape
    joined = values[:, 0].transpose(1, 2, 0, 3).reshape(rows, columns, planes * samples)
    if joined.dtype == bool:
        joined = joined.astype(np.uint8)
    if page.photometric == _YCBCR and (page.compression not in _JPEG_COMPRESSIONS or page.planarconfig != 1):
        joined = np.concatenate([_from_ycbcr(joined[..., :3], page), joined[..., 3:]], axis=2)
    return np.asarray(joined)


def _white(page: Any) -> int:
    return int((1 << int(page.bitspersample)) - 1)


def _levels(values: NDArray[Any], page: Any, label: str) -> tuple[NDArray[Any], list[str]]:
    """Samples over the full range of uint8 or uint16; black is 0, but for Lab, whose a and b are signed."""
    kind = _sample_format(page)
    bits = int(page.bitspersample)
    notes: list[str] = []
    if kind == 3:
        if page.photometric not in (_BLACK_IS_ZERO, _WHITE_IS_ZERO, _RGB):
            raise _Unsupported("floating-point values of other colours than grey and RGB")
        values, notes = scaled_float(values, label)
        bits = 16
    elif kind == 2 and page.photometric != _CIELAB:
        values, notes = _unsigned(values)
        bits = 16
    if page.photometric in (_CIELAB, _ICCLAB):
        if bits not in (8, 16):
            raise _Unsupported("CIELAB is read with 8 and 16 bits")
        return values.view(f"u{bits // 8}"), notes
    if bits > 16 and kind != 3:
        if int(values.max(initial=0)) <= 65535:
            values, notes = values.astype(np.uint16), [*notes, f"{bits}-bit values up to 65535 were taken as 16 bits"]
        else:
            notes.append(f"{bits} bits were rounded to 16")
            values = widened(values, bits)
    else:
        values = widened(values, bits)
    if page.photometric == _WHITE_IS_ZERO:
        values = np.iinfo(values.dtype).max - values
    return values, notes


def _unsigned(values: NDArray[Any]) -> tuple[NDArray[np.uint16], list[str]]:
    """Signed whole numbers have no agreed white; what fits into 16 bits as it is comes from programs that mean that."""
    if values.dtype.itemsize < 4 or int(values.min()) < 0 or int(values.max()) > 65535:
        raise _Unsupported("signed numbers say neither where black is nor where white is")
    return values.astype(np.uint16), ["signed values from 0 to 65535 were taken as 16 bits"]


def _alpha_index(kinds: tuple[int, ...]) -> int:
    return next(i for i, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _STRAIGHT))


def _alpha(
    others: NDArray[Any], kinds: tuple[int, ...], page: Any, label: str
) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """The transparency among the samples beyond the colours; all others are named in a note."""
    count = others.shape[2]
    has_alpha = any(kind in (_PREMULTIPLIED, _STRAIGHT) for kind in kinds[:count])
    rest = count - has_alpha
    notes: tuple[str, ...] = ()
    if rest:
        notes = (f"{rest} further channel{'s' * (rest > 1)} (infrared or mask) left out",)
    if not has_alpha:
        return None, notes
    plane = others[..., _alpha_index(kinds)]
    if plane.dtype.kind == "f":
        if not np.isfinite(plane).all():
            raise ImageReadError(f"{label} contains values that are not numbers (NaN or infinity); export it again")
        return np.rint(np.clip(plane.astype(np.float64), 0, 1) * 65535).astype(np.uint16), notes
    if plane.dtype.kind == "i":
        plane = plane.view(f"u{plane.dtype.itemsize}")
    return widened(plane, int(page.bitspersample)), notes


def _deepened(plane: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return plane.astype(np.uint16) * np.uint16(257)


def _divided(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Colours that were multiplied by their alpha, as they were before."""
    top = np.iinfo(colours.dtype).max
    share = np.maximum(alpha[..., None].astype(np.float64), 1)
    straight = np.clip(np.rint(colours.astype(np.float64) * top / share), 0, top).astype(colours.dtype)
    return np.where(alpha[..., None] > 0, straight, colours)


def _looked_up(indices: NDArray[Any], page: Any) -> NDArray[Any]:
    table = np.asarray(page.colormap)
    if table.ndim != 2 or table.shape[0] != 3 or int(indices.max(initial=0)) >= table.shape[1]:
        raise _Unsupported("the palette lacks colours")
    if int(table.max(initial=0)) <= 255:  # some programs write 8 bits where the standard wants 16
        table = table.astype(np.uint8)
    elif not (table % 257).any():
        table = (table // 257).astype(np.uint8)
    elif not (table & 255).any():
        table = (table >> 8).astype(np.uint8)
    return np.moveaxis(table[:, indices], 0, -1)


# --- colours ----------------------------------------------------------------------------------------------------------


def _in_rgb(samples: _Samples, page: Any, profile: bytes | None) -> tuple[NDArray[Any], bytes | None, list[str]]:
    """(H, W, 1 or 3) grey or RGB, the profile that holds for it, and notes."""
    notes = list(samples.notes)
    if page.photometric == _INKS:
        pixels, how = _from_inks(samples.colours, profile, page)
        return pixels, None, [*notes, f"converted from CMYK to sRGB {how}"]
    if page.photometric in (_CIELAB, _ICCLAB):
        return _from_lab(samples.colours, page.photometric), None, [*notes, "converted from CIELAB to sRGB"]
    if profile is None:
        profile = _profile_of_tags(page, samples.colours.shape[2])
    return samples.colours, profile, notes


def _from_inks(inks: NDArray[Any], profile: bytes | None, page: Any) -> tuple[NDArray[Any], str]:
    low, high = _dot_range(page, np.iinfo(inks.dtype).max)
    if (low, high) != (0, np.iinfo(inks.dtype).max):
        top = np.iinfo(inks.dtype).max
        inks = np.clip(np.rint((inks.astype(np.float64) - low) * top / (high - low)), 0, top).astype(inks.dtype)
    return colour.inks_to_srgb(inks, profile)


def _dot_range(page: Any, top: int) -> tuple[int, int]:
    values = page.tags.valueof(336, (0, top))
    low, high = (int(v) for v in values[:2])
    return (low, high) if low != high else (0, top)


def _from_lab(values: NDArray[Any], photometric: int) -> NDArray[Any]:
    """CIE L*a*b* (D50) → sRGB. a and b are signed (CIELAB), or unsigned around the middle (ICCLAB)."""
    deep = values.dtype == np.uint16
    lightness = values[..., 0] * (100 / (65535 if deep else 255))
    step = 256.0 if deep else 1.0
    if photometric == _CIELAB:
        chroma = np.ascontiguousarray(values[..., 1:]).view(f"i{values.dtype.itemsize}") / step
    else:
        chroma = values[..., 1:].astype(np.float64) / step - 128
    rgb = colour.lab_to_srgb(lightness, chroma[..., 0], chroma[..., 1])
    return np.asarray(np.rint(rgb * (65535 if deep else 255)).astype(values.dtype))


def _from_ycbcr(values: NDArray[Any], page: Any) -> NDArray[Any]:
    """Y'CbCr without subsampling → RGB by the file's own coefficients and reference levels (TIFF 6.0, section 21)."""
    if values.dtype.kind != "u":
        raise _Unsupported("Y'CbCr of whole numbers only")
    top = _white(page)
    red, green, blue = (_ratio(v) for v in _triples(page.tags.valueof(529, (0.299, 0.587, 0.114)), 3))
    middle = (top + 1) // 2
    limits = _triples(page.tags.valueof(532, (0, top, middle, top, middle, top)), 6)
    black_y, white_y, zero_b, white_b, zero_r, white_r = (_ratio(v) for v in limits)
    y, b, r = (values[..., i].astype(np.float64) for i in range(3))
    y = (y - black_y) * top / (white_y - black_y)
    b = (b - zero_b) * (top - middle) / (white_b - zero_b)
    r = (r - zero_r) * (top - middle) / (white_r - zero_r)
    out_red = y + r * (2 - 2 * red)
    out_blue = y + b * (2 - 2 * blue)
    out_green = (y - red * out_red - blue * out_blue) / green
    rgb = np.stack([out_red, out_green, out_blue], -1)
    return np.asarray(np.clip(np.rint(rgb), 0, top).astype(values.dtype))


def _triples(values: Any, count: int) -> list[Any]:
    """Numbers, or numerators and denominators in a row, as tifffile hands out rationals."""
    flat = list(values)
    if len(flat) == 2 * count:
        return list(zip(flat[::2], flat[1::2]))
    if len(flat) != count:
        raise _Unsupported("invalid Y'CbCr tags")
    return flat


def _ratio(value: Any) -> float:
    return float(value[0] / value[1]) if isinstance(value, tuple) else float(value)


def _profile_of_tags(page: Any, channels: int) -> bytes | None:
    """A profile from WhitePoint, PrimaryChromaticities and TransferFunction, which some files have instead."""
    tags = page.tags
    if channels != 3 or (tags.get(318) is None and tags.get(319) is None and tags.get(301) is None):
        return None
    try:
        white = tuple(_ratio(v) for v in _triples(tags.valueof(318, icc.D65), 2))
        flat = [_ratio(v) for v in _triples(tags.valueof(319, np.ravel(icc.SRGB_PRIMARIES[:3])), 6)]
        primaries = ((flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5]), white)
        curve = _transfer_function(tags.valueof(301, None))
        profile = icc.rgb_profile(primaries, curve)  # type: ignore[arg-type]
        return None if colour.is_srgb(profile) else profile
    except (ValueError, _Unsupported, TypeError, ZeroDivisionError, IndexError):
        return None


def _transfer_function(table: Any) -> Any:
    if table is None:
        return icc.srgb_to_linear
    values = np.asarray(table, np.float64).ravel()
    first = values[: 256 if len(values) in (256, 768) else 65536] / 65535  # of three curves the first: green, mostly
    return lambda coded: np.interp(coded, np.linspace(0, 1, len(first)), first)
