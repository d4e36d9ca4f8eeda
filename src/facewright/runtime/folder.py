"""Many files in one run: read ahead, restore, write behind; a bad file never stops the rest, a rerun does what is left.

Outputs are written atomically, so an output that exists is complete; that alone makes a run resumable.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import FacewrightError, OutputError, UsageError
from ..io.atomic import TEMPORARY_PREFIX
from ..io.image import MAX_PIXELS, Photo, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ..pipelines.restore import RestorePipeline, RestoreResult
    from ..tasks.restore import RestoreOptions

PHOTO_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
        ".heic",
        ".heif",
        ".avif",
        ".bmp",
        ".gif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".pnm",
    ]
)
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".mkv", ".mov", ".m4v", ".avi", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp"]
)
AHEAD = 2


@dataclass(frozen=True, slots=True)
class Job:
    """One file to restore and where its result goes."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job: `error` is None, or the one line that says why it failed."""

    job: Job
    summary: str = ""
    error: str | None = None
    report: dict[str, Any] | None = None


@dataclass(slots=True)
class Summary:
    """All outcomes of a run."""

    outcomes: list[Outcome] = field(default_factory=list)
    already_done: int = 0

    @property
    def failed(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.error is not None]

    @property
    def exit_code(self) -> int:
        """0 when every file is done, 1 when some failed, 2 when all did."""
        if not self.failed:
            return 0
        return 1 if self.already_done or len(self.failed) < len(self.outcomes) else 2


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How results are written."""

    overwrite: bool = False
    quality: int = 95
    provenance: bool = True
    keep_gps: bool = True
    max_pixels: int = MAX_PIXELS
    page: int = 0


def photos_in(folder: Path) -> list[Path]:
    """All photos of a folder and its subfolders, in order; UsageError when there is none."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise UsageError(f"{folder} holds no photo")
    return found


def plan(source: Path, target: Path) -> list[Job]:
    """Every photo and film below a folder with its place below the target folder, names and formats kept.

    Raises UsageError when the target is the source (originals are never replaced) or holds no known file.
    """
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} is the folder of the originals; choose another output folder")
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file, but {source} is a folder; give a folder with -o")
    known = PHOTO_SUFFIXES | VIDEO_SUFFIXES
    inside = target.resolve()
    files = sorted(
        p
        for p in source.rglob("*")
        if p.is_file()
        and p.suffix.lower() in known
        and not p.name.startswith(".")
        and inside not in p.resolve().parents
    )
    if not files:
        raise UsageError(f"no photo or film in {source}")
    return [Job(p, target / p.relative_to(source)) for p in files]


def run(
    jobs: Sequence[Job],
    pipeline: RestorePipeline,
    options: RestoreOptions,
    save: SaveOptions,
    *,
    resume: bool = False,
    on_done: Callable[[Outcome], None] | None = None,
) -> Summary:
    """Restore all jobs in order.

    With `resume` jobs whose output exists are passed over, and what a killed run left unfinished is removed first.
    """
    if resume:
        _remove_unfinished(jobs)
    summary = Summary()
    todo = [j for j in jobs if not (resume and j.target.exists())]
    summary.already_done = len(jobs) - len(todo)

    def note(outcome: Outcome) -> None:
        summary.outcomes.append(outcome)
        if on_done is not None:
            on_done(outcome)

    with ThreadPoolExecutor(2, thread_name_prefix="facewright-io") as pool:
        writing: Future[Outcome] | None = None
        try:
            for job, photo in _read_ahead(todo, pool, save):
                outcome = _process(job, photo, pipeline, options, save, resume)
                if writing is not None:
                    note(writing.result())
                    writing = None
                if isinstance(outcome, Outcome):
                    note(outcome)
                else:
                    writing = pool.submit(write, job, outcome, save)
        finally:
            if writing is not None:
                note(writing.result())
    return summary


def _remove_unfinished(jobs: Sequence[Job]) -> None:
    for folder in {job.target.parent for job in jobs}:
        for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if left.is_file():
                left.unlink(missing_ok=True)


def _process(
    job: Job,
    photo: Photo | Exception | None,
    pipeline: RestorePipeline,
    options: RestoreOptions,
    save: SaveOptions,
    resume: bool,
) -> Outcome | RestoreResult:
    try:
        if isinstance(photo, Exception):
            raise photo
        if photo is None:
            return _film(job, pipeline, options, save, resume)
        return pipeline(photo, options)
    except MemoryError:
        return Outcome(job, error=f"{job.source}: not enough memory; make the picture smaller or lower --upscale")
    except Exception as error:
        return _failure(job, error)


def _failure(job: Job, error: Exception) -> Outcome:
    """Whatever happens to one file, the others are still restored."""
    if isinstance(error, FacewrightError):
        return Outcome(job, error=str(error))
    return Outcome(job, error=f"{job.source}: unexpected {type(error).__name__}: {error}")


def _film(job: Job, pipeline: RestorePipeline, options: RestoreOptions, save: SaveOptions, resume: bool) -> Outcome:
    from ..pipelines.film import restore_video

    job.target.parent.mkdir(parents=True, exist_ok=True)
    report = restore_video(
        job.source,
        job.target,
        pipeline,
        options,
        overwrite=save.overwrite,
        resume=resume,
        keep_gps=save.keep_gps,
        provenance=save.provenance,
    )
    return Outcome(job, summary=report.summary, report=report.to_dict())


def _read_ahead(
    jobs: Sequence[Job], pool: ThreadPoolExecutor, save: SaveOptions
) -> Iterator[tuple[Job, Photo | Exception | None]]:
    def load(job: Job) -> Photo | Exception | None:
        if job.target.exists() and not save.overwrite:
            return OutputError(f"{job.target} exists; add --resume to pass over it or --overwrite to replace it")
        if job.is_video:
            return None
        try:
            return read(job.source, page=save.page, max_pixels=save.max_pixels)
        except Exception as error:
            return error

    queue: list[tuple[Job, Future[Photo | Exception | None]]] = []
    for job in jobs:
        queue.append((job, pool.submit(load, job)))
        if len(queue) >= AHEAD:
            ready, future = queue.pop(0)
            yield ready, future.result()
    for ready, future in queue:
        yield ready, future.result()


def write(job: Job, result: RestoreResult, save: SaveOptions) -> Outcome:
    """Write one result; errors become part of the outcome."""
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        result.save(
            job.target,
            overwrite=save.overwrite,
            quality=save.quality,
            provenance=save.provenance,
            keep_gps=save.keep_gps,
        )
        return Outcome(job, summary=result.summary, report=result.report())
    except OSError as error:
        return Outcome(job, error=f"cannot write {job.target}: {error.strerror or error}")
    except Exception as error:
        return _failure(job, error)
