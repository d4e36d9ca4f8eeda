"""A bounded queue between two threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_Item = TypeVar("_Item")


class Stopped(Exception):
    """The other end of a channel gave up."""


class Channel(Generic[_Item]):
    """A bounded queue of one writer and one reader that either end can abort; the other then gets the reason."""

    def __init__(self, size: int) -> None:
        self._items: deque[_Item] = deque()
        self._size = size
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, item: _Item) -> None:
        with self._changed:
            while len(self._items) >= self._size and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """No more items follow."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._items.clear()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what the other end gave up with, if it did."""
        if self._error is not None:
            raise self._error

    def __iter__(self) -> Iterator[_Item]:
        while True:
            with self._changed:
                while not self._items and not self._closed and self._error is None:
                    self._changed.wait()
                if self._error is not None:
                    raise self._error
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
