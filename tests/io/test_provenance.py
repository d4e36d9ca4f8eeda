"""The two marks of an altered picture: the XMP record in the file and the watermark in the face."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm
from skimage import data as pictures

from facewright.errors import UsageError
from facewright.geometry.crop import align_matrix
from facewright.geometry.similarity import invert
from facewright.io.image import Photo, read
from facewright.io.provenance import (
    DIGITAL_SOURCE_TYPE,
    Provenance,
    detect_face_watermark,
    detect_watermark,
    embed_watermark,
    read_provenance,
    watermark_for,
    xmp_packet,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NS = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "iptc": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "dc": "http://purl.org/dc/elements/1.1/",
}
RECORD = Provenance(
    version="1.2.3",
    models=("frgp-compact",),
    checkpoint="0123abcd",
    faces=((1.0, 2.0, 30.5, 40.0), (5.0, 6.0, 7.0, 8.0)),
    parameters={"fidelity": 0.5, "note": 'a "quoted" <tag> & ümlaut'},
    date="2024-05-06T07:08:09Z",
)
EXISTING = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:lr="http://example.org/lr/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
 xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmp:CreatorTool="Scanner 5" lr:Shelf="7" Iptc4xmpExt:DigitalSourceType="http://example.org/negativeFilm">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Grandmother, 1931</rdf:li></rdf:Alt></dc:title>
<xmpMM:History><rdf:Seq><rdf:li stEvt:action="created"/></rdf:Seq></xmpMM:History>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def values(packet: bytes, path: str) -> list[str | None]:
    return [element.text for element in ET.fromstring(packet).iterfind(f".//{path}", NS)]


class TestXmp:
    def test_what_a_fresh_packet_says(self) -> None:
        packet = xmp_packet(RECORD)
        assert packet.startswith(b"<?xpacket begin=")
        assert values(packet, "iptc:DigitalSourceType") == [DIGITAL_SOURCE_TYPE]
        assert values(packet, "xmp:CreatorTool") == ["facewright 1.2.3"]
        assert values(packet, "stEvt:action") == ["restored"]
        assert values(packet, "stEvt:softwareAgent") == ["facewright 1.2.3"]
        assert values(packet, "stEvt:when") == ["2024-05-06T07:08:09Z"]
        assert read_provenance(packet) == RECORD

    def test_an_existing_packet_is_kept(self) -> None:
        packet = xmp_packet(RECORD, EXISTING)
        assert values(packet, "dc:title/rdf:Alt/rdf:li") == ["Grandmother, 1931"]
        assert b'lr:Shelf="7"' in packet  # with its own prefix, which simple readers look for
        assert b'xmp:CreatorTool="Scanner 5"' in packet
        assert values(packet, "xmp:CreatorTool") == []
        assert values(packet, "iptc:DigitalSourceType") == [DIGITAL_SOURCE_TYPE]
        assert b"negativeFilm" not in packet
        entries = list(ET.fromstring(packet).iterfind(".//xmpMM:History/rdf:Seq/rdf:li", NS))
        assert len(entries) == 2
        assert entries[1].findtext("stEvt:action", namespaces=NS) == "restored"
        assert read_provenance(packet) == RECORD

    def test_a_second_restoration_adds_history_and_replaces_the_record(self) -> None:
        second = Provenance(version="2.0", action="retouched")
        packet = xmp_packet(second, xmp_packet(RECORD, EXISTING))
        assert values(packet, "stEvt:action") == ["restored", "retouched"]
        assert values(packet, "iptc:DigitalSourceType") == [DIGITAL_SOURCE_TYPE]
        assert read_provenance(packet) == second

    @pytest.mark.parametrize(
        "broken",
        [
            b"not xml",
            b"<a><b></a>",
            b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
            b'<!DOCTYPE a [<!ENTITY b "c">]>' + EXISTING,
            b"\xff\xfe\x00",
            EXISTING.replace(b"Grandmother", b"G" * 70_000),
        ],
    )
    def test_unusable_packets_are_replaced_and_that_is_said(self, broken: bytes) -> None:
        packet = xmp_packet(RECORD, broken)
        record = read_provenance(packet)
        assert record is not None
        assert record.parameters["replaced_xmp"] is True
        assert record.models == RECORD.models
        assert len(packet) < 65_500

    def test_nothing_to_read(self) -> None:
        assert read_provenance(EXISTING) is None
        assert read_provenance(b"junk") is None
        assert read_provenance(Photo(np.zeros((2, 2, 3), np.uint8))) is None
        assert read_provenance(xmp_packet(RECORD).replace(b'"version"', b'"v"')) is None

    def test_equal_records_give_equal_packets(self) -> None:
        one, two = Provenance("1", parameters={"a": 1, "b": 2}), Provenance("1", parameters={"b": 2, "a": 1})
        assert xmp_packet(one) == xmp_packet(two)
        assert values(xmp_packet(one), "stEvt:when") == []

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".heic", ".avif"])
    def test_through_files(self, tmp_path: Path, suffix: str) -> None:
        photo = Photo(np.full((16, 16, 3), 90, np.uint8), xmp=EXISTING)
        path = photo.save(tmp_path / f"a{suffix}", xmp=xmp_packet(RECORD, photo.xmp))
        assert read_provenance(path) == RECORD
        assert read_provenance(read(path)) == RECORD
        deep = Photo(np.full((16, 16, 3), 9000, np.uint16)).save(tmp_path / "deep.png", xmp=xmp_packet(RECORD))
        assert read_provenance(deep) == RECORD


def face() -> np.ndarray:
    return cv2.resize(pictures.astronaut()[20:220, 120:320], (256, 256), interpolation=cv2.INTER_CUBIC)


def patches(count: int, seed: int = 0) -> list[np.ndarray]:
    """Natural textures: cat, coffee, rocket, astronaut."""
    sources = [
        pictures.chelsea(),
        pictures.coffee(),
        pictures.rocket(),
        pictures.astronaut(),
    ]
    rng = np.random.default_rng(seed)
    out = []
    for index in range(count):
        source = sources[index % len(sources)]
        y, x = (int(rng.integers(0, side - 256)) for side in source.shape[:2])
        out.append(source[y : y + 256, x : x + 256])
    return out


def as_bytes(crop: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(crop), 0, 255).astype(np.uint8)


def jpeg(crop: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(as_bytes(crop)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def there_and_back(crop: np.ndarray, factor: float) -> np.ndarray:
    small = cv2.resize(as_bytes(crop), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC)


def moved(crop: np.ndarray, shift: float, scale: float, angle: float = 0) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((127.5, 127.5), angle, scale)
    matrix[:, 2] += (shift, -shift)  # type: ignore[arg-type]
    return cv2.warpAffine(as_bytes(crop), matrix, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def feathered(crop: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Only a face-shaped part of the crop reaches the photo."""
    ys, xs = np.mgrid[:256, :256]
    mask = np.clip((1 - np.hypot((xs - 128) / 70, (ys - 150) / 85)) * 6, 0, 1)[..., None]
    return original + (crop - original) * mask


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": as_bytes,
    "jpeg 75": lambda crop: jpeg(crop, 75),
    "half size": lambda crop: there_and_back(crop, 0.5),
    "70 % and jpeg 75": lambda crop: there_and_back(jpeg(crop, 75), 0.7),
    "shifted, shrunk, jpeg": lambda crop: jpeg(moved(crop, 1, 0.99), 75),
    "turned by 1 degree": lambda crop: moved(crop, 0, 1.01, 1),
}


