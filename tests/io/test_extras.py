"""What archives and phones put beside the picture: kept where the new file can hold it, else left out with a note."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, PngImagePlugin
from PIL.ExifTags import Base

from facewright.io import xmp
from facewright.io.image import Photo, read
from facewright.io.metadata import iptc_of_photoshop, photoshop_of_iptc
from facewright.io.provenance import Provenance, xmp_packet

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

IPTC = b"\x1c\x02\x05\x00\x05Title\x1c\x02\x78\x00\x08Caption."
GOOGLE = "http://ns.google.com/photos/1.0/"
MP4 = struct.pack(">I", 24) + b"ftypisom" + bytes(12) + b"film" * 50


def smooth() -> np.ndarray:
    ys, xs = np.mgrid[:48, :64]
    return np.stack([40 + 2 * xs, 50 + 2 * ys, 90 + xs + ys], -1).astype(np.uint8)


def encoded(name: str, picture: np.ndarray | None = None, **options: Any) -> bytes:
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(smooth() if picture is None else picture).save(file, name, **options)
    return file.getvalue()


def packet(properties: str, **namespaces: str) -> bytes:
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in namespaces.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{xmp.RDF}">'
        f'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" {spaces} dc:format="image/jpeg">'
        f"{properties}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def app13(content: bytes) -> bytes:
    body = b"Photoshop 3.0\0" + content
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


class TestArchives:
    def test_photoshop_blocks(self) -> None:
        other = b"8BIM" + struct.pack(">HB", 0x03ED, 3) + b"abc" + struct.pack(">I", 3) + b"xyz\0"
        assert iptc_of_photoshop(other + photoshop_of_iptc(IPTC)) == IPTC
        assert iptc_of_photoshop(other) is None
        for cut in range(len(other) + 10):
            iptc_of_photoshop((other + photoshop_of_iptc(IPTC))[:cut])

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
    @pytest.mark.parametrize("source", ["JPEG", "TIFF", "PNG"])
    def test_iptc_travels(self, tmp_path: Any, suffix: str, source: str) -> None:
        content = read(encoded("JPEG", extra=app13(photoshop_of_iptc(IPTC))))
        assert content.extras.iptc == IPTC
        if source != "JPEG":
            content = read(content.save(tmp_path / f"source.{source.lower()}"))
        back = read(content.save(tmp_path / f"a{suffix}"))
        assert back.extras.iptc == IPTC
        assert content.not_kept(f"a{suffix}") == ()
        if suffix == ".jpg":
            with Image.open(tmp_path / "a.jpg") as other:
                assert other.info["photoshop"][0x0404] == IPTC
        assert any("IPTC" in note for note in content.not_kept("a.webp"))

    def test_iptc_in_photoshops_tag_of_a_tiff(self) -> None:
        blocks = photoshop_of_iptc(IPTC)
        file = io.BytesIO()
        tifffile.imwrite(file, smooth(), photometric="rgb", extratags=[(34377, 1, len(blocks), blocks, True)])
        assert read(file.getvalue()).extras.iptc == IPTC

    def test_sixteen_bit_png_carries_it_too(self, tmp_path: Any) -> None:
        photo = read(encoded("JPEG", extra=app13(photoshop_of_iptc(IPTC)), comment=b"On the back: 1952"))
        deep = Photo(smooth().astype(np.uint16) * 257, extras=photo.extras)
        back = read(deep.save(tmp_path / "a.png"))
        assert back.extras.iptc == IPTC
        assert dict(back.extras.texts)["Comment"] == "On the back: 1952"

    def test_comments(self, tmp_path: Any) -> None:
        photo = read(encoded("JPEG", comment=b"On the back: 1952"))
        assert read(photo.save(tmp_path / "a.jpg")).extras.comment == b"On the back: 1952"
        with Image.open(photo.save(tmp_path / "a.png")) as other:
            assert other.text["Comment"] == "On the back: 1952"  # type: ignore[attr-defined]
        assert any("comment" in note for note in photo.not_kept("a.heic"))

    def test_texts_of_a_png(self, tmp_path: Any) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_text("Title", "Oma am See")
        info.add_itxt("Author", "Žofie Müller")
        info.add_text("Long", "x" * 3000, zip=True)
        photo = read(encoded("PNG", pnginfo=info))
        expected = {"Title": "Oma am See", "Author": "Žofie Müller", "Long": "x" * 3000}
        assert dict(photo.extras.texts) == expected
        assert dict(read(photo.save(tmp_path / "a.png")).extras.texts) == expected
        assert "Title, Author, Long" in photo.not_kept("a.jpg")[0]

    def test_places_in_texts_go_with_the_gps(self, tmp_path: Any) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_text("exif:GPSLatitude", "48/1")
        info.add_text("Title", "Oma")
        back = read(read(encoded("PNG", pnginfo=info)).save(tmp_path / "a.png", keep_gps=False))
        assert dict(back.extras.texts) == {"Title": "Oma"}

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".heic"])
    def test_windows_titles_and_keywords(self, tmp_path: Any, suffix: str) -> None:
        exif = Image.Exif()
        exif[Base.XPTitle] = "Oma".encode("utf-16-le")
        exif[Base.XPKeywords] = "1952;See".encode("utf-16-le")
        back = read(read(encoded("JPEG", exif=exif.tobytes())).save(tmp_path / f"a{suffix}"))
        tags = Image.Exif()
        tags.load(back.exif or b"")
        assert bytes(tags[Base.XPTitle]).decode("utf-16-le") == "Oma"
        assert bytes(tags[Base.XPKeywords]).decode("utf-16-le") == "1952;See"


MOTION = packet(
    f"<Container:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'>"
    f"<Container:Item Item:Mime='video/mp4' Item:Semantic='MotionPhoto' Item:Length='{len(MP4)}'/></rdf:li></rdf:Seq>"
    f"</Container:Directory><GCamera:MotionPhoto>1</GCamera:MotionPhoto><GCamera:Other>7</GCamera:Other>",
    GCamera=f"{GOOGLE}camera/",
    Container=f"{GOOGLE}container/",
    Item=f"{GOOGLE}container/item/",
)
GAIN = packet(
    "<Container:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'>"
    "<Container:Item Item:Semantic='GainMap' Item:Length='9'/></rdf:li></rdf:Seq></Container:Directory>"
    "<hdrgm:Version>1.0</hdrgm:Version>",
    Container=f"{GOOGLE}container/",
    Item=f"{GOOGLE}container/item/",
    hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/",
)


class TestBeside:
    def test_a_motion_photo_stays_one(self, tmp_path: Any) -> None:
        photo = read(encoded("JPEG", xmp=MOTION) + MP4)
        assert photo.extras.beside == ("motion photo",)
        assert photo.not_kept("a.jpg") == ()
        target = photo.save(tmp_path / "a.jpg", xmp=xmp_packet(Provenance("1"), photo.xmp))
        assert target.read_bytes().endswith(b"\xff\xd9" + MP4)
        back = read(target)
        assert back.extras.attached == MP4
        assert xmp.announced(back.xmp or b"") == ("motion photo",)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".heic"])
    def test_elsewhere_its_announcement_goes_too(self, tmp_path: Any, suffix: str) -> None:
        photo = read(encoded("JPEG", xmp=MOTION) + MP4)
        assert photo.not_kept(f"a{suffix}") == ("left out with the record of it: motion photo",)
        back = read(photo.save(tmp_path / f"a{suffix}", xmp=xmp_packet(Provenance("1"), photo.xmp)))
        assert back.xmp is not None
        assert xmp.announced(back.xmp) == ()
        assert b"MotionPhoto" not in back.xmp
        assert b"Directory" not in back.xmp
        assert b"Other" in back.xmp
        assert b"image/jpeg" in back.xmp

    def test_the_video_goes_with_the_gps(self, tmp_path: Any) -> None:
        photo = read(encoded("JPEG", xmp=MOTION) + MP4)
        content = photo.save(tmp_path / "a.jpg", keep_gps=False).read_bytes()
        assert b"film" not in content
        assert b"MotionPhoto" not in content
        assert any("motion photo" in note for note in photo.not_kept("a.jpg", keep_gps=False))

    def test_an_announcement_of_nothing_goes(self, tmp_path: Any) -> None:
        """As a program leaves it that has copied the XMP and lost the video."""
        photo = read(encoded("JPEG", xmp=MOTION))
        assert xmp.announced(read(photo.save(tmp_path / "a.jpg")).xmp or b"") == ()

    @pytest.mark.parametrize("orientation", [1, 6])
    def test_gain_maps_hold_for_upright_pixels_only(self, tmp_path: Any, orientation: int) -> None:
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        gain = encoded("JPEG", smooth()[..., 0], xmp=packet("", hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"))
        photo = read(encoded("JPEG", xmp=GAIN, exif=exif.tobytes()) + gain)
        assert photo.extras.beside == ("gain map",)
        back = photo.save(tmp_path / "a.jpg")
        if orientation == 1:
            assert back.read_bytes().endswith(gain)
            assert xmp.announced(read(back).xmp or b"") == ("gain map",)
        else:
            assert gain not in back.read_bytes()
            assert b"hdrgm" not in back.read_bytes()
            assert photo.not_kept("a.jpg") == ("left out with the record of it: gain map",)

    def test_phones_of_the_other_kind(self, tmp_path: Any) -> None:
        """A HEIC's motion photo is a box of its own."""
        box = struct.pack(">I", len(MP4) + 8) + b"mpvd" + MP4
        photo = read(encoded("HEIF", xmp=MOTION, quality=90) + box)
        assert photo.extras.attached == box
        back = photo.save(tmp_path / "a.heic")
        assert back.read_bytes().endswith(box)
        assert read(back).width == 64
        assert MP4 not in photo.save(tmp_path / "a.jpg").read_bytes()

    def test_progressive_jpegs_end_where_they_end(self) -> None:
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
            noise = np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)
            content = encoded("JPEG", noise, xmp=MOTION, **options)
            assert read(content + MP4).extras.attached == MP4
            assert read(content).extras.attached is None


