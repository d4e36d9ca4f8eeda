"""A gallery on a PostgreSQL server with the extension pgvector, for many programs at once.

One gallery per database, in a schema of its own. The server compares the vectors, from `INDEX_FROM` people on through
an HNSW index (Malkov and Yashunin 2016), and therefore has to see them: encryption is the server's business.

Deleted rows are rewritten away at once from tables and index (`VACUUM FULL`, which the rest of the database does not
notice); the planner's statistics, which are samples of the values, are switched off for what is personal. The
server's write-ahead log keeps the rows until its segments are recycled, and so do archives, replicas and backups;
whoever runs the server decides for how long.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import FacewrightError, GalleryError, MissingDependencyError, OutputError, UsageError
from .index import HARDEST_MATCH, INDEX_FROM, turned
from .records import Match, Person, RecogniserId, Sample, fuse, template_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg
    from numpy.typing import NDArray

FORMAT = 1
SCHEMA = "facewright_gallery"
SEARCH_WIDTH = 400
"""Candidates the index keeps while it searches (`hnsw.ef_search`)."""

_INDEX = "person_template"
_TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA {schema};
CREATE TABLE {schema}.header (format integer NOT NULL, recogniser jsonb NOT NULL, rewrite_owed boolean NOT NULL);
CREATE TABLE {schema}.person (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, template vector({dimension}) NOT NULL
);
CREATE TABLE {schema}.sample (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person bigint NOT NULL REFERENCES {schema}.person (id) ON DELETE CASCADE,
    key text, vector vector({dimension}) NOT NULL, quality double precision NOT NULL, metadata jsonb NOT NULL,
    thumbnail bytea, UNIQUE (person, key)
);
ALTER TABLE {schema}.person ALTER name SET STATISTICS 0, ALTER template SET STATISTICS 0;
ALTER TABLE {schema}.sample ALTER key SET STATISTICS 0, ALTER vector SET STATISTICS 0, ALTER metadata SET STATISTICS 0,
    ALTER thumbnail SET STATISTICS 0;
"""


