"""Whatever the bytes are, reading gives a valid photo or one ImageReadError; nothing else is raised or printed."""

from __future__ import annotations

import io
import struct
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from facewright.errors import ImageReadError
from facewright.io.decode import load_plugins
from facewright.io.image import Photo, read

if TYPE_CHECKING:
    import pytest

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
HEADS = [
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08",
    b"II+\0\x08\0\0\0",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"\0\0\0\x18ftypheic",
    b"\0\0\0\x18ftypavif",
    b"GIF89a",
    b"BM",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
    b"P6\n",
    b"P5 4 4 65535\n",
]


@lru_cache(maxsize=1)
def samples() -> tuple[bytes, ...]:
    """One small valid file of each format and of each unusual inner layout."""
    load_plugins()
    rng = np.random.default_rng(3)
    pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (32, 24))
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    rich = {"exif": exif.tobytes(), "dpi": (300, 300), "xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'}

    def encoded(source: Image.Image, name: str, **options: object) -> bytes:
        file = io.BytesIO()
        source.save(file, name, **options)
        return file.getvalue()

    deep = rng.integers(0, 65536, (24, 32, 3), dtype=np.uint16)
    deep_pages = cv2.imencodemulti(".tiff", [deep, deep])[1].tobytes()
    floats = cv2.imencode(".tiff", deep.astype(np.float32) / 65535)[1].tobytes()
    deep_png = cv2.imencode(".png", deep)[1].tobytes()
    tiled = io.BytesIO()
    tifffile.imwrite(tiled, deep, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True, bigtiff=True)
    planar = io.BytesIO()
    tifffile.imwrite(planar, np.moveaxis(deep, -1, 0).copy(), photometric="rgb", planarconfig="separate")
    deep_heic = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (32, 24), deep.tobytes()).save(deep_heic, quality=30)
    motion = encoded(picture, "JPEG", comment=b"1952", xmp=rich["xmp"]) + b"\0\0\0\x18ftypisom" + bytes(40)
    frames = {"save_all": True, "append_images": [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]}
    return (  # type: ignore[return-value]
        encoded(picture, "JPEG", **rich),
        encoded(picture, "JPEG", progressive=True),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "MPO", **frames),
        encoded(picture, "PNG", exif=rich["exif"], dpi=(300, 300)),
        encoded(picture.convert("P"), "PNG", transparency=3),
        deep_png,
        encoded(picture, "TIFF", compression="tiff_lzw"),
        encoded(picture, "TIFF", exif=rich["exif"]),
        encoded(picture.convert("F"), "TIFF"),
        deep_pages,
        floats,
        encoded(picture, "WEBP", exif=rich["exif"]),
        encoded(picture, "WEBP", lossless=True, **frames),
        encoded(picture, "GIF", **frames),
        encoded(picture, "BMP"),
        encoded(picture, "JPEG2000"),
        encoded(picture, "PPM"),
        encoded(picture, "HEIF", quality=30),
        encoded(picture, "AVIF", quality=30),
        tiled.getvalue(),
        planar.getvalue(),
        deep_heic.getvalue(),
        imagecodecs.avif_encode(deep >> 6, level=30, bitspersample=10, primaries=9, transfer=16, matrix=9),
        imagecodecs.jpeg2k_encode(deep, level=0, codecformat="jp2", colorspace=1),
        imagecodecs.jpegxl_encode(deep),
        motion,
    )


def check(data: bytes, *, page: int = 0) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            photo = read(data, page=page, max_pixels=4_000_000)
        except ImageReadError as error:
            text = str(error)
            assert text
            assert "\n" not in text
            return
    assert_valid(photo)


def assert_valid(photo: Photo) -> None:
    assert photo.pixels.dtype in (np.uint8, np.uint16)
    assert photo.pixels.ndim == 3
    assert photo.pixels.shape[2] in (1, 3)
    assert 0 < photo.width * photo.height <= 4_000_000
    if photo.alpha is not None:
        assert photo.alpha.shape == photo.pixels.shape[:2]
        assert photo.alpha.dtype == photo.pixels.dtype
    assert photo.rgb().shape == (photo.height, photo.width, 3)


def test_the_samples_are_valid() -> None:
    for data in samples():
        assert_valid(read(data))


@FUZZ
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    check(data)


@FUZZ
@given(st.sampled_from(HEADS), st.binary(max_size=400))
def test_random_bytes_behind_a_true_head(head: bytes, tail: bytes) -> None:
    check(head + tail)


@settings(FUZZ, max_examples=250)
@given(st.data())
def test_flipped_bytes(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(samples())))
    early = st.integers(0, min(len(mutated), 200) - 1)  # headers matter most
    anywhere = st.integers(0, len(mutated) - 1)
    for position in data.draw(st.lists(early | anywhere, min_size=1, max_size=8)):
        mutated[position] = data.draw(st.integers(0, 255))
    check(bytes(mutated), page=data.draw(st.sampled_from([0, 0, 0, 1])))


@settings(FUZZ, max_examples=120)
@given(st.data())
def test_cut_off(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(samples()))
    check(whole[: data.draw(st.integers(0, len(whole)))])


@settings(FUZZ, max_examples=120)
@given(st.data())
def test_spliced(data: st.DataObject) -> None:
    """Parts cut out, repeated, or replaced by parts of another file."""
    one, other = (data.draw(st.sampled_from(samples())) for _ in range(2))
    start, end = sorted(data.draw(st.integers(0, len(one))) for _ in range(2))
    first, last = sorted(data.draw(st.integers(0, len(other))) for _ in range(2))
    check(one[:start] + other[first:last] + one[end:])


@FUZZ
@given(
    st.sampled_from([256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 317, 338, 339]),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_tiff_tags_with_senseless_values(tag: int, value: int, data: st.DataObject) -> None:
    tiff = data.draw(st.sampled_from([sample for sample in samples() if sample[:2] == b"II"]))
    position = tiff.find(struct.pack("<HH", tag, 3))
    if position < 0:
        position = tiff.find(struct.pack("<HH", tag, 4))
    if position >= 0:
        check(tiff[: position + 8] + struct.pack("<I", value) + tiff[position + 12 :])


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """The decoders are C libraries that like to complain on the terminal by themselves."""
    rng = np.random.default_rng(11)
    for sample in samples():
        for _ in range(15):
            mutated = bytearray(sample)
            for position in rng.integers(0, len(sample), 4):
                mutated[position] = rng.integers(0, 256)
            check(bytes(mutated))
            check(sample[: rng.integers(0, len(sample))])
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
