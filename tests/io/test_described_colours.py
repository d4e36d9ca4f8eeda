"""Colours that are not told by an ICC profile, and depths beyond 8 bits: the look stays, whatever is written."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image
from PIL.ExifTags import IFD, Base
from skimage.color import deltaE_ciede2000, rgb2lab

from facewright.errors import ImageReadError, UsageError
from facewright.io import cicp, deep, icc, jpegxl
from facewright.io.cicp import HLG, PQ, PRIMARIES, CodePoints
from facewright.io.decode import load_plugins
from facewright.io.encode import format_of
from facewright.io.image import Photo, read

load_plugins()
PATCHES = np.array([(200, 150, 120), (90, 60, 50), (30, 60, 120), (128, 128, 128), (240, 240, 235), (60, 110, 60)])


def chart(colours: np.ndarray) -> np.ndarray:
    """Flat fields of 32 pixels, which lossy formats keep."""
    return np.kron(colours[None], np.ones((32, 32, 1))).astype(colours.dtype)


def fields(pixels: np.ndarray) -> np.ndarray:
    return pixels[16, 16::32]


def to_primaries(srgb: np.ndarray, primaries: int) -> np.ndarray:
    """sRGB 0..255 → linear light in other primaries (white D65)."""
    linear = icc.srgb_to_linear(srgb / 255)
    matrix = np.linalg.inv(icc.to_xyz(PRIMARIES[primaries])) @ icc.to_xyz(icc.SRGB_PRIMARIES)
    return linear @ matrix.T


def delta_e(photo: Photo, expected: np.ndarray = PATCHES) -> float:
    return float(deltaE_ciede2000(rgb2lab(fields(photo.rgb()) / 255), rgb2lab(expected / 255)).max())


def heic(values: np.ndarray, bits: int, primaries: int, transfer: int) -> bytes:
    mode = "RGB" if bits == 8 else "RGB;16"
    data = values if bits == 8 else values.astype(np.uint16)
    image = pillow_heif.from_bytes(mode, values.shape[1::-1], np.ascontiguousarray(data).tobytes())
    file = io.BytesIO()
    image.save(
        file,
        quality=95,
        chroma="444",
        color_primaries=primaries,
        transfer_characteristics=transfer,
        matrix_coefficients=9 if primaries == 9 else 6,
        full_range_flag=1,
    )
    return file.getvalue()


def avif(values: np.ndarray, bits: int, primaries: int, transfer: int) -> bytes:
    data = values if bits == 8 else (values.astype(np.uint32) >> (16 - bits)).astype(np.uint16)
    return imagecodecs.avif_encode(  # type: ignore[return-value]
        np.ascontiguousarray(data), level=95, bitspersample=bits, primaries=primaries, transfer=transfer, matrix=6
    )


def png(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    deep_values = values.dtype == np.uint16
    height, width, channels = values.shape
    rows = values.astype(">u2") if deep_values else values
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {1: 0, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16 if deep_values else 8, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")):
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return out


def levels(coded: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(np.clip(coded, 0, 1) * (255 if bits == 8 else 65535)).astype(np.uint8 if bits == 8 else np.uint16)


def coded(primaries: int, transfer: int) -> np.ndarray:
    """The patches as a file with these code points holds them, 0..1."""
    light = np.maximum(to_primaries(PATCHES, primaries), 0)
    if transfer == PQ:
        return cicp.light_to_pq(light * cicp.REFERENCE_WHITE)
    if transfer == HLG:
        return light_to_hlg(light * cicp.REFERENCE_WHITE, primaries)
    return icc.linear_to_srgb(light)


def light_to_hlg(light: np.ndarray, primaries: int) -> np.ndarray:
    """The inverse OOTF and the OETF of BT.2100 for a screen of 1000 cd/m², written out here once more."""
    relative = light / 1000
    luminance = relative @ icc.to_xyz(PRIMARIES[primaries])[1]
    scene = relative * np.maximum(luminance, 1e-12)[..., None] ** ((1 - 1.2) / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


class TestTransferFunctions:
    def test_known_values(self) -> None:
        """BT.2408: diffuse white is 58 % PQ and 75 % HLG; ST 2084: full signal is 10 000 cd/m²."""
        assert cicp.light_to_pq(np.array(203.0)) == pytest.approx(0.58, abs=0.001)
        assert cicp.light_to_pq(np.array(100.0)) == pytest.approx(0.508, abs=0.001)
        assert cicp.pq_to_light(np.array([0.0, 1.0])) == pytest.approx([0, 10_000])
        assert cicp.hlg_to_scene(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 1 / 12, 1], abs=1e-6)
        weights = icc.to_xyz(PRIMARIES[9])[1]
        assert weights == pytest.approx([0.2627, 0.6780, 0.0593], abs=2e-4)
        assert cicp.hlg_to_light(np.full((1, 3), 0.75), weights) == pytest.approx(203, abs=1)
        assert cicp.hlg_to_light(np.ones((1, 3)), weights) == pytest.approx(1000, rel=1e-6)

    def test_inverses(self) -> None:
        signal = np.linspace(0, 1, 101)
        assert cicp.light_to_pq(cicp.pq_to_light(signal)) == pytest.approx(signal, abs=1e-6)
        assert icc.linear_to_srgb(icc.srgb_to_linear(signal)) == pytest.approx(signal, abs=1e-6)

    def test_highlights_bend_and_keep_their_order(self) -> None:
        ramp = np.linspace(0, 1, 256)[None, :, None].repeat(3, 2)
        out = cicp.to_sdr(levels(ramp, 16), CodePoints(9, PQ))[0, :, 0].astype(int)
        assert (np.diff(out) >= 0).all()
        assert out[-1] == 65535
        assert len(np.unique(out)) > 240
        dark = cicp.to_sdr(levels(ramp * 0.5, 16), CodePoints(9, PQ))[0, :, 0]  # all below reference white
        expected = icc.linear_to_srgb(cicp.pq_to_light(levels(ramp * 0.5, 16)[0, :, 0] / 65535) / 203)
        assert np.abs(dark / 65535 - expected).max() < 1e-4
        below = cicp.pq_to_light(ramp[0, :, 0]) / 203 < 0.75
        assert np.abs(out[below] / 65535 - icc.linear_to_srgb(cicp.pq_to_light(ramp[0, below, 0]) / 203)).max() < 1e-4

    def test_a_dark_picture_is_not_a_division_by_zero(self) -> None:
        for transfer in (PQ, HLG):
            assert cicp.to_sdr(np.zeros((2, 2, 3), np.uint16), CodePoints(9, transfer)).max() == 0


class TestCodePoints:
    @pytest.mark.parametrize("bits", [8, 10])
    @pytest.mark.parametrize("primaries", [1, 9, 12])
    @pytest.mark.parametrize("transfer", [13, 1, PQ, HLG])
    @pytest.mark.parametrize("make", [heic, avif])
    def test_the_look_stays(self, make: Any, bits: int, primaries: int, transfer: int, tmp_path: Any) -> None:
        if bits == 8 and transfer in (PQ, HLG):
            pytest.skip("HDR has ten bits")
        content = make(chart(levels(coded(primaries, transfer), 8 if bits == 8 else 16)), bits, primaries, transfer)
        photo = read(content)
        assert delta_e(photo) < 2.5
        assert photo.bit_depth == (8 if bits == 8 else 16)
        assert (photo.icc is None) == (primaries == 1)
        if transfer in (PQ, HLG):
            assert any("high dynamic range" in note for note in photo.notes)
        for suffix in (".png", ".tif", ".jpg", ".heic", ".avif", ".bmp", ".webp", ".ppm", ".jp2"):
            assert delta_e(read(photo.save(tmp_path / f"a{suffix}"))) < 4, suffix

    def test_wide_colours_survive(self) -> None:
        """A green that only Display P3 has: it must not be clipped to sRGB's on the way."""
        green = chart(np.array([(0, 255, 0)], np.uint8))
        photo = read(heic(green, 8, 12, 13))
        assert photo.icc is not None
        assert fields(photo.pixels)[0].tolist() == pytest.approx([0, 255, 0], abs=3)

    def test_a_profile_comes_first(self) -> None:
        picture = Image.fromarray(chart(PATCHES.astype(np.uint8)))
        file = io.BytesIO()
        picture.save(file, "HEIF", quality=95, icc_profile=icc.adobe_rgb())
        assert read(file.getvalue()).icc == icc.adobe_rgb()


