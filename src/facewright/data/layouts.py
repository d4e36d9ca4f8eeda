"""What the readers of other people's collections share: the folder, its files, tables that come with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import FacewrightError
from ..io.sources import note

if TYPE_CHECKING:
    from collections.abc import Iterable


class Named(Protocol):
    """Something of a collection, with a name that is unique in it."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def folder_of(root: str | Path, name: str) -> Path:
    """The folder of a collection; FacewrightError where there is none."""
    folder = Path(root)
    if not folder.is_dir():
        raise FacewrightError(f"{folder} is not a folder; give the one in which {name} was laid out")
    note(folder)
    return folder


def files_below(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files below a folder whose names fit one of the patterns, sorted."""
    return sorted(path for pattern in patterns for path in folder.rglob(pattern))


def by_name(found: list[N], place: Path, name: str) -> list[N]:
    """What was found, sorted; FacewrightError where that is nothing."""
    if not found:
        raise FacewrightError(f"nothing laid out as {name} was found in {place}")
    return sorted(found, key=lambda one: one.name)


def lines_of(path: Path) -> list[str]:
    """The lines of a text that comes with a collection."""
    return _text(path).splitlines()


def json_of(path: Path) -> object:
    """What is in a JSON file that comes with a collection."""
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FacewrightError:
    return FacewrightError(f"{path} cannot be read ({error}); it comes with the collection")
