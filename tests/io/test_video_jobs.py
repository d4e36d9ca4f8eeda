"""Two at once, and again: the lock of a video's target, unfinished work, and what is checked before the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from facewright.errors import LockedError, OutputError, UsageError, VideoError
from facewright.io.lock import lock_path, owner_of
from facewright.io.video import PerFrame, process_video

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

FAST: dict[str, Any] = {"preset": "ultrafast", "segment_frames": 8}
unchanged = PerFrame(lambda pixels: pixels)

# prints a line for every frame and waits for one before the next, so that the test decides how far it gets
SLOW = """
import sys
from facewright.io.video import PerFrame, process_video
def step(pixels):
    print("frame", flush=True)
    sys.stdin.readline()
    return pixels
process_video(sys.argv[1], sys.argv[2], PerFrame(step), segment_frames=8, queue_size=1, preset="ultrafast")
"""


@pytest.fixture
def source(videos: SimpleNamespace, tmp_path: Path) -> Path:
    path: Path = videos.make(tmp_path / "in.mkv", frames=40, sounds=[("aac", 48000, "mono", "deu")])
    return path


class Other:
    """A process that works on a video, frame by frame."""

    def __init__(self, source: Path, target: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLOW, str(source), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self, frames: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for _ in range(frames):
            assert self.process.stdout.readline() == "frame\n"
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> int:
        self.process.communicate("\n" * 1000)
        return self.process.returncode


def finished(target: Path) -> int:
    return len(list(target.with_name(target.name + ".parts").glob("*.segment")))


def test_a_second_run_on_the_same_target_is_refused_and_the_first_goes_on(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    first = Other(source, target)
    first.go(30)
    segments = finished(target)
    assert segments >= 2
    choices: tuple[dict[str, Any], ...] = ({}, {"resume": True}, {"restart": True}, {"overwrite": True})
    for more in choices:
        with pytest.raises(LockedError, match=f"is being written by process {first.process.pid} on .*; wait") as caught:
            process_video(source, target, unchanged, **more, **FAST)
        assert not getattr(caught.value, "__notes__", [])
    assert finished(target) >= segments
    assert first.end() == 0
    assert target.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_work_of_a_killed_run_waits_until_it_is_asked_for(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    killed = Other(source, target)
    killed.go(30)
    killed.kill()
    segments = finished(target)
    assert segments >= 2
    assert lock_path(target).exists()
    assert owner_of(target) is None
    for _ in range(2):  # forgetting the option changes nothing, however often
        with pytest.raises(OutputError, match=rf"holds {8 * segments} finished frames.*--resume.*--restart"):
            process_video(source, target, unchanged, **FAST)
        with pytest.raises(VideoError, match=r"parameters have changed.*--restart"):
            process_video(source, target, unchanged, resume=True, parameters="other", **FAST)
        assert finished(target) == segments
    report = process_video(source, target, unchanged, resume=True, **FAST)
    assert (report.frames, report.segments_reused) == (40, segments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


def test_restart_starts_over(source: Path, tmp_path: Path) -> None:
    left = iter([True] * 30)

    def breaks(pixels: Any) -> Any:
        if not next(left, False):
            raise RuntimeError("power cut")
        return pixels

    with pytest.raises(RuntimeError) as caught:
        process_video(source, tmp_path / "out.mkv", PerFrame(breaks), **FAST)
    assert "run again with resume (--resume)" in caught.value.__notes__[0]
    report = process_video(source, tmp_path / "out.mkv", unchanged, restart=True, parameters="other", **FAST)
    assert (report.frames, report.segments_reused) == (40, 0)
    with pytest.raises(UsageError, match="choose one"):
        process_video(source, tmp_path / "b.mkv", unchanged, resume=True, restart=True, **FAST)


def test_a_stranger_in_the_folder_of_segments_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.mkv.parts"
    left = iter([True] * 30)

    def breaks(pixels: Any) -> Any:
        if not next(left, False):
            raise RuntimeError("power cut")
        return pixels

    with pytest.raises(RuntimeError):
        process_video(source, tmp_path / "out.mkv", PerFrame(breaks), **FAST)
    (folder / "notes.txt").write_text("which scenes to redo")
    process_video(source, tmp_path / "out.mkv", unchanged, resume=True, **FAST)
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_a_torn_description_of_a_segment_costs_that_segment_only(source: Path, tmp_path: Path) -> None:
    left = iter([True] * 35)

    def breaks(pixels: Any) -> Any:
        if not next(left, False):
            raise RuntimeError("power cut")
        return pixels

    target = tmp_path / "out.mkv"
    with pytest.raises(RuntimeError):
        process_video(source, target, PerFrame(breaks), **FAST)
    (tmp_path / "out.mkv.parts" / "00000008.json").write_bytes(b"")
    report = process_video(source, target, unchanged, resume=True, **FAST)
    assert (report.frames, report.segments_reused) == (40, 1)


def test_two_videos_into_two_targets_do_not_wait_for_each_other(source: Path, tmp_path: Path) -> None:
    other = Other(source, tmp_path / "a.mkv")
    other.go(10)
    assert process_video(source, tmp_path / "b.mkv", unchanged, **FAST).frames == 40
    assert other.end() == 0


# -- before the work ---------------------------------------------------------------------------------------------------


def never(pixels: Any) -> Any:
    raise AssertionError("the work began")


def test_a_full_disk_is_noticed_before_the_work(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("facewright.io.video.process.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"MB are free, and in\.mkv takes at least .*free some space"):
        process_video(source, tmp_path / "out.mkv", PerFrame(never), **FAST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_noticed_before_the_work(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"out\.mkv"):
        process_video(source, folder / "out.mkv", PerFrame(never), **FAST)


def test_a_target_that_appears_meanwhile_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"

    def interfere(pixels: Any) -> Any:
        target.write_bytes(b"mine")
        return pixels

    with pytest.raises(OutputError, match="exists already") as caught:
        process_video(source, target, PerFrame(interfere), **FAST)
    assert target.read_bytes() == b"mine"
    assert "40 finished frames are kept" in caught.value.__notes__[0]
    target.unlink()
    assert process_video(source, target, unchanged, resume=True, **FAST).segments_reused == 5


def test_an_encoder_that_refuses_is_noticed_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.io.video.encode import Encoder

    monkeypatch.setattr(Encoder, "options", lambda *_: {"preset": "no such preset"})
    with pytest.raises(OutputError, match=r"out\.mkv"):
        process_video(source, tmp_path / "out.mkv", PerFrame(never), **FAST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]
