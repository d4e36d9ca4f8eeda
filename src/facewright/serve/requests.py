"""From a form to the options of a task, and from a task to the description of its form."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from ..errors import FacewrightError, UsageError
from ..io.kinds import PHOTOS
from ..runtime.session import EMBEDDED_CLEANER
from ..tasks.card import cards, get_card
from ..tasks.declare import (
    COMPONENTS,
    NOUNS,
    Checked,
    NetworkChoice,
    Opt,
    OptionField,
    Shape,
    Task,
    option_fields,
)
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..tasks.card import Card
    from .forms import Form, SentFile

INPUTS = {
    Shape.RECORDS: ("source",),
    Shape.EDIT: ("source",),
    Shape.PAIR: ("first", "second"),
    Shape.GENERATE: (),
}
"""Files a task of a shape takes, by the names of the Python function's arguments."""
FORMATS = tuple(kind.name for kind in PHOTOS if kind.writes)
"""Formats a picture can be written in."""


@dataclass(frozen=True, slots=True)
class ReadOptions(Checked):
    """How the file is read."""

    page: Annotated[int | None, Opt("Page of a TIFF with several, from 0.", low=0)] = None


@dataclass(frozen=True, slots=True)
class WriteOptions(ReadOptions):
    """How an edited picture or video is written; those of `facewright restore` and its like."""

    format: Annotated[str | None, Opt("Format of the picture; default: that of the file.", choices=FORMATS)] = None
    quality: Annotated[int, Opt("JPEG, WebP, HEIC and AVIF quality.", low=1, high=100)] = 95
    drop_gps: Annotated[bool, Opt("Leave out where it was taken.")] = False
    provenance: Annotated[bool, Opt("Record in the file what was done.")] = True
    deinterlace: Annotated[
        Literal["auto", "frame", "field", "off"], Opt("Fields of a video: auto, frame, field, off.")
    ] = "auto"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: a task, its files, its options, its networks, and how files are read and written.

    `pictures` are the files that options stand for, by option; of an option that takes several as "option/0" and so on.
    """

    task: Task
    options: Any
    choice: NetworkChoice
    writing: ReadOptions
    inputs: dict[str, Path] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


def writing_of(task: Task) -> type[ReadOptions]:
    """The options of reading and writing that a task has beside its own."""
    return WriteOptions if task.shape is Shape.EDIT else ReadOptions


def fields_of(task: Task) -> tuple[OptionField, ...]:
    """Every option of a request: the task's own, then those of reading and writing."""
    extra = () if task.shape is Shape.GENERATE else option_fields(writing_of(task))
    return (*option_fields(task.options), *(f for f in extra if f.name != "deinterlace" or task.video))


def network_fields(task: Task) -> dict[str, tuple[str, str, str]]:
    """Networks that can be chosen: name of the field to the task of its systems, what they are called, the default."""
    found: dict[str, tuple[str, str, str]] = {}
    if task.system_task is not None:
        found["model"] = (task.system_task, task.noun, task.default)
    for name in task.needs:
        found[name] = (COMPONENTS[name], NOUNS.get(COMPONENTS[name], "enlarger"), "")
    return found


# --- what is here


def ready_weights(card: Card) -> tuple[str, ...]:
    """Names of the weights of a system that need no download."""
    from ..weights.catalogue import local_network
    from ..weights.store import cache_dir

    own = [point.name for point in card.checkpoints if point.file or (cache_dir() / "bundle" / point.sha256).exists()]
    return (*own, *(file.name for file in card.published if local_network(card, file) is not None))


def default_weights(card: Card) -> str:
    """Name of the weights of a system that are meant when none are named; "" where there are none."""
    from ..weights.catalogue import default_file

    default = card.default_checkpoint or default_file(card)
    return default.name if default is not None else ""


def check_ready(card: Card, weights: str | None) -> None:
    """Refuse networks that would have to be fetched: a request never makes the server load something from elsewhere."""
    ready = ready_weights(card)
    if (weights or default_weights(card)) in ready:
        return
    if ready:
        raise Problem(422, "no_weights", f"{card.slug} has these weights here, name one: {', '.join(ready)}")
    advice = f"its operator can run: facewright download {card.slug}"
    raise Problem(422, "no_weights", f"{card.slug} has no weights on this server; {advice}")


