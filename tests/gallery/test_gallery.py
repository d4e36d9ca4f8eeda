"""What a gallery file promises: nothing acknowledged is lost, nothing deleted is kept, nothing foreign gets in."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import OutputError, UsageError
from facewright.gallery import Gallery, GalleryError, Person, RecogniserId, Sample, create_key
from facewright.gallery.records import fuse
from facewright.gallery.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def bytes_on_disk(folder: Path) -> bytes:
    """Everything in the files of a folder."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def thumbnail(seed: int, size: int = 3000) -> bytes:
    return b"\xff\xd8\xff" + np.random.default_rng(seed).bytes(size)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    pytest.importorskip("cryptography", reason="encryption needs the package cryptography")
    path = tmp_path / "people.key"
    create_key(path)
    return path


@contextlib.contextmanager
def raw(place: Path) -> Iterator[sqlite3.Connection]:
    """The file as SQLite sees it, foreign keys and erasing off."""
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as sql:
        sql.execute("PRAGMA secure_delete=OFF")
        yield sql


# --- enrol and search


def test_what_was_enrolled_comes_back(gallery: Gallery, place: Path, recogniser: Any, unit: Any, sample: Any) -> None:
    ada = sample("Ada", 0, quality=0.5, key="k", metadata={"file": "ä.jpg", "year": 1843}, thumbnail=thumbnail(0))
    numbers = gallery.enrol([ada, sample("Grace", 1), sample("Ada", 2)])
    assert len(set(numbers)) == 3
    gallery.close()
    with Gallery.open(place, recogniser) as reopened:
        assert reopened.people() == [Person("Ada", 2), Person("Grace", 1)]
        first, second = reopened.samples("Ada")
        np.testing.assert_array_equal(first.vector, ada.vector)
        assert vars_of(first) == vars_of(ada)
        assert (second.quality, second.key, second.thumbnail) == (1.0, "", None)
        assert reopened.samples("Nobody") == []
        assert reopened.problems() == []


def vars_of(sample: Sample) -> tuple[Any, ...]:
    return sample.person, sample.quality, sample.key, dict(sample.metadata), sample.thumbnail


def test_search_compares_with_the_weighted_mean(gallery: Gallery, unit: Any) -> None:
    vectors = unit(0, 3)
    qualities = [1.0, 0.2, 0.6]
    # in two calls, as the template must follow
    gallery.enrol([Sample("Ada", vectors[0], 1.0), Sample("Ada", vectors[1], 0.2)])
    gallery.search(vectors[:1])
    gallery.enrol([Sample("Ada", vectors[2], 0.6), Sample("Grace", unit(9))])
    probe = unit(5)
    (matches,) = gallery.search(probe[None], 2)
    expected = {"Ada": float(fuse(vectors, np.array(qualities)) @ probe), "Grace": float(unit(9) @ probe)}
    assert {m.person: m.score for m in matches} == pytest.approx(expected, abs=1e-6)
    assert matches[0].score >= matches[1].score


def test_many_people_are_each_found(gallery: Gallery, unit: Any) -> None:
    vectors = unit(0, 500)
    gallery.enrol([Sample(f"p{i}", v) for i, v in enumerate(vectors)])
    found = gallery.search(vectors, 1)
    assert [m[0].person for m in found] == [f"p{i}" for i in range(500)]
    assert gallery.search(vectors[:0]) == []
    assert gallery.index_recall() is None


def test_enrolling_a_picture_again_changes_nothing(gallery: Gallery, place: Path, sample: Any) -> None:
    first = gallery.enrol([sample("Ada", 0, key="a"), sample("Ada", 1, key="b")])
    again = gallery.enrol([sample("Ada", 7, key="b"), sample("Ada", 8, key="a")])
    assert again == first[::-1]
    assert gallery.people() == [Person("Ada", 2)]
    twice = gallery.enrol([sample("Grace", 2, key="a"), sample("Grace", 2, key="a")])
    assert twice[0] == twice[1] not in first
    assert gallery.contains("Ada", "a")
    assert gallery.contains("Grace", "a")
    assert not gallery.contains("Grace", "b")
    assert not gallery.contains("Nobody", "a")
    np.testing.assert_array_equal(gallery.samples("Ada")[1].vector, sample("Ada", 1).vector)


