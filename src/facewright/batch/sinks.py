"""What is kept of the results: pictures or JSON in a folder, rows of parquet, embeddings in a gallery."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MissingDependencyError, UsageError
from ..gallery import Gallery, Sample
from ..gallery.store import is_address
from .manifest import staged_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..gallery.records import RecogniserId
    from ..tasks.declare import Task

JSON_SUFFIX = ".json"
LEAST_WEIGHT = 1e-3
PART_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True)
class Made:
    """What the task made of one photo: `document` as JSON; of an edited photo, where the file is and how its name ends.

    `found` are the Python records of its faces.
    """

    key: str
    document: Any
    picture: Path | None = None
    name: str = ""
    found: Sequence[Any] = ()


class Sink(Protocol):
    """Where results go; can be sent to another process."""

    def target(self, key: str, name: str) -> str:
        """The file of a result, relative to the output folder; "" where it has none of its own."""
        ...

    def stage(self, folder: Path, identity: str, made: Sequence[Made]) -> dict[str, tuple[str, ...]]:
        """Put the results of a chunk into its folder; the files of each key by their names below the output folder.

        Called again for the same chunk, after a kill, it gives the same.
        """
        ...


@dataclass(frozen=True, slots=True)
class FolderSink:
    """Edited photos in the places they came from, and records as one JSON file a photo."""

    def target(self, key: str, name: str) -> str:
        return str(PurePosixPath(key).with_name(name)) if name else key + JSON_SUFFIX

    def stage(self, folder: Path, identity: str, made: Sequence[Made]) -> dict[str, tuple[str, ...]]:
        files: dict[str, tuple[str, ...]] = {}
        for result in made:
            file = self.target(result.key, result.name)
            place = folder / staged_name(file)
            if result.picture is not None:
                result.picture.rename(place)
            else:
                text = json.dumps(result.document, indent=2, ensure_ascii=False) + "\n"
                place.write_text(text, encoding="utf-8", errors="backslashreplace")
            files[result.key] = (file,)
        return files


@dataclass(frozen=True, slots=True)
class ParquetSink:
    """One parquet file a chunk: `key`, `result` as JSON, and for edited photos `name` and `picture`."""

    pictures: bool

    def target(self, key: str, name: str) -> str:
        return ""

    def stage(self, folder: Path, identity: str, made: Sequence[Made]) -> dict[str, tuple[str, ...]]:
        import pyarrow
        import pyarrow.parquet

        if not made:
            return {}
        file = f"part-{identity}{PART_SUFFIX}"
        columns: dict[str, Any] = {
            "key": pyarrow.array([m.key for m in made], pyarrow.string()),
            "result": pyarrow.array([json.dumps(m.document, ensure_ascii=True) for m in made], pyarrow.string()),
        }
        if self.pictures:
            columns["name"] = pyarrow.array([m.name for m in made], pyarrow.string())
            pictures = [m.picture.read_bytes() for m in made if m.picture is not None]
            columns["picture"] = pyarrow.array(pictures, pyarrow.large_binary())
            for m in made:
                if m.picture is not None:
                    m.picture.unlink()
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / staged_name(file))
        return {made[0].key: (file,)}


@dataclass(frozen=True, slots=True)
class GallerySink:
    """Every embedded face as an entry of a gallery, named after its photo and its number in it.

    A chunk that is written again changes nothing, since a gallery knows each entry by its name and key.
    """

    place: str
    recogniser: RecogniserId
    key_file: str | None = None

    def target(self, key: str, name: str) -> str:
        return ""

    def stage(self, folder: Path, identity: str, made: Sequence[Made]) -> dict[str, tuple[str, ...]]:
        samples = [
            Sample(
                person=f"{result.key}#{number}",
                vector=face.vector,
                quality=max(LEAST_WEIGHT, float(face.face.score)),
                key=result.key,
                metadata={"file": result.key, "face": face.face.to_dict()},
            )
            for result in made
            for number, face in enumerate(result.found)
            if not face.fault
        ]
        if samples:
            with Gallery.open(self.place, self.recogniser, key_file=self.key_file) as gallery:
                gallery.enrol(samples)
        return {}


def sink_for(task: Task, output: str, *, recogniser: RecogniserId | None = None, key_file: str | None = None) -> Sink:
    """The sink that an output stands for: a gallery, a folder of parquet files (its name ends so), or a folder."""
    from ..tasks.declare import Shape

    if is_gallery(output):
        if recogniser is None:
            raise UsageError(f"a gallery holds embeddings; {task.verb} gives none, choose another output")
        return GallerySink(output, recogniser, key_file)
    if key_file is not None:
        raise UsageError("--key works for galleries only")
    if output.endswith(PART_SUFFIX):
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError('parquet needs the package pyarrow: pip install "facewright[ray]"') from error
        return ParquetSink(pictures=task.shape is Shape.EDIT)
    return FolderSink()


def is_gallery(output: str) -> bool:
    """Whether an output is a gallery: an address of a server, or a name that ends in .gallery or .lance."""
    return is_address(output) or output.endswith((".gallery", ".lance"))
