"""Jobs and uploads on disk: what was acknowledged is there after a crash, and nothing is half-written.

One folder a job, named by its id, readable by the server alone:

- `job.json`: the record, replaced as a whole;
- `in/FIELD/N/NAME`: what was sent;
- `out/`: what was made; it counts from the moment the record says so.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from ..errors import LockedError, OutputError, UsageError
from ..io.atomic import atomic_output
from ..io.lock import locked
from ..tasks.declare import NetworkChoice, get_task
from .requests import Order, options_of_pictures, writing_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = 1
State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about a job. Paths are relative to its folder; times are seconds since 1970.

    `pictures` are the files of options by option, `files` what was made by name, `attempts` how often it was begun,
    `problem` why it failed.
    """

    id: str
    task: str
    options: dict[str, Any]
    choice: dict[str, Any]
    writing: dict[str, Any]
    inputs: dict[str, str]
    pictures: dict[str, str]
    created: float
    owner: str = ""
    state: State = "queued"
    attempts: int = 0
    ended: float | None = None
    problem: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)
    result: Any = None
    format: int = FORMAT

    @classmethod
    def of(cls, identity: str, order: Order, owner: str, folder: Path) -> Record:
        """The record of a new job."""

        def relative(paths: dict[str, Path]) -> dict[str, str]:
            return {name: path.relative_to(folder).as_posix() for name, path in paths.items()}

        pictures = relative(order.pictures)
        sent = options_of_pictures(order.task, order.pictures)
        options: dict[str, Any] = {k: v for k, v in asdict(order.options).items() if k not in sent}
        return cls(
            identity,
            order.task.verb,
            options,
            asdict(order.choice),
            asdict(order.writing),
            relative(order.inputs),
            pictures,
            time.time(),
            owner,
        )

    def order(self, folder: Path) -> Order:
        """What is to be done; UsageError where the task or its options are no longer the same."""
        task = get_task(self.task)
        pictures = {name: folder / path for name, path in self.pictures.items()}
        given = {**self.options, **options_of_pictures(task, pictures)}
        try:
            options: Any = TypeAdapter(task.options).validate_python(given)
            writing = TypeAdapter(writing_of(task)).validate_python(self.writing)
        except (ValueError, TypeError) as error:
            raise UsageError(f"the options of {self.task} are of another version") from error
        inputs = {name: folder / path for name, path in self.inputs.items()}
        return Order(task, options, NetworkChoice(**self.choice), writing, inputs, pictures)


class Store:
    """The folder of the server. It belongs to one process at a time.

    Raises UsageError when another server has it, OutputError when it cannot be written.
    """

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root, self.most_bytes = root, most_bytes
        self.jobs, self.uploads = root / "jobs", root / "uploads"
        self._lock = ExitStack()
        self._sizes: dict[str, int] = {}
        try:
            for folder in (root, self.jobs, self.uploads):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(root, 0o700)
        except OSError as error:
            raise OutputError(f"cannot write to {root}: {error.strerror}; give another --state folder") from error
        try:
            self._lock.enter_context(locked(root / "server"))
        except LockedError as error:
            raise UsageError(
                f"{root} is used by another server ({error.owner}); give another --state folder"
            ) from error
        for folder in (*self.jobs.iterdir(), *self.uploads.iterdir()):
            self._sizes[folder.name] = _bytes_in(folder)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    # --- jobs

    def begin(self) -> tuple[str, Path]:
        """A new id, which nobody can guess, and its empty folder. It holds no job until `write`."""
        identity = secrets.token_urlsafe(16)
        folder = self.folder(identity)
        (folder / "in").mkdir(parents=True, mode=0o700)
        (folder / "out").mkdir(mode=0o700)
        return identity, folder

    def folder(self, identity: str) -> Path:
        """Where a job lies."""
        return self.jobs / identity

    def write(self, record: Record) -> None:
        """Replace the record of a job, flushed to the disk."""
        folder = self.folder(record.id)
        with atomic_output(folder / "job.json", overwrite=True) as temporary:
            temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
        self._sizes[record.id] = _bytes_in(folder)

    def remove(self, identity: str) -> None:
        """Delete a job with all its files."""
        shutil.rmtree(self.folder(identity), ignore_errors=True)
        self._sizes.pop(identity, None)

    def empty(self, record: Record, *, inputs: bool) -> None:
        """Delete what a job made, and what was sent for it, too, when it can no longer be of use."""
        for name in ("out", *(("in",) if inputs else ())):
            shutil.rmtree(self.folder(record.id) / name, ignore_errors=True)
            with suppress(OSError):
                (self.folder(record.id) / name).mkdir(mode=0o700)

    def records(self) -> Iterator[Record]:
        """The jobs of former runs, oldest first; folders without a readable record are removed: nobody was told of
        them."""
        found = []
        for folder in self.jobs.iterdir():
            try:
                data = json.loads((folder / "job.json").read_text(encoding="utf-8"))
                if data.get("format") != FORMAT or data["id"] != folder.name:
                    raise ValueError("of another version")
                found.append(Record(**data))
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                self.remove(folder.name)
        yield from sorted(found, key=lambda record: record.created)

    # --- room

    @property
    def used_bytes(self) -> int:
        """Bytes of all jobs and uploads."""
        return sum(self._sizes.values())

    @property
    def has_room(self) -> bool:
        """Whether new jobs may be taken."""
        return self.used_bytes < self.most_bytes

    def note_size(self, name: str, size: int | None) -> None:
        """How large an upload is now; None when it is gone."""
        if size is None:
            self._sizes.pop(name, None)
        else:
            self._sizes[name] = size


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def ended(record: Record, state: State, **changes: Any) -> Record:
    """The record of a job that has come to an end just now."""
    return replace(record, state=state, ended=time.time(), **changes)