# --- from a form


def order_of(task: Task, form: Form, *, device: str) -> Order:
    """What a form asks for; Problem 422 that names the field for anything that makes no sense."""
    values = {f.name: f for f in fields_of(task)}
    networks = network_fields(task)
    known = {*INPUTS[task.shape], *values, *networks, *(["weights"] if "model" in networks else [])}
    unknown = ({*form.texts, *form.files} - known) or None
    if unknown:
        raise Problem(422, "invalid", f"{task.verb} has no field {min(unknown)}; it has: {', '.join(sorted(known))}")
    inputs = {name: _input(form, name, task).path for name in INPUTS[task.shape]}
    sent = {name: files for name, files in form.files.items() if name not in inputs}
    wrong = [name for name in sent if name not in values or not values[name].opt.picture]
    if wrong:
        raise Problem(422, "invalid", f"{wrong[0]} is not a picture; send it as text")
    pictures = {key: path for name, files in sent.items() for key, path in _pictures(values[name], files).items()}
    given = {name: _parsed(f, form.texts[name]) for name, f in values.items() if _has_text(form, name)}
    given |= options_of_pictures(task, pictures)
    try:
        options, writing = _made(task.options, given), _made(writing_of(task), given)
        choice = _choice(task, form, device)
    except FacewrightError as error:
        raise Problem(422, "invalid", in_field_names(str(error), task)) from error
    return Order(task, options, choice, writing, inputs, pictures)


def _has_text(form: Form, name: str) -> bool:
    """Whether a field was filled in; forms of browsers send the empty ones, too."""
    return any(text.strip() for text in form.texts.get(name, ()))


def _made(kind: type, given: dict[str, Any]) -> Any:
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})


def _input(form: Form, name: str, task: Task) -> SentFile:
    sent = form.files.get(name, [])
    if len(sent) != 1:
        raise Problem(422, "invalid", f"send one file as {name}" if not sent else f"send {name} once")
    file = sent[0]
    if file.size == 0:
        raise Problem(422, "unreadable", f"{file.name} is empty (0 bytes)")
    if file.kind is None:
        raise Problem(415, "unsupported", f"{file.name} is neither a photo nor a video of a known kind")
    if file.kind.is_video and not task.video:
        raise Problem(415, "unsupported", f"{file.name} is a video; {task.verb} takes photos")
    return file


def _pictures(option: OptionField, sent: Sequence[SentFile]) -> dict[str, Path]:
    """The files of an option by its name, or by name and number where it takes several."""
    if len(sent) > 1 and not option.is_pictures:
        raise Problem(422, "invalid", f"send {option.name} once")
    for file in sent:
        if file.kind is None or file.kind.is_video:
            raise Problem(415, "unsupported", f"{file.name} is not a picture of a known kind")
    if option.is_pictures:
        return {f"{option.name}/{number}": file.path for number, file in enumerate(sent)}
    return {option.name: sent[0].path}


def options_of_pictures(task: Task, pictures: Mapping[str, Path]) -> dict[str, Any]:
    """The options that files stand for; the files as in `Order.pictures`."""
    found: dict[str, Any] = {}
    for option in option_fields(task.options):
        if option.is_pictures:
            own = [str(path) for key, path in pictures.items() if key.partition("/")[0] == option.name]
            found |= {option.name: tuple(own)} if own else {}
        elif option.name in pictures:
            found[option.name] = str(pictures[option.name])
    return found


def _choice(task: Task, form: Form, device: str) -> NetworkChoice:
    networks = network_fields(task)
    chosen = {name: form.texts[name][-1].strip() for name in networks if _has_text(form, name)}
    weights = form.texts["weights"][-1].strip() if "model" in networks and _has_text(form, "weights") else None
    if "model" in networks:
        check_ready(task.card(chosen.get("model", "")), weights)
    for name, slug in chosen.items():
        if name == "model":
            continue
        card = get_card(EMBEDDED_CLEANER if (name, slug) == ("background", "clean") else slug)
        if networks[name][0] not in card.tasks:
            known = ", ".join(c.slug for c in cards().values() if networks[name][0] in c.tasks)
            raise UsageError(f"{card.slug} is not possible as {name}; choose one of {known}")
        check_ready(card, None)
    return NetworkChoice(weights=weights, device=device, **chosen)


