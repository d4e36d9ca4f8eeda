"""Progress bars for the command line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error; the yielded call takes (done, total), total None while unknown."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)

        def advance(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield advance


class DownloadBars:
    """Bars of downloads on standard error, drawn only while something is being fetched."""

    def __init__(self) -> None:
        self._display: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def advance(self, name: str, done: int, total: int | None) -> None:
        """Bytes fetched of a file; the bar goes when all are there."""
        if self._display is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._display = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._display.add_task(name, total=total)
            self._display.start()
        self._display.update(self._task, completed=done, total=total)
        if done == total:
            self.clear()

    def clear(self) -> None:
        """Take the bar away."""
        if self._display is not None:
            self._display.stop()
            self._display = None
