"""Jobs: taken in, queued, worked on, watched, cancelled, kept for a time, and taken up again after a crash."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..nn.memory import trim
from . import work
from .batching import Batcher
from .lanes import Lane
from .logs import LOG, unexpected
from .networks import ServedNetworks, watched_by
from .problems import Problem, not_found, problem_of
from .store import ENDED, Record, State, Store, ended

if TYPE_CHECKING:
    from pathlib import Path

    from .metrics import Metrics
    from .requests import Order
    from .settings import ServeOptions
    from .work import Made

MOST_ATTEMPTS = 10
"""How often a job is begun that was at work each time the server was killed. It need not be the reason, so that this is
far more than one that is at hand by chance can meet; after each kill those begun less often come first."""


MOST_VIEWS = 64
"""Pictures that may wait to be written for somebody who looks."""


class Stopped(BaseException):
    """Raised inside a job's work to end it: it was cancelled, or the server stops. No library is to catch it."""


class Job:
    """One job in memory; a `Watch` of its own work. `record` is replaced as a whole, never changed."""

    def __init__(self, record: Record, folder: Path, order: Order | None, loop: asyncio.AbstractEventLoop) -> None:
        self.record, self.folder, self.order = record, folder, order
        self.is_video = order is not None and work.is_video(order)
        self.stage, self.done, self.total = "", 0, None  # type: tuple[str, int, int | None]
        self.cancelled = self.interrupted = False
        self.lock = threading.Lock()
        self.remaking = asyncio.Lock()
        self.action: Any = None
        self._loop, self._event = loop, asyncio.Event()
        self._end: float | None = None
        self._most_faces: int | None = None
        self._count_faces: Any = lambda count: None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def has_ended(self) -> bool:
        return self.record.state in ENDED

    # --- the work's side, in its thread

    def begin(self, seconds: float, most_faces: int, metrics: Metrics) -> None:
        """Set the limits of an attempt."""
        self._end, self._most_faces = time.monotonic() + seconds, most_faces
        self._count_faces = metrics.faces.inc

    def before(self, stage: str) -> None:
        """See `networks.Watch`."""
        self._check()
        if stage != self.stage:
            self.stage = stage
            self.tell()

    def found(self, faces: int) -> None:
        """See `networks.Watch`."""
        self._count_faces(faces)
        if self._most_faces is not None and faces > self._most_faces and not self.is_video:
            raise Problem(
                413, "too_many_faces", f"{faces} faces were found, more than the limit of {self._most_faces}; crop it"
            )

    def progress(self, done: int, total: int | None) -> None:
        """How many of how many frames or pages are done."""
        self._check()
        self.done, self.total = done, total
        self.tell()

    def _check(self) -> None:
        if self.cancelled or self.interrupted:
            raise Stopped
        if self._end is not None and time.monotonic() > self._end:
            raise Problem(413, "too_long", "the work took longer than the limit of this server; send less at once")

    # --- the watchers' side, in the event loop

    def tell(self) -> None:
        """Wake whoever watches; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody watches any more
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    @property
    def news(self) -> asyncio.Event:
        """Set at the next change; get it before looking at the state, so that no change is missed."""
        return self._event

    async def until_ended(self, seconds: float) -> bool:
        """Whether the job ends within so many seconds."""
        end = time.monotonic() + seconds
        while not self.has_ended:
            news = self.news
            if self.has_ended:
                break
            try:
                await asyncio.wait_for(news.wait(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                return False
        return True


class Values:
    """Results as Python values, the last used ones up to so many bytes; what is dropped can be made again."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[Made, int]] = OrderedDict()

    def put(self, identity: str, made: Made) -> None:
        size = bytes_of(made)
        with self._lock:
            self._drop(identity)
            if size > self.most_bytes:
                return
            self._held[identity] = (made, size)
            self.bytes += size
            while self.bytes > self.most_bytes:
                self._drop(next(iter(self._held)))

    def get(self, identity: str) -> Made | None:
        with self._lock:
            if identity not in self._held:
                return None
            self._held.move_to_end(identity)
            return self._held[identity][0]

    def drop(self, identity: str) -> None:
        with self._lock:
            self._drop(identity)

    def _drop(self, identity: str) -> None:
        _, size = self._held.pop(identity, (None, 0))
        self.bytes -= size


def bytes_of(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all arrays and byte strings in a value, each counted once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, bytes):
        return len(value)
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(bytes_of(part, seen) for part in value.values())
    if isinstance(value, list | tuple):
        return sum(bytes_of(part, seen) for part in value)
    if is_dataclass(value):
        parts = [getattr(value, f.name) for f in fields(value)] + list(getattr(value, "__dict__", {}).values())
        return sum(bytes_of(part, seen) for part in parts)
    return 0


