"""A Gradio app of every task, for the hub's Spaces and for notebooks; made from the declarations, as page and API are.

What the controls say becomes a form, and goes the way of a request to the server: the same checks, limits and work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FacewrightError, MissingDependencyError
from ..io.kinds import kind_of
from ..runtime.session import Session
from ..tasks.declare import Shape, entry, get_task, tasks
from . import work
from .forms import Form, SentFile, safe_name
from .problems import Problem
from .requests import INPUTS, default_weights, fields_of, in_field_names, network_fields, order_of, ready_weights
from .settings import ServeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..tasks.declare import OptionField, Task
    from .requests import Order
    from .work import Made

TITLE = "facewright"
KEPT_SECONDS = 600
"""How long Gradio keeps what was sent and made."""
_PREFIX = "facewright-space-"
_VARIABLES = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def create_space(options: ServeOptions | None = None, session: Session | None = None) -> Any:
    """The app, a `gradio.Blocks`, with a tab for each task that has weights here.

    Raises MissingDependencyError without gradio.
    """
    gradio = _gradio()
    options, session = options or ServeOptions(), session or Session()
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as app:
        gradio.Markdown(f"# {TITLE}\nPhotos are deleted after {KEPT_SECONDS // 60} minutes.")
        for task in offered():
            with gradio.Tab(task.verb.replace("_", " ").capitalize()):
                _tab(gradio, task, session, options)
    app.queue(max_size=options.queue, default_concurrency_limit=options.workers)
    return app


def offered() -> list[Task]:
    """The tasks whose default networks need no download, restoring first."""
    return sorted(filter(_is_ready, tasks().values()), key=lambda task: task.verb != "restore")


def _is_ready(task: Task) -> bool:
    return task.shape in INPUTS and (
        task.system_task is None or default_weights(task.card("")) in ready_weights(task.card(""))
    )


def _gradio() -> Any:
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        import gradio
    except ImportError as error:
        raise MissingDependencyError('gradio is not installed; pip install "facewright[gradio]"') from error
    return gradio


def _tab(gradio: Any, task: Task, session: Session, options: ServeOptions) -> None:
    gradio.Markdown(task.summary)
    with gradio.Row():
        with gradio.Column():
            names, controls = _controls(gradio, task)
            button = gradio.Button("Run", variant="primary")
        with gradio.Column():
            shown = _outputs(gradio, task)
    show = partial(_show, gradio, task, session, options, names)
    button.click(show, controls, shown, api_name=task.verb)


def _controls(gradio: Any, task: Task) -> tuple[list[str], list[Any]]:
    """A control for every field of the task's form, with the names of the fields."""
    found = {name: gradio.File(label=name.capitalize(), type="filepath") for name in INPUTS[task.shape]}
    with gradio.Accordion("Options", open=False):
        for field in fields_of(task):
            found[field.name] = _control(gradio, field, task)
        for name, (system_task, noun, default) in network_fields(task).items():
            ready = [card.slug for card in task_cards(system_task) if ready_weights(card)]
            found[name] = gradio.Dropdown(ready, value=default or None, label=noun.capitalize())
    return list(found), list(found.values())


def task_cards(system_task: str) -> list[Any]:
    """The systems of a task of systems."""
    from ..tasks.card import cards

    return [card for card in cards().values() if system_task in card.tasks]


def _control(gradio: Any, field: OptionField, task: Task) -> Any:
    label, info, default = field.name.replace("_", " "), in_field_names(field.opt.help, task), field.default
    if field.opt.picture:
        count = "multiple" if field.is_pictures else "single"
        return gradio.File(label=f"{label}: {info}", type="filepath", file_count=count)
    if field.type is bool:
        return gradio.Checkbox(bool(default), label=label, info=info)
    if field.choices:
        return gradio.Dropdown([str(c) for c in field.choices], value=_text(default), label=label, info=info)
    low, high = field.opt.low, field.opt.high
    if field.type is float and low is not None and high is not None:
        return gradio.Slider(low, high, value=default, label=label, info=info)
    return gradio.Textbox(_text(default) or "", label=label, info=info)