REGIONS = packet(
    "<mwg-rs:Regions rdf:parseType='Resource'>"
    "<mwg-rs:AppliedToDimensions stDim:w='64' stDim:h='48' stDim:unit='pixel'/>"
    "<mwg-rs:RegionList><rdf:Bag><rdf:li><rdf:Description mwg-rs:Name='Oma' mwg-rs:Type='Face'>"
    "<mwg-rs:Area stArea:x='0.25' stArea:y='0.145833' stArea:w='0.1875' stArea:h='0.125' stArea:unit='normalized'/>"
    "</rdf:Description></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    "<MP:RegionInfo rdf:parseType='Resource'><MPRI:Regions><rdf:Bag>"
    "<rdf:li MPReg:Rectangle='0.15625, 0.083333, 0.1875, 0.125' MPReg:PersonDisplayName='Oma'/></rdf:Bag>"
    "</MPRI:Regions>"
    "</MP:RegionInfo>"
    "<Iptc4xmpExt:ImageRegion><rdf:Bag><rdf:li rdf:parseType='Resource'>"
    "<Iptc4xmpExt:RegionBoundary rdf:parseType='Resource'>"
    "<Iptc4xmpExt:rbUnit>pixel</Iptc4xmpExt:rbUnit><Iptc4xmpExt:rbX>10</Iptc4xmpExt:rbX>"
    "<Iptc4xmpExt:rbY>4</Iptc4xmpExt:rbY>"
    "<Iptc4xmpExt:rbW>12</Iptc4xmpExt:rbW><Iptc4xmpExt:rbH>6</Iptc4xmpExt:rbH></Iptc4xmpExt:RegionBoundary>"
    "</rdf:li></rdf:Bag>"
    "</Iptc4xmpExt:ImageRegion>",
    **{
        "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
        "stArea": "http://ns.adobe.com/xmp/sType/Area#",
        "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
        "MP": "http://ns.microsoft.com/photo/1.2/",
        "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
        "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    },
)


def regions(content: bytes) -> tuple[list[float], list[float], list[float], list[float]]:
    """The working group's area and dimensions, Microsoft's rectangle, IPTC's boundary."""
    root = xmp.parse(content)
    assert root is not None
    area = next(root.iter("{http://www.metadataworkinggroup.com/schemas/regions/}Area"))
    space = "{http://ns.adobe.com/xmp/sType/Area#}"
    applied = next(root.iter("{http://www.metadataworkinggroup.com/schemas/regions/}AppliedToDimensions"))
    sides = [float(applied.attrib[f"{{http://ns.adobe.com/xap/1.0/sType/Dimensions#}}{n}"]) for n in "wh"]
    key = "{http://ns.microsoft.com/photo/1.2/t/Region#}Rectangle"
    rectangle = next(e.attrib[key] for e in root.iter() if key in e.attrib)
    ext = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    boundary = next(root.iter(f"{ext}RegionBoundary"))
    found: list[ET.Element | None] = [boundary.find(f"{ext}rb{name}") for name in "XYWH"]
    pixels = [float(e.text or "") for e in found if e is not None]
    return [float(area.attrib[f"{space}{n}"]) for n in "xywh"], sides, [float(v) for v in rectangle.split(",")], pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_regions_turn_with_the_picture(orientation: int, name: str, tmp_path: Any) -> None:
    """A white field where the region is, in the picture as stored: after turning the region still frames it."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[4:10, 10:22] = 255
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    if name == "TIFF":
        exif[700] = REGIONS
    source = encoded(name, pixels, exif=exif, **({"xmp": REGIONS, "quality": 95} if name == "JPEG" else {}))
    photo = read(read(source).save(tmp_path / "a.png"))
    assert photo.xmp is not None
    area, sides, rectangle, boundary = regions(photo.xmp)
    bright = photo.rgb()[..., 0] > 128
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert sides == [photo.width, photo.height]
    assert boundary == [columns[0], rows[0], len(columns), len(rows)]
    size = np.array([photo.width, photo.height] * 2)
    corner = [area[0] - area[2] / 2, area[1] - area[3] / 2, area[2], area[3]]
    assert np.abs(np.array(corner) * size - boundary).max() <= 0.01
    assert np.abs(np.array(rectangle) * size - boundary).max() <= 0.01
    assert b"Oma" in photo.xmp


def test_regions_that_are_upright_already_stay() -> None:
    upright = REGIONS.replace(b"stDim:w='64' stDim:h='48'", b"stDim:w='48' stDim:h='64'")
    area, sides, _, _ = regions(xmp.upright(upright, 6, (64, 48)))
    assert (area, sides) == ([0.25, 0.145833, 0.1875, 0.125], [48, 64])


def test_packets_that_are_not_well_formed_are_left_alone() -> None:
    for content in (b"", b"<x", b"<!DOCTYPE a><x/>", b"Area# Region# <x:xmpmeta/>", REGIONS[:300]):
        assert xmp.upright(content, 6, (64, 48)) == content
        assert xmp.without_announcements(content) == content
        assert xmp.announced(content) == ()
