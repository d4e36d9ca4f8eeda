"""Writing a file completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LockedError, OutputError
from .lock import is_abandoned, locked, remove_abandoned_locks

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY_PREFIX = ".facewright-"
"""Names of unfinished outputs start with this; whoever lists a folder can skip what a killed process left behind.

Each is locked by its writer as long as it is written, so that the rest can be told from it and removed."""

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
    with _reserved(target) as temporary, _explained(target):
        yield temporary
        _sync(temporary)
        publish(temporary, target, overwrite=overwrite)


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise before the work the OutputError that `atomic_output` would raise after it; a file is written to try it."""
    target = _resolve(Path(path))
    with _explained(target):
        _check_target(target, overwrite=overwrite)
        _check_folder(target.parent, create=False)
    with _reserved(target):
        pass


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise OutputError when no file can be written to `folder`, or to where it would be made if it is not there yet.

    The folder is not made to try it: others that begin at the same time would see it come and go.
    """
    path = Path(folder)
    with _explained(path):
        place = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not place.is_dir() and place != path:
            raise OutputError(f"cannot create the folder {path}: a file is in the way")
        _check_folder(place, create=False)
    with _reserved(place / "file", told=path):
        pass


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished outputs and the locks of dead processes in a folder; those of living ones stay."""
    for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if left.is_file() and is_abandoned(left):
            with contextlib.suppress(OSError):
                left.unlink()
    remove_abandoned_locks(folder)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(target, error) from error


def _cannot_write(target: Path, error: OSError) -> OutputError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {target}: {reason}")


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


@contextlib.contextmanager
def _reserved(target: Path, *, told: Path | None = None) -> Iterator[Path]:
    """An empty temporary file of a new name, locked during the block and removed after it if it is still there.

    Its permissions follow the umask like any new file's. Errors name `told`, by default the target.
    """
    with contextlib.ExitStack() as stack:
        while True:
            temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{target.suffix}"
            try:
                stack.enter_context(locked(temporary))
                break
            except LockedError:  # by another process that looks for abandoned files, in this moment
                continue
            except OutputError as error:
                if isinstance(error.__cause__, OSError):
                    raise _cannot_write(told or target, error.__cause__) from error
                raise
        try:
            with _explained(told or target):
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
        finally:
            # after a successful rename there is nothing left to remove
            with contextlib.suppress(OSError):
                temporary.unlink()


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
