"""Every error facewright raises on purpose.

One line each: what went wrong, with which file, and what to do about it. The command line prints that line and
exits with `exit_code`; from Python, catch `FacewrightError` or one of its children.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from .io.lock import Owner


class FacewrightError(Exception):
    """Base of all errors raised on purpose. Exit code 2 on the command line."""

    exit_code = 2


class ImageReadError(FacewrightError):
    """A file could not be decoded as an image: empty, truncated beyond use, not an image, unreadable."""


class PageError(ImageReadError):
    """A file has no such page; `count` is how many it has."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class ImageTooLargeError(ImageReadError):
    """An image has more pixels than the configured limit (protection against decompression bombs)."""


class VideoError(FacewrightError):
    """A video could not be opened, decoded, encoded or resumed."""


class OutputError(FacewrightError):
    """An output could not be written: it exists already, the folder is missing, no permission, disk full."""


class LockedError(OutputError):
    """Another running process is writing the same target; `owner` says which, None if that is unknown."""

    def __init__(self, target: str | PathLike[str], owner: Owner | None) -> None:
        self.target, self.owner = target, owner
        who = f"{owner}" if owner else "another process"
        super().__init__(f"{target} is being written by {who}; wait for it to end, or choose another name")

    def __reduce__(self) -> tuple[type[LockedError], tuple[str | PathLike[str], Owner | None]]:
        return type(self), (self.target, self.owner)


class UsageError(FacewrightError):
    """An option or argument has a value that makes no sense; the message lists the valid ones."""


class WeightsError(FacewrightError):
    """Weights are missing, damaged, of another model, or do not match their hash."""


class UnsafeWeightsError(WeightsError):
    """A checkpoint contains code (a pickle that does more than hold tensors) and was not opened."""


class LicenceError(WeightsError):
    """Weights whose licence forbids the asked-for use."""


class GalleryError(FacewrightError):
    """A gallery is missing, damaged, busy, locked with another key, or made by another recogniser."""


class MissingDependencyError(FacewrightError):
    """An optional dependency is needed; the message names the extra to install."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What to append to a message about an unknown name: the known one it is most like, or else all of them."""
    lowered = {n.lower(): n for n in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[close[0]]!r}?" if close else f"; it has {', '.join(lowered.values())}"
