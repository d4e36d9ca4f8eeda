"""Reading, changing and writing photos: known values, bit-equality where promised, one clear line where refused."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from facewright.errors import ImageReadError, ImageTooLargeError, OutputError, UsageError
from facewright.io import atomic, metadata
from facewright.io.atomic import TEMPORARY_PREFIX, atomic_output
from facewright.io.image import Photo, read, save_rgb

RNG = np.random.default_rng(7)


def smooth(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    """A colourful picture without noise, which lossy formats keep well."""
    ys, xs = np.mgrid[:height, :width]
    planes = [40 + 150 * xs / width, 60 + 150 * ys / height, 120 + 60 * np.sin(xs / 15) * np.cos(ys / 11)]
    scale = 257 if dtype is np.uint16 else 1
    return np.rint(np.stack(planes, -1) * scale).astype(dtype)


def deep(height: int = 13, width: int = 17, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 65536, (height, width, channels), dtype=np.uint16)


def encoded(picture: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_name, **options)
    return file.getvalue()


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return out


def matrix_profile(gamma: float, primaries: list[tuple[float, float, float]]) -> bytes:
    """A minimal ICC v2 display profile from D50 colorants and a gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(79),
        b"wtpt": xyz((0.9642, 1, 0.8249)),
    }
    tags |= {name: xyz(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1, 0.8249))
    return _profile(b"GRAY", {b"wtpt": white, b"kTRC": curve})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


# Adobe RGB (1998) colorants, adapted to D50
WIDE = matrix_profile(2.2, [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)])


