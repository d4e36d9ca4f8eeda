"""What works on chunks: one of these a process, with the networks of its task in memory once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import FacewrightError, OutputError
from ..io.image import read_page
from ..io.kinds import HEAD, output_name, sniff
from ..runtime.editing import SaveOptions, edit_file
from ..runtime.session import default_session
from ..tasks.declare import NetworkChoice, Shape, Task
from .manifest import MOST_ATTEMPTS, Manifest, Outcome, chunk_identity, is_empty
from .sinks import Made

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .items import Item
    from .sinks import Sink

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """All that a worker has to know: the task and how it is done, what is kept, and where that is noted."""

    task: Task
    options: Any
    choice: NetworkChoice
    manifest: Manifest
    sink: Sink
    save: SaveOptions = field(default_factory=SaveOptions)


class Worker:
    """Takes chunks through a task, and commits each."""

    def __init__(self, work: Work) -> None:
        self.work = work

    @cached_property
    def pipeline(self) -> Any:
        """The task with its networks, loaded by the first chunk."""
        return default_session().pipeline(self.work.task, self.work.choice)

    def __call__(self, items: Sequence[Item], contents: Sequence[bytes | str]) -> list[Outcome]:
        """Do a chunk, unless it is done already; `contents` are its bytes, or why there are none."""
        identity = chunk_identity(item.key for item in items)
        manifest = self.work.manifest
        with manifest.chunk(identity) as staged:
            if manifest.is_done(identity):
                return manifest.finish(identity)
            places = (staged / "work" / str(number) for number in range(len(items)))
            done = [self._item(*each) for each in zip(items, contents, places)]
            made = [result for result in done if isinstance(result, Made)]
            files = self.work.sink.stage(staged, identity, made)
            outcomes = [r if isinstance(r, Outcome) else self._outcome(r, files.get(r.key, ())) for r in done]
            return manifest.commit(identity, outcomes)

    def _outcome(self, made: Made, files: tuple[str, ...]) -> Outcome:
        return Outcome(made.key, report=made.document if made.picture is not None else None, files=files)

    def _item(self, item: Item, content: bytes | str, folder: Path) -> Made | Outcome:
        """Whatever happens to one photo, the others are still done."""
        if isinstance(content, str):
            return Outcome(item.key, content)
        if not self.work.manifest.begin(item.key):
            return Outcome(item.key, f"{item.key}: it ended its worker {MOST_ATTEMPTS} times; look at it by itself")
        source = folder / PurePosixPath(item.key).name
        try:
            name = result_name(source.name, content) if self.work.task.shape is Shape.EDIT else ""
            target = self.work.sink.target(item.key, name)
            if target and self._is_kept(target):
                return Outcome(item.key, there=True)
            folder.mkdir(parents=True)
            source.write_bytes(content)
            return self._edit(item, source, name) if name else self._records(item, source)
        except Exception as error:
            logger.debug("%s failed", item.key, exc_info=error)
            return Outcome(item.key, explain(item.key, error, folder))
        finally:
            source.unlink(missing_ok=True)
            self.work.manifest.end([item.key])

    def _is_kept(self, target: str) -> bool:
        place = self.work.manifest.root / target
        return place.exists() and not self.work.manifest.overwrite and not is_empty(place)

    def _records(self, item: Item, source: Path) -> Made:
        photo = read_page(source, self.work.save.page, max_pixels=self.work.save.max_pixels)
        found = list(self.pipeline(photo, self.work.options))
        faces = [record.to_dict() for record in found]
        size, notes = [photo.width, photo.height], list(photo.notes)
        return Made(item.key, {"source": item.key, "size": size, "notes": notes, "faces": faces}, found=found)

    def _edit(self, item: Item, source: Path, name: str) -> Made:
        work, output = self.work, source.parent / "made" / name
        output.parent.mkdir()
        done = edit_file(work.task, source, output, work.options, work.choice, work.save)
        return Made(item.key, {**done.report, "source": item.key}, done.output, name)


def result_name(name: str, content: bytes) -> str:
    """The name of an edited photo: its own; a suffix that cannot be written gets one that can after it."""
    kind = sniff(content[:HEAD])
    if kind is None or output_name(name, kind) == name:
        return name
    return name + kind.output


def explain(key: str, error: Exception, private: Path) -> str:
    """One line about a failure, in which the photo goes by its key and not by its place in a private folder."""
    match error:
        case FacewrightError():
            said = "; ".join([str(error), *getattr(error, "__notes__", ())])
        case MemoryError():
            said = "not enough memory; make the picture smaller or lower --upscale"
        case OSError() if not isinstance(error, OutputError):
            said = f"{error.strerror or error}"
        case _:
            said = f"unexpected {type(error).__name__}: {error}"
    shown = said.replace(f"{private}/made/", "").replace(f"{private}/", "")
    return shown if PurePosixPath(key).name in shown else f"{key}: {shown}"
