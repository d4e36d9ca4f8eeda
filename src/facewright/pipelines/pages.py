"""A TIFF of several pages: every page is restored and written to one file, one after the other.

Only one page is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..io.atomic import atomic_output
from ..io.encode import TiffPages, format_of
from ..io.image import MAX_PIXELS, Photo, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tasks.restore import RestoreOptions
    from .restore import RestorePipeline, RestoreResult


@dataclass(frozen=True, slots=True)
class PagesReport:
    """What was done to the pages of a file: the report of each, in order."""

    source: str
    pages: tuple[dict[str, Any], ...]

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = (f"page {number}: {page['summary']}" for number, page in enumerate(self.pages, start=1))
        return f"{len(self.pages)} pages; " + "; ".join(parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all pages, with the page where not all share it."""
        every = list(dict.fromkeys(note for page in self.pages for note in page["notes"]))
        return tuple(self._placed(note) for note in every)

    def _placed(self, note: str) -> str:
        having = [number for number, page in enumerate(self.pages, start=1) if note in page["notes"]]
        return note if len(having) == len(self.pages) else f"page {', '.join(map(str, having))}: {note}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; `faces` holds those of all pages, each with its page from 1."""
        faces = [{"page": number, **face} for number, page in enumerate(self.pages, start=1) for face in page["faces"]]
        return {
            "source": Path(self.source).name,
            "notes": list(self.notes),
            "summary": self.summary,
            "faces": faces,
            "pages": list(self.pages),
        }


def has_pages(photo: Photo, target: Path, page: int | None) -> bool:
    """Whether all pages of the photo's file belong into the target: nobody chose one, and both are TIFFs."""
    return page is None and photo.pages > 1 and photo.format == "TIFF" and format_of(target) == "TIFF"


def restore_pages(
    first: Photo,
    target: Path,
    pipeline: RestorePipeline,
    options: RestoreOptions,
    *,
    overwrite: bool = False,
    provenance: bool = True,
    keep_gps: bool = True,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int | None], None] | None = None,
) -> PagesReport:
    """Restore every page of the file that `first` is the first page of; `target` is complete, or not there at all.

    Raises UsageError when single faces were chosen, whose numbers belong to one page, and what reading and writing
    raise.
    """
    if options.faces is not None or options.skip or options.boxes or options.points:
        raise UsageError(f"{first.source} has {first.pages} pages; choose one with --page to choose faces on it")
    reports = []
    with atomic_output(target, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
        writer = TiffPages(file)
        for page in range(first.pages):
            photo = first if page == 0 else read(first.source, page=page, max_pixels=max_pixels)
            result = pipeline(photo, options)
            writer.add(result.image.picture(_packet(result, provenance), keep_gps=keep_gps))
            report = result.report()
            report["notes"] = [note for note in report["notes"] if note != f"page {page + 1} of {first.pages}"]
            reports.append(report)
            if progress is not None:
                progress(page + 1, first.pages)
    return PagesReport(first.source, tuple(reports))


def _packet(result: RestoreResult, provenance: bool) -> bytes | None:
    return result.packet() if provenance else result.original.xmp
