"""Several processes over one folder: real ones, which share the work, die at random moments, and lose nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.errors import LockedError
from facewright.io.atomic import TEMPORARY_PREFIX, atomic_output, check_folder, remove_abandoned
from facewright.io.image import read
from facewright.io.kinds import OWN_FOLDER
from facewright.io.lock import LOCK_SUFFIX, lock_path, locked
from facewright.runtime.folder import Plan, SaveOptions, plan, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from facewright.runtime.folder import Summary

COUNT = 24

# A run whose networks are replaced by turning the picture's bits; it says what it works on, and works as long as asked.
WORKER = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace
from facewright.errors import UsageError
from facewright.io.image import save_rgb
from facewright.runtime.folder import SaveOptions, plan, run

album, out, seconds, flags = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]

class Result:
    summary = "done"
    def __init__(self, photo):
        self.photo = photo
    def report(self, *where, **options):
        return {"source": Path(self.photo.source).name}
    def save(self, path, *, overwrite, **options):
        save_rgb(255 - self.photo.rgb(), path, overwrite=overwrite)

def pipeline(photo, options):
    print("works on", Path(photo.source).name, flush=True)
    time.sleep(seconds)
    if "bad" in photo.source:
        raise UsageError(f"{photo.source} is bad")
    return Result(photo)

jobs = plan(album, out)
options = SaveOptions(overwrite="overwrite" in flags)
print("begins", flush=True)
summary = run(jobs, pipeline, SimpleNamespace(upscale=1), options, on_wait=lambda *_: print("waits", flush=True))
print("ends", json.dumps([len(summary.outcomes), summary.already_done, len(summary.failed), summary.exit_code]))
print(json.dumps(summary.report(jobs)))
"""


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    for index in range(COUNT):
        name = f"sub/{index:02}.png" if index % 3 == 0 else f"{index:02}.png"
        Image.fromarray(np.full((40, 60, 3), 10 * index, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Worker:
    """A process that runs over the folder."""

    def __init__(self, album: Path, out: Path, seconds: float = 0.0, *flags: str) -> None:
        arguments = [sys.executable, "-c", WORKER, str(album), str(out), str(seconds), *flags]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> tuple[list[str], list[int], list[dict[str, Any]]]:
        """What it worked on, its counts (done or failed, already there, failed, exit code), and its report."""
        assert self.process.stdout is not None
        said = self.process.stdout.read()  # not communicate(), which forgets what `line` has read ahead
        assert self.process.wait() == 0
        *lines, ends, report = said.splitlines()
        worked = [line.removeprefix("works on ") for line in lines if line.startswith("works on ")]
        return worked, json.loads(ends.removeprefix("ends ")), json.loads(report)


@pytest.fixture
def workers(album: Path, out: Path) -> Iterator[Any]:
    started: list[Worker] = []

    def start(seconds: float = 0.0, *flags: str) -> Worker:
        started.append(Worker(album, out, seconds, *flags))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.process.stdout.close()


def sources(album: Path) -> list[Path]:
    return sorted(album.rglob("*.png"))


def check_complete(album: Path, out: Path) -> None:
    """Every result is there, whole and right, and nothing else but the records."""
    for path in sources(album):
        if "bad" not in path.name:
            assert np.array_equal(read(out / path.relative_to(album)).pixels, 255 - read(path).pixels)
    found = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file() and p.parent.name != OWN_FOLDER)
    assert found == [p.relative_to(album) for p in sources(album) if "bad" not in p.name]
    assert {p.suffix for p in (out / OWN_FOLDER).iterdir()} == {".json"}


def check_report(album: Path, report: list[dict[str, Any]]) -> None:
    names = [str(p.relative_to(album)) for p in sources(album)]
    assert [entry["source"] for entry in report] == names
    assert [entry["result"] for entry in report] == [{"source": Path(name).name} for name in names]


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_a_folder_and_each_reports_all_of_it(album: Path, out: Path, workers: Any, count: int) -> None:
    running = [workers(0.05) for _ in range(count)]
    ends = [worker.end() for worker in running]
    worked = [name for names, _, _ in ends for name in names]
    assert sorted(worked) == sorted(p.name for p in sources(album))  # each once
    for names, (own, there, failed, code), report in ends:
        assert (own, own + there, failed, code) == (len(names), COUNT, 0, 0)
        check_report(album, report)
    check_complete(album, out)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 20))])
def test_processes_that_are_killed_at_random_lose_nothing(album: Path, out: Path, workers: Any, seed: int) -> None:
    rng = random.Random(seed)
    for kills in (4, 4, 2):
        running = [workers(rng.uniform(0.01, 0.1)) for _ in range(4)]
        for worker in running:
            assert worker.line() == "begins"
        for worker in running[:kills]:
            time.sleep(rng.uniform(0, 0.06))
            worker.kill()
        if kills == 4 and len(list(out.rglob("*.png"))) == COUNT:
            pytest.skip("this machine was too slow to kill them at work")
    for worker in running[2:]:
        _, (_, _, failed, code), report = worker.end()
        assert (failed, code) == (0, 0)
        check_report(album, report)
    check_complete(album, out)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_the_others_do_what_a_dead_process_left(album: Path, out: Path, workers: Any) -> None:
    first = workers(600)
    assert (first.line(), first.line()) == ("begins", "works on 01.png")
    second = workers()
    while second.line() != "waits":
        pass
    assert not (out / "01.png").exists()
    assert lock_path(out / "01.png").exists()
    first.kill()
    worked, (own, there, failed, code), report = second.end()
    assert (worked[0], own + there, failed, code) == ("01.png", COUNT, 0, 0)
    check_report(album, report)
    check_complete(album, out)


