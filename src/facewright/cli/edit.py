"""Commands that alter a photo, a video or a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from ..io.atomic import check_output
from ..tasks.declare import entry
from .build import write_json

if TYPE_CHECKING:
    from ..io.image import Photo
    from ..io.lock import Owner
    from ..io.video import Deinterlace
    from ..runtime.folder import Plan, SaveOptions, Summary
    from ..tasks.declare import NetworkChoice, Task


@dataclass(frozen=True, slots=True)
class VideoRunOptions:
    """The options that only videos have, and whether to go on with an interrupted one."""

    resume: bool
    restart: bool
    deinterlace: Deinterlace

    def refuse_for(self, what: str) -> None:
        """Raise UsageError when an option was given that does nothing for `what`."""
        given = {"--restart": self.restart, "--deinterlace": self.deinterlace != "auto"}
        for name in (name for name, used in given.items() if used):
            raise UsageError(f"{name} works for videos only; it does nothing for {what}")


def edit(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    *,
    source: Path,
    output: Path,
    report: Path | None,
    quality: int,
    page: int | None,
    max_megapixels: float,
    drop_gps: bool,
    provenance: bool,
    overwrite: bool,
    compare: Path | None = None,
    resume: bool = False,
    restart: bool = False,
    deinterlace: Deinterlace = "auto",
) -> None:
    """Run an editing task on what `source` is."""
    from ..runtime.folder import SaveOptions

    save = SaveOptions(
        overwrite=overwrite,
        quality=quality,
        provenance=provenance,
        keep_gps=not drop_gps,
        max_pixels=round(max_megapixels * 1e6),
        page=page,
        restart=restart,
        deinterlace=deinterlace,
    )
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    for extra in (report, compare):
        if extra is not None and not (source.is_dir() and resume and _is_folder_report(extra)):
            check_output(extra, overwrite=overwrite)
    video = VideoRunOptions(resume, restart, deinterlace)
    if source.is_dir():
        if "folder" not in task.media:
            raise UsageError(f"{source} is a folder; {task.verb} takes one photo")
        if compare is not None:
            raise UsageError("--compare works for a single photo, not for a folder")
        _edit_folder(task, options, choice, source, output, save, report, video)
    else:
        _edit_file(task, options, choice, source, output, save, report, compare, video)


def _is_folder_report(path: Path) -> bool:
    """Whether a file is the report of an earlier run over a folder, which the report of the resumed run supersedes."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, list) and all(
        isinstance(item, dict) and set(item) == {"source", "error", "result"} for item in data
    )


def _edit_file(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    source: Path,
    output: Path,
    save: SaveOptions,
    report: Path | None,
    compare: Path | None,
    video: VideoRunOptions,
) -> None:
    from ..io.encode import format_of
    from ..io.image import read
    from ..io.kinds import kind_of, output_name
    from ..io.lock import locked
    from ..io.video import suffix_for
    from ..pipelines.pages import has_pages

    kind = kind_of(source)
    if output.is_dir():
        output = output / (source.name if kind is None else output_name(source.name, kind))
        if kind is not None and kind.is_video:
            output = output.with_suffix(suffix_for(source))
    if output.resolve() == source.resolve():
        raise UsageError(f"{output} is the original; choose another name")
    check_output(output, overwrite=save.overwrite)
    if kind is not None and kind.is_video:
        if not task.video:
            raise UsageError(f"{source} is a video; {task.verb} takes photos")
        if compare is not None:
            raise UsageError("--compare works for a single photo, not for a video")
        data = _edit_video(task, options, choice, source, output, save, video)
    else:
        video.refuse_for("a photo")
        for picture in (output, *([compare] if compare else [])):
            format_of(picture)
        with locked(output):
            photo = read(source, page=save.page or 0, max_pixels=save.max_pixels)
            if task.video and has_pages(photo, output, save.page):
                if compare is not None:
                    raise UsageError(
                        f"--compare works for a single photo; choose one of {photo.pages} pages with --page"
                    )
                data = _edit_pages(task, options, choice, photo, output, save)
            else:
                data = _edit_photo(task, options, choice, photo, output, save, compare)
    if report is not None:
        write_json(report, data, overwrite=save.overwrite)


