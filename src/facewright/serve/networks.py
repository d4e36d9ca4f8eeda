"""The networks of the server: loaded once, and stopped between two calls when a job is cancelled or takes too long.

A pipeline knows nothing of jobs. Its networks do: each is a shallow copy, with the same weights, of which the methods
that a task's protocol names look at the job of the calling thread first.
"""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Protocol

from ..runtime.session import Session
from ..tasks import declare
from .batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MERGED = frozenset({"restore", "embed", "assess", "parse", "probabilities"})
"""Methods of batches of crops, whose calls can be merged."""
STAGES = {
    "detect": "looking for faces",
    "follow": "following faces",
    "verify": "looking again",
    "locate": "placing landmarks",
    "assess": "judging the damage",
    "restore": "restoring faces",
    "restore_by": "restoring faces",
    "parse": "telling the parts of faces",
    "probabilities": "telling the parts of faces",
    "embed": "comparing with the person",
    "rate": "rating faces",
    "find": "looking for damage",
    "enlarge": "drawing the background",
    "sample": "making faces",
    "estimate": "estimating ages",
    "describe_faces": "reading attributes",
    "read_actions": "reading expressions",
}
"""What a person is told while a method runs; methods of tasks to come are told by their name."""


class Watch(Protocol):
    """What a job wants to know of its work."""

    def before(self, stage: str) -> None:
        """Called before every network; raises to stop the job."""
        ...

    def found(self, faces: int) -> None:
        """How many faces a detector found; raises for too many."""
        ...


_CURRENT = threading.local()


@contextmanager
def watched_by(watch: Watch) -> Iterator[None]:
    """Let networks ask this watch, in this thread, for the length of the block."""
    before = getattr(_CURRENT, "watch", None)
    _CURRENT.watch = watch
    try:
        yield
    finally:
        _CURRENT.watch = before


@cache
def work_methods() -> frozenset[str]:
    """The methods that the protocols of all tasks ask of a network."""
    found: set[str] = set()
    for module in (m for m in declare.task_modules() if m is not declare):
        for value in vars(module).values():
            if getattr(value, "_is_protocol", False) and value.__module__ == module.__name__:
                found |= {name for name, member in vars(value).items() if callable(member) and name[0] != "_"}
    return frozenset(found)


class ServedNetworks(Session):
    """A session whose networks can be stopped and share their calls.

    Args:
        source: Where the networks themselves come from; a session of its own without.
        batcher: Merges calls of several threads; None runs each by itself.
    """

    def __init__(self, source: Any = None, batcher: Batcher | None = None) -> None:
        super().__init__()
        self.source: Any = source or Session()
        self.batcher = batcher or Batcher(0.0, lambda: 1)
        self._watched: dict[int, tuple[Any, Any]] = {}
        self._watched_lock = threading.Lock()

    def network(self, slug: str, weights: str | Path | None = None, device: str = "auto", dtype: str = "auto") -> Any:
        """As `Session.network`, watched."""
        model = self.source.network(slug, weights, device, dtype)
        with self._watched_lock:
            if id(model) not in self._watched:
                self._watched[id(model)] = (model, self._watch(model))
            return self._watched[id(model)][1]

    def __len__(self) -> int:
        return len(self._watched)

    def _watch(self, model: Any) -> Any:
        clone = copy.copy(model)
        for name in work_methods():
            if callable(getattr(type(model), name, None)):
                setattr(clone, name, self._guarded(model, name))
        return clone

    def _guarded(self, model: Any, name: str) -> Callable[..., Any]:
        method, key, stage = getattr(model, name), (id(model), name), STAGES.get(name, name)

        @wraps(method)
        def call(first: Any, *others: Any, **arguments: Any) -> Any:
            watch: Watch | None = getattr(_CURRENT, "watch", None)
            if watch is not None:
                watch.before(stage)
            if name in MERGED and not others:
                return self.batcher(key, method, first, **arguments)
            result = method(first, *others, **arguments)
            if name == "detect" and watch is not None:
                watch.found(len(result))
            return result

        return call