class TestFormats:
    @pytest.mark.parametrize(
        ("suffix", "tolerance"),
        [
            (".png", 0),
            (".tif", 0),
            (".bmp", 0),
            (".ppm", 0),
            (".jp2", 0),
            (".jpg", 3),
            (".webp", 6),
            (".heic", 6),
            (".avif", 6),
        ],
    )
    def test_round_trip_keeps_the_picture(self, tmp_path: Path, suffix: str, tolerance: int) -> None:
        pixels = smooth(48, 64)
        back = read(Photo(pixels).save(tmp_path / f"a{suffix}"))
        assert back.pixels.dtype == np.uint8
        assert back.alpha is None
        assert np.abs(back.pixels.astype(int) - pixels).max() <= tolerance

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp", ".ppm"])
    def test_grey_stays_one_channel(self, tmp_path: Path, suffix: str) -> None:
        pixels = smooth(40, 40)[..., :1].copy()
        back = read(Photo(pixels).save(tmp_path / f"a{suffix}"))
        assert back.pixels.shape == (40, 40, 1)
        assert np.abs(back.pixels.astype(int) - pixels).max() <= (2 if suffix == ".jpg" else 0)
        assert back.is_grey

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
    def test_alpha_is_kept_and_hidden_colours_too(self, tmp_path: Path, suffix: str) -> None:
        pixels = smooth(32, 32)
        alpha = np.full((32, 32), 255, np.uint8)
        alpha[:8] = 0
        alpha[8:16] = 100
        back = read(Photo(pixels, alpha).save(tmp_path / f"a{suffix}"))
        np.testing.assert_array_equal(back.alpha, alpha)
        if suffix != ".webp":  # lossy there
            np.testing.assert_array_equal(back.pixels, pixels)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("transparent", [False, True])
    def test_sixteen_bits_are_kept(self, tmp_path: Path, suffix: str, channels: int, transparent: bool) -> None:
        pixels = deep(channels=channels)
        alpha = deep(channels=1)[..., 0] if transparent else None
        back = read(Photo(pixels, alpha).save(tmp_path / f"a{suffix}"))
        assert back.pixels.dtype == np.uint16
        np.testing.assert_array_equal(back.pixels, np.broadcast_to(pixels, back.pixels.shape))
        if transparent:
            np.testing.assert_array_equal(back.alpha, alpha)
        else:
            assert back.alpha is None

    def test_sixteen_bits_written_here_are_read_by_others(self, tmp_path: Path) -> None:
        pixels = deep()
        for suffix in (".png", ".tif"):
            path = Photo(pixels).save(tmp_path / f"a{suffix}")
            np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1], pixels)
            with Image.open(path) as other:
                np.testing.assert_array_equal(np.asarray(other), pixels >> 8)

    @pytest.mark.parametrize("compression", [1, 5, 8, 32773])
    def test_sixteen_bit_tiff_of_others(self, compression: int) -> None:
        pixels = deep()
        _, data = cv2.imencode(".tiff", pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        photo = read(data.tobytes())
        np.testing.assert_array_equal(photo.pixels, pixels)

    def test_sixteen_bits_round_to_nearest_in_eight_bit_formats(self, tmp_path: Path) -> None:
        levels = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)[..., None].repeat(3, 2)
        back = read(Photo(levels).save(tmp_path / "a.bmp"))
        assert back.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]

    def test_palettes_and_bits(self) -> None:
        colours = Image.new("P", (2, 1))
        colours.putpalette([10, 20, 30, 200, 100, 50])
        colours.putdata([0, 1])
        photo = read(encoded(colours, "PNG"))
        assert photo.pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]]
        assert photo.alpha is None
        transparent = read(encoded(colours, "PNG", transparency=1))
        assert transparent.alpha is not None
        assert transparent.alpha.tolist() == [[255, 0]]
        assert transparent.pixels[0, 1].tolist() == [200, 100, 50]
        bits = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
        for name in ("PNG", "TIFF", "BMP"):
            assert read(encoded(bits, name)).pixels[..., 0].tolist() == [[0, 255, 255]]

    def test_progressive_and_renamed(self, tmp_path: Path) -> None:
        pixels = smooth(64, 64)
        path = tmp_path / "really_a_jpeg.png"
        path.write_bytes(encoded(Image.fromarray(pixels), "JPEG", quality=95, progressive=True))
        photo = read(path)
        assert photo.format == "JPEG"
        assert np.abs(photo.pixels.astype(int) - pixels).mean() < 1.5

    def test_cmyk_by_complement(self) -> None:
        inks = np.zeros((16, 64, 4), np.uint8)
        inks[:, 16:32] = (255, 0, 0, 0)
        inks[:, 32:48] = (0, 255, 255, 0)
        inks[:, 48:] = (0, 0, 0, 255)
        picture = Image.frombytes("CMYK", (64, 16), inks.tobytes())
        expected = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]
        for data in (encoded(picture, "TIFF"), encoded(picture, "JPEG", quality=100)):
            photo = read(data)
            got = photo.pixels[8, 8::16].astype(int)
            assert np.abs(got - expected).max() <= 4
            assert any("CMYK" in note for note in photo.notes)

    def test_cmyk_jpeg_without_adobe_mark_is_not_inverted(self) -> None:
        inks = np.zeros((16, 16, 4), np.uint8)
        data = encoded(Image.frombytes("CMYK", (16, 16), inks.tobytes()), "JPEG", quality=100)
        start = data.index(b"\xff\xee")
        bare = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
        assert b"Adobe" in data
        assert b"Adobe" not in bare
        assert read(data).pixels.min() >= 253  # 255 is stored, and with Adobe's mark means no ink
        assert read(bare).pixels.max() <= 2  # and without it full ink

    def test_animations_give_the_first_frame_and_say_so(self) -> None:
        frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
        for name in ("GIF", "WEBP"):
            options = {"lossless": True} if name == "WEBP" else {}
            data = encoded(frames[0], name, save_all=True, append_images=frames[1:], **options)
            photo = read(data)
            assert photo.pixels[5, 5].tolist() == [255, 0, 0]
            assert photo.notes == ("first of 3 frames",)

    def test_gif_writing_keeps_few_colours_exactly(self, tmp_path: Path) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:4], pixels[4:] = (200, 30, 60), (10, 220, 90)
        np.testing.assert_array_equal(read(Photo(pixels).save(tmp_path / "a.gif")).pixels, pixels)

    def test_phone_jpeg_with_preview_is_one_photo(self) -> None:
        main, preview = Image.fromarray(smooth(40, 60)), Image.new("RGB", (6, 4))
        photo = read(encoded(main, "MPO", save_all=True, append_images=[preview]))
        assert (photo.format, photo.width, photo.height, photo.notes) == ("JPEG", 60, 40, ())

    def test_stereo_photos_are_said_to_be_two(self) -> None:
        left, right = Image.fromarray(smooth(40, 60)), Image.fromarray(smooth(40, 60)[::-1])
        photo = read(encoded(left, "MPO", save_all=True, append_images=[right]))
        assert photo.notes == ("first of 2 pictures of the same size",)
        assert np.abs(photo.pixels.astype(int) - smooth(40, 60)).mean() < 3

    def test_extreme_shape_is_legal(self) -> None:
        photo = read(encoded(Image.new("RGB", (100_000, 10), "teal"), "PNG"))
        assert (photo.width, photo.height) == (100_000, 10)
        assert read(encoded(Image.new("L", (1, 1), 9), "PNG")).pixels.tolist() == [[[9]]]


