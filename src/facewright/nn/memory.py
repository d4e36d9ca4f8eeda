"""Memory given back: what pictures of many sizes leave behind, and weights that lie in a file anyway.

The C library keeps freed blocks for the next allocation of their size. Pictures of ever other sizes seldom find one
that fits, and a folder of them holds twice the memory that one size needs. On Linux with glibc the unused pages can be
given back, and is when the process has grown by `GROWTH` and by `SHARE` of what it holds: the system has to find the
pages anew, which cost a seventh of a photo's time when it was done between the networks of every photo.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torch import Tensor

GROWTH = 40 << 20
"""Bytes that the process may grow before what is unused is given back."""
SHARE = 0.25
"""The same, as a share of what it holds."""

_STATISTICS = Path("/proc/self/statm")
_PAGE_OUT = 21  # MADV_PAGEOUT: what was not written to is dropped, and read from the file again when it is wanted


class Trimmer:
    """Gives unused memory back when the process has grown by so many bytes, and by that share. Threads may share it."""

    def __init__(self, growth: int = GROWTH, share: float = SHARE) -> None:
        self.growth, self.share = growth, share
        self._lock = threading.Lock()
        self._last: int | None = None

    def __call__(self) -> bool:
        """Give memory back if it is time to; returns whether it was."""
        trim = _trim_function()
        if trim is None or not self._lock.acquire(blocking=False):
            return False
        try:
            held = resident_bytes()
            if self._last is not None and held <= self._last + max(self.growth, self.share * self._last):
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


class WithoutMemory(TorchFunctionMode):
    """A context in which large new tensors are made on the meta device, for networks whose weights come from a file.

    Small ones, from which networks compute kernels and index tables, are real. What fills or scales large ones is left
    out: it would change nothing, and makes torch load a computer algebra system of 80 MB.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and kwargs.get("device") is None:
            size = _size(args, kwargs)
            if math.prod(size) > _SMALL:
                return torch.empty(size, dtype=kwargs.get("dtype"), device="meta")
        filled = args[0] if args else kwargs.get("tensor")
        if isinstance(filled, torch.Tensor) and filled.is_meta:
            scales = func is torch.Tensor.mul and isinstance(args[1], int | float)
            if scales or func in _FILLING or getattr(func, "__module__", "") == "torch.nn.init":
                return filled
        return func(*args, **kwargs)


_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_FILLING = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_}
_SMALL = 4096


def _size(args: Any, kwargs: Any) -> list[int]:
    """The shape a factory is asked for."""
    given = args or (kwargs.get("size", ()),)
    return list(given[0] if isinstance(given[0], list | tuple) else (n for n in given if isinstance(n, int)))


def page_out(tensor: Tensor) -> None:
    """Let the memory of a tensor that is mapped from a file go until it is read again (Linux; elsewhere nothing)."""
    advise = _advise_function()
    if advise is None or tensor.device.type != "cpu":
        return
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if whole > 0:
        advise(first, whole, _PAGE_OUT)  # advice: where it is not taken, the memory just stays


@cache
def _advise_function() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


trim = Trimmer()
"""The one of this process; systems call it between pictures."""