def test_all_samples_of_a_call_or_none(gallery: Gallery, unit: Any, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0)])
    with pytest.raises(UsageError, match="unit length"):
        gallery.enrol([sample("Grace", 1), Sample("Bad", 2 * unit(2))])
    with pytest.raises(UsageError, match="cancel"):  # found only while Ada is being written, after Abel was
        gallery.enrol([sample("Abel", 1), Sample("Ada", -unit(0))])
    assert gallery.people() == [Person("Ada", 1)]
    assert gallery.problems() == []


def test_probes_that_cannot_be(gallery: Gallery, unit: Any) -> None:
    with pytest.raises(UsageError, match="vectors of 32"):
        gallery.search(unit(0, 2, 31))
    with pytest.raises(UsageError, match="unit length"):
        gallery.search(unit(0, 2) * 0.5)
    with pytest.raises(UsageError, match="1 or more"):
        gallery.search(unit(0, 2), 0)


def test_the_index_of_a_file_finds_the_same(place: Path, recogniser: Any, gallery: Gallery, unit: Any) -> None:
    vectors = unit(0, 300)
    gallery.enrol([Sample(f"p{i:03d}", v) for i, v in enumerate(vectors)])
    store = SqliteStore(place, index_from=100)
    assert store.index_recall() == pytest.approx(1, abs=0.02)
    assert [m[0].person for m in store.search(vectors, 1)] == [f"p{i:03d}" for i in range(300)]
    gallery.remove([f"p{i:03d}" for i in range(250)])
    assert store.index_recall() is None
    assert all(len(store.search(vectors[:1], k)[0]) == k for k in (1, 50))
    store.close()


# --- whose vectors


@pytest.mark.parametrize("change", [{"slug": "other"}, {"weights_sha256": "cd" * 32}, {"dimension": 64}])
def test_another_recogniser_is_refused(change: Any, gallery: Gallery, place: Path, recogniser: RecogniserId) -> None:
    with pytest.raises(GalleryError, match=r"made with tester \(weights abababababab…, 32 numbers\), not with"):
        Gallery.open(place, replace(recogniser, **change))


def test_without_a_recogniser_nothing_can_be_added_or_searched(gallery: Gallery, place: Path, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0)])
    with Gallery.open(place, None) as opened:
        for call in (lambda: opened.enrol([sample("Grace", 1)]), lambda: opened.search(sample("Ada", 0).vector[None])):
            with pytest.raises(UsageError, match="without a recogniser"):
                call()
        assert opened.remove(["Ada"]) == 1
        assert opened.remove([]) == 0


# --- deleting


def test_removed_people_leave_no_bytes(gallery: Gallery, place: Path, unit: Any) -> None:
    people = [f"person number {i:03d}" for i in range(60)]
    sizes = np.random.default_rng(0).integers(10, 9000, (60, 3))
    samples = [
        Sample(who, unit(1000 * i + j), key=f"key<{i}-{j}>", thumbnail=thumbnail(1000 * i + j, int(sizes[i, j])))
        for i, who in enumerate(people)
        for j in range(3)
    ]  # fmt: skip
    for start in range(0, len(samples), 7):  # out of order, so that pages are split and rows moved about
        gallery.enrol([samples[(7 * i) % len(samples)] for i in range(start, min(start + 7, len(samples)))])
    gone, kept = people[::9], [p for p in people if p not in people[::9]]

    def traces(who: str) -> list[bytes]:
        theirs = [s for s in samples if s.person == who]
        template = fuse(np.stack([s.vector for s in theirs]), np.ones(3))
        values = [who.encode(), template[:8].tobytes()]
        for s in theirs:
            values += [s.vector[:8].tobytes(), s.vector[-8:].tobytes(), s.key.encode(), s.thumbnail[3:19]]
        return values

    before = bytes_on_disk(place.parent)
    assert all(t in before for who in people for t in (who.encode(), *traces(who)[2:]))
    assert gallery.remove(gone) == 3 * len(gone)
    after = bytes_on_disk(place.parent)
    assert [who for who in gone if any(t in after for t in traces(who))] == []
    tails = [s.thumbnail[i : i + 16] for s in samples if s.person in gone for i in range(3, len(s.thumbnail), 500)]
    assert not any(len(t) == 16 and t in after for t in tails)
    assert all(t in after for who in kept for t in traces(who)[2:])
    assert [p.name for p in gallery.people()] == kept
    assert gallery.problems() == []
    probe = fuse(np.stack([unit(j) for j in range(3)]), np.ones(3))
    assert people[0] not in [m.person for m in gallery.search(probe[None], 200)[0]]


