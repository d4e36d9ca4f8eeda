"""The split that all readers of known face sets take: what the table says, and that nobody is on both sides."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.data import split as split_module
from facewright.data.faces import open_faces
from facewright.data.people import SAME, SETS, FoundFaces, PeopleOf, crossings, unit
from facewright.data.prints import DamagedPrints
from facewright.data.split import (
    SPLIT_FILE,
    Place,
    SplitTable,
    is_validation,
    pictures_of,
    shipped_split,
)
from facewright.errors import FacewrightError, UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

TABLE = SplitTable(
    {
        "utkface": {"a.jpg": Place("train", 1), "b.jpg": Place("train", 1), "c.jpg": Place("val", 0)},
        "ciplab": {"x/y.jpg": Place("dropped", 2), "x/z.jpg": Place("val", 0)},
    },
    frozenset({"Some One"}),
)


def test_one_name_in_ten_validates_and_that_never_changes() -> None:
    chosen = [i for i in range(5000) if is_validation(f"subject {i}")]
    assert 430 < len(chosen) < 570
    assert [i for i in range(30) if is_validation(f"person {i}")] == [1, 4, 8, 10, 15, 23]


def test_sides_and_people_come_from_the_table() -> None:
    assert list(TABLE.sides("utkface", ["c.jpg", "a.jpg"], ["", ""])) == ["val", "train"]
    assert list(TABLE.people("utkface", ["c.jpg", "a.jpg", "b.jpg", "new.jpg"])) == [0, 1, 1, 0]
    assert TABLE.pictures("ciplab", "val") == ["x/z.jpg"]
    with pytest.raises(FacewrightError, match="no split of 'nothing'; it is known for ciplab, utkface"):
        TABLE.pictures("nothing", "val")


def test_pictures_that_the_table_does_not_know_are_on_neither_side() -> None:
    """They may show anybody, a person of the other side too."""
    assert list(TABLE.sides("utkface", ["new.jpg"], ["person 1"])) == ["dropped"]


def test_lfw_goes_by_name_and_some_people_are_on_neither_side() -> None:
    table = SplitTable({}, frozenset({"person 1"}))
    assert list(table.sides("lfw", ["", "", ""], ["person 1", "person 4", "person 5"])) == ["dropped", "val", "train"]


def test_a_table_comes_back_and_has_the_same_bytes(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "one.gz")
    SplitTable(dict(reversed(list(TABLE.sets.items()))), TABLE.lfw_dropped).save(tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert SplitTable.load(tmp_path / "one.gz") == TABLE


@pytest.mark.parametrize(
    "content",
    [b"no", gzip.compress(b"{}"), gzip.compress(b'{"sets": {"a": {"val": [["x"], []]}}}')],
    ids=["not packed", "no sets", "no people"],  # the bytes hold the time of day
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(FacewrightError, match=r"x\.gz is no split"):
        SplitTable.load(tmp_path / "x.gz")


def test_prints_of_known_sets_take_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: SimpleNamespace
) -> None:
    from facewright.io.image import save_rgb

    monkeypatch.setattr(split_module, "shipped_split", lambda: TABLE)
    (tmp_path / "x").mkdir()
    for name in ("y", "z"):
        save_rgb(fakes.textured(80, 80), tmp_path / "x" / f"{name}.jpg")
    val = DamagedPrints(sets={"ciplab": str(tmp_path)}, split="val", size=64)
    assert val.sets == [[tmp_path / "x/z.jpg"]]
    with pytest.raises(UsageError, match="no pictures for train in ciplab"):
        DamagedPrints(sets={"ciplab": str(tmp_path)}, size=64)


# --- the shipped table


def test_the_shipped_table_has_every_set_and_nobody_twice() -> None:
    table = shipped_split()
    assert {"utkface", *SETS} == set(table.sets)
    for name, places in table.sets.items():
        train, val = set(pictures_of(name, "train")), set(pictures_of(name, "val"))
        assert train
        assert val
        assert not train & val
        assert train | val <= set(places)
    for places in table.sets.values():
        sides: dict[int, set[str]] = {}
        for place in places.values():
            if place.person:
                sides.setdefault(place.person, set()).add(place.side)
        assert all(len(found) == 1 for found in sides.values())
    assert SPLIT_FILE.stat().st_size < 400_000


def test_nobody_of_the_first_split_of_utkface_came_from_training_to_validation() -> None:
    """Weights of the first split, which was by file, can be measured by this one."""
    assert all(is_validation(name.partition(".")[0]) for name in pictures_of("utkface", "val"))


@pytest.mark.shared
def test_no_validation_face_has_a_training_face_alike(shared_dir: Path) -> None:
    """By the embeddings that came with LFW and UTKFace."""
    vectors: dict[str, list[Any]] = {"train": [], "val": []}
    for name in ("lfw", "utkface"):
        for side, found in vectors.items():
            part = open_faces(name, side, shared_dir / "data")  # type: ignore[arg-type]
            assert len(part) > 300
            found.append(unit(np.asarray(part.labels["embedding128"])[part.rows]))
    train, val = (np.concatenate(vectors[side]) for side in ("train", "val"))
    assert max(float((part @ train.T).max()) for part in np.array_split(val, 20)) < SAME


@pytest.mark.shared
def test_nobody_is_on_both_sides_of_any_two_sets(shared_dir: Path) -> None:
    """By the embedded recogniser, where `data.people embed` has been run; about a minute."""
    folder = os.environ.get("FACEWRIGHT_FOUND")
    if not folder:
        pytest.skip("the faces of all sets are not here (set FACEWRIGHT_FOUND to what `data.people embed` wrote)")
    found = {path.stem: FoundFaces.load(path) for path in sorted(Path(folder).glob("*.npz"))}
    people = {name: PeopleOf.of(name, faces, shared_dir / "data") for name, faces in found.items()}
    assert not {pair: count for pair, count in crossings(people, shipped_split()).items() if count}
