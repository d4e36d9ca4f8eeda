"""Faces of several requests go through a network together, when they come at nearly the same time.

The first thread that comes leads: it waits for a bounded moment, and only while others are at work that could still
bring faces; then it runs the network on what has gathered. Calls whose arguments differ are never mixed; lists with an
entry for each crop are arguments of the crops and go along with them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MOST = 8
"""Faces that go through a network at once."""


@dataclass(slots=True, eq=False)
class _Call:
    crops: Any
    lists: dict[str, list[Any]]
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Gathering:
    calls: list[_Call] = field(default_factory=list)
    led: bool = False


class Batcher:
    """Merges calls of functions of (N, S, S, 3) crops that give one thing for each crop.

    Args:
        wait: Seconds that a call waits for others; 0 never merges.
        busy: How many jobs are being worked on; with one there is nobody to wait for.
        on_batch: Hears how many faces went through a network together.
    """

    def __init__(
        self, wait: float, busy: Callable[[], int], on_batch: Callable[[int], None] = lambda count: None
    ) -> None:
        self.wait, self.busy, self.on_batch = wait, busy, on_batch
        self._lock = threading.Condition()
        self._gatherings: dict[Hashable, _Gathering] = {}

    def __call__(self, key: Hashable, function: Callable[..., Any], crops: Any, **arguments: Any) -> Any:
        """`function(crops, **arguments)`, perhaps together with the crops of other threads.

        `key` says which network and method it is; calls merge when it, the arguments and the crops' size agree.
        """
        lists = {k: v for k, v in arguments.items() if isinstance(v, list) and len(v) == len(crops)}
        others = {k: v for k, v in arguments.items() if k not in lists}
        which: Hashable = None
        if self.wait > 0 and isinstance(crops, np.ndarray) and 0 < len(crops) < MOST:
            which = _agreement(key, crops, lists, others)
        if which is None:
            self.on_batch(len(crops))
            return function(crops, **arguments)
        return self._merged(which, function, _Call(crops, lists), others)

    def _merged(self, which: Hashable, function: Callable[..., Any], call: _Call, arguments: dict[str, Any]) -> Any:
        with self._lock:
            gathering = self._gatherings.setdefault(which, _Gathering())
            gathering.calls.append(call)
            leads = not gathering.led
            gathering.led = True
            self._lock.notify_all()
        if leads:
            self._lead(which, function, arguments)
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def _lead(self, which: Hashable, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        end = time.monotonic() + self.wait
        with self._lock:
            gathering = self._gatherings[which]
            while self._worth_waiting(gathering) and (left := end - time.monotonic()) > 0:
                self._lock.wait(left)
            calls = self._gatherings.pop(which).calls
        for group in _groups(calls):
            _run(group, function, arguments, self.on_batch)

    def _worth_waiting(self, gathering: _Gathering) -> bool:
        faces = sum(len(call.crops) for call in gathering.calls)
        return faces < MOST and len(gathering.calls) < self.busy()


def _agreement(key: Hashable, crops: Any, lists: dict[str, Any], others: dict[str, Any]) -> Hashable:
    """What calls must have in common to be merged; None for arguments that cannot be compared."""
    which = (key, crops.shape[1:], tuple(sorted(lists)), tuple(sorted(others.items())))
    try:
        hash(which)
    except TypeError:
        return None
    return which


def _groups(calls: list[_Call]) -> list[list[_Call]]:
    """Calls in their order, in groups of at most `MOST` faces."""
    groups: list[list[_Call]] = []
    for call in calls:
        if groups and sum(len(c.crops) for c in groups[-1]) + len(call.crops) <= MOST:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


def _run(
    calls: list[_Call], function: Callable[..., Any], arguments: dict[str, Any], on_batch: Callable[[int], None]
) -> None:
    try:
        crops = calls[0].crops if len(calls) == 1 else np.concatenate([call.crops for call in calls])
        lists = {name: [item for call in calls for item in call.lists[name]] for name in calls[0].lists}
        on_batch(len(crops))
        results = function(crops, **lists, **arguments)
        start = 0
        for call in calls:
            call.result = results[start : start + len(call.crops)]
            start += len(call.crops)
    except BaseException as error:
        for call in calls:
            call.error = error
    finally:
        for call in calls:
            call.done.set()