def test_an_unknown_name_removes_nobody(gallery: Gallery, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0), sample("Grace", 1)])
    with pytest.raises(UsageError, match="nobody named Adda, Gracie"):
        gallery.remove(["Ada", "Adda", "Gracie"])
    assert len(gallery.people()) == 2
    assert gallery.remove(["Ada", "Ada"]) == 1
    gallery.enrol([sample("Ada", 5)])
    assert gallery.search(sample("Ada", 5).vector[None], 1)[0][0].person == "Ada"


def test_an_interrupted_erasure_is_finished_on_opening(gallery: Gallery, place: Path, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0, thumbnail=thumbnail(0, 400)), sample("Grace", 1, thumbnail=thumbnail(1, 400))])
    gallery.close()
    trace = thumbnail(0, 400)[100:200]
    with raw(place) as sql:
        sql.execute("DELETE FROM sample WHERE id = (SELECT min(id) FROM sample)")
        sql.execute("DELETE FROM person WHERE id = (SELECT min(id) FROM person)")
        sql.execute("UPDATE header SET rewrite_owed = 1, removals = removals + 1")
    assert trace in place.read_bytes(), "the set-up must leave something to erase"
    with Gallery.open(place, None) as opened:
        assert trace not in place.read_bytes()
        assert opened.people() == [Person("Grace", 1)]
        assert opened.problems() == []


def test_a_removal_that_cannot_be_rewritten_says_so(gallery: Gallery, place: Path, sample: Any) -> None:
    gallery.enrol([sample("Ada", 90, key="trace of Ada")])
    gallery.enrol([sample(f"p{i}", i, thumbnail=thumbnail(i, 30_000)) for i in range(20)])
    limit = place.stat().st_size  # room for the deletion, not for the journal of rewriting every page
    with file_size_limit(limit), pytest.raises(OutputError, match=r"Ada removed, but .* is retried"):
        gallery.remove(["Ada"])
    assert len(gallery.people()) == 20
    gallery.close()
    with Gallery.open(place, None) as opened:
        assert opened.problems() == []
        with raw(place) as sql:
            assert sql.execute("SELECT rewrite_owed FROM header").fetchone() == (0,)
    assert b"trace of Ada" not in place.read_bytes()


# --- crashes, other processes, full disks

SCRIPT = """
import sys
import numpy as np
from facewright.gallery import Gallery, RecogniserId, Sample

def unit(seed):
    v = np.random.default_rng(seed).standard_normal(32)
    return (v / np.linalg.norm(v)).astype(np.float32)

gallery = Gallery.open(sys.argv[1], RecogniserId("tester", "ab" * 32, 32), key_file=None)
def done(what):
    print(what, flush=True)
"""
ENROL_AND_REMOVE = """
for i in range(100_000):
    picture = b"\\xff\\xd8\\xff" + unit(i).tobytes() * 20
    gallery.enrol([Sample(f"p{i}.", unit(3 * i + j), thumbnail=picture) for j in (0, 1)])
    done(f"+{i}")
    if i % 4 == 3:
        gallery.remove([f"p{i - 2}."])
        done(f"-{i - 2}")
"""
ENROL_SAME = """
for i in range(20):
    gallery.enrol([Sample("shared", unit(1000 * int(sys.argv[2]) + i), key=f"{sys.argv[2]}-{i}"),
                   Sample(f"own {sys.argv[2]}-{i}", unit(i))])
    done(i)
"""


