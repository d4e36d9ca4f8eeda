"""The routes. One for each task is made from its declaration; the others are about jobs, uploads and the server."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ..io.encode import format_of
from ..tasks.declare import Shape, Task, tasks
from . import requests, views
from .documents import (
    JobDocument,
    NewUpload,
    ServerDocument,
    UploadDocument,
    job_document,
    job_type,
    task_document,
)
from .forms import MOST_TEXT, Form, body, read_form
from .guard import Guard
from .jobs import Jobs
from .logs import LOG, unexpected
from .metrics import Metrics
from .problems import MEDIA_TYPE, Problem, ProblemDocument, not_found, problem_of
from .tokens import Tokens
from .uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from .jobs import Job
    from .settings import ServeOptions
    from .store import Store

PAGE = Path(__file__).with_name("page")
LONGEST_WAIT = 60.0
MOST_UPLOADING = 64
"""Requests whose bodies are being read at the same time."""
_KEEP_ALIVE = 15.0

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for the end of the job.")]
Strength = Annotated[float | None, Query(ge=0, le=1, description="Blend anew with the input; no network runs.")]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ProblemDocument, "description": "Refused; `code` says why.", "content": {MEDIA_TYPE: {}}}
}


class Server:
    """What the routes share."""

    def __init__(self, options: ServeOptions, store: Store, tokens: Tokens, source: Any = None) -> None:
        self.options, self.tokens = options, tokens
        self.metrics = Metrics()
        self.metrics.watch_memory()
        self.jobs = Jobs(options, store, self.metrics, source)
        self.uploads = Uploads(store, options)
        self.ready = False
        self.uploading = 0


def create_app(
    options: ServeOptions,
    store: Store,
    *,
    tokens: Tokens | None = None,
    source: Any = None,
    warm: tuple[str, ...] = (),
    forget: bool = False,
) -> FastAPI:
    """The application.

    Args:
        options: Limits and numbers of workers.
        store: Where jobs are kept.
        tokens: Who may use it; without any, everybody who reaches it.
        source: Where networks come from; a `Session` of its own without.
        warm: Verbs whose networks are loaded at the start, before `/readyz` says so.
        forget: Delete finished jobs at the end.
    """
    server = Server(options, store, tokens or Tokens({}), source)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await server.jobs.start()
        warming = asyncio.create_task(_warm(server, warm))
        sweeping = asyncio.create_task(_sweep(server))
        try:
            yield
        finally:
            warming.cancel()
            sweeping.cancel()
            await server.jobs.stop(forget=forget)

    app = _described_app(lifespan)
    app.state.server = server
    for task in tasks().values():
        if task.served:
            _add_task(app, server, task)
    _add_jobs(app, server)
    _add_uploads(app, server)
    _add_server(app, server)
    _add_page(app)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_unexpected)
    if options.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.allow_origin),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Location", "Retry-After", "Upload-Offset"],
        )
    app.add_middleware(Guard, options=options, tokens=server.tokens, metrics=server.metrics)
    return app


def _described_app(lifespan: Any) -> FastAPI:
    from .. import __version__

    return FastAPI(
        title="facewright",
        version=__version__,
        summary="Every task of facewright over HTTP.",
        description=(
            "Send a file to a task and get a job; watch it, and fetch what came of it. The options of a task are those "
            "of the Python function and the command of the same name. Nothing is fetched from elsewhere."
        ),
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=lifespan,
        redirect_slashes=False,
    )


async def _warm(server: Server, verbs: tuple[str, ...]) -> None:
    """Load the networks people will ask for first."""
    from ..tasks.declare import NetworkChoice

    for verb in verbs:
        try:
            choice = NetworkChoice(device=server.options.device)
            await asyncio.to_thread(server.jobs.session.pipeline, verb, choice)
        except Exception as error:
            unexpected(f"loading the networks of {verb}", error)
    server.ready = True
    LOG.info("ready")


async def _sweep(server: Server) -> None:
    while True:
        await asyncio.sleep(min(60.0, server.options.keep / 2))
        await asyncio.to_thread(server.uploads.sweep)


# --- errors


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.app.state.server.metrics.refused.labels(error.code).inc()
    return JSONResponse(error.document(), error.status, error.headers, MEDIA_TYPE)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(error.status_code, "http", str(error.detail), dict(error.headers or {}))
    if error.status_code == 404:
        problem = not_found()
    return await _on_problem(request, problem)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0] if error.errors() else {"loc": ("request",), "msg": "is not valid"}
    return await _on_problem(request, Problem(422, "invalid", f"{first['loc'][-1]}: {first['msg']}"))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    """The answer; the guard notes where it happened."""
    problem = problem_of(error)
    return JSONResponse(problem.document(), problem.status, media_type=MEDIA_TYPE)


# --- tasks


def _add_task(app: FastAPI, server: Server, task: Task) -> None:
    """`POST /v1/VERB`: files and options in, a job out."""
    document = job_type(task)
    picture = {"image/*": {"schema": {"type": "string", "format": "binary"}}} if task.shape is Shape.EDIT else {}
    done: dict[str, Any] = {"model": document, "description": "The job ended while it was waited for."}
    if picture:
        done["content"] = picture

    async def start(request: Request, wait: Wait = 0.0) -> Response:
        wanted = _wanted_format(task, request)
        job = await _new_job(server, task, request, wanted)
        if wanted is not None and not wait:
            wait = LONGEST_WAIT
        if wait and await job.until_ended(wait):
            return _answer_ended(server, job, as_picture=wanted is not None)
        headers = {"Location": f"/v1/jobs/{job.id}"}
        return JSONResponse(job_document(job, server.jobs), 202, headers)

    start.__name__ = task.verb
    app.add_api_route(
        f"/v1/{task.verb}",
        start,
        methods=["POST"],
        status_code=202,
        summary=task.summary,
        description=_description(task),
        operation_id=task.verb,
        tags=["tasks"],
        response_model=document,
        response_class=JSONResponse,
        responses={200: done, **PROBLEMS},
        openapi_extra={"requestBody": _form_description(task)},
    )


def _form_description(task: Task) -> dict[str, Any]:
    files = bool(requests.INPUTS[task.shape])
    media_types = ("multipart/form-data", *(() if files else ("application/x-www-form-urlencoded",)))
    return {
        "required": files,
        "content": {media_type: {"schema": requests.form_schema(task)} for media_type in media_types},
    }


def _description(task: Task) -> str:
    said = "Gives a job at once (202); with `wait`, the ended job when it ends in time."
    if task.shape is Shape.EDIT:
        said += " With `Accept: image/png` or another type of picture, the picture itself."
    return said


def _wanted_format(task: Task, request: Request) -> str | None:
    """The format of the picture that is to be answered, "" for any; None where a job is."""
    first = request.headers.get("accept", "").partition(",")[0].partition(";")[0].strip().lower()
    if task.shape is not Shape.EDIT or not first.startswith("image/"):
        return None
    formats = {media_type: suffix for suffix, media_type in reversed(views.MEDIA_TYPES.items())}
    return "" if first not in formats else format_of(f"picture{formats[first]}")


def _answer_ended(server: Server, job: Job, *, as_picture: bool) -> Response:
    if job.record.problem is not None:
        problem = Problem.from_dict(job.record.problem)
        return JSONResponse(problem.document(job.id), problem.status, media_type=MEDIA_TYPE)
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if as_picture and "picture" in job.record.files:
        return _file_of(job, "picture", headers)
    return JSONResponse(job_document(job, server.jobs), 200, headers)


async def _new_job(server: Server, task: Task, request: Request, wanted_format: str | None) -> Job:
    """Read a form into a new job's folder and queue the job; nothing is left behind when that fails."""
    server.jobs.check_room()
    if server.uploading >= MOST_UPLOADING:
        raise Problem(429, "busy", "too many uploads at the same time; try again", {"Retry-After": "5"})
    store = server.jobs.store
    identity, folder = store.begin()
    server.uploading += 1
    try:
        form = await read_form(request, folder / "in", server.options)
        _take_uploads(server, task, form, request.state.owner, folder / "in")
        if wanted_format:
            form.texts.setdefault("format", [wanted_format])
        order = await asyncio.to_thread(requests.order_of, task, form, device=server.options.device)
        _remove_surplus(form, {*order.inputs, *(key.partition("/")[0] for key in order.pictures)}, folder / "in")
        return await server.jobs.submit(identity, order, request.state.owner)
    except BaseException:
        store.remove(identity)
        raise
    finally:
        server.uploading -= 1