class TestPng:
    def test_code_points(self) -> None:
        for primaries, transfer in ((9, PQ), (9, HLG), (12, 13), (1, 13)):
            values = chart(levels(coded(primaries, transfer), 16))
            photo = read(png(values, (b"cICP", bytes([primaries, transfer, 0, 1]))))
            assert delta_e(photo) < 1
        assert read(png(values, (b"cICP", bytes([1, 13, 0, 1])))).icc is None

    def test_code_points_come_before_a_profile(self) -> None:
        profile = b"x\0\0" + zlib.compress(icc.adobe_rgb())
        values = chart(levels(coded(12, 13), 16))
        photo = read(png(values, (b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", profile)))
        assert delta_e(photo) < 1

    @pytest.mark.parametrize("gamma", [1.0, 1 / 1.8, 1 / 2.2])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_gamma(self, gamma: float, channels: int, tmp_path: Any) -> None:
        light = icc.srgb_to_linear(np.full((1, channels), 128) / 255)
        stored = light**gamma if gamma > 0.46 or gamma == 1 else icc.linear_to_srgb(light)
        content = png(chart(levels(stored, 8)), (b"gAMA", struct.pack(">I", round(gamma * 100_000))))
        photo = read(content)
        assert np.abs(photo.rgb().astype(int) - 128).max() <= 2
        assert (photo.icc is None) == (gamma < 0.46)
        assert np.abs(read(photo.save(tmp_path / "a.png")).rgb().astype(int) - 128).max() <= 2

    def test_chromaticities(self) -> None:
        values = [0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06]
        chrm = struct.pack(">8I", *(round(v * 100_000) for v in values))
        content = png(chart(PATCHES.astype(np.uint8)), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", chrm))
        photo = read(content)
        assert photo.icc is not None
        linear = icc.srgb_to_linear(PATCHES / 255)
        matrix = np.linalg.inv(icc.to_xyz(icc.SRGB_PRIMARIES)) @ icc.to_xyz(icc.ADOBE_RGB_PRIMARIES)
        expected = icc.linear_to_srgb(np.clip(linear @ matrix.T, 0, 1)) * 255
        assert delta_e(photo, expected) < 1

    def test_srgb_chunk_comes_before_them(self) -> None:
        content = png(chart(PATCHES.astype(np.uint8)), (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000)))
        assert read(content).icc is None

    @pytest.mark.parametrize("gamma", [0, 1, 4_000_000_000])
    def test_senseless_chunks(self, gamma: int) -> None:
        content = png(chart(PATCHES.astype(np.uint8)), (b"gAMA", struct.pack(">I", gamma)), (b"cHRM", bytes(32)))
        assert read(content).icc is None

    def test_a_transparent_colour_of_sixteen_bits(self) -> None:
        values = np.full((4, 4, 3), 1000, np.uint16)
        values[0, 0] = (5, 6, 7)
        photo = read(png(values, (b"tRNS", struct.pack(">3H", 5, 6, 7))))
        assert photo.alpha is not None
        assert photo.alpha[0].tolist() == [0, 65535, 65535, 65535]
        np.testing.assert_array_equal(photo.pixels, values)


def test_adobe_rgb_of_cameras() -> None:
    """DCF 2.0: colour space "uncalibrated" and interoperability index R03, no profile."""
    exif = Image.Exif()
    exif[Base.Make] = "Maker"
    exif[IFD.Exif] = {Base.ColorSpace: 65535, 0xA005: {1: "R03", 2: b"0100"}}
    file = io.BytesIO()
    Image.fromarray(chart(PATCHES.astype(np.uint8))).save(file, "JPEG", quality=95, exif=exif.tobytes())
    assert read(file.getvalue()).icc == icc.adobe_rgb()
    plain = Image.Exif()
    plain[IFD.Exif] = {Base.ColorSpace: 65535}
    file = io.BytesIO()
    Image.fromarray(chart(PATCHES.astype(np.uint8))).save(file, "JPEG", quality=95, exif=plain.tobytes())
    assert read(file.getvalue()).icc is None


class TestDepth:
    @staticmethod
    def ramp() -> np.ndarray:
        ys, xs = np.mgrid[:48, :64]
        return np.stack([xs * 900 + 77, ys * 1200 + 33, (xs + ys) * 500 + 5], -1).astype(np.uint16)

    @pytest.mark.parametrize(
        ("suffix", "tolerance"), [(".ppm", 0), (".jp2", 0), (".png", 0), (".tif", 0), (".heic", 900)]
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_round_trips(self, tmp_path: Any, suffix: str, tolerance: int, channels: int) -> None:
        photo = Photo(self.ramp()[..., :channels].copy())
        if suffix == ".heic" and channels == 1:
            assert "rounded to 8" in photo.not_kept("a.heic")[0]
            return
        back = read(photo.save(tmp_path / f"a{suffix}"))
        assert back.bit_depth == 16
        assert np.abs(back.pixels.astype(int) - photo.pixels).max() <= tolerance
        assert any("bits" in note for note in photo.not_kept(f"a{suffix}")) == (suffix == ".heic")

    @pytest.mark.parametrize("bits", [10, 12, 16])
    def test_jpeg_2000(self, bits: int) -> None:
        values = self.ramp() >> (16 - bits)
        values[:4], values[4:8] = 0, 2**bits - 1
        content = imagecodecs.jpeg2k_encode(
            values, level=0, reversible=True, codecformat="jp2", colorspace=1, bitspersample=bits
        )
        photo = read(content)  # type: ignore[arg-type]
        np.testing.assert_array_equal(photo.pixels, np.rint(values * (65535 / (2**bits - 1))))

    @pytest.mark.parametrize("top", [1023, 4095, 65535])
    @pytest.mark.parametrize("kind", [b"P6", b"P3"])
    def test_ppm(self, kind: bytes, top: int) -> None:
        values = (self.ramp().astype(np.uint64) * top // 65535).astype(np.uint16)
        body = values.astype(">u2").tobytes() if kind == b"P6" else " ".join(map(str, values.ravel())).encode()
        photo = read(b"%b\n# a comment\n64 48\n%d\n" % (kind, top) + body)
        np.testing.assert_array_equal(photo.pixels, np.rint(values.astype(float) * (65535 / top)))

    def test_portable_float_map_in_colour(self) -> None:
        values = (self.ramp() / 65535).astype(np.float32)
        for scale, order in (("-1.0", "<f4"), ("1.0", ">f4")):
            photo = read(f"PF\n64 48\n{scale}\n".encode() + values[::-1].astype(order).tobytes())
            assert np.abs(photo.pixels.astype(int) - self.ramp()).max() <= 1

    def test_what_jpeg_loses_is_said(self) -> None:
        photo = Photo(self.ramp(), icc=icc.adobe_rgb())
        assert photo.not_kept("a.jpg") == ("16 bits per channel were rounded to 8, JPEG holds no more here",)
        assert any("converted to sRGB" in note for note in photo.not_kept("a.bmp"))
        assert photo.not_kept("a.png") == ()

    def test_decoders_that_do_not_agree_are_not_believed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = cv2.imencode(".png", self.ramp())[1].tobytes()
        assert read(content).bit_depth == 16
        wrong = np.random.default_rng(0).integers(0, 65536, (48, 64, 3), dtype=np.uint16)
        monkeypatch.setattr(deep, "_values", lambda *_: wrong)
        with pytest.raises(ImageReadError, match="two decoders"):
            read(content)


class TestJpegXl:
    pytest.importorskip("pillow_jxl")

    def test_round_trip(self, tmp_path: Any) -> None:
        exif = Image.Exif()
        exif[Base.Make] = "Maker"
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
        photo = Photo(chart(PATCHES.astype(np.uint8)), exif=exif.tobytes(), xmp=xmp)
        back = read(photo.save(tmp_path / "a.jxl"))
        assert back.format == "JXL"
        assert delta_e(back) < 2
        assert back.exif is not None
        assert b"Maker" in back.exif
        assert back.xmp == xmp

    def test_profiles_are_applied_since_none_is_written(self, tmp_path: Any) -> None:
        photo = Photo(chart(PATCHES.astype(np.uint8)), icc=icc.adobe_rgb())
        assert delta_e(read(photo.save(tmp_path / "a.jxl")), fields(photo.rgb()).astype(float)) < 2
        assert any("converted to sRGB" in note for note in photo.not_kept("a.jxl"))

    def test_sixteen_bits(self) -> None:
        values = TestDepth.ramp()
        np.testing.assert_array_equal(read(imagecodecs.jpegxl_encode(values, lossless=True)).pixels, values)  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [(8, 8), (64, 64), (300, 200), (1920, 1080), (5000, 3), (70_000, 2)])
    @pytest.mark.parametrize("container", [False, True])
    def test_size_from_the_header(self, size: tuple[int, int], container: bool) -> None:
        content = imagecodecs.jpegxl_encode(np.zeros((size[1], size[0]), np.uint8), usecontainer=container)
        assert jpegxl.size(content) == size  # type: ignore[arg-type]

    def test_animations_give_the_first_frame_and_say_so(self) -> None:
        frames = np.stack([chart(PATCHES.astype(np.uint8)), chart(PATCHES[::-1].astype(np.uint8))])
        photo = read(imagecodecs.jpegxl_encode(frames, lossless=True, photometric="rgb"))  # type: ignore[arg-type]
        np.testing.assert_array_equal(photo.pixels, frames[0])
        assert photo.notes == ("first frame of an animation",)
        assert not photo.whole

    def test_floating_point(self) -> None:
        values = (TestDepth.ramp() / 65535).astype(np.float32)
        photo = read(imagecodecs.jpegxl_encode(values, lossless=True))  # type: ignore[arg-type]
        assert np.abs(photo.pixels / 65535 - values).max() < 2e-5

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = imagecodecs.jpegxl_encode(np.zeros((8, 8), np.uint8))
        monkeypatch.setattr("facewright.io.kinds.Extra.installed", property(lambda _: False))
        with pytest.raises(ImageReadError, match=r"JPEG XL picture; install .*facewright\[jxl\]"):
            read(content)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"JPEG XL cannot be written .*facewright\[jxl\]"):  # said before the work
            format_of("a.jxl")


def ink_profile() -> bytes:
    """A printer profile: CMYK by the plain complement, a little warm: 3⁴ colours in Lab (ICC v2, `mft2`)."""
    steps = np.linspace(0, 1, 3)
    inks = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), -1).reshape(-1, 4)
    rgb = (1 - inks[:, :3]) * (1 - inks[:, 3:]) * np.array([1.0, 0.97, 0.9])
    lab = rgb2lab(rgb)
    coded = np.rint(
        np.clip(np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], -1), 0, 65535)
    )
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ends = struct.pack(">2H", 0, 65535)
    table = b"mft2\0\0\0\0" + bytes([4, 3, 3, 0]) + identity + struct.pack(">2H", 2, 2)
    table += ends * 4 + coded.astype(">u2").tobytes() + ends * 3
    table += bytes(-len(table) % 4)
    text = b"inks\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + text + bytes(78), b"A2B0": table}
    tags[b"desc"] += bytes(-len(tags[b"desc"]) % 4)
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    offset, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"\0\0\0\0", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", len(tags)) + entries + body


