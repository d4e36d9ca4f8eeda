"""A gallery in one SQLite file.

Why SQLite and not a vector database: the store has to lose nothing it has acknowledged, and to keep nothing it was
told to delete. SQLite syncs every commit (`synchronous=EXTRA`), rolls back what a killed process left half done,
serialises writers of several processes, and can be made to erase. LanceDB 0.40 does not sync what it commits, leaves a
deleted vector in its files until they are written anew, which breaks whoever reads at that moment, has no encryption at
rest, and takes 350 MB to install. What a vector database would add, searching, is a scan of memory at this size; see
`index`. For people whose templates memory does not hold there is `lance`.

Deleting a person overwrites the rows (`secure_delete`) and then rewrites the whole file (`VACUUM`), since pages keep
copies of rows that were moved. The header says when a rewrite is owed, so that one that was interrupted is done on
the next opening. The journal mode is DELETE, as a write-ahead log would hold copies of its own.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import threading
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import FacewrightError, GalleryError, OutputError, UsageError
from ..io.atomic import atomic_output
from .crypto import Checksums, Encryption, Sealer
from .index import INDEX_FROM, Templates
from .records import Match, Person, RecogniserId, Sample, fuse, template_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

BUSY_SECONDS = 30.0
"""How long to wait for another process before giving up."""

FORMAT = 1
_APPLICATION = 0x46574741  # "FWGA"
_PROOF = b"facewright gallery"
_LOAD_ROWS = 50_000

_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {FORMAT};
BEGIN;
CREATE TABLE header (
    recogniser TEXT NOT NULL, name TEXT NOT NULL, encrypted INTEGER NOT NULL, proof BLOB NOT NULL,
    clock INTEGER NOT NULL, removals INTEGER NOT NULL, rewrite_owed INTEGER NOT NULL
);
CREATE TABLE person (
    id INTEGER PRIMARY KEY, lookup BLOB NOT NULL UNIQUE, changed INTEGER NOT NULL,
    name BLOB NOT NULL, template BLOB NOT NULL
);
CREATE INDEX person_changed ON person (changed);
CREATE TABLE sample (
    id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES person (id), key BLOB NOT NULL,
    vector BLOB NOT NULL, details BLOB NOT NULL, thumbnail BLOB, UNIQUE (person, key)
);
COMMIT;
"""

_SETTINGS = (
    "synchronous=EXTRA",
    "journal_mode=DELETE",
    "secure_delete=ON",
    "foreign_keys=ON",
    "cell_size_check=ON",
    "trusted_schema=OFF",
)

_NO_ROOM = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE"}
_NOT_ALLOWED = {"SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH"}
_BUSY = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"}


