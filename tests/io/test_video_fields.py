"""Interlaced and telecined videos: recognised by flags and by their pictures, made whole, or kept, as asked."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.io.video import PerFrame, probe, process_video

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from numpy.typing import NDArray

NTSC = Fraction(30000, 1001)
unchanged = PerFrame(lambda pixels: pixels)


def combs(frame: NDArray[Any]) -> float:
    """How much neighbouring lines differ more than every second one does: 1 for whole pictures, above for combs."""
    grey = frame[..., 0].astype(float)
    return float(np.abs(np.diff(grey, axis=0)).mean() / (np.abs(grey[2:] - grey[:-2]).mean() / 2))


def interlaced(videos: SimpleNamespace, path: Path, order: str, *, flagged: bool = True, **more: Any) -> Path:
    pictures = [videos.woven(videos.waves(2 * i), videos.waves(2 * i + 1), order) for i in range(40)]
    videos.make(path, pictures=pictures, marked=order if flagged else None, **more)
    return path


def telecined(videos: SimpleNamespace, path: Path, *, flagged: bool) -> Path:
    """Sixteen fours of film pictures in sixteen fives of frames: AA AB BC CD DD spread over fields as 2:3 does."""
    pairs = ((0, 0), (1, 1), (1, 2), (2, 3), (3, 3))
    pictures = [
        videos.woven(videos.waves(8 * k + 2 * a), videos.waves(8 * k + 2 * b), "tff")
        for k in range(16)
        for a, b in pairs
    ]
    videos.make(path, pictures=pictures, rate=NTSC, marked="tff" if flagged else None)
    return path


def decoded(videos: SimpleNamespace, path: Path) -> list[NDArray[Any]]:
    return [f.to_ndarray(format="rgb24", src_colorspace=5) for f in videos.tracks(path, "video")[0].frames]


MAKES = [
    ("h264.mkv", {}),
    ("h264.mp4", {}),
    ("mpeg2.mpg", {"codec": "mpeg2video"}),
    ("capture.avi", {"codec": "huffyuv", "pix_fmt": "yuv422p", "flagged": False}),
    ("camera.avi", {"codec": "mjpeg", "pix_fmt": "yuvj422p", "flagged": False, "options": {"qmin": "1", "qmax": "2"}}),
]


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(("name", "more"), MAKES, ids=[name for name, _ in MAKES])
def test_interlaced_videos_become_whole_pictures(
    videos: SimpleNamespace, tmp_path: Path, order: str, name: str, more: dict[str, Any]
) -> None:
    source, target = interlaced(videos, tmp_path / name, order, **more), tmp_path / "out.mkv"
    assert probe(source).scan == "interlaced"
    seen: list[NDArray[Any]] = []
    report = process_video(source, target, PerFrame(lambda p: seen.append(p) or p), preset="ultrafast")  # type: ignore[func-returns-value]
    which = {"tff": "top", "bff": "bottom"}[order]
    assert report.notes[0] == (
        f"the video is interlaced, {which} field first: it was deinterlaced (bwdif), one picture per frame"
    )
    assert report.frames == 40
    assert combs(decoded(videos, source)[10]) > 1.15
    assert combs(seen[10]) < 1.05  # the stage sees whole pictures, too
    after = videos.tracks(target, "video")[0].frames
    assert not any(frame.interlaced_frame for frame in after)
    # the moment of the first field; with a wrong field order it would be that of the second
    error, wrong = (np.abs(seen[10][4:-4] - videos.waves(moment)[4:-4].astype(float)).mean() for moment in (20, 21))
    assert error < 4 < 2 * wrong


def test_by_field_there_are_twice_as_many_pictures_at_the_times_of_the_fields(
    videos: SimpleNamespace, tmp_path: Path
) -> None:
    source, target = interlaced(videos, tmp_path / "in.mkv", "tff"), tmp_path / "out.mp4"
    seen: list[NDArray[Any]] = []
    totals: list[int | None] = []
    report = process_video(
        source,
        target,
        PerFrame(lambda p: seen.append(p) or p),  # type: ignore[func-returns-value]
        deinterlace="field",
        preset="ultrafast",
        progress=lambda done, total: totals.append(total),
    )
    assert report.frames == 80
    assert set(totals) == {80}
    assert "one picture per field" in report.notes[0]
    times = [f.pts * f.time_base for f in videos.tracks(target, "video")[0].frames]
    assert times == [Fraction(i, 50) for i in range(80)]
    for i in (20, 21):
        assert np.abs(seen[i][4:-4] - videos.waves(i)[4:-4].astype(float)).mean() < 4


def test_off_keeps_fields_and_says_that_they_are_fields(videos: SimpleNamespace, tmp_path: Path) -> None:
    source, target = interlaced(videos, tmp_path / "in.mkv", "bff"), tmp_path / "out.mp4"
    report = process_video(source, target, unchanged, deinterlace="off", preset="ultrafast", crf=4)
    assert "its fields were kept" in report.notes[0]
    after = videos.tracks(target, "video")[0].frames
    assert all(frame.interlaced_frame for frame in after)
    assert probe(target).scan == "interlaced"
    assert np.abs(decoded(videos, target)[10].astype(float) - decoded(videos, source)[10]).mean() < 2
    vp9 = process_video(source, tmp_path / "out.webm", unchanged, deinterlace="off")
    assert "the fields are not marked as such: VP9 is written as progressive" in vp9.notes


@pytest.mark.parametrize("flagged", [False, True])
def test_telecined_videos_are_named_and_give_their_own_pictures_back(
    videos: SimpleNamespace, tmp_path: Path, flagged: bool
) -> None:
    source, target = telecined(videos, tmp_path / "in.mkv", flagged=flagged), tmp_path / "out.mkv"
    assert probe(source).scan == "telecined"
    seen: list[NDArray[Any]] = []
    report = process_video(source, target, PerFrame(lambda p: seen.append(p) or p), preset="ultrafast")  # type: ignore[func-returns-value]
    assert report.notes[0].startswith("the video is telecined (24 film pictures spread over 30 frames)")
    assert report.frames == 64
    errors = [np.abs(picture - videos.waves(2 * i).astype(float)).mean() for i, picture in enumerate(seen)]
    assert np.median(errors) < 4
    assert max(combs(picture) for picture in seen) < 1.05
    steps = np.diff([float(f.pts * f.time_base) for f in videos.tracks(target, "video")[0].frames])
    assert np.abs(steps - 1001 / 24000).max() < 0.002
    kept = process_video(source, tmp_path / "frames.mkv", unchanged, deinterlace="frame", preset="ultrafast")
    assert kept.frames == 80
    assert kept.notes[0].startswith("the video is telecined")


def test_progressive_videos_are_left_alone_whatever_their_flags_say(videos: SimpleNamespace, tmp_path: Path) -> None:
    for name, marked in (("plain.mkv", None), ("segmented.mkv", "tff")):
        source = videos.make(tmp_path / name, frames=40, marked=marked)
        assert probe(source).scan == "progressive"
        seen: list[NDArray[Any]] = []
        report = process_video(
            source,
            tmp_path / f"out-{name}",
            PerFrame(lambda p, seen=seen: seen.append(p) or p),  # type: ignore[misc]
            preset="ultrafast",
        )
        assert report.notes == ()
        assert np.abs(seen[10] - videos.waves(10).astype(float)).mean() < 2


def test_an_interrupted_interlaced_video_goes_on_with_the_same_pictures(
    videos: SimpleNamespace, tmp_path: Path
) -> None:
    source = telecined(videos, tmp_path / "in.mkv", flagged=True)
    options: dict[str, Any] = {"segment_frames": 16, "preset": "ultrafast"}
    process_video(source, tmp_path / "whole.mkv", unchanged, **options)
    left = iter([True] * 50)

    def breaks(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not next(left, False):
            raise RuntimeError("power cut")
        return pixels

    with pytest.raises(RuntimeError, match="power cut"):
        process_video(source, tmp_path / "out.mkv", PerFrame(breaks), **options)
    report = process_video(source, tmp_path / "out.mkv", unchanged, resume=True, **options)
    assert report.segments_reused >= 1
    for a, b in zip(decoded(videos, tmp_path / "out.mkv"), decoded(videos, tmp_path / "whole.mkv"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_unknown_wish_is_refused(videos: SimpleNamespace, tmp_path: Path) -> None:
    source = videos.make(tmp_path / "in.mkv", frames=3)
    with pytest.raises(UsageError, match="auto, frame, field, off"):
        process_video(source, tmp_path / "out.mkv", unchanged, deinterlace="bob")  # type: ignore[arg-type]
