"""Restore a video: the restore pipeline's networks on every frame, steadied over time, at constant memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..io.provenance import Provenance
from ..io.video import VideoReport, process_video
from ..tasks.restore import RestoreOptions
from .edit import Editor
from .finding import SceneFinder
from .restore import RestoreEdit
from .restore_result import RECORDED
from .video import PersonReport, VideoEditor, VideoOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..io.video import Deinterlace
    from .restore import RestorePipeline

FRAMES_PER_CALL = 8
PRESET, CRF = "veryfast", 14
"""Of the encoder: as close as "medium" at crf 16 and steadier, in a third of its time; grain takes more room."""


@dataclass(frozen=True, slots=True)
class VideoRestoreResult:
    """What became of a video and of the people in it; `missing` are chosen faces that never appeared."""

    video: VideoReport
    people: tuple[PersonReport, ...]
    models: tuple[str, ...]
    missing: tuple[int, ...] = ()

    @property
    def summary(self) -> str:
        """One line for people."""
        restored = sum(p.restored > 0 for p in self.people)
        line = f"{self.video.frames} frames, {restored} of {len(self.people)} faces restored"
        if self.video.damaged:
            line += f", {len(self.video.damaged)} damaged frames passed through"
        if self.missing:
            line += f"; there was no face {', '.join(map(str, self.missing))}"
        return line

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self) | {"summary": self.summary}


def restore_video(
    source: str | Path,
    target: str | Path,
    pipeline: RestorePipeline,
    options: RestoreOptions | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
    deinterlace: Deinterlace = "auto",
    keep_gps: bool = True,
    pace: VideoOptions | None = None,
    provenance: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> VideoRestoreResult:
    """Restore the faces of a video into `target`; raises VideoError, OutputError or UsageError.

    Faces chosen by number, box or point are people who are followed (`EditOptions`); as who is who depends on all that
    was seen since the start, such a run cannot be gone on with. `keep_gps=False` leaves out where the video was taken,
    `provenance` records what was done in the video's comment tag. `pace` says how the work is spread over the frames.
    The other arguments are those of `facewright.io.video.process_video`; `notify` gets every note about what cannot be
    kept as soon as it is known.
    """
    options = options or RestoreOptions()
    if resume and is_selective(options):
        raise UsageError(
            "which faces are meant depends on what was seen since the start, so --resume is not possible; use --restart"
        )
    stage = video_stage(pipeline, options, pace)
    report = process_video(
        source,
        target,
        stage,
        overwrite=overwrite,
        resume=resume,
        restart=restart,
        deinterlace=deinterlace,
        drop_place=not keep_gps,
        parameters=json.dumps(asdict(options), sort_keys=True),
        batch_size=FRAMES_PER_CALL,
        preset=PRESET,
        crf=CRF,
        metadata={"comment": _provenance(pipeline, options)} if provenance else None,
        progress=progress,
        notify=notify,
    )
    return VideoRestoreResult(report, stage.report(), pipeline.models, missing(options, stage))


def video_stage(pipeline: RestorePipeline, options: RestoreOptions, pace: VideoOptions | None = None) -> VideoEditor:
    """What restores the frames of a video; UsageError, with the reason, for what makes no sense there."""
    if options.old_photo:
        raise UsageError(
            "--old-photo repairs a print; the damage of a video moves, and repairing it frame by frame would flicker"
        )
    if options.references:
        raise UsageError("references work for photos; whether one counts would change from frame to frame")
    if pipeline.enlarger is not None:
        raise UsageError(
            "the background of a video cannot be restored: it would flicker from frame to frame; omit --background"
        )
    detector = SceneFinder(pipeline.detector, 0.0 if options.force else options.min_score)
    editor = Editor(detector, pipeline.parser)
    return VideoEditor(editor, RestoreEdit(pipeline, options, by_size=True), options, pace, detector.opinion)


def is_selective(options: RestoreOptions) -> bool:
    """Whether the user chose among the faces."""
    return options.faces is not None or bool(options.skip or options.boxes or options.points)


def missing(options: RestoreOptions, stage: VideoEditor) -> tuple[int, ...]:
    """Numbers of faces that were asked for and never appeared."""
    there = {person.id for person in stage.report()}
    return tuple(number for number in (*(options.faces or ()), *options.skip) if number not in there)


def _provenance(pipeline: RestorePipeline, options: RestoreOptions) -> str:
    from .. import __version__

    return Provenance(
        version=__version__,
        models=pipeline.models,
        checkpoint=pipeline.checkpoint,
        parameters={name: getattr(options, name) for name in RECORDED},
    ).to_json()
