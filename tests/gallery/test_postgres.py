"""The same promises from a real server, started for these tests."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import OutputError, UsageError
from facewright.gallery import Gallery, GalleryError, Person, Sample
from facewright.gallery.records import fuse

psycopg = pytest.importorskip("psycopg", reason="a gallery on a server needs the package psycopg")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from facewright.gallery.postgres import PostgresStore


@pytest.fixture
def gallery(database: str, recogniser: Any) -> Iterator[Gallery]:
    with Gallery.create(database, recogniser) as opened:
        yield opened


@pytest.fixture
def store(database: str, gallery: Gallery) -> Iterator[Callable[..., PostgresStore]]:
    from facewright.gallery.postgres import PostgresStore

    with contextlib.ExitStack() as opened:

        def connect(**options: Any) -> PostgresStore:
            made = PostgresStore(database, **options)
            opened.callback(made.close)
            return made

        yield connect


def test_what_was_enrolled_comes_back(gallery: Gallery, database: str, recogniser: Any, unit: Any, sample: Any) -> None:
    ada = sample("Ada", 0, quality=0.5, key="k", metadata={"file": "ä"}, thumbnail=b"\xff\xd8\xff\0\1")
    numbers = gallery.enrol([sample("Grace", 1), ada, sample("Ada", 2)])
    assert gallery.enrol([sample("Ada", 9, key="k")]) == [numbers[1]]
    with Gallery.open(database, recogniser) as other:
        assert other.people() == [Person("Ada", 2), Person("Grace", 1)]
        first, second = other.samples("Ada")
        np.testing.assert_array_equal(first.vector, ada.vector)
        assert (first.quality, first.key, first.metadata, first.thumbnail) == (0.5, "k", {"file": "ä"}, ada.thumbnail)
        assert (second.key, second.thumbnail) == ("", None)
        assert other.contains("Ada", "k")
        assert not other.contains("Grace", "k")
        assert other.problems() == []
        assert other.index_recall() is None


def test_search_compares_with_the_weighted_mean(gallery: Gallery, unit: Any) -> None:
    vectors = unit(0, 3)
    for vector, quality in zip(vectors, (1.0, 0.2, 0.6), strict=True):
        gallery.enrol([Sample("Ada", vector, quality), Sample(f"other {quality}", unit(int(100 * quality)))])
    probe = unit(5)
    (matches,) = gallery.search(probe[None], 10)
    scores = {m.person: m.score for m in matches}
    assert scores["Ada"] == pytest.approx(float(fuse(vectors, np.array([1.0, 0.2, 0.6])) @ probe), abs=1e-6)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert len(scores) == 4


def test_the_index_takes_over_and_finds_the_same(gallery: Gallery, store: Any, unit: Any) -> None:
    vectors = unit(0, 400)
    indexed = store(index_from=300)
    indexed.enrol([Sample(f"p{i}", v) for i, v in enumerate(vectors[:200])])
    assert indexed.index_recall() is None
    indexed.enrol([Sample(f"p{i + 200}", v) for i, v in enumerate(vectors[200:])])
    assert indexed.index_recall() >= 0.99
    found = [m[0].person for m in gallery.search(vectors, 1)]
    assert found == [f"p{i}" for i in range(400)]
    gallery.remove(["p7"])
    assert gallery.search(vectors[7:8], 1)[0][0].person != "p7"


def test_removed_people_leave_no_bytes_in_the_tables(
    gallery: Gallery, database: str, server: tuple[str, Path], unit: Any
) -> None:
    picture = b"\xff\xd8\xff" + np.random.default_rng(0).bytes(5000)
    people = ["Ada Lovelace", "Grace Hopper"]
    gallery.enrol([Sample(who, unit(i), key=f"secret {i}", thumbnail=picture) for i, who in enumerate(people)])

    def on_disk() -> bytes:
        with psycopg.connect(database, autocommit=True) as sql:
            sql.execute("ANALYZE")  # which keeps samples of values
            sql.execute("CHECKPOINT")
            (number,) = sql.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
        return b"".join(p.read_bytes() for p in (server[1] / "base" / str(number)).iterdir() if p.is_file())

    def traces(row: int) -> list[bytes]:
        return [people[row].encode(), unit(row)[:8].tobytes(), f"secret {row}".encode()]

    before = on_disk()
    assert all(trace in before for row in (0, 1) for trace in traces(row))
    assert gallery.remove(["Ada Lovelace"]) == 1
    after = on_disk()
    assert not any(trace in after for trace in traces(0))
    assert all(trace in after for trace in traces(1))
    with pytest.raises(UsageError, match="nobody named Ada"):
        gallery.remove(["Grace Hopper", "Ada Lovelace"])
    assert gallery.people() == [Person("Grace Hopper", 1)]


def test_an_interrupted_erasure_is_finished_on_opening(gallery: Gallery, store: Any, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("UPDATE facewright_gallery.header SET rewrite_owed = true")
        (before,) = sql.execute("SELECT relfilenode FROM pg_class WHERE relname = 'sample'").fetchone()
        store()
        (after,) = sql.execute("SELECT relfilenode FROM pg_class WHERE relname = 'sample'").fetchone()
        assert after != before
        assert sql.execute("SELECT rewrite_owed FROM facewright_gallery.header").fetchone() == (False,)


def test_all_or_nothing(gallery: Gallery, unit: Any, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0)])
    with pytest.raises(UsageError, match="cancel"):
        gallery.enrol([sample("Abel", 1), Sample("Ada", -unit(0))])
    assert gallery.people() == [Person("Ada", 1)]


def test_programs_writing_at_once_wait_for_each_other(gallery: Gallery, store: Any, unit: Any) -> None:
    failures: list[BaseException] = []

    def write(number: int) -> None:
        connection = store()
        names = ["shared", "other"] if number else ["other", "shared"]
        try:
            for i in range(15):
                connection.enrol([Sample(name, unit(100 * number + i), key=f"{number} {i}") for name in names])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert failures == []
    assert gallery.people() == [Person("other", 30), Person("shared", 30)]
    assert gallery.problems() == []


def test_a_spoilt_template_is_noticed(gallery: Gallery, database: str, sample: Any) -> None:
    gallery.enrol([sample("Ada", 0), sample("Grace", 1)])
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute(
            "UPDATE facewright_gallery.person SET template = "
            "(SELECT template FROM facewright_gallery.person WHERE name = 'Grace') WHERE name = 'Ada'"
        )
    assert gallery.problems() == ["the template of Ada is not the mean of the pictures"]


def test_what_is_refused(gallery: Gallery, database: str, server: tuple[str, Path], recogniser: Any) -> None:
    with pytest.raises(GalleryError, match="made with tester"):
        Gallery.open(database, replace(recogniser, slug="other"))
    with pytest.raises(OutputError, match="has a gallery already"):
        Gallery.create(database, recogniser)
    with pytest.raises(GalleryError, match="has no gallery"):
        Gallery.open(server[0].format("postgres"), recogniser)
    with pytest.raises(GalleryError, match="server refused"):
        Gallery.open(server[0].format("nosuch"), recogniser)