def test_inks_by_their_profile_in_both_depths() -> None:
    inks = np.random.default_rng(3).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    found = []
    for values in (inks, inks.astype(np.uint16) * 257):
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="separated", iccprofile=ink_profile())
        photo = read(file.getvalue())
        assert photo.notes == ("converted from CMYK to sRGB by its colour profile",)
        found.append(photo.pixels)
    assert found[1].dtype == np.uint16
    assert np.abs(found[1] / 257 - found[0]).max() <= 1.5
    complement = (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255) * 255
    assert np.abs(found[0] - complement)[..., 2].mean() > 3  # the profile is warm
    assert np.abs(found[0] - complement).mean() < 25


@pytest.mark.parametrize("suffix", [".heic", ".png", ".tif", ".jp2"])
def test_deep_transparency_is_kept(tmp_path: Any, suffix: str) -> None:
    values = TestDepth.ramp()
    alpha = np.full(values.shape[:2], 65535, np.uint16)
    alpha[:16], alpha[16:32] = 0, 30000
    back = read(Photo(values, alpha).save(tmp_path / f"a{suffix}"))
    assert back.alpha is not None
    assert back.bit_depth == 16
    assert np.abs(back.alpha.astype(int) - alpha).max() <= (700 if suffix == ".heic" else 0)
