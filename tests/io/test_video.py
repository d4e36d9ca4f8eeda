"""Video files: what must survive a pass through `process_video`, and what must happen when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from facewright.errors import OutputError, UsageError, VideoError
from facewright.io.video import Frame, PerFrame, is_video, probe, process_video
from facewright.io.video.colour import Colour
from facewright.io.video.encode import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FAST: dict[str, Any] = {"preset": "ultrafast"}
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
unchanged = PerFrame(lambda pixels: pixels)


def picture(index: int, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """A smooth coloured pattern with a bright square that moves with the index."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    image = np.stack([60 + 120 * x, 60 + 120 * y, 180 - 100 * x * y], -1)
    image[10:26, 4 + index : 20 + index] = (230, 200, 40)
    return np.round(image).astype(np.uint8)


def write_clip(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    full_range: bool = False,
    matrix: int = 5,
    tags: tuple[int, int, int] | None = None,
    rotation: int | None = None,
    sound: str | None = None,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as out:
        out.metadata.update(metadata or {})
        stream: Any = out.add_stream(codec, rate=25, options=options or {"crf": "4", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.color_range = 2 if full_range else 1
        if tags:
            stream.codec_context.colorspace, stream.codec_context.color_primaries = tags[0], tags[1]
            stream.codec_context.color_trc = tags[2]
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        audio: Any = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        for i, pixels in enumerate(pictures):
            deep = pixels.dtype == np.uint16
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le" if deep else "rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, src_color_range=2, dst_color_range=2 if full_range else 1
            )
            frame.time_base = time_base
            frame.pts = times[i] if times else round(Fraction(i, 25) / time_base)
            out.mux(stream.encode(frame))
            if audio:
                out.mux(audio.encode(tone(i)))
        out.mux(stream.encode(None))
        if audio:
            out.mux(audio.encode(None))
    return path


def tone(index: int) -> av.AudioFrame:
    """The sound of one frame at 25 frames per second."""
    t = (np.arange(1920) + 1920 * index) / 48000
    frame = av.AudioFrame.from_ndarray((8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)[None], "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 1920 * index, Fraction(1, 48000)
    return frame


def read(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [
            f.to_ndarray(  # type: ignore[misc]
                format="rgb24",
                src_colorspace=5 if f.colorspace == 2 else None,
                dst_color_range=2,
                interpolation=EXACT,
            )
            for f in container.decode(video=0)
        ]


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [f.pts * f.time_base for f in container.decode(video=0)]


def packets_of(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(**{kind: 0}) if p.size]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames at 25 per second with sound."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", [picture(i) for i in range(40)], sound="aac")


# -- what survives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_frames_come_out_in_order_and_nearly_unchanged(clip: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    report = process_video(clip, target, unchanged, segment_frames=16, batch_size=3, **FAST)
    assert (report.frames, report.damaged, report.segments_reused) == (40, (), 0)
    assert (report.width, report.height) == (96, 64)
    before, after = read(clip), read(target)
    assert len(after) == 40
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)]
    assert max(errors) < 2.0
    # a shift by one frame would move the square and show
    shifted = [np.abs(a.astype(int) - b).mean() for a, b in zip(before[1:], after[:-1], strict=True)]
    assert min(shifted) > max(errors)
    assert sorted(p.name for p in tmp_path.iterdir()) == [target.name]


def test_variable_frame_times_are_kept_exactly(tmp_path: Path) -> None:
    steps = [3003, 1500, 6007, 3, 90001]
    times = [int(v) for v in np.cumsum([3003, *(steps[i % 5] for i in range(24))])]
    source = write_clip(
        tmp_path / "vfr.mov", [picture(i) for i in range(25)], times=times, time_base=Fraction(1, 90000)
    )
    process_video(source, tmp_path / "out.mp4", unchanged, segment_frames=7, **FAST)
    assert times_of(tmp_path / "out.mp4") == [t - times_of(source)[0] for t in times_of(source)]
    assert [b - a for a, b in pairwise(times_of(source))] == [Fraction(b - a, 90000) for a, b in pairwise(times)]
    assert probe(source).variable_rate


def test_constant_rate_is_not_called_variable(clip: Path) -> None:
    info = probe(clip)
    assert not info.variable_rate
    assert (info.frames, info.fps, info.codec, info.audio_streams) == (40, 25.0, "h264", 1)
    assert info.duration == pytest.approx(1.6)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_sound_packets_are_bit_equal(clip: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    report = process_video(clip, target, unchanged, segment_frames=16, **FAST)
    assert packets_of(target, "audio") == packets_of(clip, "audio")
    assert report.notes == ()


def test_sound_bytes_are_equal_in_another_container(clip: Path, tmp_path: Path) -> None:
    process_video(clip, tmp_path / "out.mkv", unchanged, **FAST)
    assert [b for _, b in packets_of(tmp_path / "out.mkv", "audio")] == [b for _, b in packets_of(clip, "audio")]


def test_sound_the_container_cannot_hold_is_encoded_anew_and_said(clip: Path, tmp_path: Path) -> None:
    report = process_video(clip, tmp_path / "out.webm", unchanged, **FAST)
    assert len(report.notes) == 1
    assert "Opus" in report.notes[0]
    with av.open(str(tmp_path / "out.webm")) as container:
        samples = np.concatenate([f.to_ndarray().ravel() for f in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(samples))
    assert len(samples) / 48000 == pytest.approx(1.6, abs=0.1)
    assert np.argmax(spectrum) * 48000 / len(samples) == pytest.approx(440, abs=5)


def test_subtitles_and_tags_are_kept(tmp_path: Path) -> None:
    text = tmp_path / "text.srt"
    text.write_text("1\n00:00:00,200 --> 00:00:00,900\nGood morning\n\n2\n00:00:01,000 --> 00:00:01,500\nAnd bye\n")
    video = write_clip(tmp_path / "video.mkv", [picture(i) for i in range(40)])
    source = tmp_path / "source.mkv"
    with av.open(str(video)) as a, av.open(str(text)) as b, av.open(str(source), "w") as out:
        out.metadata["title"] = "Family video"
        streams = {id(s): out.add_stream_from_template(s) for s in (a.streams.video[0], b.streams.subtitles[0])}
        for container in (a, b):
            for packet in container.demux():
                if packet.dts is not None:
                    packet.stream = streams[id(packet.stream)]
                    out.mux(packet)
    report = process_video(source, tmp_path / "out.mkv", unchanged, metadata={"comment": "restored"}, **FAST)
    # the earliest start of all streams, here that of the first subtitle, becomes zero
    first = packets_of(source, "subtitles")[0][0]
    moved = [(t - first, data) for t, data in packets_of(source, "subtitles")]
    assert packets_of(tmp_path / "out.mkv", "subtitles") == moved
    assert times_of(tmp_path / "out.mkv") == [t - first for t in times_of(source)]
    assert [b for _, b in packets_of(source, "subtitles")] == [b"Good morning", b"And bye"]
    with av.open(str(tmp_path / "out.mkv")) as container:
        tags = {k.lower(): v for k, v in container.metadata.items()}
    assert (tags["title"], tags["comment"]) == ("Family video", "restored")
    assert report.notes == ()

    dropped = process_video(source, tmp_path / "out.mp4", unchanged, **FAST)
    assert dropped.notes == ("subtitle track 1 (subrip) was converted to mov_text: MP4 cannot hold it",)
    texts = [data[2:].decode() for _, data in packets_of(tmp_path / "out.mp4", "subtitles") if len(data) > 2]
    assert texts == ["Good morning", "And bye"]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied_to_the_pixels(tmp_path: Path, rotation: int) -> None:
    stored = picture(5)
    source = write_clip(tmp_path / "turned.mp4", [stored] * 6, rotation=rotation)
    upright = np.rot90(stored, rotation // 90)  # set_display_rotation and rot90 both turn counterclockwise
    seen: list[NDArray[np.uint8]] = []
    process_video(source, tmp_path / "out.mp4", PerFrame(lambda p: seen.append(p) or p), **FAST)  # type: ignore[func-returns-value]
    assert np.abs(seen[0].astype(int) - upright).mean() < 2
    assert np.abs(read(tmp_path / "out.mp4")[0].astype(int) - upright).mean() < 2.5
    before, after = probe(source), probe(tmp_path / "out.mp4")
    assert (before.rotation, after.rotation) == (-rotation % 360, 0)
    assert (before.height, before.width) == (after.height, after.width) == upright.shape[:2]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("matrix", "tags"), [(1, (1, 1, 1)), (5, (6, 6, 6)), (5, None)])
def test_colours_and_their_tags_survive(
    tmp_path: Path, full_range: bool, matrix: int, tags: tuple[int, int, int] | None
) -> None:
    image = picture(0)
    source = write_clip(tmp_path / "in.mp4", [image] * 4, full_range=full_range, matrix=matrix, tags=tags)
    seen: list[NDArray[np.uint8]] = []
    process_video(source, tmp_path / "out.mp4", PerFrame(lambda p: seen.append(p) or p), crf=4, **FAST)  # type: ignore[func-returns-value]
    assert np.abs(seen[0].astype(int) - image).mean() < 1.5  # the stage sees true colours
    error = read(tmp_path / "out.mp4")[0].astype(int) - seen[0]
    assert np.abs(error).mean() < 1.5
    assert np.abs(error.mean((0, 1))).max() < 0.6  # a wrong range or matrix shifts whole channels by far more
    before, after = probe(source), probe(tmp_path / "out.mp4")
    assert after.full_range == before.full_range == full_range
    for name in ("colour_space", "primaries", "transfer"):
        assert getattr(after, name) == getattr(before, name)
    assert after.colour_space == (tags[0] if tags else 2)


def test_ten_bits_stay_ten_bits_where_nothing_changed(tmp_path: Path) -> None:
    ramp = np.linspace(20000, 24000, 128)  # 16 steps in eight bits, 62 in ten
    image = np.repeat(np.tile(ramp, (64, 1))[..., None], 3, -1).astype(np.uint16)
    source = write_clip(tmp_path / "in.mkv", [image] * 3, pix_fmt="yuv420p10le", options={"crf": "1"})  # type: ignore[list-item]
    process_video(source, tmp_path / "out.mkv", unchanged, crf=2, **FAST)
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
        luma = np.frombuffer(bytes(frame.planes[0]), np.uint16).reshape(64, -1)[:, :128]
    assert frame.format.name == "yuv420p10le"
    assert len(np.unique(luma)) > 40


def test_pixel_aspect_is_kept(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", [picture(0)] * 4, aspect=Fraction(4, 3))
    process_video(source, tmp_path / "out.mp4", unchanged, **FAST)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes_are_kept(tmp_path: Path, suffix: str) -> None:
    source = write_clip(
        tmp_path / "odd.mkv", [picture(i, 97, 63) for i in range(5)], codec="ffv1", pix_fmt="yuv444p", options={}
    )
    report = process_video(source, tmp_path / f"out{suffix}", unchanged, **FAST)
    assert (report.width, report.height) == (97, 63)
    assert read(tmp_path / f"out{suffix}")[4].shape == (63, 97, 3)


def test_a_stage_may_change_the_size(clip: Path, tmp_path: Path) -> None:
    double = PerFrame(lambda p: cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))  # type: ignore[arg-type, return-value]
    report = process_video(clip, tmp_path / "out.mp4", double, segment_frames=16, **FAST)
    assert (report.width, report.height) == (192, 128)
    assert len(read(tmp_path / "out.mp4")) == 40


# -- how the stage is called -------------------------------------------------------------------------------------------


class Recorder:
    """Remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.resets: list[int] = []
        self.threads: set[int] = set()
        self.times: list[float] = []

    def __call__(self, frames: list[Frame]) -> list[NDArray[np.uint8]]:
        self.calls.append([f.index for f in frames])
        self.times += [f.time for f in frames]
        self.threads.add(threading.get_ident())
        assert not frames[0].pixels.flags.writeable
        return [f.pixels for f in frames]

    def reset(self, index: int) -> None:
        self.resets.append(index)


def test_the_stage_gets_batches_in_order_from_one_thread(clip: Path, tmp_path: Path) -> None:
    stage, seen = Recorder(), []
    process_video(
        clip,
        tmp_path / "out.mp4",
        stage,
        batch_size=16,
        progress=lambda done, total: seen.append((done, total)),
        **FAST,
    )
    assert stage.calls == [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert stage.resets == [0]
    assert stage.threads == {threading.get_ident()}
    assert stage.times == pytest.approx([i / 25 for i in range(40)])
    assert seen == [(0, 40), (16, 40), (32, 40), (40, 40)]


# -- interruption and resume -------------------------------------------------------------------------------------------


class Trail:
    """The mean of the last three frames: a stage with a memory. Raises at a given frame, once."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.fail_at, self.error = fail_at, error or RuntimeError("out of memory")
        self.memory: list[NDArray[np.uint8]] = []
        self.seen: list[int] = []

    def __call__(self, frames: list[Frame]) -> list[NDArray[np.uint8]]:
        out = []
        for frame in frames:
            if frame.index == self.fail_at:
                raise self.error
            self.seen.append(frame.index)
            self.memory = [*self.memory[-2:], frame.pixels]
            out.append(np.mean(self.memory, axis=0).astype(np.uint8))
        return out

    def reset(self, index: int) -> None:
        self.memory = []


@pytest.mark.parametrize("variant", ["plain", "without seeking"])
def test_resume_gives_the_video_of_an_uninterrupted_run(
    clip: Path, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"segment_frames": 8, "warmup": 5, "parameters": "a", **FAST}
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    process_video(clip, whole, Trail(), **options)
    with pytest.raises(RuntimeError, match="out of memory") as failure:
        process_video(clip, target, Trail(fail_at=29), **options)
    assert "run again with resume" in failure.value.__notes__[0]
    assert not target.exists()

    if variant == "without seeking":
        monkeypatch.setattr("facewright.io.video.run.Run._shots_after_jump", lambda *_: None)
    stage = Trail()
    report = process_video(clip, target, stage, resume=True, **options)
    first = 8 * report.segments_reused
    assert 0 < first <= 24
    assert stage.seen == list(range(first - 5, 40))
    assert report.frames == 40
    assert times_of(target) == times_of(whole)
    for a, b in zip(read(target), read(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert packets_of(target, "audio") == packets_of(clip, "audio")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "whole.mp4"]


def test_resume_after_everything_but_the_joining_was_done(clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "facewright.io.video.mux.Output.make", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("power cut"))
        )
        with pytest.raises(RuntimeError, match="power cut"):
            process_video(clip, tmp_path / "out.mp4", unchanged, segment_frames=8, **FAST)
    for warmup in (0, 12):
        stage = Recorder()
        report = process_video(
            clip,
            tmp_path / f"out{warmup}.mp4" if warmup else tmp_path / "out.mp4",
            stage,
            resume=True,
            segment_frames=8,
            warmup=warmup,
            **FAST,
        )
        assert report.frames == 40
    assert len(read(tmp_path / "out.mp4")) == 40


def test_resume_refuses_another_job(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError):
        process_video(clip, target, Trail(fail_at=30), segment_frames=8, parameters="strength 1", **FAST)
    with pytest.raises(VideoError, match=r"parameters have changed.*start over"):
        process_video(clip, target, Trail(), segment_frames=8, parameters="strength 0.5", resume=True, **FAST)
    report = process_video(clip, target, Trail(), segment_frames=8, parameters="strength 0.5", restart=True, **FAST)
    assert report.segments_reused == 0


def test_a_killed_process_can_be_resumed(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    script = (
        "import os, sys, time; from facewright.io.video import PerFrame, process_video\n"
        "def slow(p): time.sleep(0.01); print('.', flush=True); return p\n"
        f"process_video({str(clip)!r}, {str(target)!r}, PerFrame(slow), segment_frames=8, preset='ultrafast')"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(30):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not target.exists()
    report = process_video(clip, target, unchanged, segment_frames=8, resume=True, **FAST)
    assert report.segments_reused >= 1
    assert times_of(target) == times_of(clip)


def test_ctrl_c_keeps_finished_segments_and_says_so(clip: Path, tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt, match="run again with resume"):
        process_video(
            clip, tmp_path / "out.mp4", Trail(fail_at=30, error=KeyboardInterrupt()), segment_frames=8, **FAST
        )
    assert not (tmp_path / "out.mp4").exists()
    assert not list((tmp_path / "out.mp4.parts").glob("*.partial*"))
    assert threading.active_count() == threads


# -- failures ----------------------------------------------------------------------------------------------------------


def test_an_error_in_the_stage_comes_through_and_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    threads = threading.active_count()
    error = ZeroDivisionError("inside the stage")
    with pytest.raises(ZeroDivisionError) as caught:
        process_video(clip, tmp_path / "out.mp4", Trail(fail_at=3, error=error), queue_size=1, **FAST)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("owner", "where"), [(Colour, "to_rgb"), (Colour, "to_yuv"), (SegmentWriter, "finish")])
def test_an_error_in_any_thread_ends_the_job(
    clip: Path, tmp_path: Path, owner: type, where: str, monkeypatch: Any
) -> None:
    working = getattr(owner, where)

    def fail(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is threading.main_thread():  # where the output is tried
            return working(*arguments, **options)
        raise MemoryError(where)

    monkeypatch.setattr(owner, where, fail)
    threads = threading.active_count()
    with pytest.raises(MemoryError, match=where):
        process_video(clip, tmp_path / "out.mp4", unchanged, queue_size=1, segment_frames=8, **FAST)
    assert not (tmp_path / "out.mp4").exists()
    assert threading.active_count() == threads


def test_wrong_pictures_from_the_stage_are_refused(clip: Path, tmp_path: Path) -> None:
    sizes = iter(range(40))
    with pytest.raises(VideoError, match="the stage returned"):
        process_video(clip, tmp_path / "out.mp4", PerFrame(lambda p: p[: 64 - 2 * next(sizes)]), **FAST)
    assert not (tmp_path / "out.mp4").exists()


def test_a_damaged_frame_is_reported_and_the_video_goes_on(clip: Path, tmp_path: Path) -> None:
    with av.open(str(clip)) as container:
        packets = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    position, size, time = packets[25]
    data = bytearray(clip.read_bytes())
    data[position : position + size] = bytes(size)
    source = tmp_path / "damaged.mp4"
    source.write_bytes(data)
    report = process_video(source, tmp_path / "out.mp4", unchanged, segment_frames=16, **FAST)
    index = sorted(p[2] for p in packets).index(time)
    assert report.damaged == (index,)
    assert report.frames == 40
    assert times_of(tmp_path / "out.mp4") == times_of(clip)
    before, after = read(clip), read(tmp_path / "out.mp4")
    assert np.abs(before[39].astype(int) - after[39]).mean() < 2  # after the next keyframe all is well


def test_a_video_that_ends_early_is_saved_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", [picture(i % 40) for i in range(80)])
    source = tmp_path / "cut.mkv"
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    report = process_video(source, tmp_path / "out.mp4", unchanged, **FAST)
    assert 10 < report.frames < 80
    assert any("ends early" in note for note in report.notes)


def make_bad(kind: str, folder: Path, clip: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video\n" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        path.write_bytes(clip.read_bytes()[:2000])
    elif kind == "sound":
        with av.open(str(path), "w") as out:
            stream: Any = out.add_stream("aac", rate=48000, layout="mono")
            for i in range(10):
                out.mux(stream.encode(tone(i)))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "truncated", "sound", "missing"])
def test_what_is_no_video_gives_one_clear_line(kind: str, clip: Path, tmp_path: Path) -> None:
    path = make_bad(kind, tmp_path, clip)
    before = sorted(tmp_path.iterdir())
    for action in (lambda: probe(path), lambda: process_video(path, tmp_path / "out.mp4", unchanged)):
        with pytest.raises(VideoError, match=f"{kind}.mp4") as caught:
            action()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    with pytest.raises(VideoError, match="no permission"):
        probe(path)


def test_targets_that_cannot_be_written(clip: Path, tmp_path: Path) -> None:
    existing = tmp_path / "there.mp4"
    existing.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        process_video(clip, existing, unchanged)
    assert existing.read_bytes() == b"precious"
    with pytest.raises(OutputError, match="does not exist"):
        process_video(clip, tmp_path / "no" / "out.mp4", unchanged)
    with pytest.raises(OutputError, match="source itself"):
        process_video(clip, clip, unchanged, overwrite=True)
    with pytest.raises(UsageError, match="cannot write this kind"):
        process_video(clip, tmp_path / "out.gif", unchanged)
    with pytest.raises(UsageError, match="crf"):
        process_video(clip, tmp_path / "out.mp4", unchanged, crf=99)
    process_video(clip, existing, unchanged, overwrite=True, **FAST)
    assert len(read(existing)) == 40


def test_a_foreign_folder_named_like_the_job_is_not_touched(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.mp4.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="in the way"):
        process_video(clip, tmp_path / "out.mp4", unchanged)
    assert (folder / "thesis.txt").exists()


def test_is_video(clip: Path, tmp_path: Path) -> None:
    disguised = tmp_path / "video.dat"
    disguised.write_bytes(clip.read_bytes())
    photo = tmp_path / "photo.heic"
    photo.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(200))
    named = tmp_path / "unreadable.mkv"
    named.write_text("text")
    assert is_video(clip)
    assert is_video(disguised)
    assert is_video(named)
    assert not is_video(photo)
    assert not is_video(tmp_path)
    assert not is_video(tmp_path / "missing.mp4")
