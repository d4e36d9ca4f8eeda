"""Reading the labelled collections, and the split that no person crosses."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from facewright.data.faces import data_root, open_faces, rows_key
from facewright.data.split import SplitTable
from facewright.errors import FacewrightError

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A collection of 40 grey pictures of 20 people; picture i has the grey level 5 i, every tenth has no face."""
    names = [f"p{i:02d}.jpg" for i in range(COUNT)]
    with tarfile.open(tmp_path / "lfw.tar", "w") as tar:
        for i, name in enumerate(names):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 12), (5 * i, 5 * i, 5 * i)).save(buffer, "JPEG", quality=95)
            info = tarfile.TarInfo(f"lfw/{name}")
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    np.savez(
        tmp_path / "lfw_labels.npz",
        filename=np.array(names),
        subject=np.array([f"person {i // 2}" for i in range(COUNT)]),
        detected=np.arange(COUNT) % 10 != 9,
    )
    return tmp_path


def test_pictures_are_read_by_row(root: Path) -> None:
    faces = open_faces("lfw", root=root)
    assert len(faces) == 36
    assert 9 not in faces.rows
    for row in (0, 7, 38):
        picture = faces.read(row)
        assert picture.shape == (12, 16, 3)
        assert np.abs(picture.astype(int) - 5 * row).max() <= 2
    assert Image.open(io.BytesIO(faces.encoded(3))).size == (16, 12)


def test_colours_are_read_in_the_order_red_green_blue(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 120, 40)).save(buffer, "JPEG", quality=95)
    with tarfile.open(tmp_path / "lfw.tar", "w") as tar:
        info = tarfile.TarInfo("lfw/a.jpg")
        info.size = len(buffer.getvalue())
        tar.addfile(info, io.BytesIO(buffer.getvalue()))
    labels = {"filename": np.array(["a.jpg"]), "subject": np.array(["somebody"]), "detected": np.ones(1, bool)}
    np.savez(tmp_path / "lfw_labels.npz", **labels)  # type: ignore[arg-type]
    mean = open_faces("lfw", root=tmp_path).read(0).mean((0, 1))
    assert np.abs(mean - (200, 120, 40)).max() < 4


def test_splits_share_nobody_and_lose_nobody(root: Path) -> None:
    whole, train, val = (open_faces("lfw", split, root) for split in (None, "train", "val"))
    people = [{str(s) for s in part.labels["subject"][part.rows]} for part in (train, val)]
    assert not people[0] & people[1]
    assert sorted([*train.rows, *val.rows]) == sorted(whole.rows)
    assert people[1] == {"person 1", "person 4", "person 8", "person 10", "person 15"}
    assert val.labels["detected"].sum() == 36  # labels stay as published, whatever was chosen


def test_people_whom_other_sets_show_are_on_neither_side(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewright.data.faces.shipped_split", lambda: SplitTable({}, frozenset({"person 4"})))
    whole, train, val = (open_faces("lfw", split, root) for split in (None, "train", "val"))
    left = {str(s) for s in whole.labels["subject"][np.setdiff1d(whole.rows, [*train.rows, *val.rows])]}
    assert left == {"person 4"}


def test_prepared_data_of_another_choice_of_rows_have_another_name() -> None:
    keys = [rows_key(np.array(rows)) for rows in ([1, 2], [1, 3], [1, 2, 3])]
    assert len(set(keys)) == 3
    assert rows_key(np.array([1, 2], np.int32)) == keys[0]


def test_root_is_the_given_one_or_the_environments(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_root(root) == root.resolve()
    monkeypatch.setenv("FACEWRIGHT_DATA", str(root))
    assert data_root() == root.resolve()
    with pytest.raises(FacewrightError, match="FACEWRIGHT_DATA"):
        data_root(root / "elsewhere")


def test_absent_collections_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEWRIGHT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FacewrightError, match="set FACEWRIGHT_DATA"):
        data_root()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["lfw", "utkface"])
def test_real_collections(name: str, shared_dir: Path) -> None:
    val = open_faces(name, "val", shared_dir / "data")  # type: ignore[arg-type]
    assert 0.03 < len(val) / int(val.labels["detected"].sum()) < 0.14
    picture = val.read(int(val.rows[0]))
    assert picture.shape == ((250, 250, 3) if name == "lfw" else (200, 200, 3))
