"""Restore a video: the restore pipeline's networks on every frame, steadied over time, at constant memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..io.provenance import Provenance
from ..io.video import VideoReport, process_video
from ..tasks.restore import RestoreOptions
from .finding import SceneFinder
from .restore import GOOD_SSIM, MAX_YAW, MIN_EYE_DISTANCE, quality
from .video import PersonReport, VideoOptions, VideoRestorer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face
    from ..io.video import Deinterlace
    from .restore import RestorePipeline

FRAMES_PER_CALL = 4


@dataclass(frozen=True, slots=True)
class VideoRestoreResult:
    """What became of a video and of the people in it."""

    video: VideoReport
    people: tuple[PersonReport, ...]
    models: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for people."""
        restored = sum(p.restored > 0 for p in self.people)
        line = f"{self.video.frames} frames, {restored} of {len(self.people)} faces restored"
        if self.video.damaged:
            line += f", {len(self.video.damaged)} damaged frames passed through"
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
    detect_every: int = 2,
    provenance: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> VideoRestoreResult:
    """Restore the faces of a video into `target`; raises VideoError, OutputError or UsageError.

    Faces cannot be chosen by index, box or point in a video, because they come and go; `max_faces` works.
    `keep_gps=False` leaves out where the video was taken, `provenance` records what was done in its comment tag.
    The other arguments are those of `facewright.io.video.process_video`; `notify` gets every note about what cannot be
    kept as soon as it is known.
    """
    options = options or RestoreOptions()
    if options.faces is not None or options.skip or options.boxes or options.points:
        raise UsageError("faces of a video cannot be chosen by number, box or point; use --max-faces")
    _refuse_photo_options(options)
    if pipeline.enlarger is not None:
        raise UsageError("the background of a video cannot be restored; omit --background")
    detector = SceneFinder(pipeline.detector, 0.0 if options.force else options.min_score)
    stage = VideoRestorer(
        pipeline.video_restorer,
        detector,
        VideoOptions(
            upscale=options.upscale,
            strength=options.strength,
            fidelity=options.fidelity,
            max_faces=options.max_faces,
            min_eye_distance=0 if options.force else MIN_EYE_DISTANCE,
            max_yaw=180 if options.force else MAX_YAW,
            detect_every=detect_every,
            watermark=options.watermark,
            relight=options.relight,
            seed=options.seed,
        ),
        judge=None if options.force else _judge(pipeline),
        opinion=None if options.force else detector.opinion,
    )
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
        metadata={"comment": _provenance(pipeline, options)} if provenance else None,
        progress=progress,
        notify=notify,
    )
    return VideoRestoreResult(report, stage.report(), pipeline.models)


def _refuse_photo_options(options: RestoreOptions) -> None:
    """Raise UsageError for what works on photos alone, so that no option is skipped without a word."""
    given = {
        "--hair": options.hair,
        "--whole": options.whole,
        "--old-photo": options.old_photo,
        "--grain none": options.grain == "none",
    }
    for name in (name for name, used in given.items() if used):
        raise UsageError(f"{name} is for photos; in videos the whole oval of a face is restored, without added grain")


def _provenance(pipeline: RestorePipeline, options: RestoreOptions) -> str:
    from .. import __version__

    return Provenance(
        version=__version__,
        models=pipeline.models,
        checkpoint=pipeline.checkpoint,
        parameters={
            k: getattr(options, k) for k in ("upscale", "fidelity", "strength", "seed", "watermark", "relight")
        },
    ).to_json()


def _judge(pipeline: RestorePipeline) -> Callable[[NDArray[np.uint8], Face], str | None]:
    def judge(crop: NDArray[np.uint8], face: Face) -> str | None:
        estimate = pipeline.assess(crop[None])[0]
        return f"already good, quality {quality(estimate):.0f}" if estimate.ssim >= GOOD_SSIM else None

    return judge
