"""One process at a time: a lock on a target, held with the operating system so that it ends with its owner.

The lock is the kernel's (`flock`, on Windows a locked byte range), so it is free again the moment its owner ends,
however it ends, and two processes that race for the lock of a dead one cannot both get it. The file itself only tells
people who the owner is. On a file system without locks (some cluster and FUSE mounts) nothing can be guarded, and every
lock is granted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LockedError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_RECORD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock: process id, computer, and when the lock was taken (ISO 8601, local time with offset)."""

    pid: int
    host: str
    started: str

    @classmethod
    def this_process(cls) -> Owner:
        """The calling process, from now on."""
        return cls(os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat(timespec="seconds"))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


def lock_path(target: str | os.PathLike[str]) -> Path:
    """Where the lock of a target lies: a hidden file beside it. Links to one target share one lock."""
    resolved = Path(target).resolve()
    return resolved.with_name(f".{resolved.name}.facewright-lock")


@contextlib.contextmanager
def locked(target: str | os.PathLike[str]) -> Iterator[Owner]:
    """Hold the lock of `target` (a file or folder that need not exist) during the block.

    The lock belongs to this call, not to the process: a second `locked` of the same target is refused in the same
    process, too. A lock file whose owner is dead is taken over.

    Raises LockedError when a living process holds the lock (`owner` says which, None if it cannot be read), and
    OutputError when the lock file cannot be written.
    """
    path = lock_path(target)
    owner = Owner.this_process()
    descriptor = _acquire(path, Path(target), owner)
    try:
        yield owner
    finally:
        _release(path, descriptor)


def owner_of(target: str | os.PathLike[str]) -> Owner | None:
    """Who holds the lock of `target` at this moment, None when nobody does."""
    try:
        with locked(target):
            return None
    except LockedError as error:
        return error.owner


def _acquire(path: Path, target: Path, owner: Owner) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {target}: {path} cannot be created ({error.strerror})") from error
        kept = False
        try:
            if not _try_lock(descriptor):
                holder = _read_owner(path)
                raise LockedError(target, holder)
            # the owner before may have removed the file between our opening and locking it: then it guards nothing
            if _is_file_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(asdict(owner)).encode())
                kept = True
                return descriptor
        finally:
            if not kept:
                os.close(descriptor)


def _release(path: Path, descriptor: int) -> None:
    if sys.platform == "win32":  # an open file cannot be removed there, and one that another process opened stays
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
        return
    # removed while still locked: whoever holds a descriptor of it already sees that it is no longer the file at `path`
    with contextlib.suppress(OSError):
        if _is_file_at(descriptor, path):
            path.unlink()
    os.close(descriptor)


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _read_owner(path: Path, patience: float = 0.5) -> Owner | None:
    """The owner's record; it appears a moment after the lock is taken."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with path.open("rb") as stream:
                return Owner(**json.loads(stream.read(_RECORD_BYTES)))
        except (OSError, ValueError, TypeError):
            if time.monotonic() > deadline:
                return None
        time.sleep(0.01)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        # a locked range cannot be read by others, so it lies behind the record
        os.lseek(descriptor, _RECORD_BYTES, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return True
            if error.errno in _BUSY:
                return False
            raise
        return True
