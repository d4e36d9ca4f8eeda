"""Threads that do one thing after the other, with a bounded number of things waiting."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from .logs import unexpected
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")
LONGEST_RETRY = 300


class Lane:
    """So many daemon threads, and a queue of at most `most` things before them.

    A place is reserved first and filled or given back later, so that nothing is accepted that finds no place.
    """

    def __init__(self, name: str, threads: int, most: int) -> None:
        self.name, self.most = name, most
        self._changed = threading.Condition()
        self._queue: deque[Callable[[], None]] = deque()
        self._reserved = self._busy = 0
        self._closed = False
        self._average = 1.0
        self._threads = [
            threading.Thread(target=self._work, name=f"facewright-{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many things wait."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        """How many things are being done."""
        return self._busy

    @property
    def is_full(self) -> bool:
        return len(self._queue) + self._reserved >= self.most

    def retry_after(self) -> int:
        """Seconds after which there will probably be a place."""
        return max(1, min(LONGEST_RETRY, math.ceil(self._average * (self.waiting + 1) / len(self._threads))))

    def check(self) -> None:
        """Raise Problem 429 when there is no place, 503 when the lane is closed."""
        if self._closed:
            raise Problem(503, "stopping", "the server is being stopped; try again later", {"Retry-After": "30"})
        if self.is_full:
            seconds = self.retry_after()
            raise Problem(
                429, "busy", f"too many jobs are waiting; try again in {seconds} s", {"Retry-After": str(seconds)}
            )

    def reserve(self) -> None:
        """Take a place, which `submit` fills or `release` gives back; raises as `check`."""
        with self._changed:
            self.check()
            self._reserved += 1

    def release(self) -> None:
        """Give a reserved place back."""
        with self._changed:
            self._reserved -= 1

    def submit(self, action: Callable[[], None], *, reserved: bool = True) -> None:
        """Have something done, in a reserved place or, for what was accepted in a former run, in addition."""
        with self._changed:
            self._reserved -= reserved
            self._queue.append(action)
            self._changed.notify()

    def withdraw(self, action: Callable[[], None]) -> bool:
        """Take something out of the queue; False when it is there no more."""
        with self._changed:
            try:
                self._queue.remove(action)
            except ValueError:
                return False
            return True

    def position(self, action: Callable[[], None]) -> int | None:
        """How many things come first; None when it does not wait."""
        with self._changed:
            try:
                return self._queue.index(action)
            except ValueError:
                return None

    async def run(self, function: Callable[[], Result]) -> Result:
        """The result of a function that a thread of the lane runs; raises as `check`, and what it raises."""
        future: Future[Result] = Future()

        def action() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.reserve()
        self.submit(action)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Begin nothing more; what waits stays in the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for what is being done; whether all of it ended in time."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._queue)
                if self._closed:
                    return
                action = self._queue.popleft()
                self._busy += 1
            start = time.monotonic()
            try:
                action()
            except Exception as error:
                unexpected(f"the {self.name} lane", error)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._average += 0.2 * (time.monotonic() - start - self._average)