class TestWatermark:
    def test_invisible(self) -> None:
        for crop in [face(), *patches(10)]:
            error = as_bytes(embed_watermark(crop, 9)).astype(float) - crop
            assert 10 * np.log10(255**2 / np.mean(error**2)) >= 42
            assert np.abs(error[:20]).max() == 0  # nothing outside the ellipse of the face

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_found_after(self, attack: str) -> None:
        """All of 15 real crops, blended by a face-shaped mask; the number in 8 of 10."""
        right = 0
        crops = [face(), *patches(14)]
        for index, crop in enumerate(crops):
            marked = feathered(embed_watermark(crop, index), crop)
            result = detect_watermark(ATTACKS[attack](marked))
            assert result.present, f"crop {index}: score {result.score:.1f}"
            right += result.payload == index
        assert right >= 0.8 * len(crops)

    def test_no_false_alarms(self) -> None:
        """No unmarked crop comes near the threshold; the rate that its scores predict is under 1 in 100,000."""
        rng = np.random.default_rng(5)
        unmarked = [face(), *patches(14, seed=1), rng.integers(0, 256, (256, 256, 3)), np.full((256, 256, 3), 128)]
        results = [detect_watermark(crop, key=key) for crop in unmarked for key in range(3)]
        scores = np.array([result.score for result in results])
        assert not any(result.present for result in results)
        assert all(result.payload is None for result in results)
        assert scores.max() < 5
        # The best of n independent chance matches stays below s with probability cdf(s) ** n; the median gives n.
        chances = np.log(0.5) / norm.logcdf(np.median(scores))
        assert chances * norm.sf(6.0) < 1e-5

    def test_other_keys_do_not_answer(self) -> None:
        marked = embed_watermark(face(), 5, key=77)
        assert detect_watermark(marked, key=77).payload == 5
        assert not detect_watermark(marked, key=78).present

    @pytest.mark.parametrize("size", [128, 512])
    def test_other_crop_sizes(self, size: int) -> None:
        crop = cv2.resize(face(), (size, size), interpolation=cv2.INTER_AREA)
        result = detect_watermark(as_bytes(embed_watermark(crop, 3)))  # type: ignore[arg-type]
        assert (result.present, result.payload) == (True, 3)

    def test_in_a_photo_with_imprecise_landmarks(self) -> None:
        """Marked crop → pasted through the inverse warp at 60 px between the eyes → found again, points 1 px off."""
        photo = pictures.astronaut()
        points = np.array([[200, 105], [248, 103], [226, 130], [206, 150], [246, 148]], np.float32) * 1.2
        photo = cv2.resize(photo, None, fx=1.2, fy=1.2, interpolation=cv2.INTER_CUBIC)
        matrix = align_matrix(points, 256)
        crop = cv2.warpAffine(photo, matrix, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        change = embed_watermark(crop, 6) - crop  # type: ignore[arg-type]
        size = photo.shape[1], photo.shape[0]
        marked = as_bytes(photo + cv2.warpAffine(change, invert(matrix), size, flags=cv2.INTER_CUBIC))
        found = detect_face_watermark(jpeg(marked, 85), points + np.array([[1, -1], [0, 1], [1, 0], [0, 0], [1, 1]]))
        assert (found.present, found.payload) == (True, 6)
        assert not detect_face_watermark(photo, points).present

    def test_wrong_arguments(self) -> None:
        with pytest.raises(UsageError, match="payload"):
            embed_watermark(face(), 16)
        with pytest.raises(UsageError, match="square"):
            embed_watermark(face()[:100])
        with pytest.raises(UsageError, match="square"):
            detect_watermark(np.zeros((256, 256)))


def test_skin_gets_the_least_of_it() -> None:
    """On flat and on shaded skin the mark stays below a grey level, and has nothing coarse, which would be blotches."""
    shade = np.repeat(np.linspace(120, 200, 256, dtype=np.float32)[None], 256, 0)
    shade[100:130] += 40 * np.sin(np.arange(256) / 2.5)  # brows, say
    crop = np.repeat(shade[..., None], 3, 2)
    change = watermark_for(crop).change
    skin, busy = change[160:200, 80:176], change[104:126, 80:176]
    assert skin.std() < 1
    assert busy.std() > 3 * skin.std()
    coarse = cv2.GaussianBlur(change, (0, 0), 4)[160:200, 80:176]
    assert coarse.std() < 0.15 * skin.std()


def test_fixed_strength_is_kept_and_the_weakest_is_the_default() -> None:
    rng = np.random.default_rng(5)
    crop = cv2.GaussianBlur(rng.uniform(0, 255, (256, 256, 3)).astype(np.float32), (0, 0), 4) * 3 - 255
    crop = np.clip(crop, 20, 235)
    weakest = watermark_for(crop).psnr  # type: ignore[arg-type]
    assert 43 <= weakest <= 52
    np.testing.assert_array_equal(embed_watermark(crop), embed_watermark(crop, psnr=weakest))  # type: ignore[arg-type]
    error = embed_watermark(crop, psnr=40.0) - crop  # type: ignore[arg-type]
    assert 20 * np.log10(255 / np.sqrt(np.mean(error**2))) == pytest.approx(40, abs=0.2)