def _take_uploads(server: Server, task: Task, form: Form, owner: str, folder: Path) -> None:
    """Put uploads whose ids stand where a file is expected there."""
    for name in requests.INPUTS[task.shape]:
        for identity in form.texts.pop(name, ()):
            sent = server.uploads.take(identity.strip(), owner, folder / name / f"upload-{len(form.files)}")
            form.files.setdefault(name, []).append(sent)


def _remove_surplus(form: Form, used: set[str], folder: Path) -> None:
    for name in form.files.keys() - used:
        shutil.rmtree(folder / name, ignore_errors=True)


# --- jobs


def _add_jobs(app: FastAPI, server: Server) -> None:
    jobs = server.jobs

    def of(request: Request, identity: str) -> Job:
        return jobs.get(identity, request.state.owner)

    @app.get(
        "/v1/jobs/{job}", tags=["jobs"], summary="A job and its result.", response_model=JobDocument, responses=PROBLEMS
    )
    async def get_job(request: Request, job: str, wait: Wait = 0.0) -> Response:
        found = of(request, job)
        if wait:
            await found.until_ended(wait)
        return JSONResponse(job_document(found, jobs))

    @app.get(
        "/v1/jobs/{job}/events",
        tags=["jobs"],
        summary="The job's states as server-sent events, until it ends.",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **PROBLEMS},
    )
    async def watch_job(request: Request, job: str) -> Response:
        events = _events(of(request, job), jobs)
        return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.delete(
        "/v1/jobs/{job}",
        tags=["jobs"],
        summary="Cancel a job, or delete one that has ended.",
        status_code=202,
        responses={204: {"description": "It is gone."}, **PROBLEMS},
    )
    async def cancel_job(request: Request, job: str) -> Response:
        found = of(request, job)
        await asyncio.to_thread(jobs.cancel, found)
        if found.id not in jobs.table:
            return Response(status_code=204)
        return JSONResponse(job_document(found, jobs, result=False), 202)

    async def view(request: Request, identity: str, make: Callable[[Job, Any], views.File]) -> Response:
        job = of(request, identity)
        if job.state != "done" or job.is_video:
            raise not_found()
        try:
            made = await jobs.value(job)
            file = await jobs.views.run(partial(make, job, made))
        except Problem:
            raise
        except Exception as error:
            raise problem_of(error) from error
        return Response(file.content, media_type=file.media_type, headers=_named(file.name, attached=False))

    picture_types: dict[int | str, dict[str, Any]] = {
        200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    }

    def picture_route(path: str, summary: str) -> Callable[..., Any]:
        return app.get(
            f"/v1/jobs/{{job}}/{path}",
            tags=["results"],
            summary=summary,
            response_class=Response,
            responses={**picture_types, **PROBLEMS},
        )

    @picture_route("picture", "The edited picture, to keep.")
    async def get_picture(
        request: Request,
        job: str,
        strength: Strength = None,
        format: Annotated[str | None, Query(description=f"One of {', '.join(requests.FORMATS)}.")] = None,
        quality: Annotated[int | None, Query(ge=1, le=100)] = None,
    ) -> Response:
        found = of(request, job)
        if strength is None and format is None and quality is None:
            return _file_of(found, "picture")
        make: Any = partial(views.written, format=format, quality=quality, strength=strength)
        return await view(request, job, make)

    @picture_route("before", "The photo as it came, for a screen.")
    async def get_before(request: Request, job: str, side: _SIDE = None) -> Response:
        return await view(request, job, lambda _, made: views.screen(made, "before", strength=None, side=side))

    @picture_route("after", "The edited picture, for a screen.")
    async def get_after(request: Request, job: str, strength: Strength = None, side: _SIDE = None) -> Response:
        return await view(request, job, lambda _, made: views.screen(made, "after", strength=strength, side=side))

    @picture_route("sheet", "A before/after sheet.")
    async def get_sheet(request: Request, job: str, strength: Strength = None) -> Response:
        return await view(request, job, lambda _, made: views.sheet(made, strength))

    @picture_route("drawn", "The photo with what was found drawn on it.")
    async def get_drawn(request: Request, job: str) -> Response:
        return await view(request, job, views.drawn)

    @picture_route("pictures/{number}", "One of the pictures that were made.")
    async def get_made(request: Request, job: str, number: Annotated[int, _NUMBER]) -> Response:
        return _file_of(of(request, job), str(number))

    @app.get(
        "/v1/jobs/{job}/video",
        tags=["results"],
        summary="The edited video; ranges are possible.",
        response_class=FileResponse,
        responses={200: {"content": {"video/*": {}}}, **PROBLEMS},
    )
    async def get_video(request: Request, job: str) -> Response:
        return _file_of(of(request, job), "video")


