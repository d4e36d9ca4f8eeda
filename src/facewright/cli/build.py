"""Commands made from task declarations: options, parsing, output. One function a shape."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from ..errors import FacewrightError, OutputError, UsageError
from ..tasks.declare import NetworkChoice, OptionField, Shape, Task, entry, option_fields
from .weights import ACCEPT_HELP, TRUST_HELP, end_with, on_terms

Command = Callable[..., None]
Parameters = tuple[list[inspect.Parameter], list[inspect.Parameter]]
"""Those before the options of the task, and those after."""


def command(task: Task) -> Command:
    """The function that typer turns into `facewright <verb>`."""
    make = {
        Shape.RECORDS: _records_command,
        Shape.EDIT: _edit_command,
        Shape.PAIR: _pair_command,
        Shape.GENERATE: _generate_command,
        Shape.REPORT: _report_command,
    }[task.shape]
    return assemble(task, *make(task))


def assemble(task: Task, parameters: Parameters, body: Command) -> Command:
    """A command with a task's options and networks among further parameters; `body` gets them as options and choice."""
    fields = option_fields(task.options)

    def run(**values: Any) -> None:
        chosen = task.options(**{f.name: option_value(f, values.pop(f.name)) for f in fields})
        choice = NetworkChoice(**{name: values.pop(name) for name in NetworkChoice.__slots__ if name in values})
        agreed = {name: values.pop(name) for name in ("accept_licence", "trust_first_download")}
        with on_terms(**agreed):
            body(chosen, choice, **values)

    all_parameters = [*parameters[0], *map(option_parameter, fields), *_network_parameters(task), *parameters[1]]
    run.__signature__ = inspect.Signature(all_parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in all_parameters}
    run.__name__, run.__doc__ = task.verb, task.summary
    return run


# --- parameters

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_REQUIRED = inspect.Parameter.empty


def option(name: str, kind: Any, default: Any, help_text: str, *flags: str, **limits: Any) -> inspect.Parameter:
    """One option as typer wants it."""
    option = typer.Option(*flags, help=help_text, show_default=default is not _REQUIRED, **limits)
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=Annotated[kind, option])


def _argument(name: str, help_text: str) -> inspect.Parameter:
    argument = typer.Argument(help=help_text, show_default=False)
    return inspect.Parameter(name, _KEYWORD, annotation=Annotated[Path, argument])


def _is_sequence(kind: Any) -> bool:
    return any(get_origin(part) is tuple for part in (kind, *get_args(kind)))


def _is_repeated(kind: Any) -> bool:
    """Whether an option is a tuple of tuples, each given by an option of its own."""
    return get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is tuple


def option_parameter(field: OptionField) -> inspect.Parameter:
    """One option field as typer wants it; tuples come as text."""
    kind, default = field.type, field.default
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    elif _is_repeated(kind) or field.is_pictures:
        kind, default = list[str] | None, None
    elif _is_sequence(kind):
        kind, default = str | None, None
    flags = (field.flag,) if (kind is bool and not default) or field.opt.flag else ()
    return option(field.name, kind, default, field.opt.help, *flags)


def option_value(field: OptionField, value: Any) -> Any:
    """What the command line gave for an option, as the options dataclass wants it."""
    if field.is_pictures:
        return tuple(value or ())
    if _is_repeated(field.type):
        count = len(get_args(get_args(field.type)[0]))
        return tuple(_numbers(text, field.flag, float, count) for text in value or ())
    if not _is_sequence(field.type):
        return value
    if value is None:
        return None if get_origin(field.type) in (Union, UnionType) else ()
    if get_args(field.type)[0] is str:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return _numbers(value, field.flag, int)


def _numbers(text: str, flag: str, kind: type[int] | type[float], count: int | None = None) -> tuple[float, ...]:
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        if count is None:
            raise UsageError(f"{flag} {text!r} is not a list of numbers such as 0,2") from error
        values = ()
    if count is not None and len(values) != count:
        raise UsageError(f"{flag} takes {count} numbers separated by commas")
    return values


_ASKED = {
    "background": "Network for all that is not a face: clean (embedded), or one such as realesrgan",
    "damage_finder": "What finds the damage of a print: printscan (embedded), or one such as bopbtl",
    "landmarker": "What places landmarks: facewarp (embedded), or one such as fan",
    "head_pose": "Network for the pose, such as sixdrepnet, instead of the detector's and the landmarks'",
}


def _network_parameters(task: Task) -> list[inspect.Parameter]:
    found = []
    if task.system_task is not None:
        found += [
            option("model", str, task.default, f"{task.noun.capitalize()}; see 'facewright models'."),
            option("weights", str | None, None, "Weights: file, folder, or name."),
        ]
    found += [
        option(name, str, "", f"{_ASKED.get(name, f'Another {name}')}; see 'facewright models'.") for name in task.needs
    ]
    found.append(option("device", str, "auto", "auto, cpu, cuda, cuda:1."))
    if task.dtype:
        found.append(option("dtype", str, "auto", "auto, fp32, bf16."))
    return [*found, _ACCEPT, _TRUST]


