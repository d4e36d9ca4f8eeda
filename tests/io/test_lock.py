"""One process at a time per target: real processes that race, wait and get killed."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from facewright.errors import LockedError, OutputError
from facewright.io.lock import Owner, is_abandoned, lock_path, locked, owner_of, remove_abandoned_locks

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from facewright.io.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
# a counter that is read, held for a moment and written loses steps as soon as two processes are inside at once
COUNT = """
import sys, time
from pathlib import Path
from facewright.errors import LockedError
from facewright.io.lock import locked
counter, done = Path(sys.argv[1]), 0
while done < 40:
    try:
        with locked(counter):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))
            done += 1
    except LockedError:
        time.sleep(0.0005)
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def hold(target: Path) -> subprocess.Popen[str]:
    process = child(HOLD, target)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_a_second_process_is_refused_with_the_owner_and_gets_it_afterwards(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    other = hold(target)
    with pytest.raises(LockedError, match=rf"video\.mp4 is being written by process {other.pid} on .*since") as caught:
        locked(target).__enter__()
    assert caught.value.owner is not None
    assert (caught.value.owner.pid, caught.value.owner.host) == (other.pid, socket.gethostname())
    assert owner_of(target) == caught.value.owner
    assert "\n" not in str(caught.value)
    end(other)
    assert other.returncode == 0
    assert owner_of(target) is None
    with locked(target) as owner:
        assert owner.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    other = hold(target)
    other.send_signal(signal.SIGKILL)
    other.wait()
    end(other)
    assert lock_path(target).exists()
    with locked(target) as owner:
        assert owner_of(target) == owner
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_four_processes_that_race_are_never_inside_together(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    killed = hold(counter)  # all four start before the lock of a dead owner
    racing = [child(COUNT, counter) for _ in range(4)]
    killed.send_signal(signal.SIGKILL)
    end(killed)
    for process in racing:
        end(process)
        assert process.returncode == 0
    assert counter.read_text() == "160"
    assert list(tmp_path.iterdir()) == [counter]


def test_the_same_process_is_refused_too_and_an_exception_frees_the_lock(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    with locked(target), pytest.raises(LockedError, match=f"process {os.getpid()}"), locked(target):
        pass
    with pytest.raises(ZeroDivisionError), locked(target):
        raise ZeroDivisionError
    with locked(target):
        pass


def test_one_lock_for_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    target, link = tmp_path / "video.mp4", tmp_path / "link.mp4"
    target.touch()
    link.symlink_to(target)
    with locked(target), pytest.raises(LockedError), locked(link):
        pass


def test_an_unreadable_record_is_no_reason_to_go_on_or_to_fail(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    lock_path(target).write_bytes(b"\xff torn")
    with locked(target):  # nobody holds it
        lock_path(target).write_bytes(b"{}")
        with pytest.raises(LockedError, match="another process") as caught, locked(target):
            pass
        assert caught.value.owner is None


def test_on_a_full_disk_the_lock_holds_without_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    target = tmp_path / "video.mp4"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with locked(target), pytest.raises(LockedError, match="another process"), locked(target):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_abandoned(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    assert is_abandoned(target)
    with locked(target):
        assert not is_abandoned(target)
        remove_abandoned_locks(tmp_path)
        assert lock_path(target).exists()
    lock_path(target).write_text("of a dead process")
    lock_path(tmp_path / "other.mp4").touch()
    assert is_abandoned(target)
    assert not lock_path(target).exists()
    remove_abandoned_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_or_read_only(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"video\.mp4"), locked(tmp_path / "missing" / "video.mp4"):
        pass
    if os.name != "nt" and os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match=r"video\.mp4"), locked(tmp_path / "video.mp4"):
            pass
        tmp_path.chmod(0o700)


def test_the_error_survives_the_way_from_a_worker() -> None:
    owner = Owner(7, "desk", "2026-01-02T03:04:05+01:00")
    error = pickle.loads(pickle.dumps(LockedError("a.mp4", owner)))
    assert (str(error), error.owner) == (str(LockedError("a.mp4", owner)), owner)
