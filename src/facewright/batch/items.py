"""Where the photos are: folders, WebDataset tar files and parquet files, on a disk or at an address such as s3://.

A list of a million names stays on the disk, in numbered chunks; nobody ever holds more than one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
from collections import Counter
from dataclasses import astuple, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Protocol

from ..errors import ImageReadError, MissingDependencyError, UsageError
from ..io.kinds import BY_SUFFIX, OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NAME_COLUMNS = ("key", "__key__", "name", "path", "file_name", "id")
"""Columns of a parquet file in which the name of a photo is looked for."""
LARGEST_FILE = 1 << 30
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True)
class Item:
    """One photo: `key` names it among all of a run and says where its result goes; the rest says where its bytes are.

    Args:
        key: Relative path with "/"; of what is inside a file, that file's path and then the name inside.
        file: The file that holds it, relative to the root of the files.
        offset, size: Its bytes in that file, for a member of a tar file.
        column, row: Its place in a parquet file; "" where the file is the photo itself.
    """

    key: str
    file: str
    offset: int = 0
    size: int = -1
    column: str = ""
    row: int = -1


class Files(Protocol):
    """Files below a root, on a disk or elsewhere; can be sent to another process."""

    def names(self) -> Iterator[str]:
        """Relative paths with "/", in an order that is the same every time."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file to read from and to seek in."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files below a folder, without what lies in the folder `without`; or one file."""

    root: Path
    without: Path | None = None

    def names(self) -> Iterator[str]:
        if self.root.is_file():
            yield self.root.name
            return
        left_out = None if self.without is None else self.without.resolve()
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            folders[:] = sorted(f for f in folders if f != OWN_FOLDER and (here / f).resolve() != left_out)
            for name in sorted(files):
                yield (here / name).relative_to(self.root).as_posix()

    def open(self, name: str) -> IO[bytes]:
        return open(self.root if self.root.is_file() else self.root / name, "rb")


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """The files at an address such as s3://bucket/folder, by pyarrow."""

    address: str

    def _system(self) -> tuple[Any, str]:
        try:
            from pyarrow.fs import FileSystem
        except ImportError as error:
            raise MissingDependencyError(
                'files at an address need the package pyarrow: pip install "facewright[ray]"'
            ) from error
        try:
            system, path = FileSystem.from_uri(self.address)
        except (ValueError, OSError) as error:
            raise UsageError(f"{self.address} cannot be opened: {error}") from error
        return system, path.rstrip("/")

    def names(self) -> Iterator[str]:
        from pyarrow.fs import FileSelector, FileType

        system, root = self._system()
        try:
            if system.get_file_info(root).type == FileType.File:
                yield root.rpartition("/")[2]
                return
            found = system.get_file_info(FileSelector(root, recursive=True))
        except OSError as error:
            raise UsageError(f"{self.address} cannot be listed: {error}") from error
        for info in sorted(found, key=lambda info: info.path):
            if info.type == FileType.File:
                yield info.path[len(root) :].lstrip("/")

    def open(self, name: str) -> IO[bytes]:
        system, root = self._system()
        path = root if root.rpartition("/")[2] == name else f"{root}/{name}"
        opened: IO[bytes] = system.open_input_file(path)
        return opened


def files_at(source: str, without: Path | None = None) -> Files:
    """The files a person names; raises UsageError where there is nothing."""
    if "://" in source:
        return RemoteFiles(source)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    return LocalFiles(path, without)


@dataclass(slots=True)
class Listing:
    """Iterates over the items of files; `skipped` counts by reason what is none."""

    files: Files
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Item]:
        for name in self.files.names():
            path = PurePosixPath(name)
            suffix = path.suffix.lower()
            if any(part.startswith(".") for part in path.parts):
                self.skipped["hidden"] += 1
            elif name.lower().endswith(_PACKED):
                raise UsageError(f"{name} is compressed, so that nothing in it can be reached; unpack it to a .tar")
            elif suffix == ".tar":
                yield from self._of_tar(name)
            elif suffix == ".parquet":
                yield from self._of_parquet(name)
            elif self._is_photo(name):
                yield Item(safe_key(name), name)

    def _is_photo(self, name: str) -> bool:
        """Whether a name is that of a photo; what is none is counted."""
        suffix = PurePosixPath(name).suffix.lower()
        kind = BY_SUFFIX.get(suffix)
        if kind is None or kind.is_video:
            self.skipped[f"of other kinds ({suffix or 'no suffix'})"] += 1
        return kind is not None and not kind.is_video

    def _of_tar(self, name: str) -> Iterator[Item]:
        with self.files.open(name) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for member in archive:
                        archive.members = []  # type: ignore[attr-defined]  # it keeps all it has read
                        if member.isfile() and self._is_photo(member.name):
                            yield Item(safe_key(f"{name}/{member.name}"), name, member.offset_data, member.size)
            except tarfile.TarError as error:
                raise UsageError(f"{name} is not a sound tar file ({error})") from error

    def _of_parquet(self, name: str) -> Iterator[Item]:
        with self.files.open(name) as file, _parquet(file, name) as table:
            photos, names = _columns(table.schema_arrow, name)
            row = 0
            for batch in table.iter_batches(1024, columns=[names] if names else [photos.partition(".")[0]]):
                labels = batch.column(0).to_pylist() if names else [None] * batch.num_rows
                for label in labels:
                    inside = str(label) if isinstance(label, str | int) else f"{row:09d}"
                    yield Item(safe_key(f"{name}/{inside}"), name, column=photos, row=row)
                    row += 1


