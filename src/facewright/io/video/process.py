"""Taking a video from source to target: checks before the work, the work, and joining it with what goes along."""

from __future__ import annotations

import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...deprecation import renamed_arguments
from ...errors import OutputError, UsageError
from ..lock import locked
from .encode import Look, SegmentWriter
from .fields import Plan, plan_fields
from .job import Job
from .mux import Output
from .probe import examine
from .read import first_frame, open_input, video_stream
from .records import TARGET_FORMATS, Deinterlace, Settings, VideoReport
from .run import Run, output_error
from .tracks import MUX_ERRORS, plan_tracks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .records import FrameStage, VideoInfo

_LEAST_BITS_PER_PIXEL = 0.005  # of a video that hardly moves; a real one takes more


@renamed_arguments(batch="batch_size")
def process_video(
    source: str | Path,
    target: str | Path,
    stage: FrameStage,
    *,
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
    parameters: str = "",
    batch_size: int = 1,
    segment_frames: int = 240,
    warmup: int = 12,
    queue_size: int = 8,
    crf: int = 16,
    preset: str = "medium",
    deinterlace: Deinterlace = "auto",
    drop_place: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> VideoReport:
    """Pass every frame of a video through `stage` and write the result, with all that goes along, to `target`.

    The stage gets up to `batch_size` consecutive frames per call. The video grows in segments of `segment_frames`
    frames in `<target>.parts/`; `target` itself appears only when everything is done. With `resume`, finished segments
    of an interrupted run with the same source and the same `parameters` (any text that stands for the stage's settings)
    are reused; the stage then starts with `reset` and `warmup` frames whose results are dropped. With `restart` they
    are deleted. Without either, finished segments of an earlier run are a reason to refuse. `crf` and `preset` are
    x264's (lower `crf` is better; WebM ignores the preset, ProRes both).

    `deinterlace` is "auto" (whole frames where the video is interlaced, the 24 film pictures where it is telecined),
    "frame" or "field" (one picture per frame or per field, whatever the video says), or "off". `drop_place` leaves out
    what says where the video was taken. `metadata` adds container tags. `progress` is called with the number of
    finished frames and the expected total, `notify` with each note as soon as it is known: what cannot be kept before
    the first frame, not after the last.

    Before the first frame the target is locked, and the output is opened and tried with all its streams. Raises
    VideoError for an unreadable source or a job that does not fit, OutputError for a target that cannot be written
    (LockedError: because another process is writing it), UsageError for an invalid option; whatever the stage raises
    passes through unchanged. After Ctrl-C or an exception no target is left behind, and finished segments wait for
    `resume`.
    """
    source, target = Path(source), Path(target)
    settings = Settings(batch_size, segment_frames, warmup, queue_size, crf, preset, target.suffix.lower(), deinterlace)
    if resume and restart:
        raise UsageError("resume continues an interrupted run, restart deletes it; choose one")
    check_target(source, target, overwrite=overwrite)
    info, scan = examine(source)
    with locked(target):
        check_target(source, target, overwrite=overwrite)
        job = Job.start(source, target, parameters, settings, resume=resume, restart=restart)
        notes = _Notes(notify)
        started = time.perf_counter()
        try:
            _check_space(info, source, job)
            fields = plan_fields(scan, deinterlace)
            output = _prepare(source, job, settings, fields, notes, metadata or {}, drop_place=drop_place)
            run = Run(source, info, fields, stage, job, settings, progress)
            run.execute()
            for note in run.notes:
                notes.add(note)
            output.make(job, target, overwrite=overwrite)
        except BaseException as error:
            _leave(job, error)
            raise
        job.remove()
    for track in output.tracks:
        notes.add(track.note)
    seconds = time.perf_counter() - started
    last = job.parts[-1]
    return VideoReport(
        frames=job.frames,
        damaged=tuple(i for part in job.parts for i in part.damaged),
        segments_reused=run.reused,
        width=last.width,
        height=last.height,
        seconds=seconds,
        fps=(job.frames - run.first) / seconds,
        notes=notes.all,
    )


class _Notes:
    """Sentences for people, each said once."""

    def __init__(self, notify: Callable[[str], None] | None) -> None:
        self._notify = notify or (lambda note: None)
        self._said: list[str] = []

    def add(self, note: str | None) -> None:
        if note and note not in self._said:
            self._said.append(note)
            self._notify(note)

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._said)


def check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """Say before the work what would keep a video from being written to `target`; raises UsageError or OutputError."""
    if target.suffix.lower() not in TARGET_FORMATS:
        raise UsageError(f"{target}: cannot write this kind of video; use one of {', '.join(TARGET_FORMATS)}")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file")
    if target.exists():
        if source.exists() and target.samefile(source):
            raise OutputError(f"{target} is the source itself; choose another name")
        if not overwrite:
            raise OutputError(f"{target} exists already; allow overwriting or choose another name")


def _check_space(info: VideoInfo, source: Path, job: Job) -> None:
    """Refuse a disk on which not even a small video of that length has room, once in segments and once joined."""
    pixels = info.width * info.height * max(0, (info.frames or 0) - job.frames)
    needed = round(2 * pixels * _LEAST_BITS_PER_PIXEL / 8)
    free = shutil.disk_usage(job.folder).free
    if free < needed:
        raise OutputError(
            f"{job.folder} cannot be written: {free / 1e6:.0f} MB are free, and {source.name} takes at least "
            f"{needed / 1e6:.0f} MB; free some space or choose another disk"
        )


def _prepare(
    source: Path,
    job: Job,
    settings: Settings,
    fields: Plan,
    notes: _Notes,
    metadata: Mapping[str, str],
    *,
    drop_place: bool,
) -> Output:
    """Try the encoder and the output with all its streams, and tell what cannot be kept."""
    with open_input(source) as container:
        stream = video_stream(container, source)
        frame = first_frame(container, stream, source)
        look = Look.of(stream, frame, fields, Fraction(stream.time_base or 1))
        kept = stream.index
    # the pixel format depends on whether the sides are odd, which enlarging by two or four makes even
    width, height = (job.parts[-1].width, job.parts[-1].height) if job.parts else (frame.width, frame.height)
    notes.add(fields.note)
    tracks = plan_tracks(source, kept, settings.suffix, drop_place=drop_place)
    try:
        writer = SegmentWriter(job.sample, look, settings, width, height)
        channels = 4 if writer.encoder.alpha else 3
        writer.write(np.zeros((height, width, channels), np.uint16 if look.deep else np.uint8), 0)
        writer.finish()
    except MUX_ERRORS as error:
        raise output_error(job.target, error) from error
    output = Output(source, settings.suffix, look, tracks, metadata, drop_place)
    output.check(job.sample, job.result)
    job.drop_unfinished()
    for note in look.losses(writer.encoder):
        notes.add(note)
    for track in tracks:
        notes.add(track.note)
    return output


def _leave(job: Job, error: BaseException) -> None:
    """Keep what can be resumed, drop the rest, and say so."""
    if not job.parts:
        job.remove()
        return
    job.drop_unfinished()
    message = (
        f"{job.frames} finished frames are kept in {job.folder}; run again with resume (--resume) to continue "
        "after them"
    )
    if isinstance(error, KeyboardInterrupt):
        error.args = (f"interrupted; {message}",)
    else:
        error.add_note(message)