class Jobs:
    """All jobs of a server.

    Args:
        options: Limits and numbers of workers.
        store: Where they are kept.
        metrics: What counts them.
        source: Where networks come from; a `Session` of its own without.
    """

    def __init__(self, options: ServeOptions, store: Store, metrics: Metrics, source: Any = None) -> None:
        self.options, self.store, self.metrics = options, store, metrics
        self.photos = Lane("photo", options.workers, options.queue)
        self.videos = Lane("video", options.video_workers, options.queue)
        self.views = Lane("view", 2, MOST_VIEWS)
        batcher = Batcher(options.batch_wait, lambda: self.photos.busy, metrics.batches.observe)
        self.session = ServedNetworks(source, batcher)
        self.values = Values(options.memory_bytes)
        self.table: dict[str, Job] = {}
        self.stopping = False
        self._sweeper: asyncio.Task[None] | None = None
        for lane in (self.photos, self.videos):
            metrics.watch_lane(lane)
        metrics.watch("disk_bytes", "Bytes of uploads and results on disk", lambda: store.used_bytes)
        metrics.watch("kept_bytes", "Memory of results kept ready", lambda: self.values.bytes)

    # --- beginning and end

    async def start(self) -> None:
        """Take up what a former run left, and watch over what expires."""
        loop = asyncio.get_running_loop()
        for record in sorted(self.store.records(), key=lambda record: record.attempts):
            self._take_up(record, loop)
        self._sweeper = asyncio.create_task(self._sweep())

    def _take_up(self, record: Record, loop: asyncio.AbstractEventLoop) -> None:
        folder = self.store.folder(record.id)
        order: Order | None = None
        if record.state in ("queued", "running", "done"):
            try:
                order = record.order(folder)
            except Exception as error:
                self._give_up(Job(record, folder, None, loop), problem_of(error))
                return
        job = self.table[record.id] = Job(record, folder, order, loop)
        if not job.has_ended:
            job.record = replace(record, state="queued")
            self._enqueue(job, reserved=False)

    def _give_up(self, job: Job, problem: Problem) -> None:
        self.table[job.id] = job
        self._finish(job, ended(job.record, "failed", problem=problem.to_dict()))

    def begin_stop(self) -> None:
        """Begin no further job, and let go of those who watch, so that their connections end."""
        self.stopping = True
        for lane in (self.photos, self.videos, self.views):
            lane.close()
        for job in list(self.table.values()):
            job.tell()

    async def stop(self, *, forget: bool) -> None:
        """Let running jobs end, or leave them to the next start; `forget` deletes what has ended."""
        self.begin_stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if not await asyncio.to_thread(self._join, self.options.grace):
            for job in self.table.values():
                job.interrupted = True
            if not await asyncio.to_thread(self._join, max(5.0, self.options.grace)):
                LOG.warning("a job does not end; it is taken up again at the next start")
        if forget:
            for job in list(self.table.values()):
                if job.has_ended:
                    self.store.remove(job.id)
        self.store.close()

    def _join(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        lanes = (self.photos, self.videos, self.views)
        in_time = [lane.join(max(0.0, end - time.monotonic())) for lane in lanes]
        return all(in_time)

    # --- from outside

    def lane(self, *, is_video: bool) -> Lane:
        return self.videos if is_video else self.photos

    def check_room(self) -> None:
        """Refuse before an upload is read what would find no place after it."""
        self.photos.check()
        if not self.store.has_room:
            seconds = self._until_next_expiry()
            raise Problem(
                429, "no_room", "there is no room for more results; delete some", {"Retry-After": str(seconds)}
            )

    async def submit(self, identity: str, order: Order, owner: str) -> Job:
        """Take a job in, whose files are in its folder; it is on disk before this returns. Problem 429 when full."""
        folder = self.store.folder(identity)
        record = Record.of(identity, order, owner, folder)
        job = Job(record, folder, order, asyncio.get_running_loop())
        lane = self.lane(is_video=job.is_video)
        lane.reserve()
        try:
            await asyncio.to_thread(self.store.write, record)
        except BaseException:
            lane.release()
            raise
        self.table[identity] = job
        self._enqueue(job, reserved=True)
        return job

    def _enqueue(self, job: Job, *, reserved: bool) -> None:
        job.action = partial(self._work, job)
        self.lane(is_video=job.is_video).submit(job.action, reserved=reserved)

    def get(self, identity: str, owner: str) -> Job:
        """A job by its id; Problem 404 for one that is unknown, gone or another's."""
        job = self.table.get(identity)
        if job is None or job.record.owner != owner:
            raise not_found()
        return job

    def position(self, job: Job) -> int | None:
        """How many jobs come before a waiting one."""
        return None if job.state != "queued" else self.lane(is_video=job.is_video).position(job.action)

    def cancel(self, job: Job) -> None:
        """End a job that waits or runs; delete one that has ended."""
        if job.has_ended:
            self.forget(job)
            return
        with job.lock:
            job.cancelled = True
            if self.lane(is_video=job.is_video).withdraw(job.action):
                self._finish(job, ended(job.record, "cancelled"))

    def forget(self, job: Job) -> None:
        """Delete a job with its files."""
        self.table.pop(job.id, None)
        self.values.drop(job.id)
        self.store.remove(job.id)
        job.tell()

    async def value(self, job: Job) -> Made:
        """The Python value of a photo's result, made again if it is not in memory any more."""
        async with job.remaking:
            made = self.values.get(job.id)
            if made is None:
                made = await self.photos.run(partial(self._again, job))
                self.values.put(job.id, made)
        if made.value is None:
            raise not_found()
        return made

    # --- in the threads

    def _work(self, job: Job) -> None:
        if job.record.attempts >= MOST_ATTEMPTS:
            problem = Problem(500, "gave_up", f"the server ended {MOST_ATTEMPTS} times while it was working on this")
            self._finish(job, ended(job.record, "failed", problem=problem.to_dict()))
            return
        self._note(job, replace(job.record, state="running", attempts=job.record.attempts + 1))
        start = time.monotonic()
        try:
            made = self._attempt(job, job.folder / "out")
            with job.lock:
                job._check()
                files = {name: path.relative_to(job.folder).as_posix() for name, path in made.files.items()}
                if made.value is not None:
                    self.values.put(job.id, made)
                self._finish(job, ended(job.record, "done", result=made.document, files=files))
        except Stopped:
            if job.cancelled:
                self._finish(job, ended(job.record, "cancelled"))
            else:  # the next start goes on with it, and this attempt does not count
                self._note(job, replace(job.record, state="queued", attempts=job.record.attempts - 1))
        except Exception as error:
            self._fail(job, error)
        finally:
            self.metrics.job_seconds.labels(job.record.task).observe(time.monotonic() - start)
            trim()

    def _attempt(self, job: Job, folder: Path) -> Made:
        assert job.order is not None
        seconds = self.options.max_video_seconds if job.is_video else self.options.max_seconds
        job.begin(seconds, self.options.max_faces, self.metrics)
        with watched_by(job):
            return work.do(job.order, self.session, folder, self.options, job.progress)

    def _again(self, job: Job) -> Made:
        folder = job.folder / "again"
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            return self._attempt(job, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fail(self, job: Job, error: Exception) -> None:
        problem = problem_of(error)
        if problem.code == "internal":
            unexpected(f"a job of {job.record.task}", error)
        order = job.order
        if order is not None:
            paths = (*order.inputs.values(), *order.pictures.values())
            problem.detail = work.without_paths(problem.detail, paths).replace(f"{job.folder}/", "")
        self.metrics.refused.labels(problem.code).inc()
        with suppress(Exception):  # on a full disk the record cannot be written; who watches hears it all the same
            self._finish(job, ended(job.record, "failed", problem=problem.to_dict()))

    def _note(self, job: Job, record: Record) -> None:
        """Write a record and let everybody know."""
        try:
            self.store.write(record)
        finally:
            job.record = record
            job.tell()

    def _finish(self, job: Job, record: Record) -> None:
        """The end of a job: what it no longer needs is deleted before anybody hears of it."""
        if record.state != "done":
            self.store.empty(record, inputs=True)
        elif not keeps_inputs(job):
            shutil.rmtree(job.folder / "in", ignore_errors=True)
        self.metrics.jobs.labels(record.task, record.state).inc()
        self._note(job, record)

    # --- time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(30.0, self.options.keep / 4))
            now = time.time()
            for job in list(self.table.values()):
                if job.has_ended and (job.record.ended or now) + self.options.keep < now:
                    await asyncio.to_thread(self.forget, job)

    def _until_next_expiry(self) -> int:
        ends = [job.record.ended for job in self.table.values() if job.record.ended is not None]
        left = min(ends, default=time.time()) + self.options.keep - time.time()
        return max(1, min(300, round(left)))


def keeps_inputs(job: Job) -> bool:
    """Whether the photo that was sent is needed for other views of the result, until that expires."""
    if job.order is None or job.is_video:
        return False
    task = job.order.task
    return "source" in job.order.inputs and (task.compares or bool(task.draw) or task.shape.name == "EDIT")