_ACCEPT = option("accept_licence", bool, False, ACCEPT_HELP, "--accept-licence")
_TRUST = option("trust_first_download", bool, False, TRUST_HELP, "--trust-first-download")
OVERWRITE = option("overwrite", bool, False, "Overwrite existing outputs.", "--overwrite")
_SAVE_DAMAGE = option(
    "save_damage_mask",
    Path | None,
    None,
    "With --old-photo: write the mask of the damage (white).",
)
_DRAW = option("draw", Path | None, None, "Write a copy of the photo with the results drawn on it.")
_JSON = option("as_json", bool, False, "Print JSON.", "--json")
READING = (
    option(
        "page", int | None, None, "Page of a multi-page TIFF, counted from 0 (restore takes all by default).", min=0
    ),
    option("max_megapixels", float, 200.0, "Largest picture to accept.", min=0),
)

WRITING = (
    option("quality", int, 95, "JPEG/WebP/HEIC quality of the output.", min=1, max=100),
    option("drop_gps", bool, False, "Remove the location where it was taken.", "--drop-gps"),
    option("provenance", bool, True, "Record the changes in the file's metadata."),
)

_VIDEO = (
    option("restart", bool, False, "Delete the unfinished parts of a video and start over.", "--restart"),
    option("deinterlace", str, "auto", "How to deinterlace a video: auto, frame, field, off."),
)


def _sources(task: Task) -> str:
    words = ["photo", *(["video"] if task.watch else []), *(["folder"] if "folder" in task.media else [])]
    return f"{', '.join(words[:-1])} or {words[-1]}.".capitalize() if len(words) > 1 else "Photo."


# --- records of faces


def _records_command(task: Task) -> tuple[Parameters, Command]:
    source = _argument("source", _sources(task))
    after = [
        *(
            [option("draw", Path | None, None, "Write a copy of the photo with the results drawn on it.")]
            if task.draw
            else []
        ),
        option("output", Path | None, None, "Write the result as JSON.", "-o", "--output"),
        _JSON,
        *READING,
        OVERWRITE,
    ]

    def run(
        options: Any,
        choice: NetworkChoice,
        *,
        source: Path,
        output: Path | None,
        as_json: bool,
        page: int | None,
        max_megapixels: float,
        overwrite: bool,
        draw: Path | None = None,
    ) -> None:
        from ..io.atomic import check_output
        from ..io.image import read, save_rgb
        from ..io.lock import locked
        from ..runtime.runners import document, is_video_file, watched
        from ..runtime.session import default_session

        for extra in (draw, output):
            if extra is not None:
                check_output(extra, overwrite=overwrite)
        max_pixels = round(max_megapixels * 1e6)
        if source.is_dir():
            if draw is not None:
                raise UsageError("--draw works for a single photo, not for a folder")
            with locked(output) if output is not None else contextlib.nullcontext():
                _records_of_folder(task, source, options, choice, output, as_json, overwrite, page, max_pixels)
            return
        if task.watch and is_video_file(source):
            if draw is not None or page is not None:
                raise UsageError("--draw and --page work for a photo, not for a video")
            people = watched(task, source, options, choice)
            seen = [{"source": str(source), "faces": [record.to_dict() for record in people]}]
            _give(seen, output, as_json, str(source), [record.line() for record in people], overwrite=overwrite)
            return
        photo = read(source, page=page or 0, max_pixels=max_pixels)
        found = list(default_session().pipeline(task.verb, choice)(photo, options))
        if draw is not None:
            save_rgb(entry(task.draw)(photo.rgb(), found), draw, overwrite=overwrite)
        data = document(task, str(source), photo, found)
        data = [data] if task.document == "photos" else data
        _give(data, output, as_json, str(source), [record.line() for record in found], overwrite=overwrite)
        _say_notes(source, photo)

    return ([source], after), run