class PostgresStore:
    """The store on a server; see `records.Store` for its methods and this module for what it promises."""

    def __init__(self, address: str, *, index_from: int = INDEX_FROM) -> None:
        """Connect to the gallery in the database of a postgresql:// address.

        Raises MissingDependencyError without psycopg, GalleryError when the server or the gallery is not there.
        """
        self._index_from = index_from
        self._lock = threading.RLock()
        self._sql = _connect(address)
        try:
            self.recogniser = self._read_header()
            self._rewrite_if_owed()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, address: str, recogniser: RecogniserId) -> Self:
        """Make the gallery's tables and open it. Raises OutputError when the database has a gallery already."""
        sql = _connect(address)
        try:
            with _explained(), sql.transaction():
                if sql.execute("SELECT to_regnamespace(%s)", (SCHEMA,)).fetchone() != (None,):
                    raise OutputError("this database has a gallery already; open that one, or choose another database")
                for statement in _TABLES.format(schema=SCHEMA, dimension=int(recogniser.dimension)).split(";\n"):
                    sql.execute(statement.encode())
                values = (FORMAT, json.dumps(asdict(recogniser)))
                sql.execute(f"INSERT INTO {SCHEMA}.header VALUES (%s, %s, false)".encode(), values)
        finally:
            sql.close()
        return cls(address)

    def close(self) -> None:
        self._sql.close()

    # --- writing

    def enrol(self, samples: Sequence[Sample]) -> list[int]:
        # in the order of names, so that two programs enrolling the same people wait for each other and never deadlock
        by_person = sorted(enumerate(samples), key=lambda pair: pair[1].person)
        numbers: dict[int, int] = {}
        with self._transaction():
            for person, group in groupby(by_person, key=lambda pair: pair[1].person):
                positions, theirs = zip(*group, strict=True)
                numbers.update(zip(positions, self._enrol_person(person, theirs), strict=True))
        self._index_if_large()
        return [numbers[position] for position in range(len(samples))]

    def remove(self, people: Sequence[str]) -> int:
        names = list(dict.fromkeys(people))
        with self._transaction():
            known = {name for (name,) in self._rows("SELECT name FROM {}.person WHERE name = ANY(%s)", names)}
            unknown = [name for name in names if name not in known]
            if unknown:
                raise UsageError(f"the gallery has nobody named {', '.join(unknown)}; nothing was removed")
            query = "SELECT count(*) FROM {}.sample JOIN {}.person p ON p.id = person WHERE p.name = ANY(%s)"
            ((removed,),) = self._rows(query, names)
            self._run("DELETE FROM {}.person WHERE name = ANY(%s)", names)
            self._run("UPDATE {}.header SET rewrite_owed = true")
        self._rewrite_if_owed()
        return int(removed)

    def _enrol_person(self, person: str, samples: Sequence[Sample]) -> list[int]:
        guess = fuse(np.stack([s.vector for s in samples]), np.array([s.quality for s in samples]))
        ((number,),) = self._rows(
            "INSERT INTO {}.person (name, template) VALUES (%s, %s::vector) "
            "ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
            person,
            _text(guess),
        )
        numbers = [self._enrol_sample(number, sample) for sample in samples]
        stored = self._person_samples(person)
        template = fuse(np.stack([s.vector for s in stored]), np.array([s.quality for s in stored]))
        self._run("UPDATE {}.person SET template = %s::vector WHERE id = %s", _text(template), number)
        return numbers

    def _enrol_sample(self, person: int, sample: Sample) -> int:
        key = sample.key or None
        old = self._rows("SELECT id FROM {}.sample WHERE person = %s AND key = %s", person, key)
        new = old or self._rows(
            "INSERT INTO {}.sample (person, key, vector, quality, metadata, thumbnail) "
            "VALUES (%s, %s, %s::vector, %s, %s, %s) RETURNING id",
            person,
            key,
            _text(sample.vector),
            float(sample.quality),
            json.dumps(dict(sample.metadata)),
            sample.thumbnail,
        )
        return int(new[0][0])

    def _index_if_large(self) -> None:
        with self._transaction():
            if not self._indexed() and self._count() >= self._index_from:
                self._run(f"CREATE INDEX {_INDEX} ON {{}}.person USING hnsw (template vector_ip_ops)")

    def _rewrite_if_owed(self) -> None:
        """Write the tables anew from what is alive, if a removal has not been followed by that yet."""
        with self._lock, _explained():
            if self._rows("SELECT 1 FROM {}.header WHERE rewrite_owed"):
                for table in ("sample", "person"):
                    self._run(f"VACUUM (FULL) {{}}.{table}")
                self._run("UPDATE {}.header SET rewrite_owed = false")

    # --- reading

    def contains(self, person: str, key: str) -> bool:
        query = "SELECT 1 FROM {}.sample JOIN {}.person p ON p.id = person WHERE p.name = %s AND key = %s"
        with self._transaction():
            return bool(self._rows(query, person, key))

    def search(self, queries: NDArray[np.float32], k: int) -> list[list[Match]]:
        with self._transaction():
            if self._indexed():
                self._run(f"SET LOCAL hnsw.ef_search = {max(SEARCH_WIDTH, min(k, 1000))}")
            return [self._nearest(query, k) for query in queries]

    def people(self) -> list[Person]:
        query = "SELECT name, count(*) FROM {}.person p JOIN {}.sample ON person = p.id GROUP BY p.id"
        with self._transaction():
            return sorted((Person(*row) for row in self._rows(query)), key=lambda person: person.name)

    def samples(self, person: str) -> list[Sample]:
        with self._transaction():
            return self._person_samples(person)

    def problems(self) -> list[str]:
        found = []
        with self._transaction():
            rows = self._rows("SELECT name, template::real[] FROM {}.person ORDER BY name")
            for name, template in rows:
                samples = self._person_samples(name)
                vectors, qualities = [s.vector for s in samples], [s.quality for s in samples]
                problem = template_problem(name, np.asarray(template, np.float32), vectors, qualities)
                found += [problem] if problem else []
        return found

    def index_recall(self) -> float | None:
        with self._transaction():
            if not self._indexed():
                return None
            rows = self._rows("SELECT template::real[] FROM {}.person ORDER BY id LIMIT 200")
            templates = np.asarray([row[0] for row in rows], np.float32)
            probes = turned(templates, HARDEST_MATCH, np.random.default_rng(0))
            self._run(f"SET LOCAL hnsw.ef_search = {SEARCH_WIDTH}")
            indexed = [self._nearest(probe, 1)[0].person for probe in probes]
            self._run("SET LOCAL enable_indexscan = off")
            exact = [self._nearest(probe, 1)[0].person for probe in probes]
        return float(np.mean([a == b for a, b in zip(indexed, exact, strict=True)]))

    def _nearest(self, query: NDArray[np.float32], k: int) -> list[Match]:
        # <#> is the negative inner product, which for unit vectors is the negative cosine
        rows = self._rows(
            "SELECT name, -(template <#> %s::vector) FROM {}.person ORDER BY template <#> %s::vector LIMIT %s",
            _text(query),
            _text(query),
            k,
        )
        return [Match(name, score) for name, score in rows]

    def _person_samples(self, person: str) -> list[Sample]:
        rows = self._rows(
            "SELECT vector::real[], quality, key, metadata, thumbnail FROM {}.sample "
            "WHERE person = (SELECT id FROM {}.person WHERE name = %s) ORDER BY id",
            person,
        )
        return [
            Sample(person, np.asarray(vector, np.float32), quality, key or "", metadata, thumbnail)
            for vector, quality, key, metadata, thumbnail in rows
        ]

    def _count(self) -> int:
        return int(self._rows("SELECT count(*) FROM {}.person")[0][0])

    def _indexed(self) -> bool:
        return self._rows("SELECT to_regclass(%s)", f"{SCHEMA}.{_INDEX}") != [(None,)]

    # --- the connection

    def _read_header(self) -> RecogniserId:
        with _explained():
            if self._rows("SELECT to_regclass(%s)", f"{SCHEMA}.header") == [(None,)]:
                raise GalleryError("this database has no gallery; make it with 'facewright gallery create'")
            ((version, recogniser),) = self._rows("SELECT format, recogniser FROM {}.header")
        if version != FORMAT:
            raise GalleryError(
                f"the gallery has format {version}, but this version reads up to {FORMAT}; update facewright"
            )
        return RecogniserId(**recogniser)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _explained(), self._sql.transaction():
            yield

    def _run(self, query: str, *values: Any) -> psycopg.Cursor[Any]:
        return self._sql.execute(query.replace("{}", SCHEMA).encode(), values or None)

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._run(query, *values).fetchall()


def _connect(address: str) -> psycopg.Connection[Any]:
    try:
        import psycopg
    except ImportError as error:
        raise MissingDependencyError(
            "a gallery on a server needs the package psycopg: pip install 'facewright[postgres]'"
        ) from error
    with _explained():
        return psycopg.connect(address, autocommit=True)


@contextmanager
def _explained() -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise OutputError("the disk of the database server is full; nothing acknowledged is lost") from error
    except psycopg.Error as error:
        raise _explanation(error) from error


def _explanation(error: psycopg.Error) -> FacewrightError:
    lines = str(error).splitlines() or ["no reason given"]
    return GalleryError(f"the database server refused: {lines[0]}; check the address, its rights and its log")


def _text(vector: NDArray[np.float32]) -> str:
    """pgvector's notation, with digits enough for the same float32."""
    return "[" + ",".join(f"{value:.9g}" for value in vector) + "]"
