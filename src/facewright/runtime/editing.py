"""One file through an editing task: the same checks, lock and result for `fw.restore(output=...)` and for the command.

A folder's run shares the steps of a single file; see `runtime.folder`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..io.atomic import atomic_output, check_output
from ..io.credentials import check_format, sign
from ..io.encode import format_of
from ..io.image import MAX_PIXELS, Photo, read
from ..io.kinds import kind_of, output_name
from ..io.lock import locked
from ..io.video import check_target as check_video
from ..io.video import suffix_for
from ..pipelines.pages import has_pages, restore_pages
from ..tasks.declare import entry
from .session import default_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from ..io.credentials import SigningKey
    from ..io.video import Deinterlace
    from ..pipelines.pages import PagesReport
    from ..tasks.declare import NetworkChoice, Task

    Progress = Callable[[int, int | None], None]
    Bar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How photos are read and results written; `page` None takes all pages of a TIFF.

    `restart` deletes what earlier runs left of unfinished videos; `deinterlace` says what becomes of fields. `sign`
    gives content credentials to photos that were altered.
    """

    overwrite: bool = False
    quality: int = 95
    provenance: bool = True
    keep_gps: bool = True
    max_pixels: int = MAX_PIXELS
    page: int | None = None
    restart: bool = False
    deinterlace: Deinterlace = "auto"
    sign: SigningKey | None = None

    def refuse_video_options(self, what: str) -> None:
        """Raise UsageError when an option of videos was given that does nothing for `what`."""
        given = {"--restart": self.restart, "--deinterlace": self.deinterlace != "auto"}
        for name in (name for name, used in given.items() if used):
            raise UsageError(f"{name} works for videos only; it does nothing for {what}")


@dataclass(frozen=True, slots=True, eq=False)
class Edited:
    """What became of a file: where the result is, what the task gave, and its report ready for JSON."""

    output: Path
    result: Any
    report: dict[str, Any]

    @property
    def summary(self) -> str:
        """One line for people."""
        return str(self.result.summary)


@contextmanager
def no_bar(name: str) -> Iterator[Progress]:
    """In place of a progress bar."""
    yield lambda done, total: None


def edit_file(
    task: Task,
    source: Any,
    output: str | Path,
    options: Any,
    choice: NetworkChoice,
    save: SaveOptions | None = None,
    *,
    compare: Path | None = None,
    damage: Path | None = None,
    resume: bool = False,
    bar: Bar = no_bar,
    notify: Callable[[str], None] | None = None,
) -> Edited:
    """Run an editing task on a photo, on all pages of one, or on a video, and write the result.

    Args:
        task: The task.
        source: A path, or what `facewright.io.image.read` takes, which has one page.
        output: File of the result; of a folder, the file in it that has the source's name.
        options: The task's options.
        choice: The networks.
        save: How to read and write.
        compare: Where a before/after sheet of a single photo goes, too.
        damage: Where the mask of an old print's damage goes, too.
        resume: Continue an unfinished video.
        bar: Makes the progress bar of what takes long.
        notify: Hears at once what a video cannot keep.

    Raises:
        UsageError: The options do not fit what the source is, or the output is the source.
        OutputError: The output cannot be written (LockedError: because another process is writing it).
        ImageReadError, VideoError: The source cannot be read.
    """
    save = save or SaveOptions()
    asked = {"--compare": compare, "--save-damage-mask": damage}
    extras = {flag: target for flag, target in asked.items() if target is not None}
    path = Path(source) if isinstance(source, str | Path) else None
    kind = None if path is None else kind_of(path)
    output = target_of(path, Path(output))
    if path is not None and output.resolve() == path.resolve():
        raise UsageError(f"{output} is the original; choose another name")
    check_output(output, overwrite=save.overwrite)
    if path is not None and kind is not None and kind.is_video:
        if not task.video:
            raise UsageError(f"{path} is a video; {task.verb} takes photos")
        for flag in extras:
            raise UsageError(f"{flag} works for a single photo, not for a video")
        check_video(path, output, overwrite=save.overwrite)
        with bar(path.name) as advance:
            pipeline, run = default_session().pipeline(task.verb, choice), entry(task.video)
            video = edit_video(run, path, output, pipeline, options, save, resume, advance, notify)
        return Edited(output, video, video.to_dict())
    save.refuse_video_options("a photo")
    for picture in (output, *extras.values()):
        format_of(picture)
    if save.sign is not None:
        check_format(output)
    if damage is not None and not getattr(options, "old_photo", False):
        raise UsageError("--save-damage-mask has nothing to write without --old-photo; add --old-photo")
    with locked(output):
        check_output(output, overwrite=save.overwrite)  # another process may have written it meanwhile
        photo = read(source, page=save.page or 0, max_pixels=save.max_pixels)
        if path is None or not task.video or not has_pages(photo, output, save.page):
            return _edit_photo(task, photo, output, options, choice, save, extras)
        for flag in extras:
            raise UsageError(f"{flag} works for a single photo; choose one of {photo.pages} pages with --page")
        with bar(Path(photo.source).name) as advance:
            pages = edit_pages(photo, output, default_session().pipeline(task.verb, choice), options, save, advance)
        return Edited(output, pages, pages.to_dict())


