"""Which files of data and weights were read, so that new weights can say what they were made from.

Readers call `note` with every file or folder they open; `noted` collects what was noted inside its block.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_collectors: list[dict[Path, None]] = []


def note(*paths: Path) -> None:
    """Say that these files or folders are read."""
    for found in _collectors:
        found.update(dict.fromkeys(paths))


@contextmanager
def noted() -> Iterator[dict[Path, None]]:
    """The paths noted inside the block, in their order."""
    found: dict[Path, None] = {}
    _collectors.append(found)
    try:
        yield found
    finally:
        _collectors.remove(found)


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by folder and name: of every file, and of every folder that of the names and sizes of its files."""
    return {
        f"{path.parent.name}/{path.name}": _of_folder(path) if path.is_dir() else _of_file(path)
        for path in paths
        if path.exists()
    }


def _of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = "\n".join(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()