_SIDE = Annotated[int | None, Query(ge=1, le=20_000, description="Longest side at most.")]
_NUMBER = InPath(ge=0, le=1_000_000)


def _file_of(job: Job, name: str, headers: dict[str, str] | None = None) -> Response:
    """A file that a job made."""
    path = job.folder / job.record.files.get(name, "gone")
    if job.state != "done" or not path.is_file():
        raise not_found()
    headers = {**(headers or {}), **_named(path.name, attached=True)}
    return FileResponse(path, media_type=views.media_type(path.name), headers=headers)


def _named(name: str, *, attached: bool) -> dict[str, str]:
    kind = "attachment" if attached else "inline"
    return {"Content-Disposition": f"{kind}; filename*=UTF-8''{quote(name)}"}


async def _events(job: Job, jobs: Jobs) -> AsyncIterator[bytes]:
    """The job after every change, the result with the last one."""
    while True:
        news = job.news
        document = job_document(job, jobs)
        yield f"event: {document['state']}\ndata: {json.dumps(document)}\n\n".encode()
        if job.has_ended or jobs.stopping or job.id not in jobs.table:
            return
        while True:
            try:
                await asyncio.wait_for(news.wait(), _KEEP_ALIVE)
                break
            except TimeoutError:
                yield b": waiting\n\n"


