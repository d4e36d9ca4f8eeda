"""Every layout of TIFF that tifffile can write: equal to the source, or refused by name; never silently wrong."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from facewright.errors import ImageReadError, ImageTooLargeError
from facewright.io.image import Photo, read

RNG = np.random.default_rng(19)
HEIGHT, WIDTH = 37, 29


def written(data: np.ndarray, *, byteorder: Any = "<", bigtiff: bool = False, **options: Any) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(data, metadata=None, **options)
    return file.getvalue()


def pages(*contents: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for data, options in contents:
            writer.write(data, metadata=None, **options)
    return file.getvalue()


def stored(bits: int, channels: int, kind: str = "u") -> np.ndarray:
    if kind == "f":
        return RNG.random((HEIGHT, WIDTH, channels)).astype(f"f{bits // 8}")
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    return RNG.integers(0, 2**bits, (HEIGHT, WIDTH, channels), dtype=np.uint64).astype(f"u{size}")


def shown(values: np.ndarray, bits: int) -> np.ndarray:
    """The stored values over the full range of 8 or 16 bits."""
    if values.dtype.kind == "f":
        return np.rint(np.clip(values.astype(np.float64), 0, 1) * 65535)
    return np.rint(values.astype(np.float64) * ((255 if bits <= 8 else 65535) / (2**bits - 1)))


def cases() -> list[Any]:
    """Every combination of depth, colours, extra samples and order of planes, spread over storage and compression."""
    found = []
    storages = [
        {"tile": tile, "byteorder": order, "bigtiff": big} | packing
        for packing in (
            {},
            {"compression": "zlib"},
            {"compression": "zlib", "predictor": True},
            {"compression": "lzw", "predictor": True},
            {"compression": "zstd", "predictor": True},
            {"compression": "packbits"},
            {"compression": "lzma"},
        )
        for tile in (None, (16, 32))
        for order, big in (("<", False), (">", False), ("<", True), (">", True))
    ]
    depths = [(bits, "u") for bits in (*range(1, 18), 20, 23, 25, 28, 31, 32, 64)] + [(16, "f"), (32, "f"), (64, "f")]
    turn = 0
    for bits, kind in depths:
        usable = [s for s in storages if bits in (8, 16, 32, 64) or "compression" not in s]
        usable = [s for s in usable if not (bits == 64 and kind == "u" and s.get("predictor"))]
        for photometric, channels in (("minisblack", 1), ("miniswhite", 1), ("rgb", 3)):
            for extra in ((), ("unassalpha",), ("assocalpha",), ("unspecified",), ("unspecified", "unassalpha")):
                for planar in ("contig", "separate"):
                    if channels + len(extra) == 1 and planar == "separate":
                        continue
                    storage = usable[turn % len(usable)]
                    turn += 5  # prime to all counts: every storage comes up
                    name = (
                        f"{bits}{kind}-{photometric}-{'+'.join(extra)}-{planar}-{'-'.join(map(str, storage.values()))}"
                    )
                    found.append(pytest.param(bits, kind, photometric, channels, extra, planar, storage, id=name))
    return found


@pytest.mark.parametrize(("bits", "kind", "photometric", "channels", "extra", "planar", "storage"), cases())
def test_matrix(
    bits: int,
    kind: str,
    photometric: str,
    channels: int,
    extra: tuple[str, ...],
    planar: str,
    storage: dict[str, Any],
) -> None:
    values = stored(bits, channels + len(extra), kind)
    data = values if planar == "contig" else np.moveaxis(values, -1, 0)
    options: dict[str, Any] = {"bitspersample": bits} if kind == "u" and bits not in (8, 16, 32, 64) else {}
    if extra:
        options["extrasamples"] = extra
    if values.shape[2] > 1:
        options["planarconfig"] = planar
    content = written(data[..., 0] if values.shape[2] == 1 else data, photometric=photometric, **storage, **options)
    if bits > 8 and bits % 8 and storage["byteorder"] == ">":  # tifffile does not read back what it wrote
        with pytest.raises(ImageReadError, match=f"{bits}-bit .*big-endian"):
            read(content)
        return
    photo = read(content)
    full = shown(values, bits)
    top = 65535 if bits > 8 or kind == "f" else 255
    assert photo.bit_depth == (16 if top == 65535 else 8)
    colours = top - full[..., :channels] if photometric == "miniswhite" else full[..., :channels]
    kinds = [name for name in extra if name != "unspecified"]
    if kinds:
        alpha = full[..., channels + extra.index(kinds[0])]
        np.testing.assert_array_equal(photo.alpha, alpha)
        if kinds == ["assocalpha"]:
            straight = np.clip(np.rint(colours * top / np.maximum(alpha, 1)[..., None]), 0, top)
            colours = np.where(alpha[..., None] > 0, straight, colours)
    else:
        assert photo.alpha is None
    np.testing.assert_array_equal(photo.pixels, colours)
    assert any("further channel" in note for note in photo.notes) == ("unspecified" in extra)


def test_every_case_is_also_what_another_library_sees() -> None:
    """libtiff, by OpenCV, on layouts that it knows: the reader and the writer of the matrix are one library."""
    cases: list[tuple[int, dict[str, Any]]] = [
        (8, {}),
        (8, {"compression": "lzw", "predictor": True}),
        (16, {"compression": "zlib", "predictor": True}),
        (16, {"byteorder": ">", "tile": (16, 16)}),
        (16, {"bigtiff": True}),
        (16, {"compression": "zlib", "predictor": True, "byteorder": ">"}),
    ]
    for bits, options in cases:
        content = written(stored(bits, 3), photometric="rgb", **options)
        other = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(read(content).pixels, other[..., ::-1])


def smooth(dtype: type = np.uint8) -> np.ndarray:
    ys, xs = np.mgrid[:48, :40]
    rgb = np.stack([40 + 3 * xs, 50 + 3 * ys, 90 + xs + ys], -1).astype(np.uint8)
    return rgb if dtype is np.uint8 else rgb.astype(np.uint16) * 257 + 3


@pytest.mark.parametrize("name", ["jpeg2000", "png", "jpegxl", "jpegxr", "lerc", "webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_compressions_for_pictures(name: str, dtype: type, planar: str) -> None:
    values = smooth(dtype)
    data = values if planar == "contig" else np.moveaxis(values, -1, 0).copy()
    if name == "webp" and (dtype is np.uint16 or planar == "separate"):
        pytest.skip("WebP holds 8-bit colour only")
    options: dict[str, Any] = {"compressionargs": {"level": 100, "lossless": True}} if name == "webp" else {}
    content = written(data, photometric="rgb", compression=name, planarconfig=planar, **options)
    np.testing.assert_array_equal(read(content).pixels, values)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_jpeg_inside(subsampling: tuple[int, int]) -> None:
    content = written(smooth(), compression="jpeg", subsampling=subsampling, compressionargs={"level": 98})
    assert np.abs(read(content).pixels.astype(int) - smooth()).max() <= 6


def test_jpeg_of_twelve_bits() -> None:
    ys, xs = np.mgrid[:48, :40]
    grey = (80 * xs + 9 * ys).astype(np.uint16)
    content = written(grey, compression="jpeg", photometric="minisblack", compressionargs={"level": 98})
    assert tifffile.TiffFile(io.BytesIO(content)).pages[0].bitspersample == 12  # type: ignore[union-attr]
    assert np.abs(read(content).pixels[..., 0] / 65535 * 4095 - grey).max() <= 8


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ycbcr(planar: str, compression: str | None) -> None:
    rgb = smooth().astype(float)
    luma = rgb @ [0.299, 0.587, 0.114]
    ycbcr = np.stack([luma, (rgb[..., 2] - luma) / 1.772 + 128, (rgb[..., 0] - luma) / 1.402 + 128], -1)
    values = np.rint(ycbcr).astype(np.uint8)
    data = values if planar == "contig" else np.moveaxis(values, -1, 0).copy()
    content = written(data, photometric="ycbcr", planarconfig=planar, compression=compression, subsampling=(1, 1))
    assert np.abs(read(content).pixels - rgb).max() <= 2


def test_subsampled_ycbcr_outside_jpeg_is_refused_by_name() -> None:
    content = bytearray(written(smooth(), photometric="ycbcr", subsampling=(1, 1)))
    tag = content.find(struct.pack("<HHI", 530, 3, 2))
    content[tag + 8 : tag + 12] = struct.pack("<HH", 2, 2)
    with pytest.raises(ImageReadError, match=r"YCBCR.*subsampling"):
        read(bytes(content))


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(bits: int) -> None:
    indices = RNG.integers(0, 2**bits, (20, 20)).astype(f"u{bits // 8}")
    table = RNG.integers(0, 65536, (3, 2**bits), dtype=np.uint16)
    photo = read(written(indices, photometric="palette", colormap=table))
    np.testing.assert_array_equal(photo.pixels, np.moveaxis(table[:, indices], 0, -1))
    shallow = (table >> 8) * np.uint16(257)
    photo = read(written(indices, photometric="palette", colormap=shallow))
    np.testing.assert_array_equal(photo.pixels, np.moveaxis(shallow[:, indices] >> 8, 0, -1))
    assert photo.bit_depth == 8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_inks(dtype: type, planar: str) -> None:
    top = np.iinfo(dtype).max
    values = RNG.integers(0, top, (20, 24, 4), dtype=dtype)
    inks = values.astype(np.float64) / top
    full = 255 if dtype is np.uint8 else 65535
    data = values if planar == "contig" else np.moveaxis(values, -1, 0).copy()
    photo = read(written(data, photometric="separated", planarconfig=planar))
    assert np.abs(photo.pixels - (1 - inks[..., :3]) * (1 - inks[..., 3:]) * full).max() <= 1.5
    assert photo.bit_depth == (8 if full == 255 else 16)
    assert any("CMYK" in note for note in photo.notes)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_lab_as_littlecms_sees_it(deep: bool, photometric: str) -> None:
    lab = np.stack([RNG.integers(60, 200, (12, 12)), *RNG.integers(110, 146, (2, 12, 12))], -1).astype(np.uint8)
    signed = lab.copy()
    signed[..., 1:] ^= 128
    source, target = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)) for name in ("LAB", "sRGB"))
    picture = Image.frombytes("LAB", (12, 12), signed.tobytes())  # Pillow's own order of bytes
    expected = np.asarray(ImageCms.profileToProfile(picture, source, target, outputMode="RGB"), float)
    values = signed if photometric == "cielab" else lab
    if deep:
        lightness = values[..., :1].astype(np.uint16) * 257
        values = np.concatenate([lightness, values[..., 1:].astype(np.uint16) << 8], -1)
    photo = read(written(values, photometric=photometric))
    assert photo.bit_depth == (16 if deep else 8)
    difference = np.abs(photo.pixels / (257 if deep else 1) - expected)
    assert difference.mean() < 0.6
    assert (difference > 3).mean() < 0.03  # LittleCMS interpolates in a table, coarsely at the edge of the gamut


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (np.zeros((9, 9), np.int8), {}, "8-bit signed grey"),
        (np.zeros((9, 9), np.int16), {}, "16-bit signed grey"),
        (np.full((9, 9), -1, np.int32), {}, "32-bit signed grey"),
        (np.zeros((9, 9), np.complex64), {}, "complex"),
        (np.zeros((9, 9), np.uint32), {"bitspersample": 24}, "24-bit"),
        (np.zeros((4, 16, 16), np.uint8), {"volumetric": True}, "volume"),
        (np.zeros((9, 9, 4), np.float32), {"photometric": "separated"}, "inks"),
        (np.zeros((9, 9, 3), np.uint8), {"photometric": "itulab"}, "ITULAB"),
        (np.zeros((9, 9, 3), np.uint8), {"photometric": "logluv"}, "LOGLUV"),
        (np.zeros((9, 9), bool), {"photometric": "mask"}, "no picture"),
        (np.zeros((9, 9, 20), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "20 samples"),
        (np.zeros((9, 9, 4), np.uint8), {"photometric": "separated", "extratags": [(332, 3, 1, 2, True)]}, "CMYK"),
    ],
)
def test_refused_by_name(data: np.ndarray, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ImageReadError, match=match) as caught:
        read(written(data, **({"photometric": "minisblack"} | options)))
    assert "\n" not in str(caught.value)


def test_values_beyond_sixteen_bits_are_noted() -> None:
    big = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    photo = read(written(big, photometric="minisblack"))
    assert photo.pixels[..., 0].tolist() == [[0, 32768, 65535]]
    assert photo.notes == ("32 bits were rounded to 16",)
    small = read(written(np.array([[0, 7, 65535]], np.uint32), photometric="minisblack"))
    assert small.pixels[..., 0].tolist() == [[0, 7, 65535]]
    assert "taken as 16 bits" in small.notes[0]


def test_negative_and_bright_floats_are_noted() -> None:
    photo = read(written(np.array([[-0.5, 0.5, 1.5]], np.float32), photometric="minisblack"))
    assert photo.pixels[..., 0].tolist() == [[0, 32768, 65535]]
    assert {"negative values became black", "values above white became white"} <= set(photo.notes)


def test_colours_described_by_tags(tmp_path: Any) -> None:
    """Primaries and white point of Adobe RGB without a profile: the look is Adobe RGB's, not sRGB's."""

    def rationals(*values: float) -> tuple[int, ...]:
        return tuple(number for value in values for number in (round(value * 10000), 10000))

    tags = [
        (318, 5, 2, rationals(0.3127, 0.3290), True),
        (319, 5, 6, rationals(0.64, 0.33, 0.21, 0.71, 0.15, 0.06), True),
    ]
    photo = read(written(np.full((4, 4, 3), (120, 180, 60), np.uint8), photometric="rgb", extratags=tags))
    assert photo.icc is not None
    assert photo.rgb()[0, 0, 0] < 100  # green reaches further than sRGB's
    ordinary = [(319, 5, 6, rationals(0.64, 0.33, 0.30, 0.60, 0.15, 0.06), True)]
    assert read(written(smooth(), photometric="rgb", extratags=ordinary)).icc is None


class TestPages:
    BIG: Any = cv2.resize(RNG.integers(0, 256, (12, 15, 3), dtype=np.uint8), (300, 240))
    SMALL: Any = cv2.resize(BIG, (75, 60), interpolation=cv2.INTER_AREA)
    OTHER: Any = np.ascontiguousarray(BIG[::-1, ::-1])

    def test_declared_previews_are_no_pages(self) -> None:
        reduced = {"subfiletype": 1, "photometric": "rgb"}
        content = pages((self.SMALL, reduced), (self.BIG, {"photometric": "rgb"}))
        photo = read(content)
        assert (photo.width, photo.height, photo.pages, photo.notes) == (300, 240, 1, ())
        np.testing.assert_array_equal(photo.pixels, self.BIG)
        with pytest.raises(ImageReadError, match="only page 0"):
            read(content, page=1)

    def test_full_size_below_a_preview(self) -> None:
        content = pages(
            (self.SMALL, {"subfiletype": 1, "photometric": "rgb", "subifds": 1}), (self.BIG, {"photometric": "rgb"})
        )
        np.testing.assert_array_equal(read(content).pixels, self.BIG)

    def test_pyramids(self) -> None:
        content = pages(
            (self.BIG, {"photometric": "rgb", "subifds": 1}), (self.SMALL, {"subfiletype": 1, "photometric": "rgb"})
        )
        photo = read(content)
        assert (photo.width, photo.pages) == (300, 1)

    @pytest.mark.parametrize("first", [True, False])
    def test_previews_that_nothing_declares(self, first: bool) -> None:
        order = [self.SMALL, self.BIG] if first else [self.BIG, self.SMALL]
        photo = read(pages(*((data, {"photometric": "rgb"}) for data in order)))
        assert (photo.width, photo.pages) == (300, 1)

    def test_a_small_page_of_something_else_stays_a_page(self) -> None:
        small = cv2.resize(self.OTHER, (75, 60), interpolation=cv2.INTER_AREA)
        content = pages((small, {"photometric": "rgb"}), (self.BIG, {"photometric": "rgb"}))
        assert [read(content, page=i).width for i in (0, 1)] == [75, 300]
        assert read(content).pages == 2

    def test_masks_are_no_pages(self) -> None:
        mask = np.ones((240, 300), bool)
        content = pages((self.BIG, {"photometric": "rgb"}), (mask, {"photometric": "mask", "subfiletype": 4}))
        assert read(content).pages == 1

    def test_only_previews(self) -> None:
        photo = read(pages((self.SMALL, {"subfiletype": 1, "photometric": "rgb"})))
        assert photo.width == 75

    def test_limit_holds_for_the_full_size(self) -> None:
        content = pages((self.SMALL, {"subfiletype": 1, "photometric": "rgb"}), (self.BIG, {"photometric": "rgb"}))
        with pytest.raises(ImageTooLargeError):
            read(content, max_pixels=300 * 240 - 1)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_file_that_is_cut_off_is_never_filled_with_black(compression: str | None, tile: Any) -> None:
    content = written(
        RNG.integers(1, 256, (64, 64, 3), dtype=np.uint8), photometric="rgb", compression=compression, tile=tile
    )
    for share in (0.5, 0.9, 0.99):
        with pytest.raises(ImageReadError):
            read(content[: int(len(content) * share)])


def test_what_describes_an_archive_scan_is_kept(tmp_path: Any) -> None:
    iptc = b"\x1c\x02\x05\x00\x05Title\x1c\x02\x78\x00\x07Caption"
    tags = [
        (269, 2, 0, "Album 12", True),
        (285, 2, 0, "recto", True),
        (315, 2, 0, "Studio Meier", True),
        (33723, 7, len(iptc), iptc, True),
        (0x9C9B, 1, 12, "Oma 52".encode("utf-16-le"), True),
        (0x9C9E, 1, 8, "1952".encode("utf-16-le"), True),
        (274, 3, 1, 6, True),
    ]
    for big, order in ((False, "<"), (True, "<"), (False, ">"), (True, ">")):
        content = written(
            smooth(), photometric="rgb", extratags=tags, resolution=(600, 600), bigtiff=big, byteorder=order
        )
        photo = read(content)
        assert (photo.width, photo.height) == (48, 40)
        assert photo.dpi == (600, 600)
        with tifffile.TiffFile(photo.save(tmp_path / f"{order == '<'}{big}.tif")) as back:
            kept = back.pages[0].tags  # type: ignore[union-attr]
            assert kept[269].value == "Album 12"
            assert kept[285].value == "recto"
            assert kept[315].value == "Studio Meier"
            assert kept[33723].value == iptc
            assert bytes(kept[0x9C9B].value).decode("utf-16-le") == "Oma 52"
            assert bytes(kept[0x9C9E].value).decode("utf-16-le") == "1952"
            assert kept[274].value == 1


def test_own_files_of_several_pages(tmp_path: Any) -> None:
    from facewright.io.encode import TiffPages

    photos = [Photo(smooth(), dpi=(300, 300)), Photo(smooth(np.uint16)[..., :1].copy()), Photo(smooth()[:9, :7].copy())]
    with open(tmp_path / "a.tif", "wb") as file:
        writer = TiffPages(file)
        for photo in photos:
            writer.add(photo.picture(None, keep_gps=True))
    with tifffile.TiffFile(tmp_path / "a.tif") as back:
        assert len(back.pages) == 3
        for page, photo in zip(back.pages, photos):
            np.testing.assert_array_equal(page.asarray(), photo.pixels[..., 0] if photo.is_grey else photo.pixels)
    for index, photo in enumerate(photos):
        np.testing.assert_array_equal(read(tmp_path / "a.tif", page=index).pixels, photo.pixels)
    with Image.open(tmp_path / "a.tif") as other:
        assert other.n_frames == 3  # type: ignore[attr-defined]