class TestTiff:
    def pages(self, bits: int = 8) -> bytes:
        if bits == 16:
            _, data = cv2.imencodemulti(".tiff", [np.full((5, 6, 3), 1000 * i, np.uint16) for i in range(3)])
            return data.tobytes()
        frames = [Image.new("RGB", (6, 5), (40 * i, 0, 0)) for i in range(3)]
        return encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])

    @pytest.mark.parametrize(("bits", "step"), [(8, 40), (16, 1000)])
    def test_pages_are_chosen(self, bits: int, step: int) -> None:
        for page in range(3):
            photo = read(self.pages(bits), page=page)
            assert photo.pixels[2, 2, 0] == step * page
            assert photo.notes == (f"page {page + 1} of 3",)

    @pytest.mark.parametrize("page", [3, -1, 10**9])
    def test_pages_out_of_range(self, page: int) -> None:
        with pytest.raises(ImageReadError, match="pages 0 to 2"):
            read(self.pages(), page=page)

    def test_page_of_a_single_picture(self) -> None:
        with pytest.raises(ImageReadError, match="only page 0"):
            read(encoded(Image.new("L", (3, 3)), "PNG"), page=1)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("white", [1.0, 255.0])
    def test_floats_are_scaled(self, channels: int, white: float) -> None:
        values = np.linspace(0, white, 12 * channels, dtype=np.float32).reshape(3, 4, channels)
        _, data = cv2.imencode(".tiff", values[..., ::-1] if channels == 3 else values)
        photo = read(data.tobytes())
        assert photo.pixels.dtype == np.uint16
        np.testing.assert_allclose(photo.pixels / 65535, values / white, atol=1 / 65535)
        assert any("floating-point" in note for note in photo.notes)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_is_refused(self, channels: int, bad: float) -> None:
        values = np.zeros((3, 4, channels), np.float32)
        values[1, 1] = bad
        with pytest.raises(ImageReadError, match="NaN"):
            read(cv2.imencode(".tiff", values)[1].tobytes())

    def test_white_is_zero(self) -> None:
        grey = np.array([[0, 1, 60000]], np.uint16)
        assert read(_tiff(grey)).pixels[..., 0].tolist() == [[65535, 65534, 5535]]


def _tiff(grey: np.ndarray) -> bytes:
    """Uncompressed 16-bit grey with PhotometricInterpretation 0."""
    body = grey.astype("<u2").tobytes()
    tags = [(256, 3, grey.shape[1]), (257, 3, grey.shape[0]), (258, 3, 16), (259, 3, 1), (262, 3, 0), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, grey.shape[0]), (279, 4, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


class TestOrientation:
    # what a viewer shows for the stored rows [[1, 2, 3], [4, 5, 6]]
    SHOWN: ClassVar = {
        1: [[1, 2, 3], [4, 5, 6]],
        2: [[3, 2, 1], [6, 5, 4]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[4, 5, 6], [1, 2, 3]],
        5: [[1, 4], [2, 5], [3, 6]],
        6: [[4, 1], [5, 2], [6, 3]],
        7: [[6, 3], [5, 2], [4, 1]],
        8: [[3, 6], [2, 5], [1, 4]],
    }
    STORED = np.array(SHOWN[1], np.uint8) * 40

    def exif(self, orientation: int) -> bytes:
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        exif[Base.Make] = "Maker"
        return exif.tobytes()

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "JPEG"])
    def test_applied_once(self, tmp_path: Path, name: str, orientation: int) -> None:
        stored = np.kron(self.STORED, np.ones((16, 16), np.uint8))
        options = {"lossless": True} if name == "WEBP" else {}
        picture = Image.fromarray(np.dstack([stored] * 3))
        photo = read(encoded(picture, name, exif=self.exif(orientation), **options))
        got = np.rint(photo.pixels[8::16, 8::16, 0] / 40).astype(int)
        assert got.tolist() == self.SHOWN[orientation]
        saved = photo.save(tmp_path / f"o.{'jpg' if name == 'JPEG' else name.lower()}")
        with Image.open(saved) as again:
            assert again.getexif().get(Base.Orientation, 1) == 1
            assert again.getexif()[Base.Make] == "Maker"
        assert read(saved).pixels.shape == photo.pixels.shape

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_sixteen_bit_png_and_alpha(self, orientation: int) -> None:
        stored = self.STORED.astype(np.uint16) * 257 + 3
        rgba = np.dstack([stored] * 3 + [stored + 1])
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgba)
        data = png_chunks(
            (b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 6, 0, 0, 0)),
            (b"eXIf", self.exif(orientation)[6:]),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
        photo = read(data)
        expected = np.array(self.SHOWN[orientation]) * 40 * 257 + 3
        np.testing.assert_array_equal(photo.pixels[..., 0], expected)
        np.testing.assert_array_equal(photo.alpha, expected + 1)

    def test_orientation_in_xmp_is_applied_and_reset(self, tmp_path: Path) -> None:
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
        photo = read(encoded(Image.fromarray(smooth(10, 20)), "JPEG", xmp=xmp))
        assert (photo.width, photo.height) == (10, 20)
        assert photo.xmp is not None
        assert b'tiff:Orientation="1"' in photo.xmp
        assert read(photo.save(tmp_path / "a.jpg")).width == 10

    def test_a_callers_picture_is_left_as_it_was(self) -> None:
        picture = Image.open(io.BytesIO(encoded(Image.fromarray(smooth(10, 20)), "PNG", exif=self.exif(6))))
        for _ in range(2):
            assert read(picture).width == 10
        assert picture.getexif()[Base.Orientation] == 6

    def test_heic(self, tmp_path: Path) -> None:
        picture = Image.fromarray(smooth(32, 64))
        photo = read(encoded(picture, "HEIF", exif=self.exif(6)))
        assert (photo.width, photo.height) == (32, 64)


