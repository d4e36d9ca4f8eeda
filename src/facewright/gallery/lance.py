"""A gallery in a folder of LanceDB, whose vectors stay on the disk: for more people than memory holds templates of.

One table holds people and samples, so that enrolling is one commit. LanceDB does not sync what it commits and keeps
every former version of a table; therefore each commit is synced here before it is acknowledged, and removing people
writes the table anew without them, drops all former versions, and builds the index anew. What says that this is owed
is on the disk before, so that an interrupted removal is finished when the gallery is next opened.

From `INDEX_FROM` people on the search goes through an index of quantised residuals (RaBitQ: Gao and Long 2024, in its
extension to several bits: Gao et al. 2024), of which all cells are looked at. IVF-PQ, LanceDB's default, was not
chosen: templates of different people are spread almost evenly over the sphere, where neighbours are in any cell. At a
cosine of 0.4 it found 26 of 30 people among 50 000 when it opened a hundred cells, and training took forty times as
long.

Vectors cannot be encrypted here, as the library compares them itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from ..errors import FacewrightError, GalleryError, LockedError, MissingDependencyError, OutputError, UsageError
from ..io.atomic import atomic_output
from ..io.lock import locked
from .index import HARDEST_MATCH, INDEX_FROM, turned
from .records import Match, Person, RecogniserId, Sample, fuse, template_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

T = TypeVar("T")

FORMAT = 1
BUSY_SECONDS = 30.0
CELLS, BITS = 16, 4
"""Cells with which the index is made, and bits it keeps of every number."""
ALL_CELLS = 65_535
"""All cells are searched, however many there are: `optimize` splits large ones, 16 into hundreds for a million people,
and a search of 16 of those found six people of ten."""
REFINE = 60
"""Candidates that are compared exactly for each match asked for."""
MOST_VERSIONS = 200
"""Commits after which former versions are dropped and small files merged."""
_HEADER, _OWED, _TABLE = "header.json", "rewrite-owed", "entries"
_SCAN_ROWS = 8192
_MOST_NAMES = 500


class LanceStore:
    """The store in a folder; see `records.Store` for its methods and this module for what it promises."""

    def __init__(self, path: str | Path, *, index_from: int = INDEX_FROM) -> None:
        """Open a gallery. Raises MissingDependencyError without lancedb, GalleryError: missing, damaged, busy."""
        self.path = Path(path)
        self._index_from = index_from
        self.recogniser = self._read_header()
        self._synced = set(_files(self.path))
        self._index_at = (-1, False)
        with _explained(self.path):
            self._table = _connect(self.path).open_table(_TABLE)
        if (self.path / _OWED).exists():
            with self._writing():
                self._forget_versions()

    @classmethod
    def create(cls, path: str | Path, recogniser: RecogniserId) -> Self:
        """Make an empty gallery in a folder that only the owner can read, and open it. Raises OutputError."""
        place = Path(path)
        if place.exists():
            raise OutputError(f"{place} exists already; choose another name")
        _connect(place)  # before anything is made: is the package there?
        made = place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}")
        try:
            made.mkdir(mode=0o700)
            with _explained(place):
                _connect(made).create_table(_TABLE, schema=_schema(recogniser.dimension))
            header = {"format": FORMAT, "recogniser": asdict(recogniser)}
            with atomic_output(made / _HEADER) as temporary:
                temporary.write_text(json.dumps(header), encoding="ascii")
            _sync(_files(made))
            made.rename(place)
        except OSError as error:
            raise OutputError(f"cannot write {place}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls(place)

    def close(self) -> None:
        """Nothing is held open."""

    # --- writing

    def enrol(self, samples: Sequence[Sample]) -> list[int]:
        by_person = sorted(enumerate(samples), key=lambda pair: pair[1].person)
        numbers: dict[int, int] = {}
        with self._writing():
            known = self._rows_of({sample.person for sample in samples})
            clock = self._largest_number()
            rows: list[dict[str, Any]] = []
            for person, group in groupby(by_person, key=lambda pair: pair[1].person):
                positions, theirs = zip(*group, strict=True)
                added, clock = self._enrol_person(person, theirs, known.get(person, []), clock, rows)
                numbers.update(zip(positions, added, strict=True))
            if rows:
                merge = self._table.merge_insert("number").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(_table_of(rows, self._table.schema), on_bad_vectors="null")  # takes missing ones for bad
                self._tidy()
        return [numbers[position] for position in range(len(samples))]

    def remove(self, people: Sequence[str]) -> int:
        names = list(dict.fromkeys(people))
        with self._writing():
            known = self._rows_of(names)
            unknown = [name for name in names if name not in known]
            if unknown:
                raise UsageError(f"{self.path} has nobody named {', '.join(unknown)}; nothing was removed")
            removed = sum(row["template"] is None for rows in known.values() for row in rows)
            with atomic_output(self.path / _OWED, overwrite=True) as temporary:
                temporary.write_text("former versions hold people who were removed")
            self._write_anew(set(names))
            self._forget_versions()
        return removed

    def _enrol_person(
        self, person: str, samples: Sequence[Sample], known: list[Any], clock: int, rows: list[dict[str, Any]]
    ) -> tuple[list[int], int]:
        """Add the rows of one person's samples; their numbers, and the largest number given so far."""
        old = [row for row in known if row["template"] is None]
        keys = {row["key"]: row["number"] for row in old if row["key"]}
        vectors, qualities = [row["vector"] for row in old], [row["quality"] for row in old]
        head = next((row["number"] for row in known if row["template"] is not None), clock + 1)
        clock = max(clock, head)
        numbers = []
        for sample in samples:
            if sample.key not in keys or not sample.key:
                clock += 1
                keys[sample.key] = clock
                rows.append(_sample_row(clock, sample))
                vectors.append(sample.vector)
                qualities.append(sample.quality)
            numbers.append(keys[sample.key])
        if len(vectors) > len(old):
            rows.append(_person_row(head, person, fuse(np.stack(vectors), np.asarray(qualities))))
        return numbers, clock

    def _write_anew(self, without: set[str]) -> None:
        """Write the table again from those who stay, and build its index again."""
        import pyarrow
        import pyarrow.compute as compute

        names = pyarrow.array(sorted(without), pyarrow.string())

        def staying() -> Iterator[Any]:
            for batch in self._scan():
                yield batch.filter(compute.invert(compute.is_in(batch.column("person"), names)))

        indexed = self._indexed()
        reader = pyarrow.RecordBatchReader.from_batches(self._table.schema, staying())
        self._table = _connect(self.path).create_table(_TABLE, reader, mode="overwrite", on_bad_vectors="null")
        if indexed:
            self._build_index()

    def _forget_versions(self) -> None:
        self._table.checkout_latest()
        self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        _sync(set(_files(self.path)) - self._synced)
        (self.path / _OWED).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Build the index when there are enough people, take new ones into it, merge what many commits left."""
        if not self._indexed():
            if self._count() >= self._index_from:
                self._build_index()
        elif self._table.index_stats(f"{_INDEXED}_idx").num_unindexed_rows > max(10_000, self._count() // 5):
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        if self._table.version % MOST_VERSIONS == 0:
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def _build_index(self) -> None:
        from lancedb.index import IvfRq

        cells = max(1, min(CELLS, self._count() // 256))
        config = IvfRq(distance_type="cosine", num_partitions=cells, num_bits=BITS)
        self._table.create_index(_INDEXED, config=config, replace=True)

    # --- reading

    def contains(self, person: str, key: str) -> bool:
        rows = self._reading(lambda: self._rows_of([person], ("template", "key")))
        return any(row["key"] == key and row["template"] is None for row in rows.get(person, ()))

    def search(self, queries: NDArray[np.float32], k: int) -> list[list[Match]]:
        return [self._reading(lambda query=query: self._nearest(query, k)) for query in queries]  # type: ignore[misc]

    def people(self) -> list[Person]:
        def count() -> list[Person]:
            counts: dict[str, int] = {}
            for batch in self._scan(["person", "quality"], "template IS NULL"):
                for name in batch.column("person").to_pylist():
                    counts[name] = counts.get(name, 0) + 1
            return sorted((Person(*pair) for pair in counts.items()), key=lambda person: person.name)

        return self._reading(count)

    def samples(self, person: str) -> list[Sample]:
        rows = self._reading(lambda: self._rows_of([person])).get(person, [])
        samples = [row for row in rows if row["template"] is None]
        for row in samples:
            if row["check"] != _check(row):
                raise _damaged(self.path, f"a picture of {person} has changed")
        return [_sample(row) for row in sorted(samples, key=lambda row: row["number"])]

    def problems(self) -> list[str]:
        found: list[str] = []
        templates: dict[str, Any] = {}
        samples: dict[str, tuple[list[Any], list[float]]] = {}
        try:
            for batch in self._reading(lambda: list(self._scan())):
                for row in batch.to_pylist():
                    row["vector"] = None if row["vector"] is None else np.asarray(row["vector"], np.float32)
                    row["template"] = None if row["template"] is None else np.asarray(row["template"], np.float32)
                    if row["check"] != _check(row):
                        found.append(f"an entry of {row['person']} has changed")
                    elif row["template"] is not None:
                        templates[row["person"]] = row["template"]
                    else:
                        vectors, qualities = samples.setdefault(row["person"], ([], []))
                        vectors.append(row["vector"])
                        qualities.append(row["quality"])
        except FacewrightError as error:
            return [*found, str(error)]
        for person, template in sorted(templates.items()):
            problem = template_problem(person, template, *samples.pop(person, ([], [])))
            found += [problem] if problem else []
        return found + [f"{person} has pictures but no template" for person in samples]

    def index_recall(self) -> float | None:
        def measure() -> float | None:
            if not self._indexed():
                return None
            rows = self._table.search().where("template IS NOT NULL").limit(200).select([_INDEXED]).to_arrow()
            templates = np.stack([np.asarray(row, np.float32) for row in rows.column(_INDEXED).to_pylist()])
            probes = turned(templates, HARDEST_MATCH, np.random.default_rng(0))
            pairs = ((self._nearest(probe, 1), self._nearest(probe, 1, exact=True)) for probe in probes)
            return float(np.mean([a[0].person == b[0].person for a, b in pairs]))

        return self._reading(measure)

    def _nearest(self, query: NDArray[np.float32], k: int, *, exact: bool = False) -> list[Match]:
        search = self._table.search(query, vector_column_name=_INDEXED).distance_type("cosine").limit(k)
        if exact or not self._indexed():
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(ALL_CELLS).refine_factor(REFINE)
        found = search.select(["person", "_distance"]).to_arrow()
        names, distances = found.column("person").to_pylist(), found.column("_distance").to_pylist()
        return [Match(name, 1 - distance) for name, distance in zip(names, distances, strict=True)]

    def _scan(self, columns: Sequence[str] | None = None, where: str = "") -> Iterator[Any]:
        search = self._table.search()
        search = search.where(where) if where else search
        search = search.select(list(columns)) if columns else search
        yield from search.limit(max(1, self._table.count_rows())).to_batches(_SCAN_ROWS)

    def _rows_of(self, people: Iterable[str], columns: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """The rows of people by their names, vectors as arrays."""
        names = self._known(sorted(set(people)))
        found: dict[str, list[dict[str, Any]]] = {}
        for start in range(0, len(names), _MOST_NAMES):
            part = names[start : start + _MOST_NAMES]
            for batch in self._scan(("person", *columns) if columns else None, _named(part)):
                for row in batch.to_pylist():
                    for name in ("vector", _INDEXED):
                        if row.get(name) is not None:
                            row[name] = np.asarray(row[name], np.float32)
                    found.setdefault(row["person"], []).append(row)
        return found

    def _known(self, names: list[str]) -> list[str]:
        """Those of many names who are there; a few are looked for at once."""
        if len(names) <= _MOST_NAMES:
            return names
        import pyarrow
        import pyarrow.compute as compute

        wanted, known = pyarrow.array(names, pyarrow.string()), set()
        for batch in self._scan(["person"]):
            column = batch.column("person")
            known |= set(column.filter(compute.is_in(column, wanted)).to_pylist())
        return sorted(known)

    def _count(self) -> int:
        """How many people there are."""
        return int(self._table.count_rows("template IS NOT NULL"))

    def _largest_number(self) -> int:
        import pyarrow.compute as compute

        largest = (compute.max(batch.column("number")).as_py() or 0 for batch in self._scan(["number"]))
        return max(largest, default=0)

    def _indexed(self) -> bool:
        """Whether there is an index; asked of the files once for each version."""
        version = self._table.version
        if self._index_at[0] != version:
            self._index_at = version, any(index.columns == [_INDEXED] for index in self._table.list_indices())
        return self._index_at[1]

    # --- the folder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The gallery for this process alone; what was written is on the disk when the block ends."""
        with contextlib.ExitStack() as stack:
            end = time.monotonic() + BUSY_SECONDS
            while True:
                try:
                    stack.enter_context(locked(self.path / _HEADER))
                    break
                except LockedError as error:
                    if time.monotonic() > end:
                        raise GalleryError(
                            f"another process is using {self.path}; run it again when that one is done"
                        ) from error
                    time.sleep(0.05)
            with _explained(self.path):
                self._table.checkout_latest()
                yield
                new = set(_files(self.path)) - self._synced
                _sync(new)
                self._synced |= new

    def _reading(self, read: Callable[[], T]) -> T:
        """A view of the last commit; taken anew where another process has just rewritten the files it was in."""
        for attempt in range(3):
            try:
                with _explained(self.path):
                    self._table.checkout_latest()
                    return read()
            except GalleryError:
                if attempt == 2:
                    raise
                with _explained(self.path):
                    self._table = _connect(self.path).open_table(_TABLE)
        raise AssertionError

    def _read_header(self) -> RecogniserId:
        place = self.path / _HEADER
        if not place.is_file():
            raise GalleryError(f"there is no gallery at {self.path}; make it with 'facewright gallery create'")
        try:
            header = json.loads(place.read_text(encoding="ascii"))
            version, recogniser = header["format"], RecogniserId(**header["recogniser"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _damaged(self.path, "its header") from error
        if version != FORMAT:
            raise GalleryError(
                f"{self.path} has format {version}, but this version reads up to {FORMAT}; update facewright"
            )
        return recogniser


_INDEXED = "template"


def _named(people: Iterable[str]) -> str:
    """The condition that a row is one of these people's."""
    return "person IN ({})".format(", ".join("'" + name.replace("'", "''") + "'" for name in people))


def _schema(dimension: int) -> Any:
    import pyarrow as pa

    vector = pa.list_(pa.float32(), dimension)
    return pa.schema(
        [
            pa.field("number", pa.int64(), nullable=False),
            pa.field("person", pa.string(), nullable=False),
            pa.field(_INDEXED, vector),
            pa.field("vector", vector),
            pa.field("key", pa.string()),
            pa.field("quality", pa.float64()),
            pa.field("metadata", pa.string()),
            pa.field("thumbnail", pa.binary()),
            pa.field("check", pa.binary(), nullable=False),
        ]
    )


def _sample_row(number: int, sample: Sample) -> dict[str, Any]:
    row = {
        "number": number,
        "person": sample.person,
        _INDEXED: None,
        "vector": sample.vector,
        "key": sample.key,
        "quality": float(sample.quality),
        "metadata": json.dumps(dict(sample.metadata)),
        "thumbnail": sample.thumbnail,
    }
    return row | {"check": _check(row)}


def _person_row(number: int, person: str, template: NDArray[np.float32]) -> dict[str, Any]:
    empty = dict.fromkeys(("vector", "key", "quality", "metadata", "thumbnail"))
    row = {"number": number, "person": person, _INDEXED: template, **empty}
    return row | {"check": _check(row)}


def _check(row: Mapping[str, Any]) -> bytes:
    """A checksum of everything else in a row."""
    parts = [row["number"], row["person"], row["key"], row["quality"], row["metadata"], row["thumbnail"]]
    parts += [None if row[name] is None else np.asarray(row[name], "<f4").tobytes() for name in (_INDEXED, "vector")]
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def _table_of(rows: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    def column(field: Any) -> Any:
        values = [row[field.name] for row in rows]
        if not pa.types.is_fixed_size_list(field.type):
            return pa.array(values, field.type)
        zero = np.zeros(field.type.list_size, np.float32)
        flat = np.concatenate([zero if value is None else value for value in values]).astype(np.float32)
        missing = pa.array([value is None for value in values])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), field.type.list_size, mask=missing).cast(field.type)

    return pa.table([column(field) for field in schema], schema=schema)


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        row["person"], row["vector"], row["quality"], row["key"], json.loads(row["metadata"]), row["thumbnail"]
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _sync(files: Iterable[Path]) -> None:
    """Flush files, and the folders that name them, to the disk."""
    folders = set()
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # merged away meanwhile
            _flush(path, os.O_RDWR)
            folders |= {path.parent, path.parent.parent}
    for folder in folders:
        with contextlib.suppress(OSError):  # some systems cannot flush folders
            _flush(folder, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise MissingDependencyError(
            'a gallery in LanceDB needs the package lancedb: pip install "facewright[lancedb]"'
        ) from error
    return lancedb.connect(str(path))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FacewrightError:
        raise
    except OSError as error:
        if "space" in str(error):
            raise OutputError(f"cannot write {path}: the disk is full; nothing acknowledged is lost") from error
        raise _damaged(path, str(error).splitlines()[0]) from error
    except (RuntimeError, ValueError) as error:  # as LanceDB tells of all that goes wrong in its files
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0]) from error


def _damaged(path: Path, what: str) -> GalleryError:
    return GalleryError(f"the gallery {path} is damaged ({what}); restore it from a backup or enrol again")
