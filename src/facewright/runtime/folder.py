"""Many files in one run: read ahead, restore, write behind; a bad file never stops the rest, a rerun does what is left.

Outputs are written atomically, so an output that exists is complete; that alone makes a run resumable. Several
processes may run over one folder at once, also on several computers: each file is claimed by a lock that ends with its
owner, so they share the work, and what a dead process left is done by the others.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import FacewrightError, LockedError, OutputError, UsageError
from ..io.atomic import check_folder, remove_abandoned
from ..io.image import Photo, read_page
from ..io.kinds import VIDEOS, kind_of, survey, targets
from ..io.lock import locked
from ..pipelines.pages import has_pages
from .editing import SaveOptions as SaveOptions  # public here
from .editing import edit_pages, edit_video, save_photo
from .records import Records, Stamp, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ..io.kinds import Survey
    from ..io.lock import Owner
    from ..pipelines.pages import PagesReport
    from ..pipelines.restore import RestorePipeline, RestoreResult
    from ..pipelines.restore_video import VideoRestoreResult
    from ..tasks.restore import RestoreOptions

logger = logging.getLogger(__name__)

AHEAD = 2
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """One file to restore and where its result goes."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        kind = kind_of(self.source)
        if kind is None:  # gone since the folder was looked at: the name decides who reports it
            return any(self.source.suffix.lower() in video.suffixes for video in VIDEOS)
        return kind.is_video


class Plan(list[Job]):
    """The jobs of the folder `source`, whose results go to the folder `target`.

    `passed_over` says how many of its files are none, and why ("" when all are); `others` are those files.
    """

    def __init__(
        self, jobs: Iterable[Job], source: Path, target: Path, passed_over: str = "", others: Sequence[Path] = ()
    ) -> None:
        super().__init__(jobs)
        self.source, self.target = source, target
        self.passed_over, self.others = passed_over, tuple(others)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job: `error` is None, or the one line that says why it failed.

    `there` marks an output that was there before this run, or that another process made meanwhile.
    """

    job: Job
    summary: str = ""
    error: str | None = None
    report: dict[str, Any] | None = None
    there: bool = False


@dataclass(slots=True)
class Summary:
    """All outcomes of a run; of the outputs `already_done`, `kept` were there before it."""

    outcomes: list[Outcome] = field(default_factory=list)
    already_done: int = 0
    kept: int = 0

    @property
    def failed(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.error is not None]

    @property
    def exit_code(self) -> int:
        """0 when every file is done, 1 when some failed, 2 when all did."""
        if not self.failed:
            return 0
        return 1 if self.already_done or len(self.failed) < len(self.outcomes) else 2

    def report(self, jobs: Plan) -> list[dict[str, Any]]:
        """One entry per file of the folder, in order: `source`, `error`, and `result` as its report says.

        Files that other runs did are in it, too; `result` is None when nothing is known about what made an output.
        """
        own = {outcome.job: outcome for outcome in self.outcomes}
        records = Records(jobs.source, jobs.target)
        entries = []
        for job in jobs:
            outcome = own.get(job)
            entries.append(
                {
                    "source": str(job.source.relative_to(jobs.source)),
                    "error": None if outcome is None else outcome.error,
                    "result": records.result(job) if outcome is None else outcome.report,
                }
            )
        return entries

    def remarks(self, jobs: Plan) -> list[str]:
        """Notes and warnings about the files of this run; files of which the same is to be said share a sentence."""
        names: dict[str, list[str]] = {}
        for outcome in self.outcomes:
            for sentence in remarks(outcome.report or {}):
                names.setdefault(sentence, []).append(str(outcome.job.source.relative_to(jobs.source)))
        return [f"{listed(files, 3)}: {sentence}" for sentence, files in names.items()]


def listed(items: Sequence[str], limit: int = 10) -> str:
    """Items with commas; of more than `limit` the rest is counted: "a, b and 3 more"."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def remarks(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a person should know of the report of a photo or video: its notes, and the warnings with their faces."""
    found: dict[str, list[str]] = {note: [] for note in (*report.get("notes", ()), *_video_notes(report))}
    for face in report.get("faces", ()):
        for warning in face.get("warnings", ()):
            name = f"{face['index']} of page {face['page']}" if "page" in face else str(face["index"])
            found.setdefault(warning, []).append(name)
    return found


