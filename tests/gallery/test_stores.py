"""What every store promises, asked of each: a file, a folder of LanceDB, a PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import OutputError, UsageError
from facewright.gallery import Gallery, GalleryError, Person, RecogniserId, Sample
from facewright.gallery.records import fuse

if TYPE_CHECKING:
    from collections.abc import Callable

STORES = ("file", "lance", "server")


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a gallery of that kind can be made."""
    if request.param == "server":
        return str(request.getfixturevalue("database"))
    if request.param == "lance":
        pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
        return str(tmp_path / "people.lance")
    return str(tmp_path / "people.gallery")


@pytest.fixture
def gallery(place: str, recogniser: RecogniserId) -> Any:
    with Gallery.create(place, recogniser) as opened:
        yield opened


def test_what_was_enrolled_comes_back_in_another_process(
    gallery: Gallery, place: str, recogniser: RecogniserId, sample: Any
) -> None:
    ada = sample("Ada", 0, quality=0.5, key="k", metadata={"file": "ä"}, thumbnail=b"\xff\xd8\xff\0\1")
    numbers = gallery.enrol([sample("Grace", 1), ada, sample("O'Hara", 2)])
    assert len(set(numbers)) == 3
    assert gallery.enrol([sample("Ada", 9, key="k"), sample("Ada", 3)])[0] == numbers[1]
    with Gallery.open(place, recogniser) as other:
        assert other.recogniser == recogniser
        assert other.people() == [Person("Ada", 2), Person("Grace", 1), Person("O'Hara", 1)]
        first, second = other.samples("Ada")
        np.testing.assert_array_equal(first.vector, ada.vector)
        assert (first.quality, first.key, first.metadata, first.thumbnail) == (0.5, "k", {"file": "ä"}, ada.thumbnail)
        assert (second.key, second.thumbnail) == ("", None)
        assert other.samples("nobody") == []
        assert [other.contains(*pair) for pair in (("Ada", "k"), ("Grace", "k"), ("no", "k"))] == [True, False, False]
        assert other.problems() == []
        assert other.index_recall() is None


def test_the_same_key_twice_in_one_call_is_one_picture(gallery: Gallery, sample: Any) -> None:
    numbers = gallery.enrol([sample("Ada", 0, key="k"), sample("Ada", 1, key="k"), sample("Ada", 2), sample("Ada", 3)])
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3
    assert gallery.people() == [Person("Ada", 3)]
    np.testing.assert_array_equal(gallery.samples("Ada")[0].vector, sample("Ada", 0).vector)


def test_search_compares_with_the_weighted_mean(gallery: Gallery, unit: Any) -> None:
    vectors = unit(0, 3)
    for vector, quality in zip(vectors, (1.0, 0.2, 0.6), strict=True):
        gallery.enrol([Sample("Ada", vector, quality), Sample(f"other {quality}", unit(int(100 * quality)))])
    probes = unit(5, 2)
    found = gallery.search(probes, 10)
    scores = {m.person: m.score for m in found[0]}
    expected = float(fuse(vectors, np.array([1.0, 0.2, 0.6])) @ probes[0])
    assert scores["Ada"] == pytest.approx(expected, abs=1e-5)
    assert [m.score for m in found[1]] == sorted((m.score for m in found[1]), reverse=True)
    assert len(scores) == 4
    assert len(gallery.search(probes, 2)[1]) == 2


def test_an_empty_gallery_finds_nobody(gallery: Gallery, unit: Any) -> None:
    assert gallery.search(unit(0, 2), 3) == [[], []]
    assert gallery.people() == []
    assert gallery.problems() == []


def test_all_samples_are_added_or_none(gallery: Gallery, sample: Any, unit: Any) -> None:
    gallery.enrol([sample("Ada", 0)])
    vector = unit(1)
    with pytest.raises(UsageError, match="cancel"):
        gallery.enrol([sample("Bob", 3), Sample("Eve", vector), Sample("Eve", -vector)])
    assert gallery.people() == [Person("Ada", 1)]
    assert gallery.problems() == []


def test_removed_people_are_not_found_again(
    gallery: Gallery, place: str, recogniser: RecogniserId, sample: Any, unit: Any
) -> None:
    gallery.enrol([sample(f"p{i}", i) for i in range(20)] + [sample("p3", 77)])
    with Gallery.open(place, recogniser) as other:
        assert other.search(unit(3)[None], 1)
        with pytest.raises(UsageError, match="nobody named x"):
            gallery.remove(["p1", "x"])
        assert len(gallery.people()) == 20
        assert gallery.remove(["p3", "p5", "p3"]) == 3
        for one in (gallery, other):
            found = {m.person for matches in one.search(unit(0, 4), 20) for m in matches}
            assert found == {f"p{i}" for i in range(20) if i not in (3, 5)}
    assert gallery.samples("p3") == []
    assert not gallery.contains("p3", "")
    gallery.enrol([sample("p3", 3)])
    assert gallery.search(unit(3)[None], 1)[0][0].person == "p3"
    assert gallery.problems() == []


