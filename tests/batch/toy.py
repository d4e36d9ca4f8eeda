"""A task that needs no network, for workers in other processes: how bright a photo is."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from facewright.tasks.declare import Checked, Opt, Shape, Task
from facewright.tasks.records import FaceRecord

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class BrightnessOptions(Checked):
    """`trouble` is a folder: a photo whose name is there as a file ends its worker, once for every byte of it."""

    pause: Annotated[float, Opt("Seconds for each photo.")] = 0.0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Brightness:
    """The mean of all pixels, in place of a face."""

    mean: float
    pid: int

    def to_dict(self) -> dict[str, Any]:
        return {"mean": round(self.mean, 4)}


def load(session: Any, task: Task, choice: Any) -> Callable[[Any, BrightnessOptions], list[Brightness]]:
    """The callable of the task; see `Task.load`."""

    def measure(photo: Any, options: BrightnessOptions) -> list[Brightness]:
        if options.trouble:
            _make_trouble(Path(options.trouble) / Path(photo.source).name)
        time.sleep(options.pause)
        return [Brightness(float(photo.rgb().mean()), os.getpid())]

    return measure


def _make_trouble(note: Path) -> None:
    if note.exists() and note.stat().st_size:
        note.write_bytes(note.read_bytes()[1:])
        os.kill(os.getpid(), signal.SIGKILL)


BRIGHTNESS = Task(
    name="brightness",
    verb="brightness",
    summary="Say how bright a photo is.",
    shape=Shape.RECORDS,
    options=BrightnessOptions,
    load=f"{__name__}:load",
    result=f"{__name__}:Brightness",
    record=FaceRecord,
    systems=None,
    public=False,
)