def _video_notes(report: Mapping[str, Any]) -> Sequence[str]:
    notes: Sequence[str] = report.get("video", {}).get("notes", ())
    return notes


def photos_in(folder: Path) -> list[Path]:
    """All photos of a folder and its subfolders, in order; UsageError when there is none."""
    return [path for path, _ in survey_photos(folder).files]


def survey_photos(folder: Path) -> Survey:
    """The photos of a folder and its subfolders, and what was skipped; UsageError when there is no photo."""
    found = survey(folder, videos=False)
    if not found.files:
        raise UsageError("; ".join(part for part in (f"{folder} holds no photo", found.sentence) if part))
    return found


def plan(source: Path, target: Path) -> Plan:
    """Every photo and video below a folder with its place below the target folder.

    Names are kept, and suffixes where they can be written (see `kinds.output_name`). Raises UsageError when the target
    is the source (originals are never replaced) or holds no known file.
    """
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} is the folder of the originals; choose another output folder")
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file, but {source} is a folder; give a folder with -o")
    found = survey(source, without=target)
    if not found.files:
        raise UsageError("; ".join(part for part in (f"no photo or video in {source}", found.sentence) if part))
    places = targets(found.files, source, target)
    jobs = (Job(path, place) for (path, _), place in zip(found.files, places))
    return Plan(jobs, source, target, found.sentence, found.others)


