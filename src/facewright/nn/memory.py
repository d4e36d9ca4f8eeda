"""Memory that pictures of many sizes leave behind, given back.

The C library keeps freed blocks for the next allocation of their size. Pictures of ever other sizes seldom find one
that fits, and a folder of them holds twice the memory that one size needs. On Linux with glibc the unused pages can be
given back, which costs some milliseconds, and is done only after the process has grown by `GROWTH`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

GROWTH = 40 << 20
"""Bytes that the process may grow before what is unused is given back."""

_STATISTICS = Path("/proc/self/statm")


class Trimmer:
    """Gives unused memory back when the process has grown by so many bytes since. Threads may share it."""

    def __init__(self, growth: int = GROWTH) -> None:
        self.growth = growth
        self._lock = threading.Lock()
        self._last: int | None = None

    def __call__(self) -> bool:
        """Give memory back if it is time to; returns whether it was."""
        trim = _trim_function()
        if trim is None or not self._lock.acquire(blocking=False):
            return False
        try:
            held = resident_bytes()
            if self._last is not None and held <= self._last + self.growth:
                self._last = min(self._last, held)
                return False
            trim(0)
            self._last = resident_bytes()
            return True
        finally:
            self._lock.release()


def resident_bytes() -> int:
    """Memory of this process that is in use now (Linux)."""
    return int(_STATISTICS.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


@cache
def _trim_function() -> Any:
    """glibc's `malloc_trim`, or None where there is another C library."""
    if not sys.platform.startswith("linux") or not _STATISTICS.exists():
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


trim = Trimmer()
"""The one of this process; systems call it between pictures."""