class SqliteStore:
    """The embedded store; see `records.Store` for its methods and this module for what it promises."""

    def __init__(
        self, path: str | Path, *, key: bytes | None = None, index_from: int = INDEX_FROM, wait: float = BUSY_SECONDS
    ) -> None:
        """Open a gallery file. `key` is needed for, and only for, encrypted ones; `wait` in seconds.

        Raises GalleryError: missing, not a gallery, damaged, busy, other key; OutputError: an owed rewrite failed.
        """
        self.path = Path(path)
        self._lock = threading.RLock()
        self._seen = (0, 0)
        self._sql = _connect(self.path, wait)
        try:
            with _explained(self.path):
                self._configure()
                self.recogniser, self._seal = self._read_header(key)
                self._rewrite_if_owed()
        except BaseException:
            self._sql.close()
            raise
        self._templates = Templates(self.recogniser.dimension, index_from=index_from)

    @classmethod
    def create(cls, path: str | Path, recogniser: RecogniserId, *, key: bytes | None = None) -> Self:
        """Make an empty gallery file that only the owner can read, and open it. Raises OutputError."""
        name = secrets.token_hex(16)
        seal = _sealer(key, name)
        values = (json.dumps(asdict(recogniser)), name, key is not None, seal.seal(_PROOF, "header.proof"))
        with atomic_output(path) as temporary, _explained(Path(path)):
            temporary.chmod(0o600)
            with closing(sqlite3.connect(temporary, isolation_level=None)) as sql:
                sql.executescript(_SCHEMA)
                sql.execute("INSERT INTO header VALUES (?, ?, ?, ?, 0, 0, 0)", values)
        return cls(path, key=key)

    def close(self) -> None:
        self._sql.close()

    # --- writing

    def enrol(self, samples: Sequence[Sample]) -> list[int]:
        by_person = sorted(enumerate(samples), key=lambda pair: pair[1].person)
        numbers: dict[int, int] = {}
        with self._transaction(write=True):
            clock = self._header("clock")
            for person, group in groupby(by_person, key=lambda pair: pair[1].person):
                positions, theirs = zip(*group, strict=True)
                added, clock = self._enrol_person(person, theirs, clock)
                numbers.update(zip(positions, added, strict=True))
            self._sql.execute("UPDATE header SET clock = ?", (clock,))
        return [numbers[position] for position in range(len(samples))]

    def remove(self, people: Sequence[str]) -> int:
        with self._transaction(write=True):
            ids = {name: self._person_id(name) for name in people}
            unknown = [name for name, number in ids.items() if number is None]
            if unknown:
                raise UsageError(f"{self.path} has nobody named {', '.join(unknown)}; nothing was removed")
            rows = [(number,) for number in ids.values()]
            removed = self._sql.executemany("DELETE FROM sample WHERE person = ?", rows).rowcount
            self._sql.executemany("DELETE FROM person WHERE id = ?", rows)
            self._sql.execute("UPDATE header SET removals = removals + 1, rewrite_owed = 1")
        try:
            with self._lock, _explained(self.path):
                self._rewrite_if_owed()
                self._refresh()
        except (OutputError, GalleryError) as error:
            raise OutputError(
                f"{', '.join(people)} removed, but {self.path} could not be rewritten without their traces: {error}; "
                "this is retried when the gallery is next opened"
            ) from error
        return removed

    def _enrol_person(self, person: str, samples: Sequence[Sample], clock: int) -> tuple[list[int], int]:
        """Add one person's samples; their numbers and the clock after it, which numbers every row and change."""
        known = self._person_id(person)
        number = clock + 1 if known is None else known
        clock += known is None
        vectors, qualities = ([], []) if known is None else self._vectors(known)
        numbers, rows = [], []
        keys: dict[bytes, int] = {}
        for sample in samples:
            key = self._seal.lookup(f"key {sample.key}") if sample.key else secrets.token_bytes(16)
            there = keys.get(key) or self._sample_id(number, key)
            if there is None:
                clock += 1
                there = clock
                rows.append(self._sample_row(clock, number, key, sample))
                vectors.append(sample.vector)
                qualities.append(sample.quality)
            keys[key] = there
            numbers.append(there)
        if rows:
            clock += 1
            self._write_person(number, person, fuse(np.stack(vectors), np.asarray(qualities)), clock, known is None)
            self._sql.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?)", rows)
        return numbers, clock

    def _write_person(self, number: int, name: str, template: NDArray[np.float32], clock: int, is_new: bool) -> None:
        sealed = self._seal.seal(_to_bytes(template), f"person.template:{number}")
        if is_new:
            label = self._seal.seal(name.encode(), f"person.name:{number}")
            values = (number, self._seal.lookup(f"person {name}"), clock, label, sealed)
            self._sql.execute("INSERT INTO person VALUES (?, ?, ?, ?, ?)", values)
        else:
            self._sql.execute("UPDATE person SET template = ?, changed = ? WHERE id = ?", (sealed, clock, number))

    def _sample_row(self, number: int, person: int, key: bytes, sample: Sample) -> tuple[Any, ...]:
        details = {"quality": float(sample.quality), "key": sample.key, "metadata": dict(sample.metadata)}
        thumbnail = sample.thumbnail
        return (
            number,
            person,
            key,
            self._seal.seal(_to_bytes(sample.vector), f"sample.vector:{number}:{person}"),
            self._seal.seal(json.dumps(details).encode(), f"sample.details:{number}:{person}"),
            None if thumbnail is None else self._seal.seal(thumbnail, f"sample.thumbnail:{number}:{person}"),
        )

    def _rewrite_if_owed(self) -> None:
        """Write the file anew from what is alive, if a removal has not been followed by that yet."""
        if self._header("rewrite_owed"):
            self._sql.execute("VACUUM")
            self._sql.execute("UPDATE header SET rewrite_owed = 0")

    # --- reading

    def contains(self, person: str, key: str) -> bool:
        with self._transaction():
            number = self._person_id(person)
            return number is not None and self._sample_id(number, self._seal.lookup(f"key {key}")) is not None

    def search(self, queries: NDArray[np.float32], k: int) -> list[list[Match]]:
        with self._transaction():
            self._refresh()
            hits = self._templates.search(queries, k)
            return [[Match(self._name(number), score) for number, score in ranked] for ranked in hits]

    def people(self) -> list[Person]:
        with self._transaction():
            rows = self._sql.execute(
                "SELECT person.id, count(sample.id) FROM person JOIN sample ON sample.person = person.id "
                "GROUP BY person.id"
            ).fetchall()
            return sorted((Person(self._name(i), count) for i, count in rows), key=lambda p: p.name)

    def samples(self, person: str) -> list[Sample]:
        with self._transaction():
            number = self._person_id(person)
            query = "SELECT id, vector, details, thumbnail FROM sample WHERE person = ? ORDER BY id"
            return [self._sample(person, number, *row) for row in self._sql.execute(query, (number,))]

    def problems(self) -> list[str]:
        with self._transaction():
            found = [str(row[0]) for row in self._sql.execute("PRAGMA integrity_check") if row[0] != "ok"]
            orphans = self._sql.execute("PRAGMA foreign_key_check").fetchall()
            found += [f"picture {row[1]} belongs to nobody" for row in orphans]
            for (number,) in self._sql.execute("SELECT id FROM person ORDER BY id").fetchall():
                try:
                    found += self._person_problems(number)
                except FacewrightError as error:
                    found.append(str(error))
        return found

    def index_recall(self) -> float | None:
        with self._transaction():
            self._refresh()
            return self._templates.measure_recall() if self._templates.indexed else None

    def _person_problems(self, number: int) -> list[str]:
        name = self._name(number)
        if self._person_id(name) != number:
            return [f"{name} cannot be found by name"]
        query = "SELECT id, vector, details, thumbnail FROM sample WHERE person = ?"
        samples = [self._sample(name, number, *row) for row in self._sql.execute(query, (number,))]
        (sealed,) = self._sql.execute("SELECT template FROM person WHERE id = ?", (number,)).fetchone()
        template = self._vector(sealed, f"person.template:{number}")
        problem = template_problem(name, template, [s.vector for s in samples], [s.quality for s in samples])
        return [problem] if problem else []

    def _refresh(self) -> None:
        """Bring the templates in memory up to what this and other processes have written."""
        clock, removals = self._header("clock"), self._header("removals")
        if (clock, removals) == self._seen:
            return
        if removals != self._seen[1]:
            alive = self._sql.execute("SELECT id FROM person").fetchall()
            self._templates.keep(np.asarray(alive, np.int64).reshape(-1))
        rows = self._sql.execute("SELECT id, template FROM person WHERE changed > ?", (self._seen[0],))
        while part := rows.fetchmany(_LOAD_ROWS):
            vectors = [self._vector(sealed, f"person.template:{number}") for number, sealed in part]
            self._templates.put(np.array([number for number, _ in part]), np.stack(vectors))
        self._seen = (clock, removals)

    def _person_id(self, name: str) -> int | None:
        lookup = self._seal.lookup(f"person {name}")
        number: int | None = _only(self._sql.execute("SELECT id FROM person WHERE lookup = ?", (lookup,)))
        return number

    def _sample_id(self, person: int, key: bytes) -> int | None:
        query = "SELECT id FROM sample WHERE person = ? AND key = ?"
        number: int | None = _only(self._sql.execute(query, (person, key)))
        return number

    def _name(self, number: int) -> str:
        sealed = _only(self._sql.execute("SELECT name FROM person WHERE id = ?", (number,)))
        return self._unseal(sealed, f"person.name:{number}").decode()

    def _vectors(self, person: int) -> tuple[list[NDArray[np.float32]], list[float]]:
        rows = self._sql.execute("SELECT id, vector, details, NULL FROM sample WHERE person = ?", (person,))
        samples = [self._sample("", person, *row) for row in rows]
        return [s.vector for s in samples], [s.quality for s in samples]

    def _sample(
        self, name: str, person: int | None, number: int, vector: bytes, details: bytes, thumbnail: bytes | None
    ) -> Sample:
        known = json.loads(self._unseal(details, f"sample.details:{number}:{person}"))
        return Sample(
            person=name,
            vector=self._vector(vector, f"sample.vector:{number}:{person}"),
            quality=known["quality"],
            key=known["key"],
            metadata=known["metadata"],
            thumbnail=None if thumbnail is None else self._unseal(thumbnail, f"sample.thumbnail:{number}:{person}"),
        )

    def _vector(self, sealed: bytes, place: str) -> NDArray[np.float32]:
        return np.frombuffer(self._unseal(sealed, place), "<f4").astype(np.float32, copy=False)

    def _unseal(self, sealed: bytes, place: str) -> bytes:
        try:
            return self._seal.unseal(sealed, place)
        except (ValueError, TypeError) as error:
            raise _damaged(self.path, str(error)) from error

    # --- the file

    def _configure(self) -> None:
        for setting in _SETTINGS:
            self._sql.execute(f"PRAGMA {setting}")

    def _read_header(self, key: bytes | None) -> tuple[RecogniserId, Sealer]:
        if _only(self._sql.execute("PRAGMA application_id")) != _APPLICATION:
            raise GalleryError(f"{self.path} is not a gallery; give a file made by 'facewright gallery create'")
        version = _only(self._sql.execute("PRAGMA user_version"))
        if version != FORMAT:
            raise GalleryError(
                f"{self.path} has format {version}, but this version reads up to {FORMAT}; update facewright"
            )
        encrypted, name, proof = self._sql.execute("SELECT encrypted, name, proof FROM header").fetchone()
        if bool(encrypted) != (key is not None):
            needed = "is encrypted; give its key file" if encrypted else "is not encrypted; leave the key file out"
            raise GalleryError(f"{self.path} {needed} (--key)")
        seal = _sealer(key, name)
        try:
            seal.unseal(proof, "header.proof")
        except ValueError as error:
            raise GalleryError(f"{self.path} was locked with another key; give the right key file") from error
        try:
            return RecogniserId(**json.loads(self._header("recogniser"))), seal
        except (TypeError, ValueError) as error:
            raise _damaged(self.path, "its header") from error

    def _header(self, column: str) -> Any:
        return _only(self._sql.execute(f"SELECT {column} FROM header"))

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[None]:
        """One consistent view of the file; with `write`, all that is done in it is kept, or nothing."""
        with self._lock, _explained(self.path):
            self._sql.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                self._sql.execute("COMMIT")
            finally:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")


