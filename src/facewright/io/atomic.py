"""Writing a file completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY_PREFIX = ".facewright-"
"""Names of unfinished outputs start with this; whoever lists a folder can skip what a killed process left behind."""

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run it again",
    errno.EDQUOT: "the disk quota is used up; free some space and run it again",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "the file name is too long; choose a shorter one",
}
_NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextlib.contextmanager
def atomic_output(path: str | os.PathLike[str], *, overwrite: bool = False, parents: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that becomes `path` when the block ends without an exception.

    The file is flushed to the disk before it takes its name, so that after a crash `path` is either the old state or
    the complete new file. On any exception, Ctrl-C included, the temporary file is removed and `path` is untouched.
    With `overwrite=False` an existing `path` is refused, both before the block and, against races, at its end.
    A symbolic link is followed. `parents=True` creates missing folders.

    Raises OutputError: exists already, is a folder or a device, folder missing, no permission, disk full.
    """
    target = _resolve(Path(path))
    with _explained(target):
        _check_target(target, overwrite=overwrite)
        _check_folder(target.parent, create=parents)
        temporary = _reserve(target)
    try:
        with _explained(target):
            yield temporary
            _sync(temporary)
            publish(temporary, target, overwrite=overwrite)
    finally:
        # after a successful rename there is nothing left to remove
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {target}: {reason}") from error


def _resolve(path: Path) -> Path:
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"cannot write {path}: not a usable file name ({error})") from error


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.is_dir() or not target.name:
        raise OutputError(f"cannot write {target}: it is a folder; give a file name")
    if not target.exists():
        return
    if not target.is_file():
        raise OutputError(f"cannot write {target}: it is not a regular file; give another file name")
    if not overwrite:
        raise _exists(target)


def _exists(target: Path) -> OutputError:
    return OutputError(f"{target} exists already; choose another name or allow overwriting (--overwrite)")


def _check_folder(folder: Path, *, create: bool) -> None:
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"cannot create the folder {folder}: a file is in the way") from error
    if not folder.exists():
        raise OutputError(f"the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder; choose another place for the output")


def _reserve(target: Path) -> Path:
    """Create an empty temporary file of a new name; its permissions follow the umask like any new file's."""
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{target.suffix}"
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    with contextlib.suppress(OSError):  # some network file systems refuse; the data itself is safe already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a complete file its name, without `overwrite` only if nobody else has taken that name meanwhile."""
    if overwrite:
        temporary.replace(target)
    else:
        _publish_new(temporary, target)
    _sync_folder(target.parent)


def _publish_new(temporary: Path, target: Path) -> None:
    """Give the file its name only if nobody else has taken that name meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _claim_and_replace(temporary, target)


def _claim_and_replace(temporary: Path, target: Path) -> None:
    """For file systems without hard links (exFAT, some network shares)."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        raise _exists(target) from None
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