def _text(value: Any) -> str | None:
    return None if value is None or value == () else str(value)


def _outputs(gradio: Any, task: Task) -> list[Any]:
    """What a run fills, as it stands on the page from above: pictures before numbers."""
    shown: list[Any] = []
    if task.shape is Shape.EDIT:
        shown = [gradio.ImageSlider(label="Before and after"), gradio.File(label="Save")]
    elif task.shape is Shape.GENERATE:
        shown = [gradio.Gallery(label="Pictures")]
    elif task.draw:
        shown = [gradio.Image(label="Found")]
    return [*shown, gradio.JSON(label="Result")]


def _show(
    gradio: Any, task: Task, session: Session, options: ServeOptions, names: Sequence[str], *values: Any
) -> list[Any]:
    """Do what the controls say; what a person can mend is told in one line."""
    folder = _folder()
    try:
        made = work.do(_order(task, dict(zip(names, values)), folder, options), session, folder, options, _ignore)
        return _shown(task, made, folder)
    except Problem as problem:
        raise gradio.Error(problem.detail) from problem
    except FacewrightError as error:
        raise gradio.Error(work.without_paths(str(error), tuple(folder.rglob("*")))) from error
    finally:
        shutil.rmtree(folder / "sent", ignore_errors=True)


def _folder() -> Path:
    """A private folder for one run. Gradio takes the results out of it after the run, so it goes with a later one."""
    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if old.stat().st_mtime < time.time() - KEPT_SECONDS and old.stat().st_uid == os.getuid():
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX))


def _ignore(done: int, total: int | None) -> None:
    """Nobody watches the progress."""


def _order(task: Task, values: dict[str, Any], folder: Path, options: ServeOptions) -> Order:
    """The controls' values as the server takes them: files copied into the job's folder, the rest as text."""
    form = Form()
    files = {*INPUTS[task.shape], *(f.name for f in fields_of(task) if f.opt.picture)}
    for name, value in values.items():
        if value is None or value in ("", []):
            continue
        if name in files:
            many = value if isinstance(value, list) else [value]
            places = (folder / "sent" / name / str(number) for number in range(len(many)))
            form.files[name] = [_sent(Path(path), place, options) for path, place in zip(many, places)]
        else:
            form.texts[name] = [str(value)]
    return order_of(task, form, device=options.device)


def _sent(path: Path, place: Path, options: ServeOptions) -> SentFile:
    kind, size = kind_of(path), path.stat().st_size
    most = options.video_bytes if kind is not None and kind.is_video else options.photo_bytes
    if size > most:
        raise Problem(413, "too_large", f"more than the limit of {most / 1e6:g} million bytes")
    place.mkdir(parents=True)
    copy = place / safe_name(path.name)
    shutil.copyfile(path, copy)
    return SentFile(copy.name, copy, size, kind)


def _shown(task: Task, made: Made, folder: Path) -> list[Any]:
    files = [str(path) for path in made.files.values()]
    if task.shape is Shape.GENERATE:
        return [files, made.document]
    if task.shape is Shape.EDIT:
        return [_before_after(made), files[0] if files else None, made.document]
    drawn = [entry(task.draw)(made.photo.rgb(), made.value)] if task.draw and made.photo is not None else []
    return [*drawn, made.document]


def _before_after(made: Made) -> tuple[Any, Any] | None:
    """Both pictures upright and in sRGB; nothing for videos and files of pages."""
    from .views import after, before

    if made.value is None:
        return None
    return before(made).rgb(), after(made, None).rgb()


def task_function(verb: str, session: Session, options: ServeOptions | None = None) -> Callable[..., list[Any]]:
    """What a tab runs, with the fields of its form as keywords."""
    gradio, task, known = _gradio(), get_task(verb), options or ServeOptions()
    return lambda **values: _show(gradio, task, session, known, list(values), *values.values())