def _connect(path: Path, wait: float) -> sqlite3.Connection:
    if not path.is_file():
        raise GalleryError(f"there is no gallery at {path}; make it with 'facewright gallery create'")
    address = path.resolve().as_uri() + "?mode=rw"
    with _explained(path):
        return sqlite3.connect(address, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError:  # a mistake of the calling program
        raise
    except sqlite3.Error as error:
        raise _explanation(path, error) from error


def _sealer(key: bytes | None, name: str) -> Sealer:
    return Checksums() if key is None else Encryption(key, name)


def _only(rows: sqlite3.Cursor) -> Any:
    """The single value of the single row; None without a row."""
    row = rows.fetchone()
    return None if row is None else row[0]


def _to_bytes(vector: NDArray[np.float32]) -> bytes:
    return vector.astype("<f4").tobytes()


def _damaged(path: Path, what: str) -> GalleryError:
    return GalleryError(f"the gallery {path} is damaged ({what}); restore it from a backup or enrol again")


def _explanation(path: Path, error: sqlite3.Error) -> FacewrightError:
    name = str(getattr(error, "sqlite_errorname", ""))
    kind = "_".join(name.split("_")[:2])
    if name in _NO_ROOM or kind in _NO_ROOM:
        return OutputError(f"cannot write {path}: the disk is full; nothing acknowledged is lost, free some space")
    if kind in _NOT_ALLOWED:
        return OutputError(f"cannot write {path}: no permission, or its folder is read-only; choose another place")
    if kind in _BUSY:
        return GalleryError(f"another process is using {path}; run it again when that one is done")
    return _damaged(path, str(error))