def start(body: str, *arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT + body, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("after", [3, 22])
def test_killing_loses_nothing_acknowledged(after: int, gallery: Gallery, place: Path, recogniser: Any) -> None:
    gallery.close()
    process = start(ENROL_AND_REMOVE, place)
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(after)]
    time.sleep(0.003 * after)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read().split()
    process.wait()
    enrolled = {int(s[1:]) for s in said if s.startswith("+")}
    removed = {int(s[1:]) for s in said if s.startswith("-")}
    next_removal = {i for i in range(len(enrolled) + 1) if i % 4 == 1} - removed  # may have been under way
    with Gallery.open(place, recogniser) as opened:
        people = {int(p.name[1:-1]): p.samples for p in opened.people()}
        assert opened.problems() == []
        assert set(people) >= enrolled - removed - next_removal
        assert set(people) <= enrolled - removed | next_removal | {max(enrolled) + 1}
        assert set(people.values()) == {2}
    everything = bytes_on_disk(place.parent)
    assert [i for i in removed if f"p{i}.".encode() in everything] == []


def test_processes_writing_at_once_wait_for_each_other(gallery: Gallery) -> None:
    place = gallery._store.path  # type: ignore[attr-defined]
    writers = [start(ENROL_SAME, place, number) for number in (1, 2)]
    assert [writer.communicate(timeout=60)[0].split()[-1] for writer in writers] == ["19", "19"]
    assert {p.name: p.samples for p in gallery.people()}["shared"] == 40
    assert len(gallery.people()) == 41
    assert gallery.problems() == []


def test_what_another_process_changes_is_seen(gallery: Gallery, place: Path, recogniser: Any, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0)])
    probe = sample("Grace", 1).vector[None]
    assert [m.person for m in gallery.search(probe)[0]] == ["Ada"]
    with Gallery.open(place, recogniser) as other:
        other.enrol([sample("Grace", 1)])
        assert [m.person for m in gallery.search(probe)[0]] == ["Grace", "Ada"]
        other.remove(["Ada"])
        assert [m.person for m in gallery.search(probe)[0]] == ["Grace"]
        other.remove(["Grace"])
        assert gallery.search(probe) == [[]]


def test_a_gallery_in_use_is_said_to_be(gallery: Gallery, place: Path, sample: Any) -> None:
    store = SqliteStore(place, wait=0.05)
    with raw(place) as sql:
        sql.execute("BEGIN EXCLUSIVE")
        with pytest.raises(GalleryError, match="another process is using"):
            store.enrol([sample("Ada", 0)])
        with pytest.raises(GalleryError, match="another process is using"):
            SqliteStore(place, wait=0.05)
        sql.execute("ROLLBACK")
    store.enrol([sample("Ada", 0)])
    assert gallery.people() == [Person("Ada", 1)]
    store.close()


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond this size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(gallery: Gallery, sample: Any) -> list[str]:
    """Enrol until it fails; the names that were acknowledged."""
    acknowledged: list[str] = []
    said = ""
    try:
        for i in range(1000):
            gallery.enrol([sample(f"p{i:04d}", i, thumbnail=thumbnail(i, 9000))])
            acknowledged.append(f"p{i:04d}")
    except OutputError as error:
        said = str(error)
    assert "the disk is full; nothing acknowledged is lost" in said
    return acknowledged


def test_a_file_that_cannot_grow(gallery: Gallery, place: Path, sample: Any) -> None:
    with file_size_limit(300_000):
        acknowledged = fill(gallery, sample)
    assert 10 < len(acknowledged) < 50
    for opened in (gallery, Gallery.open(place, gallery.recogniser)):
        assert [p.name for p in opened.people()] == acknowledged
        assert opened.problems() == []
    gallery.enrol([sample("later", 5000)])
    assert len(gallery.people()) == len(acknowledged) + 1


