"""Commands that alter a photo, a film or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from ..tasks.declare import entry
from .build import check_target, write_json

if TYPE_CHECKING:
    from ..io.image import Photo
    from ..runtime.folder import SaveOptions
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
    overwrite: bool,
    compare: Path | None = None,
    resume: bool = False,
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
    if source.is_dir():
        if "folder" not in task.media:
            raise UsageError(f"{source} is a folder; {task.verb} takes one photo")
        if compare is not None:
            raise UsageError("--compare makes the sheet of one photo; it is not possible for a folder")
        _edit_folder(task, options, choice, source, output, save, report, resume)
    else:
        _edit_file(task, options, choice, source, output, save, report, compare, resume)


def _edit_file(
    task: Task,
    options: Any,
    choice: NetworkChoice,
    source: Path,
    output: Path,
    save: SaveOptions,
    report: Path | None,
    compare: Path | None,
    resume: bool,
) -> None:
    from ..io.encode import format_of
    from ..io.image import read
    from ..io.kinds import kind_of, output_name
    from ..pipelines.pages import has_pages

    kind = kind_of(source)
    if output.is_dir():
        output = output / (source.name if kind is None else output_name(source.name, kind))
    if output.resolve() == source.resolve():
        raise UsageError(f"{output} is the original; choose another name")
    check_target(output, overwrite=save.overwrite)
    if kind is not None and kind.is_film:
        if not task.film:
            raise UsageError(f"{source} is a film; {task.verb} takes photos")
        if compare is not None:
            raise UsageError("--compare makes the sheet of one photo; it is not possible for a film")
        data = _edit_film(task, options, choice, source, output, save, resume)
    else:
        for picture in (output, *([compare] if compare else [])):
            format_of(picture)
        photo = read(source, page=save.page or 0, max_pixels=save.max_pixels)
        if task.film and has_pages(photo, output, save.page):
            if compare is not None:
                raise UsageError(f"--compare makes the sheet of one photo; choose one of {photo.pages} pages by --page")
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
    for note in data["notes"]:
        typer.echo(f"{source}: {note}")
    warned: dict[str, list[str]] = {}
    for face in data["faces"]:
        name = f"{face['index']} of page {face['page']}" if "page" in face else str(face["index"])
        for warning in face.get("warnings", ()):
            warned.setdefault(warning, []).append(name)
    for warning, names in warned.items():
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        typer.echo(f"{source}: face{'s' * (len(names) > 1)} {', '.join(names[:10])}{more}: {warning}")


def _edit_film(
    task: Task, options: Any, choice: NetworkChoice, source: Path, output: Path, save: SaveOptions, resume: bool
) -> dict[str, Any]:
    from ..progress import bar
    from ..runtime.session import default_session

    with bar(source.name) as advance:
        result = entry(task.film)(
            source,
            output,
            default_session().pipeline(task.verb, choice),
            options,
            overwrite=save.overwrite,
            resume=resume,
            provenance=save.provenance,
            progress=advance,
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
        f"{len(summary.failed)} failed" + (f"; {jobs.passed_over}" if jobs.passed_over else "")
    )
    if report is not None:
        files = [
            {"source": str(o.job.source.relative_to(source)), "error": o.error, "result": o.report}
            for o in summary.outcomes
        ]
        write_json(report, files, overwrite=save.overwrite)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
