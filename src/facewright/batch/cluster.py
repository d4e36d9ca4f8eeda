"""The work on a Ray cluster: a few light tasks read, one actor for each worker keeps the networks, Ray Data between.

A row is a chunk: which one, and the bytes of its photos. Rows wait in Ray's object store, whose size bounds how far
reading runs ahead; what comes back is small. Actors that die are started again and their chunk is sent anew; the
manifest makes the second time harmless.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FacewrightError, MissingDependencyError
from .items import read_bytes, read_chunk
from .manifest import Outcome
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .items import Files
    from .run import Machines
    from .worker import Work

READERS_SHARE, WORKERS_SHARE = 0.1, 0.9
"""Of a processor, so that a worker for each processor leaves room for reading."""
ROW_BYTES = 16 << 20
"""Rows are handed on one by one when they are this large together."""


class ClusterError(FacewrightError):
    """The cluster could not be reached, or its workers could not be started."""


def outcomes(work: Work, files: Files, chunks: int, machines: Machines) -> Iterator[Outcome]:
    """The outcomes of all chunks, as they come; raises ClusterError, MissingDependencyError without Ray."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            'several workers need the package ray: pip install "facewright[ray]", or use --workers 0'
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every step
    with _connected(ray, machines):
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = ROW_BYTES
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = 0
        # not ray.data.range, which reads by tasks that want a processor each, and the workers have them all
        numbers = ray.data.from_numpy(np.array_split(np.arange(chunks), min(chunks, 64 * machines.workers)))
        rows = numbers.map(partial(read_row, files=files, index=work.manifest.index), num_cpus=READERS_SHARE)
        done = rows.map(
            Actor,
            fn_constructor_args=(work,),
            compute=ray.data.ActorPoolStrategy(size=machines.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=WORKERS_SHARE,
            num_gpus=1 if work.choice.device.startswith("cuda") else 0,
        )
        try:
            for row in done.iter_rows():
                for values in json.loads(row["outcomes"]):
                    yield Outcome(**{**values, "files": tuple(values["files"])})
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, FacewrightError):
                raise cause from error
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ClusterError(f"the cluster gave up: {lines[-1].strip()}; run it again to go on") from error


def read_row(row: dict[str, Any], *, files: Files, index: Path) -> dict[str, Any]:
    """A chunk by its number, with the bytes of its photos; what cannot be read as the line that says why."""
    items = read_chunk(index, int(row["data"]))
    contents = read_bytes(files, items)
    unread = {number: said for number, said in enumerate(contents) if isinstance(said, str)}
    return {
        "chunk": int(row["data"]),
        "unread": json.dumps(unread),
        "bytes": b"".join(content for content in contents if isinstance(content, bytes)),
        "ends": np.cumsum([len(c) if isinstance(c, bytes) else 0 for c in contents], dtype=np.int64),
    }


class Actor:
    """A worker as Ray keeps it."""

    def __init__(self, work: Work) -> None:
        self.worker = Worker(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        items = read_chunk(self.worker.work.manifest.index, int(row["chunk"]))
        unread, data, ends = json.loads(row["unread"]), row["bytes"], row["ends"]
        starts = [0, *ends[:-1]]
        contents = [unread.get(str(n)) or data[a:b] for n, (a, b) in enumerate(zip(starts, ends, strict=True))]
        said = [{**asdict(outcome), "report": None} for outcome in self.worker(items, contents)]
        return {"outcomes": json.dumps(said)}


@contextmanager
def _connected(ray: Any, machines: Machines) -> Iterator[None]:
    """A connection to a cluster: the one there is in this process, the one at an address, or a new one."""
    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {}
    if not machines.address:
        here = {"num_cpus": machines.workers, "object_store_memory": machines.store_mb * 1_000_000}
        here["include_dashboard"] = False
    try:
        ray.init(address=machines.address or "local", log_to_driver=False, logging_level="error", **here)
    except Exception as error:  # as Ray says that a node did not start
        raise ClusterError(f"no Ray cluster at {machines.address or 'this machine'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