def _parsed(option: OptionField, texts: list[str]) -> Any:
    """The value of a field of a form, which may come as JSON, as numbers with commas, or in several parts."""
    texts = [text.strip() for text in texts if text.strip()]
    if option.opt.picture:
        if texts[-1] not in option.choices:
            words = f"one of {', '.join(option.choices)}, or " if option.choices else ""
            raise Problem(422, "invalid", f"{option.name} is {words}a picture: send the file itself, not its name")
        return texts[-1]
    try:
        if _tuple_of(option.type) is None:
            return _scalar(option, texts[-1])
        nested = get_origin(get_args(_tuple_of(option.type))[0]) is tuple
        whole: list[Any] = []
        for part in map(_listed, texts):
            whole += part if _is_nested(part) or not nested else [part]
        return TypeAdapter(option.type).validate_python(whole)
    except (ValidationError, ValueError, RecursionError) as error:
        raise Problem(422, "invalid", f"{option.name}: {_first(error)}") from error


def _scalar(option: OptionField, text: str) -> Any:
    for choice in option.choices:
        if str(choice) == text:
            return choice
    return TypeAdapter(option.type).validate_strings(text)


def _tuple_of(kind: Any) -> Any:
    """The tuple type that a field's type is, or has among its alternatives; None without one."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((part for part in parts if get_origin(part) is tuple), None)


def _listed(text: str) -> list[Any]:
    found = json.loads(text) if text.startswith("[") else text.split(",")
    return found if isinstance(found, list) else [found]


def _is_nested(part: list[Any]) -> bool:
    return any(isinstance(item, list) for item in part)


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return str(found["msg"])
    return "is not of the form it should have"


# --- as a description


def form_schema(task: Task) -> dict[str, Any]:
    """The JSON schema of a task's form."""
    properties: dict[str, Any] = {}
    for name in INPUTS[task.shape]:
        what = "photo or video" if task.video else "photo"
        properties[name] = {
            "type": "string",
            "format": "binary",
            "description": f"The {what}; or, as text, the id of an upload in pieces.",
        }
    for option in fields_of(task):
        properties[option.name] = field_schema(option, task)
    for name, (system_task, noun, default) in network_fields(task).items():
        properties[name] = {
            "type": "string",
            "enum": _names(name, system_task),
            "description": f"{noun.capitalize()}; what is ready on this server is in /v1/tasks.",
            **({"default": default} if default else {}),
        }
        if name == "model":
            properties["weights"] = {"type": "string", "description": "Name of its weights."}
    required = list(INPUTS[task.shape])
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _names(name: str, system_task: str) -> list[str]:
    """What a field for a network takes."""
    known = [card.slug for card in cards().values() if system_task in card.tasks]
    return ["clean", *known] if name == "background" else known


def field_schema(option: OptionField, task: Task) -> dict[str, Any]:
    """The JSON schema of one option: type, limits, choices, default and what it does."""
    if option.opt.picture:
        file = {"type": "string", "format": "binary"}
        kind: dict[str, Any] = {"anyOf": [{"enum": list(option.choices)}, file]} if option.choices else file
        if option.is_pictures:
            kind = {"type": "array", "items": file}
    else:
        kind = TypeAdapter(option.type).json_schema()
        if option.choices:
            kind = {"enum": list(option.choices), "type": _json_type(option.choices[0])}
    limits = {"minimum": option.opt.low, "maximum": option.opt.high}
    schema = {**kind, **{name: limit for name, limit in limits.items() if limit is not None}}
    schema["description"] = in_field_names(option.opt.help, task)
    if option.default is not MISSING and option.default is not None:
        schema["default"] = json.loads(json.dumps(option.default))
    return schema


def _json_type(value: Any) -> str:
    return "integer" if isinstance(value, int) else "string"


def in_field_names(text: str, task: Task) -> str:
    """A sentence about options of the command line in the words of the form."""
    for option in sorted(fields_of(task), key=lambda f: -len(f.flag)):
        no = option.flag.replace("--", "no-")
        text = text.replace(f"--{no}", f"no {option.name}").replace(no, f"no {option.name}")
        text = text.replace(option.flag, option.name)
    return text