def test_with_overwrite_too_each_file_is_done_once_by_runs_side_by_side(album: Path, out: Path, workers: Any) -> None:
    workers().end()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    running = [workers(0.05, "overwrite") for _ in range(2)]
    for worker in running:
        assert worker.line() == "begins"
    ends = [worker.end() for worker in running]
    worked = [name for names, _, _ in ends for name in names]
    assert set(worked) == {p.name for p in sources(album)}
    assert len(worked) <= COUNT + 3  # what one had begun before the other looked
    assert all(p.stat().st_mtime_ns > stamp for p, stamp in before.items())
    check_complete(album, out)


def test_a_failure_is_tried_by_one_and_told_by_all(album: Path, out: Path, workers: Any) -> None:
    (sources(album)[0]).rename(album / "00bad.png")
    out.mkdir()
    with locked(out / "00bad.png"):  # until both have begun: who comes later tries again
        both = [workers(0.05), workers(0.05)]
        for worker in both:
            worker.line()
    ends = [worker.end() for worker in both]
    assert sum(name == "00bad.png" for names, _, _ in ends for name in names) == 1
    for _, (own, there, failed, code), report in ends:
        assert (own + there, failed, code) == (COUNT, 1, 1)
        assert "00bad.png is bad" in report[0]["error"]
    again, (_, there, failed, code), _ = workers().end()
    assert (again, there, failed, code) == (["00bad.png"], COUNT - 1, 1, 1)  # a later run tries again


def test_a_folder_run_waits_for_a_single_file_in_work(album: Path, out: Path, workers: Any) -> None:
    out.mkdir()
    with locked(out / "05.png"):
        worker = workers()
        while worker.line() != "waits":
            pass
        Image.new("RGB", (8, 8)).save(out / "05.png")
    worked, (own, there, failed, code), _ = worker.end()
    assert "05.png" not in worked
    assert (own, there, failed, code) == (COUNT - 1, 1, 0, 0)
    assert read(out / "05.png").width == 8


# --- what is being written, and what a dead process left

WRITER = """
import sys
from facewright.io.atomic import atomic_output
with atomic_output(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print(temporary, flush=True)
    sys.stdin.read()
    temporary.write_bytes(b"whole")
"""


def writer(target: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_live_temporaries_stay_and_dead_ones_go(album: Path, out: Path, workers: Any) -> None:
    out.mkdir()
    live, live_file = writer(out / "live.bin")
    dead, dead_file = writer(out / "dead.bin")
    older = out / f"{TEMPORARY_PREFIX}1234.png"  # of a version without locks
    older.write_bytes(b"half")
    dead.kill()
    dead.communicate()
    assert dead_file.exists()
    _, (_, _, failed, _), _ = workers().end()
    assert failed == 0
    assert live_file.read_bytes() == b"half"
    assert not dead_file.exists()
    assert not older.exists()
    live.communicate()
    assert live.returncode == 0
    assert (out / "live.bin").read_bytes() == b"whole"
    assert [p for p in out.iterdir() if p.name.startswith((TEMPORARY_PREFIX, f".{TEMPORARY_PREFIX}"))] == []


def test_nothing_is_removed_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There nobody can tell whether its writer lives."""
    import errno
    import fcntl

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with atomic_output(tmp_path / "a.bin") as temporary:
        remove_abandoned(tmp_path)
        temporary.write_bytes(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]


def test_an_empty_file_is_no_result(album: Path, out: Path, workers: Any) -> None:
    """Where there are no hard links, a killed process leaves one in the name it had reserved."""
    out.mkdir()
    (out / "04.png").touch()
    assert workers().end()[1] == [COUNT, 0, 0, 0]
    check_complete(album, out)


def test_names_as_long_as_the_file_system_takes_them(tmp_path: Path) -> None:
    name = "é" * 125 + ".png"  # 254 bytes
    with locked(tmp_path / name), pytest.raises(LockedError), locked(tmp_path / name):
        pass
    with atomic_output(tmp_path / name) as temporary:
        temporary.write_bytes(b"whole")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert lock_path(tmp_path / name).name.endswith(LOCK_SUFFIX)


def test_a_folder_that_is_not_there_yet_can_be_tried_by_many_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folder = tmp_path / "a" / "b"

    def tries(_: int) -> None:
        for _ in range(100):
            check_folder(folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tries, range(4)))
    assert list(tmp_path.iterdir()) == []


def test_one_process_may_run_twice_at_once(album: Path, out: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from types import SimpleNamespace

    running = threading.Barrier(3)

    def pipeline(photo: Any, options: Any) -> Any:
        from facewright.io.image import save_rgb

        time.sleep(0.25)  # nothing is finished before all three have looked at what is there

        def save(path: Path, *, overwrite: bool, **others: Any) -> None:
            save_rgb(255 - photo.rgb(), path, overwrite=overwrite)

        return SimpleNamespace(summary="", report=lambda *_, **__: {"source": Path(photo.source).name}, save=save)

    jobs: Plan = plan(album, out)
    options: Any = SimpleNamespace(upscale=1)

    def one(_: int) -> Summary:
        running.wait()
        return run(jobs, pipeline, options, SaveOptions())  # type: ignore[arg-type]

    with ThreadPoolExecutor(3) as pool:
        summaries = list(pool.map(one, range(3)))
    assert sum(len(summary.outcomes) for summary in summaries) == COUNT
    assert [summary.kept for summary in summaries] == [0, 0, 0]
    assert run(jobs, pipeline, options, SaveOptions()).kept == COUNT  # type: ignore[arg-type]
    assert all(summary.exit_code == 0 for summary in summaries)
    check_complete(album, out)
