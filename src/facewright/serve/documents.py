"""The JSON of the API, as types: jobs, uploads, tasks; results are the records of the tasks' declarations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, create_model

from ..tasks.card import cards
from ..tasks.declare import Shape, Task, entry, option_fields
from . import requests
from .problems import Problem, ProblemDocument

if TYPE_CHECKING:
    from .jobs import Job, Jobs


class Progress(BaseModel):
    """How far a job is."""

    stage: str = Field(description="What it is doing, for people.")
    done: int = Field(description="Frames or pages done; 0 for photos.")
    total: int | None = Field(description="Of how many; null while unknown.")


class JobDocument(BaseModel):
    """A job: something to be done to a file, and what came of it."""

    id: str
    task: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    position: int | None = Field(description="How many jobs come first, while it is queued.")
    progress: Progress
    created: datetime
    ended: datetime | None
    expires: datetime | None = Field(description="When the result is deleted.")
    problem: ProblemDocument | None = Field(description="Why it failed.")
    links: dict[str, str] = Field(description="What can be fetched, by name.")


class UploadDocument(BaseModel):
    """A file that is being sent in pieces."""

    id: str
    name: str
    bytes: int = Field(description="Size of the whole file.")
    offset: int = Field(description="How much of it is here.")


class NewUpload(BaseModel):
    """A file to be sent in pieces."""

    name: str = Field(max_length=1000)
    bytes: int = Field(gt=0)


class ModelDocument(BaseModel):
    """A system that can be chosen."""

    slug: str
    name: str
    summary: str
    title: str
    year: int
    url: str
    weights: list[str] = Field(description="Names of the weights that are ready on this server.")
    ready: bool = Field(description="Whether it works without naming weights.")
    commercial: bool | None = Field(description="Whether its default weights may be used commercially, if known.")


class TaskDocument(BaseModel):
    """A task as its declaration says, and what this server has for it."""

    verb: str
    summary: str
    shape: str
    inputs: list[str]
    media: list[str]
    form: dict[str, Any] = Field(description="JSON schema of the form.")
    own: list[str] = Field(description="Options of the task itself, in order.")
    live: list[str] = Field(description="Options that change a result afterwards, without a network.")
    networks: dict[str, list[ModelDocument]] = Field(description="What can be chosen, by field.")
    compares: bool
    draws: bool
    guide: str


class LimitsDocument(BaseModel):
    """What the server takes."""

    photo_bytes: int
    video_bytes: int
    pixels: int
    faces: int
    seconds: float
    keep_seconds: float


class ServerDocument(BaseModel):
    """What this server is and can do."""

    version: str
    limits: LimitsDocument
    tasks: list[TaskDocument]


def result_type(task: Task) -> Any:
    """The type of a task's result."""
    record: Any = task.record
    if task.shape is Shape.RECORDS:
        return create_model(
            f"{_class_name(task)}Result",
            __doc__="What was found in a photo.",
            source=(str, ...),
            size=(list[int], ...),
            notes=(list[str], ...),
            faces=(list[record], ...),
        )
    return record | dict[str, Any] if task.video else record


def _class_name(task: Task) -> str:
    return task.verb.title().replace("_", "")


def job_type(task: Task) -> type[BaseModel]:
    """The type of a task's jobs."""
    return create_model(
        f"{_class_name(task)}Job",
        __base__=JobDocument,
        __doc__=f"A job: {task.summary}",
        result=(result_type(task) | None, Field(None, description="What came out, when it is done.")),
    )


def job_document(job: Job, jobs: Jobs, *, result: bool = True) -> dict[str, Any]:
    """A job as JSON."""
    record = job.record
    expires = None if record.ended is None else record.ended + jobs.options.keep
    problem = None if record.problem is None else Problem.from_dict(record.problem).document(record.id)
    return {
        "id": record.id,
        "task": record.task,
        "state": record.state,
        "position": jobs.position(job),
        "progress": {"stage": job.stage, "done": job.done, "total": job.total},
        "created": _time(record.created),
        "ended": _time(record.ended),
        "expires": _time(expires),
        "problem": problem,
        "links": links(job),
        "result": record.result if result else None,
    }


def links(job: Job) -> dict[str, str]:
    """What can be fetched of a job."""
    top = f"/v1/jobs/{job.id}"
    found = {"self": top}
    if not job.has_ended:
        found["events"] = f"{top}/events"
    if job.state != "done" or job.order is None:
        return found
    task = job.order.task
    if task.shape is Shape.GENERATE:
        return found | {f"picture-{name}": f"{top}/pictures/{name}" for name in job.record.files}
    found |= {name: f"{top}/{name}" for name in job.record.files}
    if "pages" in (job.record.result or {}) or job.is_video:
        return found
    if task.shape is Shape.EDIT:
        found |= {name: f"{top}/{name}" for name in ("before", "after", *(["sheet"] if task.compares else []))}
    if task.shape is Shape.RECORDS:
        found |= {name: f"{top}/{name}" for name in ("before", *(["drawn"] if task.draw else []))}
    return found


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task_document(task: Task) -> dict[str, Any]:
    """A task with the systems of this server, for programs and for the page."""
    networks = requests.network_fields(task)
    return {
        "verb": task.verb,
        "summary": task.summary,
        "shape": task.shape.name.lower(),
        "inputs": list(requests.INPUTS[task.shape]),
        "media": list(task.media),
        "form": requests.form_schema(task),
        "own": [option.name for option in option_fields(task.options)],
        "live": live_options(task),
        "networks": {
            name: [_model(card) for card in cards().values() if system_task in card.tasks]
            for name, (system_task, _, _) in networks.items()
        },
        "compares": task.compares,
        "draws": bool(task.draw),
        "guide": task.guide,
    }


def live_options(task: Task) -> list[str]:
    """Options whose effect on a finished result needs no network."""
    can_blend = task.shape is Shape.EDIT and hasattr(entry(task.result), "with_strength")
    return ["strength"] if can_blend else []


def _model(card: Any) -> dict[str, Any]:
    ready = requests.ready_weights(card)
    default = card.default_checkpoint
    return {
        "slug": card.slug,
        "name": card.name,
        "summary": card.summary,
        "title": card.title,
        "year": card.year,
        "url": card.url,
        "weights": list(ready),
        "ready": requests.default_weights(card) in ready,
        "commercial": None if default is None else default.commercial,
    }