class TestMetadata:
    def photo_bytes(self) -> bytes:
        exif = Image.Exif()
        exif[Base.Make] = "Maker"
        exif[IFD.Exif] = {Base.ExposureTime: 0.5, Base.ExifImageWidth: 40, Base.ExifImageHeight: 20}
        exif[IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 0.0)}
        xmp = (
            b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,8N" exif:ISO="100">'
            b"<exif:GPSLongitude>11,34E</exif:GPSLongitude></rdf:Description></rdf:RDF></x:xmpmeta>"
        )
        return encoded(
            Image.fromarray(smooth(20, 40)), "JPEG", exif=exif.tobytes(), xmp=xmp, dpi=(300, 200), icc_profile=WIDE
        )

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".heic", ".avif"])
    @pytest.mark.parametrize("keep_gps", [True, False])
    def test_everything_travels_and_gps_on_request_does_not(self, tmp_path: Path, suffix: str, keep_gps: bool) -> None:
        path = read(self.photo_bytes()).save(tmp_path / f"a{suffix}", keep_gps=keep_gps)
        back = read(path)
        assert back.icc == WIDE
        assert back.exif is not None
        assert back.xmp is not None
        tags = Image.Exif()
        tags.load(back.exif)
        assert tags[Base.Make] == "Maker"
        assert tags.get_ifd(IFD.Exif)[Base.ExposureTime] == 0.5
        assert bool(tags.get_ifd(IFD.GPSInfo)) == keep_gps
        assert (b"GPS" in back.xmp) == keep_gps
        assert b'exif:ISO="100"' in back.xmp
        if suffix in (".jpg", ".png", ".tif"):
            assert back.dpi == pytest.approx((300, 200), abs=0.1)

    def test_sixteen_bit_png_carries_it_too(self, tmp_path: Path) -> None:
        source = read(self.photo_bytes())
        photo = Photo(deep(20, 40), None, source.icc, source.exif, source.xmp, source.dpi)
        back = read(photo.save(tmp_path / "a.png"))
        assert (back.icc, back.xmp) == (source.icc, source.xmp)
        assert back.exif is not None
        assert back.dpi == pytest.approx((300, 200), abs=0.1)

    def test_recorded_size_follows_the_picture(self, tmp_path: Path) -> None:
        back = read(read(self.photo_bytes()).resized(2).save(tmp_path / "a.jpg"))
        assert back.exif is not None
        tags = Image.Exif()
        tags.load(back.exif)
        block = tags.get_ifd(IFD.Exif)
        assert (block[Base.ExifImageWidth], block[Base.ExifImageHeight]) == (80, 40)

    def test_xmp_argument_replaces(self, tmp_path: Path) -> None:
        assert read(read(self.photo_bytes()).save(tmp_path / "a.png", xmp=b"<new/>")).xmp == b"<new/>"

    def test_oversized_packets_do_not_break_a_jpeg(self, tmp_path: Path) -> None:
        photo = Photo(smooth(8, 8), exif=b"Exif\0\0" + bytes(70_000), xmp=bytes(70_000))
        assert read(photo.save(tmp_path / "a.jpg")).xmp is None

    def test_damaged_exif_is_dropped_without_losing_the_photo(self) -> None:
        data = encoded(Image.fromarray(smooth(8, 8)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
        assert read(data).pixels.shape == (8, 8, 3)

    def test_nonsense_resolution(self) -> None:
        assert metadata.clean_dpi((0, 72)) is None
        assert metadata.clean_dpi((float("nan"), 72)) is None
        assert metadata.clean_dpi("ab") is None
        assert metadata.clean_dpi((72, 96)) == (72, 96)


class TestColour:
    def test_wide_gamut_to_srgb_by_hand(self) -> None:
        """Adobe RGB (120, 180, 60) → XYZ (D50) → linear sRGB → sRGB, worked out with matrices."""
        native = np.array([120, 180, 60])
        colorants = np.array([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]).T
        srgb_d50 = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]).T
        linear = np.linalg.solve(srgb_d50, colorants @ (native / 255) ** 2.2).clip(0, 1)
        expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        photo = Photo(np.tile(native.astype(np.uint8), (4, 4, 1)), icc=WIDE)
        assert np.abs(photo.rgb()[0, 0] - expected).max() <= 2
        assert np.abs(expected - native).max() > 10  # the profile matters here

    def test_srgb_profile_changes_nothing(self) -> None:
        icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        pixels = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        np.testing.assert_array_equal(Photo(pixels, icc=icc).rgb(), pixels)

    def test_grey_profile(self) -> None:
        """Linear light (gamma 1): half the light is sRGB level 188."""
        photo = Photo(np.full((2, 2, 1), 128, np.uint8), icc=grey_profile(1.0))
        assert np.abs(photo.rgb().astype(int) - 188).max() <= 1

    def test_broken_profiles_are_left_out_with_a_note(self) -> None:
        for icc in (b"garbage" * 40, WIDE[:200], grey_profile(2.2)):
            photo = read(encoded(Image.fromarray(smooth(8, 8)), "PNG", icc_profile=icc))
            assert photo.icc is None
            assert any("colour profile" in note for note in photo.notes)

    def test_lab_tiff(self) -> None:
        lab = Image.frombytes("LAB", (1, 1), bytes([138, 0, 0]))  # L* = 54: a middle grey
        photo = read(encoded(lab, "TIFF"))
        assert photo.pixels.shape == (1, 1, 3)
        assert np.ptp(photo.pixels.astype(int)) <= 3
        assert abs(int(photo.pixels[0, 0, 1]) - 129) <= 3

    def test_rgb_of_grey_and_deep(self) -> None:
        grey = Photo(np.array([[[7], [250]]], np.uint8))
        assert grey.rgb().tolist() == [[[7] * 3, [250] * 3]]
        assert Photo(np.full((1, 1, 3), 30000, np.uint16)).rgb().tolist() == [[[117] * 3]]

    def test_alpha_is_not_composited(self) -> None:
        pixels = smooth(4, 4)
        np.testing.assert_array_equal(Photo(pixels, np.zeros((4, 4), np.uint8)).rgb(), pixels)

    def test_is_grey(self) -> None:
        grey = np.repeat(smooth(64, 64)[..., :1], 3, 2)
        assert Photo(grey).is_grey
        assert read(encoded(Image.fromarray(grey), "JPEG", quality=60)).is_grey
        sepia = np.clip(grey * np.array([1.0, 0.9, 0.75]), 0, 255).astype(np.uint8)
        assert not Photo(sepia).is_grey
        assert not Photo(smooth(64, 64)).is_grey


