"""One table of kinds: what a file is, by its first bytes; where its result goes; what a folder holds."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facewright.errors import UsageError
from facewright.io import kinds
from facewright.io.decode import load_plugins
from facewright.io.encode import format_of
from facewright.io.kinds import BY_NAME, KINDS, kind_of, output_name, sniff, survey, targets
from facewright.io.video import TARGET_FORMATS
from facewright.runtime.folder import plan


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(body) + 8) + b"ftyp" + body


def packets(first: int, step: int) -> bytes:
    data = bytearray(step * 6)
    data[first::step] = b"G" * len(data[first::step])
    return bytes(data)


HEADS = {
    "JPEG": [b"\xff\xd8\xff\xe0\0\x10JFIF", b"\xff\xd8\xff\xe1"],
    "PNG": [b"\x89PNG\r\n\x1a\n"],
    "TIFF": [b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"],
    "RAW": [b"II*\0\x10\0\0\0CR\2\0", b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0", ftyp(b"crx ")],
    "WEBP": [b"RIFF\x40\0\0\0WEBPVP8 "],
    "AVIF": [ftyp(b"avif"), ftyp(b"avis"), ftyp(b"mif1", b"mif1", b"avif")],
    "HEIF": [ftyp(b"heic"), ftyp(b"hevx"), ftyp(b"mif1", b"mif1", b"heic"), ftyp(b"msf1", b"hevc")],
    "GIF": [b"GIF87a", b"GIF89a"],
    "BMP": [b"BM" + bytes(12) + struct.pack("<I", 40)],
    "JPEG2000": [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"],
    "PPM": [b"P6\n4 4\n255\n", b"P5 4 4 65535\n", b"P1\n"],
    "JXL": [b"\xff\x0a\x00", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "MP4": [ftyp(b"isom", b"avc1"), ftyp(b"mp42"), ftyp(b"M4V ")],
    "MOV": [ftyp(b"qt  "), b"\0\0\0\x08wide\0\0\0\0mdat", b"\0\1\0\0moov"],
    "3GP": [ftyp(b"3gp4"), ftyp(b"3g2a")],
    "MATROSKA": [b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska"],
    "WEBM": [b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm"],
    "AVI": [b"RIFF\0\0\0\0AVI LIST"],
    "MPEG": [b"\0\0\x01\xba\x44", b"\0\0\x01\xb3\x16"],
    "TS": [packets(0, 188), packets(4, 192)],
    "ASF": [bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")],
    "FLV": [b"FLV\x01\x05"],
    "OGG": [b"OggS" + bytes(24) + b"\x80theora"],
    "DV": [b"\x1f\x07\x00\x3f"],
    "MXF": [bytes.fromhex("060e2b34020501010d0102010102")],
    "RM": [b".RMF\0\0\0\x12"],
    "Y4M": [b"YUV4MPEG2 W4 H4"],
}


def test_every_kind_is_known_by_its_first_bytes() -> None:
    assert set(HEADS) == {kind.name for kind in KINDS}
    for name, heads in HEADS.items():
        for head in heads:
            found = sniff(head)
            assert found is not None, head
            assert found.name == name


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"G",
        b"import {A} from 'b';\nGo on.",
        b"BMW and other cars, a list",
        b"OggS" + bytes(24) + b"\x01vorbis",
        ftyp(b"M4A ", b"isom"),
        b"RIFF\0\0\0\0WAVEfmt ",
        b"%PDF-1.7",
        b"P-Funk",
    ],
)
def test_other_things_are_of_no_kind(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM", "HEIF", "AVIF"])
def test_what_pillow_writes_is_sniffed(name: str) -> None:
    load_plugins()
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, name)
    assert sniff(file.getvalue()) is BY_NAME[name]


def test_no_suffix_belongs_to_two_kinds() -> None:
    every = [suffix for kind in KINDS for suffix in kind.suffixes]
    assert len(every) == len(set(every))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in every)


def test_what_the_table_calls_written_is_written() -> None:
    for kind in KINDS:
        for suffix in (*kind.writes, kind.output):
            if kind.is_video:
                assert suffix in TARGET_FORMATS
            else:
                assert format_of(f"a{suffix}") == (kind.name if suffix in kind.writes else "TIFF")


@pytest.mark.parametrize(
    ("source", "kind", "result"),
    [
        ("a.JPG", "JPEG", "a.JPG"),
        ("a.jfif", "JPEG", "a.jfif"),
        ("a.mpo", "JPEG", "a.jpg"),
        ("a.MPO", "JPEG", "a.jpg"),
        ("a.png", "JPEG", "a.png"),
        ("a.dng", "RAW", "a.tif"),
        ("a.j2k", "JPEG2000", "a.jp2"),
        ("a.pbm", "PPM", "a.ppm"),
        ("a.MTS", "TS", "a.mkv"),
        ("a.avi", "AVI", "a.mkv"),
        ("a.3gp", "3GP", "a.mp4"),
        ("a.qt", "MOV", "a.mov"),
        ("a.jpg", "AVI", "a.mkv"),
        ("a.mp4", "JPEG", "a.jpg"),
        ("scan 3", "PNG", "scan 3.png"),
        ("v1.2", "PNG", "v1.2.png"),
    ],
)
def test_result_names(source: str, kind: str, result: str) -> None:
    assert output_name(source, BY_NAME[kind]) == result


def test_content_comes_before_the_name(tmp_path: Path) -> None:
    cases = {
        "a.png": (b"\xff\xd8\xff\xe0", "JPEG"),
        "b.ts": (b"export const a = 1;\n", None),
        "c.ts": (packets(0, 188), "TS"),
        "d.jpg": (b"", "JPEG"),
        "e.dng": (b"II*\0\x08\0\0\0", "RAW"),
        "f.mp4": (b"garbled", "MP4"),
        "g.txt": (b"text", None),
    }
    for name, (head, kind) in cases.items():
        (tmp_path / name).write_bytes(head)
        found = kind_of(tmp_path / name)
        assert (found and found.name) == kind
    assert kind_of(tmp_path) is None
    assert kind_of(tmp_path / "missing.jpg") is None
    assert kind_of("bad\0name.jpg") is None


def test_a_folder_is_surveyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    album, out = tmp_path / "album", tmp_path / "album" / "out"
    out.mkdir(parents=True)
    for name, head in {
        "a.MTS": packets(4, 192),
        "b.jfif": b"\xff\xd8\xff\xe0",
        "c.wmv": HEADS["ASF"][0],
        "d.dng": b"II*\0\x08\0\0\0",
        "d.tif": b"II*\0\x08\0\0\0",
        "nosuffix": b"\x89PNG\r\n\x1a\n",
        "x.ts": b"const a = 1",
        "x.thm": b"\xff\xd8\xff\xe0",
        "notes.txt": b"text",
        "readme": b"text",
        ".hidden.jpg": b"\xff\xd8\xff\xe0",
        "out/b.jfif": b"\xff\xd8\xff\xe0",
    }.items():
        (album / name).write_bytes(head)
    monkeypatch.setattr(kinds.Extra, "installed", property(lambda _: True))
    found = survey(album, without=out)
    assert [(p.name, k.name) for p, k in found.files] == [
        ("a.MTS", "TS"),
        ("b.jfif", "JPEG"),
        ("c.wmv", "ASF"),
        ("d.dng", "RAW"),
        ("d.tif", "TIFF"),
        ("nosuffix", "PNG"),
    ]
    places = [p.name for p in targets(found.files, album, out)]
    assert places == ["a.mkv", "b.jfif", "c.mkv", "d.dng.tif", "d.tif", "nosuffix.png"]
    assert found.sentence == "5 skipped: 1 hidden, 4 of other kinds (.txt, no suffix, .thm, .ts)"
    assert [j.target for j in plan(album, out)] == targets(found.files, album, out)
    assert plan(album, out).passed_over == found.sentence
    assert [p.name for p, _ in survey(album, without=out, videos=False).files] == [
        "b.jfif",
        "d.dng",
        "d.tif",
        "nosuffix",
    ]
    monkeypatch.setattr(kinds.Extra, "installed", property(lambda _: False))
    without_raw = survey(album, without=out)
    assert len(without_raw.files) == 5
    assert "facewright[raw]" in without_raw.sentence


def test_a_folder_of_other_things_says_what_they_are(tmp_path: Path) -> None:
    for name in ("a.doc", "b.doc", "c.pdf"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(UsageError, match=r"no photo or video in .*; 3 skipped: 3 of other kinds \(\.doc, \.pdf\)"):
        plan(tmp_path, tmp_path / "out")


def test_results_of_one_folder_never_meet(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    suffixes = [suffix for kind in KINDS for suffix in kind.suffixes]
    files = [(tmp_path / f"a{suffix}", kinds.BY_SUFFIX[suffix]) for suffix in rng.permutation(suffixes)]
    places = targets(tuple(files), tmp_path, tmp_path / "out")
    assert len(set(places)) == len(suffixes)


def test_the_guide_lists_every_suffix() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "formats.md").read_text(encoding="utf-8")
    for kind in KINDS:
        row = next(line for line in guide.splitlines() if line.startswith(f"| {kind.title} |") and "`." in line)
        assert [word for word in row.replace("`", " ").split() if word.startswith(".")][: len(kind.suffixes)] == list(
            kind.suffixes
        )