@contextlib.contextmanager
def _parquet(file: IO[bytes], name: str) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError('parquet files need the package pyarrow: pip install "facewright[ray]"') from error
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise UsageError(f"{name} is not a sound parquet file ({error})") from error


def _columns(schema: Any, name: str) -> tuple[str, str]:
    """The column of the photos' bytes ("image.bytes" where they are inside one), and that of their names or ""."""
    import pyarrow.types as kinds

    def holds_bytes(kind: Any) -> bool:
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    photos = [f.name for f in schema if holds_bytes(f.type)]
    photos += [f"{f.name}.bytes" for f in schema if kinds.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    if len(photos) != 1:
        found = ", ".join(photos) or "none"
        raise UsageError(f"{name} must have one column of photos as bytes, as data sets of pictures do; it has {found}")
    return photos[0], next((column for column in NAME_COLUMNS if column in schema.names), "")


def safe_key(name: str) -> str:
    """A relative path that stays below its folder on any file system and can be printed."""
    parts = [re.sub(r'[\x00-\x1f\x7f<>:"|?*\\]', "_", part) for part in name.split("/")]
    kept = [part for part in parts if part not in ("", ".", "..")]
    return "/".join(kept).encode("utf-8", "replace").decode() or "photo"


# --- reading


def read_bytes(files: Files, items: Sequence[Item]) -> list[bytes | str]:
    """The bytes of every item; where they cannot be read, the line that says why."""
    found: list[bytes | str] = []
    rows = _Rows(files)
    for item in items:
        try:
            found.append(rows(item) if item.column else _plain(files, item))
        except (OSError, ImageReadError, UsageError) as error:
            found.append(f"{item.key}: {getattr(error, 'strerror', None) or error}")
    return found


def _plain(files: Files, item: Item) -> bytes:
    with files.open(item.file) as file:
        if item.offset:
            file.seek(item.offset)
        size = LARGEST_FILE + 1 if item.size < 0 else item.size
        if size > LARGEST_FILE and item.size >= 0:
            raise ImageReadError("larger than a gigabyte")
        data = file.read(size)
    if len(data) > LARGEST_FILE:
        raise ImageReadError("larger than a gigabyte")
    if item.size >= 0 and len(data) != item.size:
        raise ImageReadError(f"{item.file} ends before it does")
    return data


class _Rows:
    """Reads rows of parquet files, the last row group kept: the items of a chunk are neighbours."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._held: tuple[str, str, int, Any] = ("", "", 0, ())

    def __call__(self, item: Item) -> bytes:
        file, column, first, values = self._held
        if (file, column) != (item.file, item.column) or not first <= item.row < first + len(values):
            self._load(item)
            first, values = self._held[2:]
        value = values[item.row - first].as_py()
        if not value:
            raise ImageReadError("there is no picture in that row")
        return bytes(value)

    def _load(self, item: Item) -> None:
        with self.files.open(item.file) as file, _parquet(file, item.file) as table:
            first = 0
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                if item.row < first + count:
                    rows = table.read_row_group(group, columns=[item.column]).column(0)
                    inner = item.column.partition(".")[2]
                    self._held = (item.file, item.column, first, _inside(rows, inner))
                    return
                first += count
        raise ImageReadError(f"{item.file} has no row {item.row}")


def _inside(rows: Any, inner: str) -> Any:
    import pyarrow.compute

    return pyarrow.compute.struct_field(rows, inner) if inner else rows


# --- the list on the disk


def write_index(items: Iterable[Item], folder: Path, per_chunk: int) -> tuple[int, int]:
    """Write chunks of items as numbered files; the numbers of items and of chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    total = chunks = 0
    for item in items:
        lines.append(json.dumps(astuple(item), ensure_ascii=True))
        total += 1
        if len(lines) == per_chunk:
            (folder / f"{chunks:08d}").write_text("\n".join(lines), encoding="ascii")
            chunks, lines = chunks + 1, []
    if lines:
        (folder / f"{chunks:08d}").write_text("\n".join(lines), encoding="ascii")
        chunks += 1
    return total, chunks


def read_chunk(folder: Path, number: int) -> list[Item]:
    """The items of a chunk."""
    return [Item(*json.loads(line)) for line in (folder / f"{number:08d}").read_text(encoding="ascii").splitlines()]