def _give(data: Any, output: Path | None, as_json: bool, source: str, lines: list[str], *, overwrite: bool) -> None:
    """Records to a file, as JSON, or in words."""
    if output is not None:
        write_json(output, data, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
    elif output is None:
        _say(source, lines)


def _say(source: str, lines: list[str]) -> None:
    typer.echo(f"{source}: {len(lines)} face{'s' * (len(lines) != 1)}")
    for index, line in enumerate(lines):
        typer.echo(f"  {index}: {line}")


def _say_notes(source: Path, photo: Any) -> None:
    for note in photo.notes:
        typer.echo(f"{source}: {note}", err=True)


def _records_of_folder(
    task: Task,
    source: Path,
    options: Any,
    choice: NetworkChoice,
    output: Path | None,
    as_json: bool,
    overwrite: bool,
    page: int | None,
    max_pixels: int,
) -> None:
    """All photos of a folder; one bad photo does not stop the rest."""
    from ..io.image import read_page
    from ..progress import bar
    from ..runtime.folder import listed, survey_photos
    from ..runtime.session import default_session

    survey = survey_photos(source)
    pipeline, photos = default_session().pipeline(task.verb, choice), [path for path, _ in survey.files]
    results: list[dict[str, Any]] = []
    lines: list[list[str]] = []
    with bar(source.name) as advance:
        for number, path in enumerate(photos, start=1):
            try:
                photo = read_page(path, page, max_pixels=max_pixels)
                found = list(pipeline(photo, options))
                results.append({"source": str(path), "faces": [record.to_dict() for record in found]})
                lines.append([record.line() for record in found])
                _say_notes(path, photo)
            except FacewrightError as error:
                results.append({"source": str(path), "faces": [], "error": str(error)})
                lines.append([])
            advance(number, len(photos))
    if output is not None:
        write_json(output, results, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(results, indent=2, ensure_ascii=False))
    elif output is None:
        for result, said in zip(results, lines):
            _say(result["source"], said)
    if survey.others:
        names = listed([str(path.relative_to(source)) for path in survey.others])
        typer.echo(f"{source}: {survey.sentence}: {names}", err=True)
    end_with([result["error"] for result in results if "error" in result], len(results))


# --- two photos


def _pair_command(task: Task) -> tuple[Parameters, Command]:
    def run(options: Any, choice: NetworkChoice, *, first: Path, second: Path, as_json: bool) -> None:
        from ..runtime.runners import run_pair

        result = run_pair(task.verb, first, second, options, choice)
        if as_json:
            typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
            return
        for line in result.lines():
            typer.echo(line)

    return ([_argument("first", "Photo."), _argument("second", "Photo.")], [_JSON]), run


# --- made pictures


def _generate_command(task: Task) -> tuple[Parameters, Command]:
    def run(options: Any, choice: NetworkChoice, *, output: Path, as_json: bool, overwrite: bool) -> None:
        from ..runtime.session import default_session

        made = default_session().pipeline(task.verb, choice)(options)
        for file in made.names(output):
            if file.exists() and not overwrite:
                raise OutputError(f"{file} exists; choose another folder or add --overwrite")
        files = made.save(output, overwrite=overwrite)
        if as_json:
            typer.echo(json.dumps(made.report(), indent=2))
            return
        typer.echo(f"{output}: {len(files)} picture{'s' * (len(files) != 1)}")

    folder = option("output", Path, _REQUIRED, "Output folder.", "-o", "--output")
    return ([folder], [_JSON, OVERWRITE]), run


# --- reports


def _report_command(task: Task) -> tuple[Parameters, Command]:
    def run(
        options: Any, choice: NetworkChoice, *, source: Path, output: Path | None, as_json: bool, overwrite: bool
    ) -> None:
        from ..runtime.runners import run_report

        made = run_report(task.verb, source, output, options, choice, overwrite=overwrite)
        lines = [json.dumps(made.to_dict(), indent=2, ensure_ascii=False)] if as_json else made.lines()
        for line in lines:
            typer.echo(line)

    folder = option("output", Path | None, None, "Write the report into this folder.", "-o", "--output")
    return ([_argument("source", "Folder with one subfolder per person.")], [folder, _JSON, OVERWRITE]), run


# --- altered photos and videos


def _edit_command(task: Task) -> tuple[Parameters, Command]:
    from .edit import edit

    many = "folder" in task.media or "video" in task.media
    words = [word for word in ("Photo", "video", "folder") if word.lower() in task.media]
    before = [
        _argument("source", f"{', '.join(words[:-1])}{' or ' if many else ''}{words[-1]}."),
        option("output", Path, _REQUIRED, "Output file or folder.", "-o", "--output"),
    ]
    after = [
        option("report", Path | None, None, "Write a report as JSON."),
        *([option("compare", Path | None, None, "Write a before/after comparison.")] if task.compares else []),
        *([_SAVE_DAMAGE] if task.finds_damage else []),
        WRITING[0],
        *READING,
        *WRITING[1:],
        option("sign", tuple[Path, Path] | None, None, "Sign photos (C2PA): certificate chain and its key, as PEM."),
        *([option("resume", bool, False, "Continue an interrupted folder or video.", "--resume")] if many else []),
        *(_VIDEO if task.video else ()),
        OVERWRITE,
    ]

    def run(options: Any, choice: NetworkChoice, **values: Any) -> None:
        edit(task, options, choice, **values)

    return (before, after), run


def write_json(path: Path, data: Any, *, overwrite: bool) -> None:
    """Write JSON at once or not at all."""
    from ..io.atomic import atomic_output

    with atomic_output(path, overwrite=overwrite) as temporary:
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        # a file name that is no UTF-8 holds lone surrogates, which JSON escapes in the same way
        Path(temporary).write_text(text, encoding="utf-8", errors="backslashreplace")
