"""Commands that alter a photo, a video or a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from ..io.atomic import check_output
from .build import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from ..io.lock import Owner
    from ..io.video import Deinterlace
    from ..runtime.folder import Plan, SaveOptions, Summary
    from ..tasks.declare import NetworkChoice, Task


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
    sign: tuple[Path, Path] | None,
    overwrite: bool,
    compare: Path | None = None,
    save_damage_mask: Path | None = None,
    resume: bool = False,
    restart: bool = False,
    deinterlace: Deinterlace = "auto",
) -> None:
    """Run an editing task on what `source` is."""
    from ..io.credentials import SigningKey
    from ..progress import bar
    from ..runtime.editing import SaveOptions, edit_file

    save = SaveOptions(
        overwrite=overwrite,
        quality=quality,
        provenance=provenance,
        keep_gps=not drop_gps,
        max_pixels=round(max_megapixels * 1e6),
        page=page,
        restart=restart,
        deinterlace=deinterlace,
        sign=None if sign is None else SigningKey.load(*sign),
    )
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    for extra in (report, compare, save_damage_mask):
        if extra is not None and not (source.is_dir() and resume and _is_folder_report(extra)):
            check_output(extra, overwrite=overwrite)
    if source.is_dir():
        if "folder" not in task.media:
            raise UsageError(f"{source} is a folder; {task.verb} takes one photo")
        for flag, path in (("--compare", compare), ("--save-damage-mask", save_damage_mask)):
            if path is not None:
                raise UsageError(f"{flag} works for a single photo, not for a folder")
        _edit_folder(task, options, choice, source, output, save, report, resume)
        return
    done = edit_file(
        task,
        source,
        output,
        options,
        choice,
        save,
        compare=compare,
        damage=save_damage_mask,
        resume=resume,
        bar=bar,
        notify=lambda note: typer.echo(f"{source}: {note}"),
    )
    if "video" not in done.report:  # of which the notes were told when they were known
        _say_remarks(str(source), done.report)
    typer.echo(f"{done.output}: {done.summary}")
    if report is not None:
        write_json(report, done.report, overwrite=save.overwrite)


def _is_folder_report(path: Path) -> bool:
    """Whether a file is the report of an earlier run over a folder, which the report of the resumed run supersedes."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, list) and all(
        isinstance(item, dict) and set(item) == {"source", "error", "result"} for item in data
    )


def _say_remarks(source: str, data: dict[str, Any]) -> None:
    """Notes about the picture, and warnings about its faces: those of which the same is to be said share a line."""
    from ..runtime.folder import listed, remarks

    for remark, faces in remarks(data).items():
        which = f"face{'s' * (len(faces) > 1)} {listed(faces)}: " if faces else ""
        typer.echo(f"{source}: {which}{remark}")


def _edit_folder(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    source: Path,
    output: Path,
    save: SaveOptions,
    report: Path | None,
    resume: bool,
) -> None:
    from ..progress import bar
    from ..runtime.folder import check, plan, run
    from ..runtime.session import default_session

    jobs = plan(source, output)
    if not any(job.is_video for job in jobs):
        save.refuse_video_options("a folder without videos")
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