class TestPatched:
    BOX = (5, 3, 25, 19)

    def mask(self) -> np.ndarray:
        ys, xs = np.mgrid[:16, :20]
        return np.clip(1.2 - np.hypot((xs - 10) / 8, (ys - 8) / 6), 0, 1).astype(np.float32)

    def photos(self) -> list[Photo]:
        colour8, grey8 = smooth(32, 40), smooth(32, 40)[..., :1].copy()
        colour16 = (smooth(32, 40, np.uint16) + RNG.integers(0, 200, (32, 40, 3))).astype(np.uint16)
        alpha = RNG.integers(0, 256, (32, 40), dtype=np.uint8)
        return [
            Photo(colour8, alpha),
            Photo(colour8, icc=WIDE),
            Photo(colour16),
            Photo(colour16, alpha.astype(np.uint16) * 257, icc=WIDE),
            Photo(grey8),
            Photo(grey8, icc=grey_profile(1.8)),
            Photo(np.repeat(grey8, 3, 2)),
        ]

    @pytest.mark.parametrize("index", range(7))
    def test_outside_the_mask_is_bit_equal(self, index: int) -> None:
        photo, mask = self.photos()[index], self.mask()
        rgb = RNG.uniform(0, 255, (16, 20, 3)).astype(np.float32)
        out = photo.patched(self.BOX, rgb, mask)
        changed = np.zeros((32, 40), bool)
        changed[3:19, 5:25] = mask > 0
        np.testing.assert_array_equal(out.pixels[~changed], photo.pixels[~changed])
        assert (out.pixels[changed] != photo.pixels[changed]).mean() > 0.5
        assert out.alpha is photo.alpha
        assert out.pixels.dtype == photo.pixels.dtype

    @pytest.mark.parametrize("index", range(7))
    def test_putting_the_same_back_changes_nothing(self, index: int) -> None:
        photo = self.photos()[index]
        same = photo.rgb()[3:19, 5:25].astype(np.float32)
        out = photo.patched(self.BOX, same, np.ones((16, 20), np.float32))
        np.testing.assert_array_equal(out.pixels, photo.pixels)

    @pytest.mark.parametrize(("index", "tolerance"), [(0, 0.5), (1, 2.1), (2, 1.0), (3, 2.6)])
    def test_full_mask_shows_the_patch(self, index: int, tolerance: float) -> None:
        """Up to the roundings to 8 bits on the way: one, two with 16-bit residue, more through a colour profile."""
        photo = self.photos()[index]
        photo = replace(photo, pixels=photo.pixels // 4 + np.iinfo(photo.pixels.dtype).max // 3)  # inside both gamuts
        target = 90 + 60 * RNG.random((16, 20, 3)).astype(np.float32)
        out = photo.patched(self.BOX, target, np.ones((16, 20), np.float32))
        assert np.abs(out.rgb()[3:19, 5:25] - target).max() <= tolerance + 0.01

    def test_half_a_mask_is_half_the_difference_in_sixteen_bits(self) -> None:
        photo = Photo(np.full((2, 2, 3), 100 * 257 + 40, np.uint16))
        out = photo.patched((0, 0, 2, 2), np.full((2, 2, 3), 110, np.float32), np.full((2, 2), 0.5, np.float32))
        assert np.unique(out.pixels).tolist() == [105 * 257 + 40]

    def test_colours_beyond_srgb_survive(self) -> None:
        green = Photo(np.tile(np.array([0, 255, 0], np.uint8), (4, 4, 1)), icc=WIDE)
        darker = green.rgb().astype(np.float32) - np.array([0, 10, 0], np.float32)
        out = green.patched((0, 0, 4, 4), darker, np.ones((4, 4), np.float32))
        assert out.pixels[0, 0, 0] <= 6  # a plain replacement would have brought red up to 140
        assert 235 <= out.pixels[0, 0, 1] < 255

    def test_grey_stays_grey(self) -> None:
        red = np.tile(np.array([200, 50, 50], np.float32), (16, 20, 1))
        for photo in self.photos()[4:]:
            out = photo.patched(self.BOX, red, np.ones((16, 20), np.float32))
            assert out.is_grey
            expected = 0.299 * 200 + 0.587 * 50 + 0.114 * 50
            assert np.abs(out.rgb()[10, 12] - expected).max() <= 1.5

    def test_wrong_arguments(self) -> None:
        photo = Photo(smooth(10, 10))
        ones = np.ones((4, 4), np.float32)
        for box in ((-1, 0, 3, 4), (8, 8, 12, 12), (4, 4, 4, 8)):
            with pytest.raises(UsageError, match="not inside"):
                photo.patched(box, np.zeros((4, 4, 3)), ones)
        with pytest.raises(UsageError, match="needs rgb"):
            photo.patched((0, 0, 4, 4), np.zeros((4, 5, 3)), ones)


class TestResized:
    def test_bit_depth_alpha_and_metadata_stay(self) -> None:
        photo = Photo(smooth(20, 30, np.uint16), np.full((20, 30), 65535, np.uint16), icc=WIDE, dpi=(300, 300))
        big = photo.resized(2)
        assert big.pixels.shape == (40, 60, 3)
        assert big.pixels.dtype == np.uint16
        assert big.alpha is not None
        assert (big.alpha == 65535).all()
        assert (big.icc, big.dpi) == (WIDE, (300, 300))
        back = big.resized(0.5).pixels.astype(int)
        assert np.abs(back - photo.pixels)[2:-2, 2:-2].max() < 257

    def test_grey_and_fractions(self) -> None:
        assert Photo(np.full((10, 15, 1), 77, np.uint8)).resized(1.5).pixels.shape == (15, 22, 1)
        photo = Photo(smooth(5, 5))
        assert photo.resized(1) is photo

    @pytest.mark.parametrize("factor", [0, -2, float("nan"), float("inf")])
    def test_senseless_factors(self, factor: float) -> None:
        with pytest.raises(UsageError):
            Photo(smooth(5, 5)).resized(factor)


class TestSources:
    def test_arrays(self) -> None:
        grey = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
        assert read(grey).pixels.shape == (4, 5, 1)
        rgba = RNG.integers(0, 65536, (4, 5, 4), dtype=np.uint16)
        photo = read(rgba)
        np.testing.assert_array_equal(photo.pixels, rgba[..., :3])
        np.testing.assert_array_equal(photo.alpha, rgba[..., 3])
        rgba[:] = 0
        assert photo.pixels.any()  # a copy, not a view
        assert read(photo) is photo

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4, 3), np.float32),
            np.zeros((4, 4, 5), np.uint8),
            np.zeros(4, np.uint8),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_senseless_arrays(self, array: np.ndarray) -> None:
        with pytest.raises(ImageReadError):
            read(array)

    def test_streams_bytes_and_pil_agree(self, tmp_path: Path) -> None:
        pixels = smooth(9, 11)
        data = encoded(Image.fromarray(pixels), "PNG")
        (tmp_path / "a.png").write_bytes(data)
        for source in (data, io.BytesIO(data), Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")):
            np.testing.assert_array_equal(read(source).pixels, pixels)

    def test_to_pil(self) -> None:
        assert Photo(smooth(3, 3), np.zeros((3, 3), np.uint8)).to_pil().mode == "RGBA"
        assert Photo(deep(3, 3, 1)).to_pil().mode == "I;16"
        assert Photo(deep(3, 3, 3), icc=WIDE).to_pil().info["icc_profile"] == WIDE


class TestBadInput:
    def refused(self, source: object, match: str | None = None, **options: object) -> str:
        with pytest.raises(ImageReadError, match=match) as caught:
            read(source, **options)  # type: ignore[arg-type]
        text = str(caught.value)
        assert "\n" not in text
        return text

    def test_missing_folder_empty_and_text(self, tmp_path: Path) -> None:
        assert "nope.jpg" in self.refused(tmp_path / "nope.jpg", "does not exist")
        self.refused(tmp_path, "is a folder")
        (tmp_path / "empty.jpg").write_bytes(b"")
        assert "empty.jpg" in self.refused(tmp_path / "empty.jpg", "empty")
        (tmp_path / "text.jpg").write_text("Dear Sir,\nthis is no picture.")
        self.refused(tmp_path / "text.jpg", "contains text")
        self.refused(b"%PDF-1.7 ...", "PDF")
        self.refused(b"\0\0\0\x18ftypisom" + bytes(40), "video")
        self.refused("bad\0name.jpg", "cannot read")

    def test_no_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(encoded(Image.new("L", (2, 2)), "PNG"))

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        assert "a.png" in self.refused(path, "no permission")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_pipes_do_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        self.refused(tmp_path / "pipe.jpg", "regular file")

    def test_bombs_are_refused_from_the_header(self) -> None:
        """The header promises 3.6 gigapixels; nothing behind it would decode, so it is the header that is judged."""
        bomb = png_chunks(
            (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")
        )
        with pytest.raises(ImageTooLargeError, match=r"60000 x 60000 = 3600\.0 million"):
            read(bomb)

    def test_the_limit_is_ours_not_pillows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(Image.new("L", (64, 64)), "PNG")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # `Image.open` now refuses 4096 pixels
        assert read(data).pixels.shape == (64, 64, 1)

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "JPEG2000", "PPM"])
    def test_limit_holds_for_every_format(self, name: str) -> None:
        data = encoded(Image.new("RGB", (64, 64)), name)
        with pytest.raises(ImageTooLargeError):
            read(data, max_pixels=64 * 64 - 1)
        assert read(data, max_pixels=64 * 64).width == 64

    def test_zero_size(self) -> None:
        self.refused(png_chunks((b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)), (b"IEND", b"")))

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP"])
    def test_truncated_files_give_what_is_there(self, name: str) -> None:
        pixels = RNG.integers(30, 226, (200, 150, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(pixels), name)
        photo = read(data[: int(len(data) * 0.7)])
        (note,) = photo.notes
        side = "upper" if name == "BMP" else "lower"
        assert f"the {side} " in note
        missing = int(note.split("%")[0].split()[-1])
        assert 26 <= missing <= 38
        whole = read(data).pixels
        rows = slice(80, 200) if name == "BMP" else slice(0, 112)
        np.testing.assert_array_equal(photo.pixels[rows], whole[rows])

    def test_truncated_progressive_jpeg_is_coarse(self) -> None:
        pixels = smooth(200, 200)
        data = encoded(Image.fromarray(pixels), "JPEG", quality=90, progressive=True)
        photo = read(data[: int(len(data) * 0.8)])
        assert "progressive" in photo.notes[0]
        assert np.abs(photo.pixels.astype(int) - pixels).mean() < 12

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "GIF"])
    def test_truncated_beyond_use(self, name: str) -> None:
        data = encoded(Image.fromarray(RNG.integers(30, 226, (64, 64, 3), dtype=np.uint8)), name)
        for length in (3, 12, 30, len(data) // 30):
            self.refused(data[:length])


class TestSaving:
    def test_never_overwrites_by_itself(self, tmp_path: Path) -> None:
        path = save_rgb(smooth(4, 4), tmp_path / "a.png")
        before = path.read_bytes()
        with pytest.raises(OutputError, match="exists already"):
            save_rgb(smooth(5, 5), path)
        assert path.read_bytes() == before
        save_rgb(smooth(5, 5), path, overwrite=True)
        assert read(path).width == 5
        assert os.listdir(tmp_path) == ["a.png"]

    def test_unknown_suffixes_and_values(self, tmp_path: Path) -> None:
        photo = Photo(smooth(4, 4))
        for name in ("a.xyz", "a"):
            with pytest.raises(UsageError, match=r"\.jpg"):
                photo.save(tmp_path / name)
        with pytest.raises(UsageError, match="quality"):
            photo.save(tmp_path / "a.jpg", quality=0)
        with pytest.raises(UsageError, match="format"):
            photo.save(tmp_path / "a.jpg", format="psd")
        assert os.listdir(tmp_path) == []
        assert read(photo.save(tmp_path / "odd.name", format="png")).format == "PNG"

    def test_transparency_is_never_dropped_silently(self, tmp_path: Path) -> None:
        half = np.full((4, 4), 128, np.uint8)
        for suffix in (".jpg", ".bmp", ".ppm"):
            with pytest.raises(UsageError, match="transparency"):
                Photo(smooth(4, 4), half).save(tmp_path / f"a{suffix}")
        assert os.listdir(tmp_path) == []
        Photo(smooth(4, 4), np.full((4, 4), 255, np.uint8)).save(tmp_path / "a.jpg")  # opaque: nothing is lost

    def test_jpeg_is_not_subsampled(self, tmp_path: Path) -> None:
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, ::2], pixels[:, 1::2] = (255, 0, 0), (0, 0, 255)
        back = read(Photo(pixels).save(tmp_path / "a.jpg"))
        assert np.abs(back.pixels.astype(int) - pixels).mean() < 4
        coarse = read(Photo(pixels).save(tmp_path / "b.jpg", quality=20))
        assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size
        assert coarse.width == 32

    def test_too_large_for_the_format(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="WEBP"):
            Photo(np.zeros((1, 20_000, 3), np.uint8)).save(tmp_path / "a.webp")
        assert os.listdir(tmp_path) == []

    def test_equal_input_gives_equal_files(self, tmp_path: Path) -> None:
        photo = Photo(smooth(16, 16), icc=WIDE, dpi=(300, 300))
        for suffix in (".jpg", ".png", ".tif", ".webp"):
            one, two = photo.save(tmp_path / f"1{suffix}"), photo.save(tmp_path / f"2{suffix}")
            assert one.read_bytes() == two.read_bytes()


