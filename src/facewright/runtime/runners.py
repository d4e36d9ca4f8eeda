"""What runs a task from Python: one function a shape. The functions of `facewright.api` call these."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..tasks.declare import NetworkChoice, Shape, entry, get_task, option_fields
from .session import default_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tasks.declare import Task


def run_records(verb: str, source: Any, options: Any, choice: NetworkChoice) -> list[Any]:
    """The records of the faces of one photo, in reading order, or of the people of a video where the task watches."""
    from ..io.image import read

    task = get_task(verb)
    if task.watch and isinstance(source, str | Path) and is_video_file(source):
        return watched(task, Path(source), options, choice)
    photo = read(source)
    return list(default_session().pipeline(verb, choice)(photo, options))


def watched(task: Task, path: Path, options: Any, choice: NetworkChoice) -> list[Any]:
    """The records of the people of a video."""
    return list(entry(task.watch)(default_session(), task, choice, path, options))


def run_pair(verb: str, first: Any, second: Any, options: Any, choice: NetworkChoice) -> Any:
    """The decision about two photos."""
    from ..io.image import read

    photos = read(first), read(second)
    return default_session().pipeline(verb, choice)(*photos, options)


def run_generate(verb: str, output: str | Path | None, options: Any, choice: NetworkChoice, *, overwrite: bool) -> Any:
    """Made pictures, written into the folder `output` when it is given."""
    made = default_session().pipeline(verb, choice)(options)
    if output is not None:
        made.save(output, overwrite=overwrite)
    return made


def run_report(
    verb: str, source: Any, output: str | Path | None, options: Any, choice: NetworkChoice, *, overwrite: bool
) -> Any:
    """The report on a folder, written into the folder `output` when it is given; that is checked before the work."""
    task = get_task(verb)
    if output is not None:
        check_report(task, output, overwrite=overwrite)
    made = default_session().pipeline(verb, choice)(Path(source), options)
    if output is not None:
        made.save(output, overwrite=overwrite)
    return made


def check_report(task: Task, output: str | Path, *, overwrite: bool) -> None:
    """Raise OutputError where a report could not be written into a folder."""
    from ..io.atomic import check_folder, check_output

    if not Path(output).is_dir():
        check_folder(output)
        return
    for name in entry(task.result).FILES:
        check_output(Path(output) / name, overwrite=overwrite)


def run_edit(
    verb: str, source: Any, output: str | Path | None, options: Any, choice: NetworkChoice, *, overwrite: bool
) -> Any:
    """The altered photo, the report of an altered video or of all pages of a photo; the latter two need `output`.

    What is written goes the way of the command: the output is checked before the work and locked during it.
    """
    from ..io.image import read
    from .editing import SaveOptions, edit_file

    task = get_task(verb)
    if output is not None:
        return edit_file(task, source, output, options, choice, SaveOptions(overwrite=overwrite)).result
    if isinstance(source, str | Path) and is_video_file(source):
        if not task.video:
            raise UsageError(f"{source} is a video; {verb} takes photos")
        raise UsageError(f"{source} is a video; say where the restored one goes with output=")
    return default_session().pipeline(verb, choice)(read(source), options)


def function(task: Task) -> Callable[..., Any]:
    """The Python function of a task, made from its declaration; `facewright.api` holds the same, written out."""
    fields = [field.name for field in option_fields(task.options)]

    def call(*sources: Any, overwrite: bool = False, **values: Any) -> Any:
        options = task.options(**{name: values.pop(name) for name in fields if name in values})
        output = values.pop("output", None)
        choice = NetworkChoice(**values)
        if task.shape is Shape.RECORDS:
            return run_records(task.verb, sources[0], options, choice)
        if task.shape is Shape.PAIR:
            return run_pair(task.verb, sources[0], sources[1], options, choice)
        if task.shape is Shape.EDIT:
            return run_edit(task.verb, sources[0], output, options, choice, overwrite=overwrite)
        if task.shape is Shape.REPORT:
            return run_report(task.verb, sources[0], output, options, choice, overwrite=overwrite)
        return run_generate(task.verb, output, options, choice, overwrite=overwrite)

    call.__name__, call.__doc__ = task.verb, task.summary
    return call


def is_video_file(path: str | Path) -> bool:
    """Whether a path is an existing video."""
    from ..io.video import is_video

    return Path(path).is_file() and is_video(path)


def document(task: Task, source: str, photo: Any, found: list[Any]) -> Any:
    """The records of a photo as JSON data."""
    faces = [record.to_dict() for record in found]
    if task.document == "faces":
        return faces
    if task.document == "photo":
        return {"source": Path(photo.source).name, "size": [photo.width, photo.height], "faces": faces}
    return {"source": source, "faces": faces}