def _edit_photo(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    photo: Photo,
    output: Path,
    save: SaveOptions,
    compare: Path | None,
) -> dict[str, Any]:
    from ..runtime.session import default_session

    result = default_session().pipeline(task.verb, choice)(photo, options)
    result.save(
        output,
        overwrite=save.overwrite,
        quality=save.quality,
        provenance=save.provenance,
        keep_gps=save.keep_gps,
    )
    data: dict[str, Any] = result.report(output, keep_gps=save.keep_gps)
    _say_remarks(photo.source, data)
    typer.echo(f"{output}: {result.summary}")
    if compare is not None:
        result.compare().save(compare, overwrite=save.overwrite)
    return data


def _edit_pages(
    task: Task, options: Any, choice: NetworkChoice, photo: Photo, output: Path, save: SaveOptions
) -> dict[str, Any]:
    from ..pipelines.pages import restore_pages
    from ..progress import bar
    from ..runtime.session import default_session

    with bar(Path(photo.source).name) as advance:
        report = restore_pages(
            photo,
            output,
            default_session().pipeline(task.verb, choice),
            options,
            overwrite=save.overwrite,
            provenance=save.provenance,
            keep_gps=save.keep_gps,
            max_pixels=save.max_pixels,
            progress=advance,
        )
    data = report.to_dict()
    _say_remarks(photo.source, data)
    typer.echo(f"{output}: {report.summary}")
    return data


def _say_remarks(source: str, data: dict[str, Any]) -> None:
    """Notes about the picture, and warnings about its faces: those of which the same is to be said share a line."""
    from ..runtime.folder import listed, remarks

    for remark, faces in remarks(data).items():
        which = f"face{'s' * (len(faces) > 1)} {listed(faces)}: " if faces else ""
        typer.echo(f"{source}: {which}{remark}")


def _edit_video(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    source: Path,
    output: Path,
    save: SaveOptions,
    video: VideoRunOptions,
) -> dict[str, Any]:
    from ..io.video import check_target as check_video_target
    from ..progress import bar
    from ..runtime.session import default_session

    check_video_target(source, output, overwrite=save.overwrite)
    with bar(source.name) as advance:
        result = entry(task.video)(
            source,
            output,
            default_session().pipeline(task.verb, choice),
            options,
            overwrite=save.overwrite,
            resume=video.resume,
            restart=video.restart,
            deinterlace=video.deinterlace,
            keep_gps=save.keep_gps,
            provenance=save.provenance,
            progress=advance,
            notify=lambda note: typer.echo(f"{source}: {note}"),
        )
    typer.echo(f"{output}: {result.summary}")
    data: dict[str, Any] = result.to_dict()
    return data


def _edit_folder(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    source: Path,
    output: Path,
    save: SaveOptions,
    report: Path | None,
    video: VideoRunOptions,
) -> None:
    from ..progress import bar
    from ..runtime.folder import check, plan, run
    from ..runtime.session import default_session

    jobs, resume = plan(source, output), video.resume
    if not any(job.is_video for job in jobs):
        video.refuse_for("a folder without videos")
    check(jobs, options, save, resume=resume)
    pipeline = default_session().pipeline(task.verb, choice)
    with bar(source.name) as advance:
        done = 0
        advance(done, len(jobs))

        def on_done(_: Any) -> None:
            nonlocal done
            done += 1
            advance(done, len(jobs))

        summary = run(jobs, pipeline, options, save, resume=resume, on_done=on_done, on_wait=_say_waiting)
    try:
        if report is not None:
            # it was checked before the work; what is there now is an earlier report of this folder
            write_json(report, summary.report(jobs), overwrite=True)
    finally:
        _say_folder(jobs, summary, resume)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def _say_folder(jobs: Plan, summary: Summary, resume: bool) -> None:
    from ..runtime.folder import listed

    for remark in summary.remarks(jobs):
        typer.echo(remark)
    for outcome in summary.failed:
        typer.echo(f"failed: {outcome.error}", err=True)
    if jobs.others:
        typer.echo(f"skipped: {listed([str(path.relative_to(jobs.source)) for path in jobs.others])}")
    if summary.kept and not resume:
        typer.echo("what was already there is kept; --overwrite makes it anew")
    typer.echo(
        f"{jobs.target}: {len(summary.outcomes) - len(summary.failed)} done, {summary.already_done} already there, "
        f"{len(summary.failed)} failed" + (f"; {jobs.passed_over}" if jobs.passed_over else "")
    )


def _say_waiting(count: int, owner: Owner | None) -> None:
    who = f" (one by {owner})" if owner else ""
    typer.echo(f"waiting for {count} file{'s' * (count != 1)} that other processes work on{who}", err=True)