def target_of(source: Path | None, output: Path) -> Path:
    """The file that is written: of a folder, the one in it named after the source."""
    if source is None or not output.is_dir():
        return output
    kind = kind_of(source)
    target = output / (source.name if kind is None else output_name(source.name, kind))
    return target.with_suffix(suffix_for(source)) if kind is not None and kind.is_video else target


def edit_video(
    run: Callable[..., Any],
    source: Path,
    output: Path,
    pipeline: Any,
    options: Any,
    save: SaveOptions,
    resume: bool,
    progress: Progress | None = None,
    notify: Callable[[str], None] | None = None,
) -> Any:
    """Edit a video by what its task names for videos; UsageError where it should be signed."""
    if save.sign is not None:
        raise UsageError(f"--sign works for photos; {source} is a video")
    return run(
        source,
        output,
        pipeline,
        options,
        overwrite=save.overwrite,
        resume=resume,
        restart=save.restart,
        deinterlace=save.deinterlace,
        keep_gps=save.keep_gps,
        provenance=save.provenance,
        progress=progress,
        notify=notify,
    )


def edit_pages(
    photo: Photo,
    output: Path,
    pipeline: Any,
    options: Any,
    save: SaveOptions,
    progress: Progress | None = None,
) -> PagesReport:
    """Edit all pages of the file that `photo` is the first page of; UsageError where it should be signed."""
    if save.sign is not None:
        raise UsageError(f"--sign works for a single photo; choose one of {photo.pages} pages with --page")
    return restore_pages(
        photo,
        output,
        pipeline,
        options,
        overwrite=save.overwrite,
        provenance=save.provenance,
        keep_gps=save.keep_gps,
        max_pixels=save.max_pixels,
        progress=progress,
    )


def save_photo(result: Any, output: Path, save: SaveOptions) -> None:
    """Write the result of one photo, signed where that is wanted; a photo that was not altered stays as it is."""
    key = save.sign if getattr(result, "changed", True) else None
    written = {"quality": save.quality, "provenance": save.provenance, "keep_gps": save.keep_gps}
    if key is None:
        result.save(output, overwrite=save.overwrite, **written)
        return
    source = Path(getattr(result, "original", result.image).source)
    if not source.is_file():
        raise UsageError("only what was made from a file can be signed: the original is part of the record")
    with atomic_output(output, overwrite=save.overwrite) as temporary:
        result.save(temporary, overwrite=True, **written)
        sign(temporary, key, result.provenance(), source, title=output.name)


def _edit_photo(
    task: Task,
    photo: Photo,
    output: Path,
    options: Any,
    choice: NetworkChoice,
    save: SaveOptions,
    extras: Mapping[str, Path],
) -> Edited:
    result = default_session().pipeline(task.verb, choice)(photo, options)
    save_photo(result, output, save)
    makers = {"--compare": "compare", "--save-damage-mask": "damage_mask"}
    for flag, target in extras.items():
        getattr(result, makers[flag])().save(target, overwrite=save.overwrite)
    return Edited(output, result, result.report(output, keep_gps=save.keep_gps))
