"""Where photos are found, what they are called, and that their bytes come back."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from facewright.batch.items import Item, Listing, LocalFiles, files_at, read_bytes, read_chunk, safe_key, write_index
from facewright.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tar_of(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_a_folder_gives_its_photos_in_order_and_says_what_it_left(tmp_path: Path) -> None:
    names = ("b.png", "a/2.jpg", "a/1.JPG", "a/notes.txt", ".hidden/x.png", "film.mp4", "a/.facewright/y.png")
    files = lay_out(tmp_path / "in", {name: name.encode() for name in names})
    listing = Listing(LocalFiles(files))
    found = list(listing)
    assert [item.key for item in found] == ["b.png", "a/1.JPG", "a/2.jpg"]
    assert read_bytes(listing.files, found) == [b"b.png", b"a/1.JPG", b"a/2.jpg"]
    assert dict(listing.skipped) == {"hidden": 1, "of other kinds (.txt)": 1, "of other kinds (.mp4)": 1}


def test_the_output_within_the_source_is_left_out(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.png": b"1", "out/a.png": b"2"})
    assert [item.key for item in Listing(files_at(str(tmp_path), tmp_path / "out"))] == ["a.png"]


def test_members_of_a_tar_are_read_where_they_lie(tmp_path: Path) -> None:
    members = {"0001.jpg": b"first", "0001.json": b"{}", "more/0002.png": b"second" * 1000}
    lay_out(tmp_path, {"shards/00.tar": tar_of(members)})
    files = LocalFiles(tmp_path)
    found = list(Listing(files))
    assert [item.key for item in found] == ["shards/00.tar/0001.jpg", "shards/00.tar/more/0002.png"]
    assert read_bytes(files, found) == [b"first", b"second" * 1000]
    assert [item.key for item in Listing(files_at(str(tmp_path / "shards/00.tar")))] == [
        "00.tar/0001.jpg",
        "00.tar/more/0002.png",
    ]


def test_a_compressed_or_damaged_tar_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a/x.tar.gz": b"\x1f\x8b", "b/x.tar": b"no tar at all" * 100})
    with pytest.raises(UsageError, match=r"x\.tar\.gz is compressed"):
        list(Listing(LocalFiles(tmp_path / "a")))
    with pytest.raises(UsageError, match=r"x\.tar is not a sound tar file"):
        list(Listing(LocalFiles(tmp_path / "b")))


def test_rows_of_parquet_are_photos(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra ray is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    photos = [f"photo {i}".encode() for i in range(25)]
    plain = pa.table({"key": [f"p{i}.jpg" for i in range(25)], "jpg": pa.array(photos, pa.binary())})
    parquet.write_table(plain, tmp_path / "plain.parquet", row_group_size=7)
    nested = pa.table({"image": [{"bytes": photo, "path": None} for photo in photos], "label": list(range(25))})
    parquet.write_table(nested, tmp_path / "nested.parquet", row_group_size=7)
    files = LocalFiles(tmp_path)
    found = list(Listing(files))
    assert [item.key for item in found[:2]] == ["nested.parquet/000000000", "nested.parquet/000000001"]
    assert found[25].key == "plain.parquet/p0.jpg"
    assert read_bytes(files, found) == photos * 2
    assert read_bytes(files, [found[30], found[3], found[29]]) == [photos[5], photos[3], photos[4]]


def test_parquet_without_one_column_of_photos_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra ray is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="it has none"):
        list(Listing(LocalFiles(tmp_path)))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UsageError, match="not a sound parquet file"):
        list(Listing(LocalFiles(tmp_path)))


def test_files_at_an_address_are_those_of_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra ray is not installed")
    lay_out(tmp_path, {"a/1.jpg": b"one", "b.tar": tar_of({"2.png": b"two"}), ".x/3.png": b"three"})
    here, there = files_at(str(tmp_path)), files_at(tmp_path.as_uri())
    assert sorted(Listing(here), key=lambda i: i.key) == sorted(Listing(there), key=lambda i: i.key)
    assert read_bytes(there, list(Listing(there))) == [b"one", b"two"]
    with pytest.raises(UsageError, match="cannot be opened"):
        list(files_at("nowhere://x").names())


def test_what_cannot_be_read_is_a_line(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"short")
    gone, cut = read_bytes(files, [Item("gone.jpg", "gone.jpg"), Item("a.tar/x.jpg", "a.tar", 2, 100)])
    assert gone == "gone.jpg: No such file or directory"
    assert cut == "a.tar/x.jpg: a.tar ends before it does"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("../../etc/passwd.jpg", "etc/passwd.jpg"),
        ("/abs/./x.png", "abs/x.png"),
        ("c:\\evil\n.png", "c__evil_.png"),
        ("\udcff.jpg", "?.jpg"),
        ("..", "photo"),
    ],
)
def test_no_name_leaves_the_output(name: str, key: str) -> None:
    assert safe_key(name) == key


def test_the_list_comes_back_from_the_disk(tmp_path: Path) -> None:
    items: list[Any] = [Item(f"ä{i}.jpg", "f.tar", i, 3) for i in range(10)]
    assert write_index(iter(items), tmp_path / "index", 4) == (10, 3)
    assert [item for number in range(3) for item in read_chunk(tmp_path / "index", number)] == items
    assert write_index(iter(()), tmp_path / "none", 4) == (0, 0)
