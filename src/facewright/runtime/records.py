"""What runs over a folder note beside their results: one record per file, so that a report covers all runs.

The record of a photo is written just before the photo itself. Whatever kills the process, a result has its record, and
a record without its result does not count.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..io.atomic import atomic_output
from ..io.kinds import OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .folder import Job

Stamp = tuple[int, ...]


def stamp(path: Path) -> Stamp | None:
    """What tells one state of a file from another (inode, bytes, time of change); None when there is no such file.

    A result is never empty; an empty file counts as none.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a file: `result` is its report, `error` why there is none.

    `source` is its place in the folder, `source_bytes` its size; `replaces` is the stamp of the former output.
    """

    source: str
    source_bytes: int
    replaces: Stamp | None = None
    error: str | None = None
    result: dict[str, Any] | None = None


class Records:
    """The records of the results in `folder`, which comes from the photos and videos in `source`."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.root = source, folder
        self.folder = folder / OWN_FOLDER

    def path(self, job: Job) -> Path:
        """Where the record of a job lies; whoever works on the job holds the lock of this path."""
        place = job.target.relative_to(self.root).as_posix()
        return self.folder / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"

    def write(
        self,
        job: Job,
        *,
        replaces: Stamp | None = None,
        error: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Note what became of a job; raises OutputError."""
        record = Record(*self._source_of(job), replaces, error, result)
        with atomic_output(self.path(job), overwrite=True) as temporary:
            temporary.write_text(json.dumps(asdict(record)), encoding="ascii")

    def read(self, job: Job) -> Record | None:
        """The last record of a job, None when there is none that can be read or it is of another file."""
        try:
            record = Record(**json.loads(self.path(job).read_text(encoding="utf-8")))
            known = (record.source, record.source_bytes) == self._source_of(job)
        except (OSError, ValueError, TypeError):
            return None
        return record if known else None

    def result(self, job: Job) -> dict[str, Any] | None:
        """The report of the output that is there; None when another made it."""
        output, record = stamp(job.target), self.read(job)
        if output is None or record is None or (record.replaces is not None and tuple(record.replaces) == output):
            return None
        return record.result

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folders; one that was not there before and is empty at the end is removed again."""
        created = [p for p in (self.folder, self.root, *self.root.parents) if not p.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {self.root}: {error.strerror}") from error
        try:
            yield
        finally:
            for folder in created:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _source_of(self, job: Job) -> tuple[str, int]:
        return job.source.relative_to(self.source).as_posix(), job.source.stat().st_size
