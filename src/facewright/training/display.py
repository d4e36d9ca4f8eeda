"""Live progress of a training: a rich bar with the last scalars, a CSV file, and TensorBoard when it is installed."""

from __future__ import annotations

import csv
import time
from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from .trainer import Recipe


class MetricsLog:
    """Scalars over steps, as CSV rows (step, seconds, name, value) that survive a resume."""

    def __init__(self, path: Path) -> None:
        fresh = not path.exists()
        self.stream = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self.writer = csv.writer(self.stream)
        self.start = time.perf_counter()
        if fresh:
            self.writer.writerow(["step", "seconds", "name", "value"])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        seconds = round(time.perf_counter() - self.start, 2)
        self.writer.writerows([step, seconds, name, f"{value:.6g}"] for name, value in values.items())
        self.stream.flush()

    def close(self) -> None:
        self.stream.close()


class Display:
    """Shows and records scalars; a context manager around the training loop."""

    def __init__(self, recipe: Recipe, folder: Path, step: int, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.csv = MetricsLog(folder / "metrics.csv") if enabled else None
        self.board = _tensorboard(folder) if enabled else None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scalars]}"),
            disable=not enabled,
        )
        self.task = self.progress.add_task(recipe.system, total=recipe.steps, completed=step, scalars="")
        self.last: dict[str, float] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars of a step."""
        if self.csv is None:
            return
        self.csv.write(step, values)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        self.last.update(values)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(self.last.items())[:6])
        self.progress.update(self.task, completed=step, scalars=shown)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.csv is not None:
            self.csv.close()
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