# --- uploads in pieces


def _body_description(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": schema}}}


def _add_uploads(app: FastAPI, server: Server) -> None:
    uploads = server.uploads

    @app.post(
        "/v1/uploads",
        tags=["uploads"],
        summary="Announce a large file, to be sent in pieces.",
        status_code=201,
        response_model=UploadDocument,
        responses=PROBLEMS,
        openapi_extra={"requestBody": _body_description("application/json", NewUpload.model_json_schema())},
    )
    async def begin_upload(request: Request) -> Response:
        text = b"".join([chunk async for chunk in body(request, MOST_TEXT, server.options.patience)])
        try:
            new = NewUpload.model_validate_json(text)
        except ValidationError as error:
            raise Problem(422, "invalid", f"send a name and how many bytes: {error.errors()[0]['msg']}") from error
        upload = await asyncio.to_thread(uploads.begin, new.name, new.bytes, request.state.owner)
        return JSONResponse(uploads.document(upload), 201, {"Location": f"/v1/uploads/{upload.id}"})

    @app.get("/v1/uploads/{upload}", tags=["uploads"], summary="How much is here.", response_model=UploadDocument,
             responses=PROBLEMS)  # fmt: skip
    async def get_upload(request: Request, upload: str) -> Response:
        return JSONResponse(uploads.document(uploads.get(upload, request.state.owner)))

    @app.put(
        "/v1/uploads/{upload}",
        tags=["uploads"],
        summary="Send a piece; the id of the complete upload stands for the file in a task's form.",
        response_model=UploadDocument,
        responses=PROBLEMS,
        openapi_extra={
            "requestBody": _body_description("application/octet-stream", {"type": "string", "format": "binary"})
        },
    )
    async def add_piece(request: Request, upload: str, offset: Annotated[int, Query(ge=0)]) -> Response:
        found = uploads.get(upload, request.state.owner)
        await uploads.add(found, offset, request)
        return JSONResponse(uploads.document(found))

    @app.delete("/v1/uploads/{upload}", tags=["uploads"], summary="Give an upload up.", status_code=204,
                responses=PROBLEMS)  # fmt: skip
    async def drop_upload(request: Request, upload: str) -> Response:
        uploads.remove(uploads.get(upload, request.state.owner))
        return Response(status_code=204)


# --- the server itself


def _add_server(app: FastAPI, server: Server) -> None:
    @app.get("/v1/tasks", tags=["server"], summary="What this server can do, with what, and within which limits.",
             response_model=ServerDocument, responses=PROBLEMS)  # fmt: skip
    async def get_tasks() -> Response:
        return JSONResponse(await asyncio.to_thread(_server_document, server, app.version))

    @app.get("/healthz", tags=["server"], summary="The process is alive.", response_class=Response)
    async def is_alive() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get("/readyz", tags=["server"], summary="Jobs are taken (200) or not (503).", response_class=Response)
    async def is_ready() -> Response:
        ready = server.ready and not server.jobs.stopping
        return Response("ready\n" if ready else "not ready\n", 200 if ready else 503, media_type="text/plain")

    @app.get("/metrics", tags=["server"], summary="Numbers for Prometheus.", response_class=Response)
    async def get_metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _server_document(server: Server, version: str) -> dict[str, Any]:
    options = server.options
    limits = {
        "photo_bytes": options.photo_bytes,
        "video_bytes": options.video_bytes,
        "pixels": options.pixels,
        "faces": options.max_faces,
        "seconds": options.max_seconds,
        "keep_seconds": options.keep,
    }
    return {"version": version, "limits": limits, "tasks": [task_document(t) for t in tasks().values() if t.served]}


# --- the page

_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}


def _add_page(app: FastAPI) -> None:
    """The files of the page, each by a route of its own: there is no path to play with."""
    for file in sorted(PAGE.iterdir()):
        if file.suffix in _PAGE_TYPES:
            route = "/" if file.name == "index.html" else f"/page/{file.name}"
            app.add_api_route(route, _static(file), methods=["GET"], include_in_schema=False)


def _static(file: Path) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def get() -> Response:
        return FileResponse(file, media_type=_PAGE_TYPES[file.suffix])

    return get
