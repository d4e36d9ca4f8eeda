"""What a task is: one declaration from which its function, command, schema, page and tests are made.

A task is what a user asks for: find faces, restore them, compare two. Its file in this folder holds `TASK` and the
options as a frozen dataclass. Nothing here imports torch or OpenCV, so that help texts and tables are fast; the code
that does the work is named as "module:function" and imported when it is needed.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints

from ..deprecation import renamed_arguments
from ..errors import UsageError
from .card import cards, get_card

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from .card import Card


class Shape(StrEnum):
    """What goes in and what comes out; each shape has one runner in `facewright.runtime.runners`."""

    RECORDS = "photo to records of its faces"
    EDIT = "photo or video to an altered one"
    PAIR = "two photos to a decision"
    GENERATE = "seed to pictures"
    REPORT = "folder of people to a report"


@dataclass(frozen=True, slots=True)
class Opt:
    """How an option field is shown and checked; stands in the field's `Annotated` type.

    Args:
        help: What it does, one sentence.
        low: Least value.
        high: Largest value.
        choices: The values there are; with `picture`, the words that stand for no file.
        flag: Name on the command line where it is not the field's, such as `--box` for `boxes`.
        picture: The value is the path of a picture, or a tuple of such paths. Over HTTP the pictures themselves are
            sent, never a path.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    flag: str = ""
    picture: bool = False


@dataclass(frozen=True, slots=True)
class OptionField:
    """One option of a task: name, type without `Annotated`, default, and how it is shown."""

    name: str
    type: Any
    default: Any
    opt: Opt

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values there are, where they can be listed."""
        return get_args(self.type) if get_origin(self.type) is Literal else self.opt.choices

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return self.opt.flag or f"--{self.name.replace('_', '-')}"

    @property
    def is_pictures(self) -> bool:
        """Whether it takes any number of pictures."""
        return self.opt.picture and get_origin(self.type) is tuple


def option_fields(options: type) -> tuple[OptionField, ...]:
    """The options a dataclass declares, in order; a field without an `Opt` is for Python alone."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    for field in fields(options):
        hint = hints[field.name]
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Opt)]
        if marks:
            found.append(OptionField(field.name, hint.__origin__, field.default, marks[0]))
    return tuple(found)


class Checked:
    """Base of option dataclasses: values outside what their `Opt` allows are refused with UsageError.

    Numbers and arrays of NumPy, such as the box of a face, become plain ones, which records can hold.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for option in option_fields(type(self)):
            value = _plain(getattr(self, option.name))
            object.__setattr__(self, option.name, value)
            if value is None:
                continue
            low, high, choices = option.opt.low, option.opt.high, option.choices
            if choices and value not in choices and not option.opt.picture:
                raise UsageError(f"{option.name} {value!r} is not possible; choose {_either(choices)}")
            if low is not None and high is not None and not low <= value <= high:
                raise UsageError(f"{option.name} {value} is outside {low:g}…{high:g}")
            if low is not None and not value >= low:
                raise UsageError(f"{option.name} {value} must be at least {low:g}")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def paths_of(pictures: str | Path | Iterable[str | Path]) -> tuple[str, ...]:
    """One path or several, as options keep them."""
    return (str(pictures),) if isinstance(pictures, str | Path) else tuple(map(str, pictures))


def _either(choices: tuple[Any, ...]) -> str:
    return ", ".join(map(str, choices[:-1])) + f" or {choices[-1]}"


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """Which networks a call uses and where they run.

    Args:
        model: Slug of the task's system; "" for the task's default.
        weights: File, folder or name of its weights; None for the default ones.
        device: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1".
        dtype: "auto", "fp32" or "bf16".
        detector, parser, recogniser: Slugs of the other networks a task needs; "" for the defaults.
        background: Slug of the enlarger that draws what is not a face, or "clean" for the embedded one; "" for none.
        damage_finder: Slug of what finds the damage of a print; "" for the embedded one.
        landmarker: Slug of what places landmarks; "" for the embedded one.
        head_pose: Slug of what measures the pose of heads; "" for what the detector or the landmarks say.
    """

    model: str = ""
    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    detector: str = ""
    parser: str = ""
    recogniser: str = ""
    background: str = ""
    damage_finder: str = ""
    landmarker: str = ""
    head_pose: str = ""


class Networks(Protocol):
    """Where pipelines get their networks from: a `facewright.runtime.session.Session`, or fakes in tests."""

    def network(self, slug: str, weights: str | Path | None = None, device: str = "auto", dtype: str = "auto") -> Any:
        """A system by slug and weights, loaded at most once."""
        ...

    def of_task(self, task: str, name: str, device: str = "auto") -> Any:
        """A system by its slug, which must be one of that task."""
        ...

    def chosen(self, task: Task, choice: NetworkChoice) -> Any:
        """The system of a task that a choice names."""
        ...

    def detector(self, choice: NetworkChoice) -> Any: ...

    def parser(self, choice: NetworkChoice) -> Any: ...

    def recogniser(self, choice: NetworkChoice) -> Any: ...

    def background(self, choice: NetworkChoice) -> Any:
        """The enlarger of what is not a face; None where none is chosen."""
        ...


NOUNS = {
    "action_units": "reader of action units",
    "age": "age estimator",
    "attributes": "reader of attributes",
    "colourise": "colouriser",
    "damage": "finder of damage",
    "detect": "detector",
    "expression": "reader of expressions",
    "forgery": "forgery detector",
    "inpaint": "inpainter",
    "landmarks": "landmarker",
    "liveness": "liveness estimator",
    "parse": "parser",
    "pose": "estimator of head pose",
    "quality": "quality estimator",
    "recognise": "recogniser",
    "restore": "restorer",
    "synthesise": "generator",
}
"""What a system of a task is called."""

COMPONENTS = {
    "detector": "detect",
    "parser": "parse",
    "recogniser": "recognise",
    "background": "enlarge",
    "damage_finder": "damage",
    "landmarker": "landmarks",
    "head_pose": "pose",
}
"""Networks beside a task's own that can be chosen, to the task whose systems they are."""

