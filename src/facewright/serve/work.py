"""What a job does: one function a shape, as the runners of Python and the commands do it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..io.image import read_page
from ..io.kinds import kind_of, output_name
from ..tasks.declare import Shape, entry
from .problems import Problem
from .requests import ReadOptions, WriteOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..io.image import Photo
    from ..runtime.editing import SaveOptions
    from ..runtime.session import Session
    from .requests import Order
    from .settings import ServeOptions

SUFFIXES = {"JPEG": ".jpg", "HEIF": ".heic", "TIFF": ".tif", "JPEG2000": ".jp2"}


@dataclass(frozen=True, slots=True)
class Made:
    """What came out: `document` as JSON, `files` by name, and the Python value with the photo it is of, from which
    other views can be made."""

    document: Any
    files: dict[str, Path] = field(default_factory=dict)
    value: Any = None
    photo: Photo | None = None


def suffix_of(format_name: str) -> str:
    """The suffix of a picture format."""
    return SUFFIXES.get(format_name, f".{format_name.lower()}")


def is_video(order: Order) -> bool:
    """Whether the work is on a video."""
    source = order.inputs.get("source")
    kind = None if source is None else kind_of(source)
    return kind is not None and kind.is_video


def do(
    order: Order,
    session: Session,
    folder: Path,
    options: ServeOptions,
    progress: Callable[[int, int | None], None],
) -> Made:
    """Do the work of an order; files go to `folder`, which may hold what an interrupted attempt left of a video."""
    pipeline = session.pipeline(order.task.verb, order.choice)
    work = {
        Shape.RECORDS: _records,
        Shape.EDIT: _edit,
        Shape.PAIR: _pair,
        Shape.GENERATE: _generate,
    }[order.task.shape]
    made = work(order, pipeline, folder, options, progress)
    document = _without_paths(made.document, (*order.inputs.values(), *order.pictures.values()))
    return dataclasses.replace(made, document=document)


def _read(order: Order, name: str, options: ServeOptions) -> Photo:
    page = order.writing.page
    photo = read_page(order.inputs[name], page, max_pixels=options.pixels)
    enlarged = photo.width * photo.height * getattr(order.options, "upscale", 1) ** 2
    if enlarged > options.pixels:
        raise Problem(
            413,
            "too_many_pixels",
            f"the result would have {enlarged / 1e6:.0f} million pixels, more than the limit of "
            f"{options.pixels / 1e6:g}; enlarge it less",
        )
    return photo


def _records(order: Order, pipeline: Any, folder: Path, options: ServeOptions, progress: Any) -> Made:
    photo = _read(order, "source", options)
    found = list(pipeline(photo, order.options))
    document = {
        "source": Path(photo.source).name,
        "size": [photo.width, photo.height],
        "notes": list(photo.notes),
        "faces": [record.to_dict() for record in found],
    }
    return Made(document, value=found, photo=photo)


def _pair(order: Order, pipeline: Any, folder: Path, options: ServeOptions, progress: Any) -> Made:
    photos = [_read(order, name, options) for name in ("first", "second")]
    result = pipeline(*photos, order.options)
    return Made(result.to_dict())


def _generate(order: Order, pipeline: Any, folder: Path, options: ServeOptions, progress: Any) -> Made:
    made = pipeline(order.options)
    files = made.save(folder, overwrite=True)
    return Made(made.report(), {str(number): file for number, file in enumerate(files)})


def _edit(order: Order, pipeline: Any, folder: Path, options: ServeOptions, progress: Any) -> Made:
    from ..pipelines.pages import has_pages
    from ..runtime.editing import edit_pages, save_photo

    saving = save_options(order.writing, options.pixels)
    if is_video(order):
        return _video(order, pipeline, folder, saving, progress)
    photo = _read(order, "source", options)
    target = folder / target_name(order)
    if order.task.video and has_pages(photo, target, saving.page):
        report = edit_pages(photo, target, pipeline, order.options, saving, progress)
        return Made(report.to_dict(), {"picture": target})
    result = pipeline(photo, order.options)
    target = _fitting(target, result, order.writing)
    save_photo(result, target, saving)
    return Made(result.report(target, keep_gps=saving.keep_gps), {"picture": target}, result, photo)


def save_options(writing: ReadOptions, pixels: int) -> SaveOptions:
    """What the options of writing mean to the runner of files."""
    from ..runtime.editing import SaveOptions

    assert isinstance(writing, WriteOptions)
    return SaveOptions(
        overwrite=True,
        quality=writing.quality,
        provenance=writing.provenance,
        keep_gps=not writing.drop_gps,
        max_pixels=pixels,
        page=writing.page,
        deinterlace=writing.deinterlace,
    )


def target_name(order: Order) -> str:
    """The name of the result: that of the file, with the suffix of the format asked for."""
    source, wanted = order.inputs["source"], getattr(order.writing, "format", None)
    if wanted is not None:
        return f"{source.stem}{suffix_of(wanted)}"
    kind = kind_of(source)
    return source.name if kind is None else output_name(source.name, kind)


def _fitting(target: Path, result: Any, writing: ReadOptions) -> Path:
    """A PNG where nobody asked for a format and the file's own cannot hold the result."""
    check = getattr(result, "check_target", None)
    if check is not None and getattr(writing, "format", None) is None:
        try:
            check(target)
        except UsageError:
            return target.with_suffix(".png")
    return target


def _video(order: Order, pipeline: Any, folder: Path, saving: SaveOptions, progress: Any) -> Made:
    from ..io.video import suffix_for
    from ..runtime.editing import edit_video

    source = order.inputs["source"]
    target = folder / f"{source.stem}{suffix_for(source)}"
    notes: list[str] = []
    run = entry(order.task.video)
    report = edit_video(run, source, target, pipeline, order.options, saving, True, progress, notes.append)
    return Made({**report.to_dict(), "notes": notes}, {"video": target})


def _without_paths(document: Any, paths: tuple[Path, ...]) -> Any:
    """A document in which files of the server go by their names alone."""
    if isinstance(document, dict):
        return {key: _without_paths(value, paths) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_without_paths(value, paths) for value in document]
    if isinstance(document, str):
        return without_paths(document, paths)
    if isinstance(document, Path):
        return document.name
    if isinstance(document, np.generic):
        return document.item()
    return document


def without_paths(text: str, paths: tuple[Path, ...]) -> str:
    """A text in which files of the server go by their names alone."""
    for path in paths:
        text = text.replace(str(path), path.name)
    return text
