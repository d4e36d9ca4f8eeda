"""Processors of one's own: affinity and control groups, a bounded spin, threads that do not multiply."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from facewright import processors as own

if TYPE_CHECKING:
    from pathlib import Path

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw"
V1_MOUNT = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct"
CONTAINER_MOUNT = "32 31 0:29 /docker/ab12 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu"
MEMORY_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
ROOT_MOUNT = "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw"


def system(root: Path, groups: str, mounts: list[str], files: dict[str, str]) -> Path:
    """A root folder with such control groups."""
    texts = {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join([ROOT_MOUNT, *mounts]) + "\n"}
    for name, text in (texts | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("50000 100000\n", 0.5), ("", None), ("x y z\n", None)],
)
def test_version_2(tmp_path: Path, text: str, expected: float | None) -> None:
    root = system(tmp_path, "0::/app\n", [V2_MOUNT], {"app/cpu.max": text})
    assert own.cgroup_quota(root) == expected


def test_groups_above_limit_too(tmp_path: Path) -> None:
    files = {"user/cpu.max": "100000 100000", "user/app/cpu.max": "300000 100000"}
    assert own.cgroup_quota(system(tmp_path, "0::/user/app\n", [V2_MOUNT], files)) == 1


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", None), ("0", None)])
def test_version_1(tmp_path: Path, quota: str, expected: float | None) -> None:
    folder = "cpu,cpuacct/app/cpu"
    files = {f"{folder}.cfs_quota_us": quota, f"{folder}.cfs_period_us": "100000\n"}
    groups = "4:memory:/other\n3:cpu,cpuacct:/app\n0::/\n"
    assert own.cgroup_quota(system(tmp_path, groups, [V1_MOUNT, MEMORY_MOUNT], files)) == expected


@pytest.mark.parametrize("group", ["/docker/ab12", "/elsewhere"])
def test_container_that_sees_its_own_group_as_the_top(tmp_path: Path, group: str) -> None:
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
    assert own.cgroup_quota(system(tmp_path, f"2:cpu:{group}\n", [CONTAINER_MOUNT], files)) == 2


def test_both_versions_at_once(tmp_path: Path) -> None:
    v1 = {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    unified = V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    root = system(tmp_path, "3:cpu,cpuacct:/\n0::/\n", [V1_MOUNT, unified], v1 | {"unified/cpu.max": "max 100000"})
    assert own.cgroup_quota(root) == 4


def test_no_control_groups(tmp_path: Path) -> None:
    assert own.cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("runnable", "quota", "expected"), [(8, None, 8), (8, 1.5, 2), (2, 6.0, 2), (4, 0.1, 1)])
def test_processors_are_the_lesser(
    monkeypatch: pytest.MonkeyPatch, runnable: int, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(own, "_runnable", lambda: runnable)
    monkeypatch.setattr(own, "cgroup_quota", lambda: quota)
    assert own.processors() == expected
    assert own.codec_threads() == (expected if expected < runnable else 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from facewright.processors import processors; print(processors())"
    )
    assert python(code) == "1"


def test_settings_are_made_unless_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(own, "_runnable", lambda: 4)
    monkeypatch.setattr(own, "cgroup_quota", lambda: None)
    environment: dict[str, str] = {}
    own.prepare(environment)
    assert environment == own.SPIN | own.KERNELS
    for name in own.WAITING:
        chosen = {name: "7"}
        own.prepare(chosen)
        assert chosen == {name: "7"} | own.KERNELS


def test_a_quota_bounds_the_threads_unless_they_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(own, "_runnable", lambda: 16)
    monkeypatch.setattr(own, "cgroup_quota", lambda: 3.0)
    environment: dict[str, str] = {}
    own.prepare(environment)
    assert environment[own.THREADS] == "3"
    chosen = {own.THREADS: "5"}
    own.prepare(chosen)
    assert chosen[own.THREADS] == "5"


def python(code: str, **variables: str) -> str:
    """What a new Python prints whose environment settles nothing but `variables`."""
    settled = {*own.WAITING, own.THREADS}
    environment = {name: value for name, value in os.environ.items() if name not in settled} | variables
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize("module", ["facewright", "facewright.cli", "facewright.nn.batching"])
def test_every_way_in_prepares_before_torch(module: str) -> None:
    code = f"import sys, os, {module}; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('KMP_BLOCKTIME'))"
    assert python(code) == " ".join(own.SPIN.values())


def test_what_the_person_chose_stays() -> None:
    code = "import os, facewright; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    assert python(code, OMP_WAIT_POLICY="active") == "active None"


def test_nothing_is_changed_once_torch_is_loaded() -> None:
    code = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')\n"
    assert python(code + "import os, facewright; print(os.environ.get('GOMP_SPINCOUNT'))") == "None"


def test_worker_uses_one_thread() -> None:
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        own.use_threads(3)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 3)
        own.single_threaded(4)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