def test_several_programs_enrol_at_once(place: str, gallery: Gallery, recogniser: RecogniserId, unit: Any) -> None:
    def enrol(which: int) -> None:
        with Gallery.open(place, recogniser) as mine:
            for i in range(4):
                mine.enrol([Sample(f"{which} {i}", unit(10 * which + i)), Sample("both", unit(99), key=f"{which} {i}")])

    threads = [threading.Thread(target=enrol, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gallery.people()) == 13
    assert Person("both", 12) in gallery.people()
    assert gallery.problems() == []


def test_what_is_no_gallery_of_this_recogniser_is_refused(gallery: Gallery, place: str, recogniser: Any) -> None:
    with pytest.raises(OutputError):
        Gallery.create(place, recogniser)
    with pytest.raises(GalleryError, match="made with tester"):
        Gallery.open(place, RecogniserId("other", "cd" * 32, recogniser.dimension))
    with Gallery.open(place, None) as readable:
        assert readable.people() == []
        with pytest.raises(UsageError, match="opened without a recogniser"):
            readable.search(np.eye(recogniser.dimension, dtype=np.float32)[:1])


# --- what LanceDB has to be made to do


@pytest.fixture
def lance(tmp_path: Path, recogniser: RecogniserId) -> Callable[..., Any]:
    """Open the store at one place, which is made first."""
    pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    from facewright.gallery.lance import LanceStore

    LanceStore.create(tmp_path / "people.lance", recogniser)
    return lambda **options: LanceStore(tmp_path / "people.lance", **options)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def traces(number: int, unit: Any) -> list[bytes]:
    """What is written as it is; short texts are compressed."""
    return [b"secret %d." % number, unit(number)[:8].tobytes()]


def enrol_secrets(store: Any, unit: Any, count: int, first: int = 0) -> None:
    picture = b"\xff\xd8\xff" + np.random.default_rng(0).bytes(500)
    store.enrol(
        [
            Sample(f"name of {i}", unit(i), key=f"secret {i}", thumbnail=picture + b"secret %d." % i)
            for i in range(first, first + count)
        ]
    )


def test_the_index_takes_over_and_removed_people_leave_no_bytes_in_it(
    lance: Any, tmp_path: Path, recogniser: RecogniserId, unit: Any
) -> None:
    store, place = lance(index_from=400), tmp_path / "people.lance"
    enrol_secrets(store, unit, 300)
    assert store.index_recall() is None
    enrol_secrets(store, unit, 300, first=300)
    assert store.index_recall() >= 0.99
    probes = np.stack([unit(i) for i in range(0, 600, 7)])
    assert [m[0].person for m in store.search(probes, 1)] == [f"name of {i}" for i in range(0, 600, 7)]
    before = on_disk(place)
    assert all(trace in before for number in (7, 8, 301) for trace in traces(number, unit))
    assert len(list(place.rglob("*.idx"))) >= 1
    index_before = {path.name for path in place.rglob("*.idx")} | {p.parent.name for p in place.rglob("*.idx")}
    assert store.remove(["name of 7", "name of 301"]) == 2
    after = on_disk(place)
    assert not any(trace in after for number in (7, 301) for trace in traces(number, unit))
    assert all(trace in after for trace in traces(8, unit))
    # the index holds sketches of vectors, in which no bytes can be looked for: it was made anew, the former one is gone
    assert not {p.parent.name for p in place.rglob("*.idx")} & {n for n in index_before if not n.endswith(".idx")}
    rows = {version["metadata"]["total_data_file_rows"] for version in store._table.list_versions()}
    assert rows == {"1196"}  # a template and a picture of each of 598 people: no version from before is left
    assert store.index_recall() >= 0.99
    assert store.search(unit(7)[None], 1)[0][0].person != "name of 7"
    # a backup made of the store after the removal holds nothing either; one made before does, and is nobody's to reach
    shutil.copytree(place, tmp_path / "backup.lance")
    assert not any(trace in on_disk(tmp_path / "backup.lance") for trace in traces(7, unit))


@pytest.mark.parametrize("step", ["_write_anew", "_forget_versions"])
def test_an_interrupted_removal_is_finished_on_opening(lance: Any, tmp_path: Path, step: str, unit: Any) -> None:
    place = tmp_path / "people.lance"
    enrol_secrets(lance(), unit, 30)
    script = f"""
import os
from facewright.gallery.lance import LanceStore
original = LanceStore.{step}
def killing(self, *arguments):
    if {step!r} == "_write_anew":
        original(self, *arguments)
    os._exit(9)
LanceStore.{step} = killing
LanceStore({str(place)!r}).remove(["name of 7"])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 9
    assert traces(7, unit)[1] in on_disk(place)
    store = lance()
    assert not any(trace in on_disk(place) for trace in traces(7, unit))
    assert len(store.people()) == 29
    assert store.problems() == []


def test_damage_is_noticed(lance: Any, tmp_path: Path, unit: Any) -> None:
    enrol_secrets(lance(), unit, 20)
    (data,) = (tmp_path / "people.lance").rglob("data/*.lance")
    content = data.read_bytes()
    where = content.index(unit(7)[:8].tobytes())
    data.write_bytes(content[:where] + b"\0\0\0\0" + content[where + 4 :])
    assert any("name of 7" in problem for problem in lance().problems())
    data.write_bytes(content[: len(content) // 2])
    assert "is damaged" in lance().problems()[0]
    (tmp_path / "people.lance" / "header.json").write_text("{}")
    with pytest.raises(GalleryError, match="is damaged"):
        lance()
    with pytest.raises(UsageError, match="cannot be encrypted"):
        Gallery.open(tmp_path / "people.lance", None, key_file=tmp_path / "key")


def test_every_commit_is_on_the_disk_before_it_is_acknowledged(
    lance: Any, tmp_path: Path, unit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.gallery import lance as module

    store, flushed = lance(), set()
    original = module._flush

    def note(path: Path, mode: int) -> None:
        flushed.add(path)
        original(path, mode)

    monkeypatch.setattr(module, "_flush", note)
    there = {p for p in (tmp_path / "people.lance").rglob("*") if p.is_file()}
    enrol_secrets(store, unit, 3)
    new = {p for p in (tmp_path / "people.lance").rglob("*") if p.is_file()} - there
    assert new
    assert new <= flushed
    assert {p.parent for p in new} <= flushed
