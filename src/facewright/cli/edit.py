"""Commands that alter a photo, a film or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from ..tasks.declare import entry
from .build import check_target, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from ..runtime.folder import SaveOptions
    from ..tasks.declare import NetworkChoice, Task


@dataclass(frozen=True, slots=True)
class FilmOptions:
    """The options that only films have, and whether to go on with an interrupted one."""

    resume: bool
    restart: bool
    deinterlace: str

    def refuse_for(self, what: str) -> None:
        """Raise UsageError when an option was given that does nothing for `what`."""
        given = {"--restart": self.restart, "--deinterlace": self.deinterlace != "auto"}
        for name in (name for name, used in given.items() if used):
            raise UsageError(f"{name} is for a film; it does nothing for {what}")


def edit(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    *,
    source: Path,
    output: Path,
    report: Path | None,
    quality: int,
    page: int,
    max_megapixels: float,
    drop_gps: bool,
    provenance: bool,
    overwrite: bool,
    compare: Path | None = None,
    resume: bool = False,
    restart: bool = False,
    deinterlace: str = "auto",
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
    )
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    for extra in (report, compare):
        if extra is not None:
            check_target(extra, overwrite=overwrite)
    film = FilmOptions(resume, restart, deinterlace)
    if source.is_dir():
        film.refuse_for("a folder")
        if "folder" not in task.media:
            raise UsageError(f"{source} is a folder; {task.verb} takes one photo")
        if compare is not None:
            raise UsageError("--compare makes the sheet of one photo; it is not possible for a folder")
        _edit_folder(task, options, choice, source, output, save, report, resume)
    else:
        _edit_file(task, options, choice, source, output, save, report, compare, film)


def _edit_file(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    source: Path,
    output: Path,
    save: SaveOptions,
    report: Path | None,
    compare: Path | None,
    film: FilmOptions,
) -> None:
    from ..io.encode import format_of
    from ..io.image import read
    from ..io.video import is_video, suffix_for
    from ..runtime.session import default_session

    if output.is_dir():
        output = output / source.name
        if is_video(source):
            output = output.with_suffix(suffix_for(source))
    if output.resolve() == source.resolve():
        raise UsageError(f"{output} is the original; choose another name")
    check_target(output, overwrite=save.overwrite)
    if is_video(source):
        if not task.film:
            raise UsageError(f"{source} is a film; {task.verb} takes photos")
        if compare is not None:
            raise UsageError("--compare makes the sheet of one photo; it is not possible for a film")
        data = _edit_film(task, options, choice, source, output, save, film)
    else:
        film.refuse_for("a photo")
        for picture in (output, *([compare] if compare else [])):
            format_of(picture)
        photo = read(source, page=save.page, max_pixels=save.max_pixels)
        result = default_session().pipeline(task.verb, choice)(photo, options)
        result.save(
            output,
            overwrite=save.overwrite,
            quality=save.quality,
            provenance=save.provenance,
            keep_gps=save.keep_gps,
        )
        for note in photo.notes:
            typer.echo(f"{source}: {note}")
        typer.echo(f"{output}: {result.summary}")
        if compare is not None:
            result.compare().save(compare, overwrite=save.overwrite)
        data = result.report()
    if report is not None:
        write_json(report, data, overwrite=save.overwrite)


def _edit_film(
    task: Task, options: Any, choice: NetworkChoice, source: Path, output: Path, save: SaveOptions, film: FilmOptions
) -> dict[str, Any]:
    from ..io.video import check_target as check_film
    from ..progress import bar
    from ..runtime.session import default_session

    check_film(source, output, overwrite=save.overwrite)
    with bar(source.name) as advance:
        result = entry(task.film)(
            source,
            output,
            default_session().pipeline(task.verb, choice),
            options,
            overwrite=save.overwrite,
            resume=film.resume,
            restart=film.restart,
            deinterlace=film.deinterlace,
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
    resume: bool,
) -> None:
    from ..progress import bar
    from ..runtime.folder import plan, run
    from ..runtime.session import default_session

    jobs = plan(source, output)
    with bar(source.name) as advance:
        done = sum(resume and job.target.exists() for job in jobs)
        advance(done, len(jobs))

        def on_done(_: Any) -> None:
            nonlocal done
            done += 1
            advance(done, len(jobs))

        pipeline = default_session().pipeline(task.verb, choice)
        summary = run(jobs, pipeline, options, save, resume=resume, on_done=on_done)
    for outcome in summary.failed:
        typer.echo(f"failed: {outcome.error}", err=True)
    typer.echo(
        f"{output}: {len(summary.outcomes) - len(summary.failed)} done, {summary.already_done} already there, "
        f"{len(summary.failed)} failed"
    )
    if report is not None:
        files = [
            {"source": str(o.job.source.relative_to(source)), "error": o.error, "result": o.report}
            for o in summary.outcomes
        ]
        write_json(report, files, overwrite=save.overwrite)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
