"""How many processors are this process's own, and how its threads wait on a machine that others use too.

The threads of OpenMP, which torch computes with, spin at the end of every parallel loop until the last one arrives. On
an idle machine that is the fastest way to wait. On a busy one the thread they wait for has been taken off the
processor that they keep warm, and a call takes ten times as long and more. A bounded spin gives the processor away.

OpenMP reads its settings once, when torch is loaded. So `import facewright` makes them (`prepare`), for this process
and those it starts, unless torch is there already or the person has made settings of their own.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

SPIN = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""Rounds that libgomp (torch on Linux) spins, and milliseconds that the OpenMP of LLVM and Intel (elsewhere) does."""
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}
"""Kernels that oneDNN keeps, one for each layer and size: twice what a photo needs, a quarter of the default."""
WAITING = ("OMP_WAIT_POLICY", *SPIN)
"""Variables by which a person decides how threads wait."""
THREADS = "OMP_NUM_THREADS"


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Bound the spin, the kernels kept, and the threads where a quota gives fewer processors than the machine shows.

    Without effect once torch is loaded, and on what the environment settles already.
    """
    if "torch" in sys.modules:
        return
    if not any(name in environment for name in WAITING):
        environment.update(SPIN)
    for name, value in KERNELS.items():
        environment.setdefault(name, value)
    own = processors()
    if THREADS not in environment and own < _runnable():
        environment[THREADS] = str(own)


def processors() -> int:
    """How many processors this process may use: its affinity, or its cgroup's quota rounded up if that is less."""
    quota = cgroup_quota()
    own = _runnable() if quota is None else min(_runnable(), math.ceil(quota))
    return max(1, own)


def codec_threads() -> int:
    """What FFmpeg's codecs are to use: 0, their own choice by affinity, unless a quota gives fewer processors."""
    own = processors()
    return own if own < _runnable() else 0


def use_threads(count: int) -> None:
    """Let torch and OpenCV use so many threads each in this process; for worker processes usually 1."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def single_threaded(_: int = 0) -> None:
    """`use_threads(1)`, as the start of a worker process (the number of the worker does not matter)."""
    use_threads(1)


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time this process's control groups allow it, of both versions; None without a limit.

    `root` is where /proc and /sys are found.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = [
        quota
        for mount, top, controllers in _cgroup_mounts(mounts)
        for path in _own_paths(groups, controllers)
        for folder in _from_group_to_top(root / mount.lstrip("/"), top, path)
        if (quota := _quota(folder)) is not None
    ]
    return min(quotas, default=None)


def _runnable() -> int:
    """Processors the scheduler may put this process on (since Python 3.13 also what -X cpu_count says)."""
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_mounts(mounts: list[str]) -> Iterator[tuple[str, str, set[str]]]:
    """Mount point, the group it shows as its top, and its controllers (none for version 2), of every hierarchy."""
    for line in mounts:
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        top, point = before.split()[3:5]
        kind, *_, options = after.split()
        if kind == "cgroup2":
            yield point, top, set()
        elif kind == "cgroup" and "cpu" in options.split(","):
            yield point, top, {"cpu"}


def _own_paths(groups: list[str], controllers: set[str]) -> Iterator[str]:
    for line in groups:
        _, names, path = line.split(":", 2)
        if controllers <= set(names.split(",")) and (controllers or not names):
            yield path


def _from_group_to_top(point: Path, top: str, group: str) -> Iterator[Path]:
    """The folders of a group and of those above it, whose limits hold too, up to what is mounted."""
    inside = os.path.relpath(group, top)
    parts = [] if inside.startswith("..") else Path(inside).parts
    for length in range(len(parts), -1, -1):
        yield point.joinpath(*parts[:length])


def _quota(folder: Path) -> float | None:
    """Time per period of one control group: `cpu.max` of version 2, two files of version 1."""
    try:
        if (folder / "cpu.max").exists():
            time, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            time, period = ((folder / name).read_text(encoding="utf-8").strip() for name in names)
        share = float(time) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no limit ("max"), or a group that is not ours to read
    return share if share > 0 else None
