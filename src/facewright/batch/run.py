"""A run: list what is to be done, do it here or on a cluster, count what became of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..gallery import Gallery
from ..gallery.store import is_address
from ..io.atomic import atomic_output, check_folder
from ..io.kinds import OWN_FOLDER
from ..runtime.editing import SaveOptions
from ..runtime.session import default_session
from ..tasks.declare import Shape, option_fields
from .items import Listing, files_at, read_bytes, read_chunk, write_index
from .manifest import Keys, Manifest
from .sinks import is_gallery, sink_for
from .worker import Work, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..gallery.records import RecogniserId
    from ..tasks.declare import NetworkChoice, Task
    from .items import Files
    from .manifest import Outcome

SHAPES = (Shape.RECORDS, Shape.EDIT)
"""Tasks of single photos."""
WRITING = ("quality", "provenance", "keep_gps", "page", "max_pixels")
"""What of `SaveOptions` makes a result another one."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Where the work is done.

    Args:
        workers: Processes with the task's networks; 0 works in this process, without Ray.
        address: Of a Ray cluster, or "auto"; "" starts one on this machine.
        photos: Photos that a worker gets at a time, and that are done as a whole or not at all.
        store_mb: Memory of this machine for photos on their way, in megabytes; of a cluster started here.
    """

    workers: int = 2
    address: str = ""
    photos: int = 16
    store_mb: int = 512

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("photos", 1), ("store_mb", 80)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)} must be at least {least}")
        if self.address and not self.workers:
            raise UsageError("a cluster needs workers; give 1 or more, or omit the address")


@dataclass(slots=True)
class Summary:
    """How many photos became what; `before` were done by an earlier run, `skipped` were none."""

    total: int = 0
    done: int = 0
    there: int = 0
    failed: int = 0
    before: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def count(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.failed += 1
        elif outcome.there:
            self.there += 1
        else:
            self.done += 1

    @property
    def exit_code(self) -> int:
        """0 when every photo is done, 1 when some failed, 2 when all did."""
        if not self.failed:
            return 0
        return 1 if self.done or self.there or self.before else 2

    @property
    def line(self) -> str:
        """One line for people."""
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return (
            f"{self.done} done, {self.there + self.before} already there, {self.failed} failed"
            f"{f'; skipped: {skipped}' if skipped else ''}"
        )


def run(
    task: Task,
    source: str,
    output: str,
    options: Any,
    choice: NetworkChoice,
    save: SaveOptions | None = None,
    machines: Machines | None = None,
    *,
    key_file: str | None = None,
    notes: str | Path | None = None,
    retry_failed: bool = False,
    on_outcome: Callable[[Outcome, int], None] = lambda outcome, total: None,
) -> Summary:
    """Take every photo of a source through a task; what an earlier run has done is left as it is.

    Args:
        task: A task of single photos.
        source: Folder, tar or parquet file, or an address that pyarrow opens, such as s3://bucket/photos.
        output: Folder; a name ending in .parquet for a folder of parquet files; a gallery for embeddings.
        options, choice: Of the task.
        save: How photos are read and written.
        machines: Where the work is done.
        key_file: Of an encrypted gallery.
        notes: Folder of the manifest; within the output by default, which an address cannot be.
        retry_failed: Do again what an earlier run could not do.
        on_outcome: Hears of every photo and of how many there are to do.

    Raises:
        UsageError: The task, source or output makes no sense, or the output was begun by another kind of run.
        OutputError: The output cannot be written (LockedError: another run is at work on it).
        FacewrightError: The networks cannot be loaded.
    """
    save, machines = save or SaveOptions(), machines or Machines()
    if task.shape not in SHAPES:
        raise UsageError(f"{task.verb} does not take single photos, so it cannot run over many")
    source, output = _absolute(source), _absolute(output)
    options, choice = _with_absolute_paths(options), replace(choice, weights=_absolute_file(choice.weights))
    manifest = Manifest(*_places(output, notes), overwrite=save.overwrite)
    files = files_at(source, None if "://" in source else manifest.root)
    check_folder(manifest.root)
    elsewhere = replace(choice, device="cpu") if machines.workers else choice
    recogniser = _load(task, elsewhere, output)
    sink = sink_for(task, output, recogniser=recogniser, key_file=key_file and _absolute(key_file))
    if recogniser is not None and not is_address(output) and not Path(output).exists():
        Gallery.create(output, recogniser, key_file=key_file).close()
    work = Work(task, options, choice, manifest, sink, save)
    summary = Summary()
    writing = {name: getattr(save, name) for name in WRITING}
    description = {"task": task.verb, **asdict(options), **asdict(choice), **writing}
    with manifest.opened(description):
        if retry_failed:
            manifest.forget_failed()
        known = Keys.of(outcome.key for outcome in manifest.done())
        summary.before = len(known)
        listing = Listing(files)
        summary.total, chunks = write_index((i for i in listing if i.key not in known), manifest.index, machines.photos)
        summary.skipped = listing.skipped
        if not summary.total and not summary.before:
            raise UsageError(f"there is no photo in {source}")
        for outcome in _outcomes(work, files, chunks, machines):
            summary.count(outcome)
            on_outcome(outcome, summary.total)
    return summary


def _outcomes(work: Work, files: Files, chunks: int, machines: Machines) -> Iterator[Outcome]:
    if machines.workers and chunks:
        from .cluster import outcomes

        return outcomes(work, files, chunks, machines)
    return here(work, files, range(chunks))


def here(work: Work, files: Files, chunks: Iterable[int]) -> Iterator[Outcome]:
    """The outcomes of chunks, done in this process."""
    worker = Worker(work)
    for number in chunks:
        items = read_chunk(work.manifest.index, number)
        yield from worker(items, read_bytes(files, items))


def write_report(manifest: Manifest, target: Path, *, overwrite: bool) -> None:
    """One line of JSON for every photo of all runs: `source`, `error`, and `result` of an edited one."""
    with atomic_output(target, overwrite=overwrite) as temporary, temporary.open("w", encoding="ascii") as file:
        for outcome in manifest.done():
            line = {"source": outcome.key, "error": outcome.error, "result": outcome.report}
            file.write(json.dumps(line, ensure_ascii=True) + "\n")


def manifest_of(output: str, notes: str | Path | None = None) -> Manifest:
    """The manifest of an output."""
    return Manifest(*_places(output, notes))


def _absolute(place: str) -> str:
    """A path as workers elsewhere know it; an address as it is."""
    return place if "://" in place else str(Path(place).absolute())


def _absolute_file(name: str | Path | None) -> str | None:
    """The path of a file that is there, absolute; other names as they are."""
    if name is None:
        return None
    return str(Path(name).absolute()) if Path(name).exists() else str(name)


def _with_absolute_paths(options: Any) -> Any:
    """Options whose pictures workers find from wherever they run."""
    values: dict[str, Any] = {}
    for option in (known for known in option_fields(type(options)) if known.opt.picture):
        value = getattr(options, option.name)
        values[option.name] = tuple(map(_absolute_file, value)) if option.is_pictures else _absolute_file(value)
    return replace(options, **values) if values else options


def _places(output: str, notes: str | Path | None) -> tuple[Path, Path]:
    """The folders of the manifest and of the outputs."""
    if notes is not None:
        folder = Path(notes).absolute()
        return folder, folder if is_gallery(output) else Path(output)
    if is_address(output):
        raise UsageError("say where the notes of a run into a database are kept: --notes FOLDER")
    if is_gallery(output):
        folder = Path(f"{output}.batch")
        return folder, folder
    return Path(output) / OWN_FOLDER / "batch", Path(output)


def _load(task: Task, choice: NetworkChoice, output: str) -> RecogniserId | None:
    """Load the networks once, so that what is missing is told, or fetched, before any work.

    Gives whose embeddings these are, where the output is a gallery.
    """
    session = default_session()
    session.pipeline(task, choice)
    if not is_gallery(output) or task.name != "recognise":
        return None
    from ..gallery.photos import recogniser_id

    return recogniser_id(session.chosen(task, choice))