WITHOUT_VERB = {
    "attack": "Audit recognisers",
    "damage": "Find the damage of prints",
    "enlarge": "Draw what is not a face",
    "features": "Features that other systems are built on",
    "landmarks": "Place landmarks",
    "latents": "Pictures as latents, which other systems are built on",
    "morph": "Detect morphs",
    "opinion": "A second opinion on found faces",
    "pose": "Measure the pose of heads",
}
"""Tasks of systems that no function of their own calls, with the heading of their list."""


@renamed_arguments(film="video", film_result="video_result")
@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A task, declared once.

    Args:
        name: The task, such as "detect"; also the folder of its systems below `systems/`.
        verb: The Python function `fw.<verb>` and the command `facewright <verb>`, which has dashes for underscores.
        summary: One line: what it gives.
        shape: What goes in and out.
        options: Frozen dataclass of its options.
        load: "module:function"; called with (session, choice), gives the callable (photo, options) → result. For
            pairs (photo, photo, options), for generators (options), for reports (folder, options).
        result: "module:Class" of what that callable gives, or of one face's record.
        record: TypedDict of the result as JSON.
        default: Slug of the system used when none is named.
        systems: Name of the task whose systems can be chosen with `model`, where it is another; None for tasks whose
            networks cannot be chosen.
        protocol: What a system of this task must offer; None for tasks without systems of their own.
        needs: The other networks that can be chosen, of `COMPONENTS`.
        media: What a command takes: "photo", "folder", "video".
        video: "module:function" for videos: (session, choice, source, target, options, save, …) → report.
        video_result: "module:Class" of that report.
        watch: "module:function" that gives records of the people of a video: (session, task, choice, path, options).
        draw: "module:function" that draws records on a photo.
        dtype: Whether the precision can be chosen.
        compares: Whether results can make a before/after sheet.
        finds_damage: Whether results can say where a print was damaged.
        document: How records of one photo are laid out as JSON: a list of faces, an object with name and size of the
            photo, or a list of photos.
        metrics: How its systems are measured.
        guide: Page of the documentation.
        title: Heading of the list of its systems.
        public: False keeps it out of the checked-in `facewright.api`, for tasks that plug in from elsewhere.
    """

    name: str
    verb: str
    summary: str
    shape: Shape
    options: type
    load: str
    result: str
    record: Any
    default: str = ""
    systems: str | None = ""
    protocol: type | None = None
    needs: tuple[str, ...] = ()
    media: tuple[str, ...] = ("photo",)
    video: str = ""
    video_result: str = ""
    watch: str = ""
    draw: str = ""
    dtype: bool = False
    compares: bool = False
    finds_damage: bool = False
    document: Literal["faces", "photo", "photos"] = "photos"
    metrics: tuple[str, ...] = ()
    guide: str = ""
    title: str = ""
    public: bool = True

    @property
    def system_task(self) -> str | None:
        """The task whose systems `model` chooses from; None where there is no choice."""
        return None if self.systems is None else self.systems or self.name

    @property
    def command(self) -> str:
        """The verb as the command line writes it."""
        return self.verb.replace("_", "-")

    @property
    def served(self) -> bool:
        """Whether it is offered over HTTP; reports read folders, which only their owner has."""
        return self.shape is not Shape.REPORT

    @property
    def noun(self) -> str:
        """What the systems that can be chosen are called."""
        return NOUNS.get(self.system_task or "", "system for that")

    def cards(self) -> list[Card]:
        """The systems that can be chosen."""
        return [card for card in cards().values() if self.system_task in card.tasks]

    def card(self, model: str) -> Card:
        """The card of the chosen system, of the default for ""; UsageError for a system of another task."""
        card = get_card(model or self.default)
        if self.system_task not in card.tasks:
            known = ", ".join(c.slug for c in self.cards())
            raise UsageError(f"{card.slug} is not a {self.noun}; choose one of {known}")
        return card

    def schema(self) -> dict[str, Any]:
        """JSON schemas of the options and of the result."""
        from pydantic import TypeAdapter

        return {
            "options": TypeAdapter(self.options).json_schema(),
            "result": TypeAdapter(self.record).json_schema(mode="serialization"),
        }


def entry(name: str) -> Any:
    """What "module:name" means, imported now."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def tasks() -> dict[str, Task]:
    """All declared tasks by verb, in alphabetical order."""
    return {task.verb: task for task in sorted(_declared(), key=lambda task: task.verb)}


def task_modules() -> Iterator[ModuleType]:
    """The modules of this package, in which tasks and what they ask of a system are declared."""
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}")


def _declared() -> Iterator[Task]:
    for module in task_modules():
        yield from getattr(module, "TASKS", ())


def get_task(verb: str) -> Task:
    """The task of a verb; raises UsageError naming those there are."""
    table = tasks()
    if verb not in table:
        raise UsageError(f"there is no task {verb!r}; there are: {', '.join(table)}")
    return table[verb]