class TestAtomic:
    @pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
    @pytest.mark.parametrize("existing", [True, False])
    def test_nothing_remains_of_a_failure(self, tmp_path: Path, failure: type[BaseException], existing: bool) -> None:
        target = tmp_path / "a.png"
        if existing:
            target.write_bytes(b"old")
        with pytest.raises(failure), atomic_output(target, overwrite=True) as temporary:  # noqa: PT012
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".png"
            assert temporary.name.startswith(TEMPORARY_PREFIX)
            temporary.write_bytes(b"half")
            raise failure
        assert os.listdir(tmp_path) == (["a.png"] if existing else [])
        if existing:
            assert target.read_bytes() == b"old"

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_disk_troubles_become_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(atomic, "_sync", fail)
        with pytest.raises(OutputError, match=r"a\.jpg: (the disk is full|no permission|the file system)"):
            save_rgb(smooth(8, 8), tmp_path / "a.jpg")
        assert os.listdir(tmp_path) == []

    def test_full_disk_while_encoding(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("facewright.io.encode.encode", fail)
        with pytest.raises(OutputError, match="disk is full"):
            save_rgb(smooth(8, 8), tmp_path / "a.jpg")
        assert os.listdir(tmp_path) == []

    def test_somebody_else_was_faster(self, tmp_path: Path) -> None:
        target = tmp_path / "a.png"
        with pytest.raises(OutputError, match="exists already"), atomic_output(target):
            target.write_bytes(b"theirs")
        assert target.read_bytes() == b"theirs"
        assert os.listdir(tmp_path) == ["a.png"]

    def test_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(os, "link", fail)
        target = tmp_path / "a.png"
        with atomic_output(target) as temporary:
            temporary.write_bytes(b"mine")
        assert target.read_bytes() == b"mine"
        target.unlink()
        with pytest.raises(OutputError, match="exists already"), atomic_output(target) as temporary:
            target.write_bytes(b"theirs")
        assert target.read_bytes() == b"theirs"
        assert os.listdir(tmp_path) == ["a.png"]

    def test_places_that_are_no_files(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        cases = {
            tmp_path: "is a folder",
            tmp_path / "no" / "a.png": "does not exist",
            tmp_path / "file" / "a.png": "is a file",
            tmp_path / ("x" * 300 + ".png"): "too long",
            Path(os.devnull): "not a regular file",
        }
        for path, match in cases.items():
            with pytest.raises(OutputError, match=match), atomic_output(path, overwrite=True) as temporary:
                temporary.write_bytes(b"y")
        assert os.listdir(tmp_path) == ["file"]

    def test_parents_on_request(self, tmp_path: Path) -> None:
        with atomic_output(tmp_path / "b" / "c" / "a.png", parents=True) as temporary:
            temporary.write_bytes(b"y")
        assert (tmp_path / "b" / "c" / "a.png").read_bytes() == b"y"
        with pytest.raises(OutputError, match="in the way"), atomic_output(tmp_path / "b/c/a.png/d/e", parents=True):
            pass

    @pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
    def test_permissions_and_links(self, tmp_path: Path) -> None:
        umask = os.umask(0o027)
        with contextlib.ExitStack() as stack:
            stack.callback(os.umask, umask)
            save_rgb(smooth(4, 4), tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640
        (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
        save_rgb(smooth(6, 6), tmp_path / "link.png", overwrite=True)
        assert (tmp_path / "link.png").is_symlink()
        assert read(tmp_path / "a.png").width == 6