def test_a_full_disk(tmp_path: Path) -> None:
    """The same on a real file system without room, where a process may mount one."""
    creating = "Gallery.create(sys.argv[1], RecogniserId('tester', 'ab' * 32, 32)).close()\ngallery = "
    script = SCRIPT.replace("gallery = ", creating)
    body = """
import subprocess
from facewright.errors import OutputError
names = []
try:
    for i in range(1000):
        gallery.enrol([Sample(f"p{i}", unit(i), thumbnail=b"\\xff\\xd8\\xff" + bytes(9000))])
        names.append(f"p{i}")
except OutputError as error:
    done(str(error))
assert gallery.problems() == [] and sorted(names) == [p.name for p in gallery.people()]
subprocess.run(["mount", "-o", "remount,size=2m", sys.argv[2]], check=True)
gallery.remove(names[:len(names) // 2 + 1])
gallery.enrol([Sample("later", unit(0))])
done(len(names))
"""
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=700k none "{small}" || exit 77; exec "$@"'
    program = [sys.executable, "-c", script + body, str(small / "a.gallery"), str(small)]
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("mounting a small disk needs the program unshare")
    result = subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"no small disk can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    said, count = result.stdout.splitlines()
    assert "disk is full" in said
    assert int(count) > 10


# --- damage


def test_a_changed_byte_is_noticed(gallery: Gallery, place: Path, recogniser: Any, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0), sample("Grace", 1), sample("Grace", 2, thumbnail=thumbnail(2))])
    gallery.close()
    sound = place.read_bytes()
    for what, trace, spoilt in (
        ("sample.vector", sample("Grace", 1).vector.tobytes(), "Grace"),
        ("sample.thumbnail", thumbnail(2)[:50], "Grace"),
        ("sample.details", b'{"quality"', "Ada"),
        ("person.name", b"Grace", "Grace"),
    ):
        position = sound.rindex(trace) + len(trace) // 2
        place.write_bytes(sound[:position] + bytes([sound[position] ^ 4]) + sound[position + 1 :])
        with Gallery.open(place, recogniser) as opened:
            (problem,) = opened.problems()
            assert what in problem, spoilt
            assert "damaged" in problem
            if what in ("sample.vector", "sample.thumbnail"):
                with pytest.raises(GalleryError, match=f"damaged .*{what}"):
                    opened.samples("Grace")


def test_a_template_that_is_not_the_mean_is_noticed(gallery: Gallery, place: Path, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0), sample("Ada", 1)])
    gallery.close()
    with raw(place) as sql:
        sql.execute("DELETE FROM sample WHERE id = (SELECT max(id) FROM sample)")
    with Gallery.open(place, None) as opened:
        assert opened.problems() == ["the template of Ada is not the mean of the pictures"]


@pytest.mark.parametrize("damage", ["cut", "zeros", "middle"])
def test_a_damaged_file_is_one_clear_error(
    damage: str, gallery: Gallery, place: Path, recogniser: Any, sample: Any
) -> None:
    gallery.enrol([sample(f"p{i}", i, thumbnail=thumbnail(i)) for i in range(40)])
    gallery.close()
    content = place.read_bytes()
    half = len(content) // 2
    broken = {
        "cut": content[:half],
        "zeros": bytes(len(content)),
        "middle": content[:8192] + bytes(len(content) - 8192),
    }
    place.write_bytes(broken[damage])
    said = []
    try:
        with Gallery.open(place, recogniser) as opened:
            said += opened.problems()
            opened.search(sample("p0", 0).vector[None])
    except GalleryError as error:
        said.append(str(error))
    assert said
    assert re.search(rf"{re.escape(str(place))}.*(damaged|no gallery)", said[-1])