def check(jobs: Plan, options: Any, save: SaveOptions, *, resume: bool = False) -> None:
    """Raise before any work the OutputError that would end it: a target that cannot be written, too little space."""
    check_folder(jobs.target)
    todo = [job for job in jobs if stamp(job.target) is None or (save.overwrite and not resume)]
    needed = sum(_expected_bytes(job, getattr(options, "upscale", 1)) for job in todo)
    existing = next(p for p in (jobs.target, *jobs.target.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(
            f"{jobs.target} has {_amount(free)} free, but the results need about {_amount(needed)}; "
            "free some space or choose another disk"
        )


def _amount(count: int) -> str:
    unit, name = next((u, n) for u, n in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")) if count >= u or n == "kB")
    return f"{count / unit:.1f} {name}"


def _expected_bytes(job: Job, upscale: int) -> int:
    """How much more room the result of a job will take, roughly.

    It has the format of the source; photos of `upscale` 2 and 4 take about 3 and 8 times the room.
    """
    try:
        size = job.source.stat().st_size
    except OSError:
        return 0
    former = stamp(job.target)
    growth = 1.0 if job.is_video else upscale**1.5
    return max(0, round(size * growth) - (former[1] if former else 0))


def run(
    jobs: Plan,
    pipeline: RestorePipeline,
    options: RestoreOptions,
    save: SaveOptions,
    *,
    resume: bool = False,
    on_done: Callable[[Outcome], None] | None = None,
    on_wait: Callable[[int, Owner | None], None] | None = None,
) -> Summary:
    """Restore all jobs in order, together with any other process that runs over the same folder.

    What exists is kept; with `save.overwrite` what existed at the start is done again, unless `resume` says to go on.
    A video whose finished parts wait is only taken up with `resume`. Files that another process works on are left to
    it, and done here should it die; `on_wait` hears of how many there are, and of whom one is, when nothing else is
    left. `on_done` is called once for every job.

    Raises OutputError when `check` does; what goes wrong with one file is part of its outcome.
    """
    check(jobs, options, save, resume=resume)
    records = Records(jobs.source, jobs.target)
    with records.opened(), ThreadPoolExecutor(2, thread_name_prefix="facewright-io") as pool:
        _remove_abandoned(jobs, records)
        try:
            return _Run(jobs, records, pool, pipeline, options, save, resume, on_done, on_wait).finish()
        finally:
            _remove_abandoned(jobs, records)


def _remove_abandoned(jobs: Plan, records: Records) -> None:
    for folder in {records.folder, *(job.target.parent for job in jobs)}:
        remove_abandoned(folder)


@dataclass(slots=True)
class _Claimed:
    """A job that only this process has until `claim` closes, and its photo, which is being read (None for videos)."""

    job: Job
    claim: contextlib.ExitStack
    photo: Future[Photo] | None


@dataclass(slots=True)
class _Run:
    """One run over a folder; `finish` does it."""

    jobs: Plan
    records: Records
    pool: ThreadPoolExecutor
    pipeline: RestorePipeline
    options: RestoreOptions
    save: SaveOptions
    resume: bool
    on_done: Callable[[Outcome], None] | None
    on_wait: Callable[[int, Owner | None], None] | None
    summary: Summary = field(default_factory=Summary)
    todo: deque[Job] = field(default_factory=deque)
    ahead: deque[_Claimed] = field(default_factory=deque)
    held: dict[Job, Owner | None] = field(default_factory=dict)
    """What other processes work on, and who."""
    were_held: set[Job] = field(default_factory=set)
    at_start: dict[Job, tuple[Stamp | None, Stamp | None]] = field(default_factory=dict)
    """Stamps of output and record: where they changed since, another process did the job."""

    def finish(self) -> Summary:
        self.at_start = {job: (stamp(job.target), stamp(self.records.path(job))) for job in self.jobs}
        self.todo.extend(self.jobs)
        writing: Future[Outcome] | None = None
        try:
            for claimed in self._claimed():
                result = self._process(claimed)
                if writing is not None:
                    self._note(writing.result())
                    writing = None
                if isinstance(result, Outcome):
                    self._note(result)
                elif result is not None:
                    writing = self.pool.submit(self._write, claimed, result)
        finally:
            if writing is not None:
                self._note(writing.result())
            for claimed in self.ahead:
                claimed.claim.close()
        return self.summary

    def _note(self, outcome: Outcome) -> None:
        if outcome.there:
            logger.debug("%s: there already", outcome.job.target)
            self.summary.already_done += 1
            self.summary.kept += stamp(outcome.job.target) == self.at_start[outcome.job][0]
        else:
            self.summary.outcomes.append(outcome)
        if self.on_done is not None:
            self.on_done(outcome)

    # --- sharing

    def _claimed(self) -> Iterator[_Claimed]:
        told = False
        while True:
            # nothing is claimed ahead of a video: that would keep it from other processes for hours
            while len(self.ahead) < AHEAD and not (self.ahead and self.ahead[-1].photo is None):
                claimed = self._claim_next()
                if claimed is None:
                    break
                self.ahead.append(claimed)
            if self.ahead:
                yield self.ahead.popleft()
            elif self.held:
                if self.on_wait is not None and not told:
                    self.on_wait(len(self.held), next(iter(self.held.values())))
                told = True
                time.sleep(POLL_SECONDS)
                self.todo.extend(self.held)
                self.held.clear()
            else:
                return

    def _claim_next(self) -> _Claimed | None:
        """The next job that is free; None when there is none at the moment."""
        while self.todo:
            job = self.todo.popleft()
            if self._is_there(job):
                self._note(Outcome(job, there=True))
                continue
            try:
                with contextlib.ExitStack() as claim:
                    self._lock(job, claim)
                    outcome = self._done_elsewhere(job)
                    if outcome is None:
                        photo = None if job.is_video else self.pool.submit(self._read, job)
                        return _Claimed(job, claim.pop_all(), photo)
            except LockedError as error:
                self._leave(job, error)
            except Exception as error:
                self._note(self._failure(job, error))
            else:
                self._note(outcome)
        return None

    def _lock(self, job: Job, claim: contextlib.ExitStack) -> None:
        """Raises LockedError while another process works on the job."""
        claim.enter_context(locked(self.records.path(job)))
        _create_folder(job.target.parent)
        if not job.is_video:  # a video's target is locked where it is written
            claim.enter_context(locked(job.target))

    def _leave(self, job: Job, error: LockedError) -> None:
        """Leave a job to the process that works on it, for now."""
        logger.info("%s: left to %s, which works on it", job.source, error.owner or "another process")
        self.held[job] = error.owner
        self.were_held.add(job)

    def _is_there(self, job: Job) -> bool:
        """Whether the output exists and is not to be replaced."""
        output = stamp(job.target)
        return output is not None and (not self.save.overwrite or self.resume or output != self.at_start[job][0])

    def _done_elsewhere(self, job: Job) -> Outcome | None:
        """What another process made of a claimed job since the start of this run."""
        if self._is_there(job):
            return Outcome(job, there=True)
        if stamp(self.records.path(job)) != self.at_start[job][1]:
            record = self.records.read(job)
            if record is not None and record.error is not None:
                return Outcome(job, error=record.error)
        return None

    # --- one file

    def _read(self, job: Job) -> Photo:
        return read_page(job.source, self.save.page, max_pixels=self.save.max_pixels)

    def _process(self, claimed: _Claimed) -> Outcome | RestoreResult | None:
        """A photo's result keeps its claim until it is written; None for a video that another process works on."""
        job, result = claimed.job, None
        try:
            if claimed.photo is None:
                return self._video(job)
            photo = claimed.photo.result()
            if has_pages(photo, job.target, self.save.page):
                return self._pages(job, photo)
            result = self.pipeline(photo, self.options)
            return result
        except LockedError as error:
            self._leave(job, error)
            return None
        except Exception as error:
            return self._failure(job, error)
        finally:
            if result is None:
                claimed.claim.close()

    def _video(self, job: Job) -> Outcome:
        from ..pipelines.restore_video import restore_video

        replaces = stamp(job.target)
        # what a process left that died during this run is taken up without being asked
        taken_up = job in self.were_held
        save = replace(self.save, restart=self.save.restart and not taken_up)
        resume = self.resume or taken_up
        report = edit_video(restore_video, job.source, job.target, self.pipeline, self.options, save, resume)
        return self._written(job, report, replaces)

    def _pages(self, job: Job, photo: Photo) -> Outcome:
        replaces = stamp(job.target)
        _remove_empty(job.target)
        report = edit_pages(photo, job.target, self.pipeline, self.options, self.save)
        return self._written(job, report, replaces)

    def _written(self, job: Job, report: VideoRestoreResult | PagesReport, replaces: Stamp | None) -> Outcome:
        data = report.to_dict()
        try:
            self.records.write(job, replaces=replaces, result=data)
        except (FacewrightError, OSError) as error:  # the output is there, with or without its record
            logger.warning("%s: its record could not be written: %s", job.target, error)
        return Outcome(job, summary=report.summary, report=data)

    def _write(self, claimed: _Claimed, result: RestoreResult) -> Outcome:
        """Write one result; errors become part of the outcome."""
        job, save = claimed.job, self.save
        with claimed.claim:
            try:
                report = result.report(job.target, keep_gps=save.keep_gps)
                self.records.write(job, replaces=stamp(job.target), result=report)
                _remove_empty(job.target)
                save_photo(result, job.target, save)
                return Outcome(job, summary=result.summary, report=report)
            except OSError as error:
                return self._failure(job, OutputError(f"cannot write {job.target}: {error.strerror or error}"))
            except Exception as error:
                return self._failure(job, error)

    def _failure(self, job: Job, error: Exception) -> Outcome:
        """Whatever happens to one file, the others are still restored."""
        message = _explain(job, error)
        logger.debug("%s failed", job.source, exc_info=error)
        try:
            self.records.write(job, error=message)
        except (FacewrightError, OSError) as fault:  # on a full disk there is no room for the record, either
            logger.info("%s: the record of its failure could not be written: %s", job.target, fault)
        return Outcome(job, error=message)


def _explain(job: Job, error: Exception) -> str:
    match error:
        case FacewrightError():
            # what an error says beside its line: for example how many frames of a video are kept
            return "; ".join([str(error), *getattr(error, "__notes__", ())])
        case MemoryError():
            return f"{job.source}: not enough memory; make the picture smaller or lower --upscale"
        case _:
            return f"{job.source}: unexpected {type(error).__name__}: {error}"


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}") from error


def _remove_empty(target: Path) -> None:
    """On a file system without hard links a name is reserved by an empty file, which a killed process leaves behind."""
    with contextlib.suppress(OSError):
        if target.is_file() and target.stat().st_size == 0:
            target.unlink()