def test_what_is_no_gallery(place: Path, gallery: Gallery, recogniser: Any, tmp_path: Path) -> None:
    for content in (b"", b"something else" * 1000):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(GalleryError, match="other"):
            Gallery.open(tmp_path / "other", recogniser)
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as sql:
        sql.execute("CREATE TABLE header (a)")
    with pytest.raises(GalleryError, match="is not a gallery"):
        Gallery.open(tmp_path / "db", recogniser)
    with pytest.raises(GalleryError, match="gallery create"):
        Gallery.open(tmp_path / "missing", recogniser)
    assert not (tmp_path / "missing").exists()
    with raw(place) as sql:
        sql.execute("PRAGMA user_version = 7")
    with pytest.raises(GalleryError, match="format 7"):
        Gallery.open(place, recogniser)


def test_making_a_gallery(gallery: Gallery, place: Path, recogniser: Any, tmp_path: Path) -> None:
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert list(place.parent.iterdir()) == [place]
    before = place.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        Gallery.create(place, recogniser)
    with pytest.raises(OutputError, match="does not exist"):
        Gallery.create(tmp_path / "no" / "folder.gallery", recogniser)
    assert place.read_bytes() == before


def test_a_folder_without_permission(gallery: Gallery, place: Path, sample: Any) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    place.chmod(0o400)
    with pytest.raises(OutputError, match="no permission"):
        gallery.enrol([sample("Ada", 0)])


# --- encryption


def test_an_encrypted_gallery_shows_nothing(place: Path, recogniser: Any, key_file: Path, sample: Any) -> None:
    place.parent.mkdir()
    fields = [{"key": f"key<{i}>", "metadata": {"town": "Turin"}, "thumbnail": thumbnail(i)} for i in range(30)]
    samples = [sample(f"person {i}", i, **fields[i]) for i in range(30)]
    with Gallery.create(place, recogniser, key_file=key_file) as opened:
        opened.enrol(samples)
    content = bytes_on_disk(place.parent)
    assert all(
        trace not in content
        for s in samples
        for trace in (s.person.encode(), s.vector[:4].tobytes(), s.thumbnail[50:60], b"key<", b"Turin", b"quality")
    )
    with Gallery.open(place, recogniser, key_file=key_file) as opened:
        assert opened.search(samples[3].vector[None], 1)[0][0].person == "person 3"
        assert opened.samples("person 4")[0].thumbnail == thumbnail(4)
        assert opened.contains("person 4", "key<4>")
        assert opened.enrol([samples[4]]) == opened.enrol([samples[4]])
        assert opened.problems() == []
        opened.remove(["person 3"])
        assert len(opened.people()) == 29


def test_the_right_key_is_needed(place: Path, recogniser: Any, key_file: Path, tmp_path: Path, sample: Any) -> None:
    place.parent.mkdir()
    Gallery.create(place, recogniser, key_file=key_file).close()
    create_key(tmp_path / "other.key")
    with pytest.raises(GalleryError, match="another key"):
        Gallery.open(place, recogniser, key_file=tmp_path / "other.key")
    with pytest.raises(GalleryError, match="is encrypted"):
        Gallery.open(place, recogniser)
    Gallery.create(place.with_name("plain"), recogniser).close()
    with pytest.raises(GalleryError, match="is not encrypted"):
        Gallery.open(place.with_name("plain"), recogniser, key_file=key_file)
    with pytest.raises(UsageError, match="server"):
        Gallery.open("postgresql://nowhere/x", recogniser, key_file=key_file)


def test_encrypted_values_cannot_be_exchanged(place: Path, recogniser: Any, key_file: Path, sample: Any) -> None:
    place.parent.mkdir()
    with Gallery.create(place, recogniser, key_file=key_file) as opened:
        opened.enrol([sample("Ada", 0), sample("Grace", 1)])
    with raw(place) as sql:
        (a, first), (b, second) = sql.execute("SELECT id, template FROM person").fetchall()
        sql.executemany("UPDATE person SET template = ? WHERE id = ?", [(first, b), (second, a)])
    with Gallery.open(place, recogniser, key_file=key_file) as opened:
        assert len(opened.problems()) == 2
        with pytest.raises(GalleryError, match=r"person\.template"):
            opened.search(sample("Ada", 0).vector[None])
