"""Videos through the restore pipeline: the options that apply, what is refused, what is reported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from facewright.errors import OutputError, UsageError
from facewright.io.provenance import detect_face_watermark
from facewright.pipelines.restore import RestoreOptions, quality
from facewright.pipelines.restore_video import restore_video

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

FRAMES, HEIGHT, WIDTH = 5, 96, 128


@pytest.fixture
def source(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    path = tmp_path / "in.mkv"
    picture = fakes.textured(HEIGHT, WIDTH)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "6", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(FRAMES):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as video:
        return np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)]).astype(int)


def restored(source: Path, pipeline: Any, **options: Any) -> np.ndarray:
    target = source.with_name("out.mkv")
    restore_video(source, target, pipeline, RestoreOptions(**options), overwrite=True)
    return frames(target)


def test_face_changes_and_background_does_not(source: Path, fakes: SimpleNamespace) -> None:
    before = frames(source)
    after = restored(source, fakes.pipeline(fakes.face_at((64, 48), 22)))
    assert after.shape == before.shape
    change = np.abs(after - before).mean((0, 3))
    # the encoder changes a little everywhere
    assert change[40:56, 56:72].mean() > 2.5 * change[:, :8].mean()


def test_dials_reach_the_video(source: Path, fakes: SimpleNamespace) -> None:
    face = fakes.face_at((64, 48), 22, score=0.85)
    pipeline = fakes.pipeline(face)
    plain = restored(source, pipeline)
    for options in ({"strength": 0.3}, {"fidelity": 0.2}, {"min_score": 0.9}):
        assert np.abs(restored(source, pipeline, **options) - plain)[:, 40:56, 56:72].mean() > 4, options
    assert restored(source, pipeline, upscale=2).shape == (FRAMES, 2 * HEIGHT, 2 * WIDTH, 3)
    pipeline.restorer.seen.clear()
    restored(source, pipeline, seed=9)
    assert {seed for _, _, seed in pipeline.restorer.seen} == {9}


def test_good_faces_are_left_alone_unless_forced(source: Path, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline(fakes.face_at((64, 48), 22), ssim=0.97)
    number = quality(pipeline.assess(np.zeros((1, 96, 96, 3), np.uint8))[0])
    report = restore_video(source, source.with_name("a.mkv"), pipeline)
    assert (report.people[0].restored, report.people[0].skipped) == (0, {f"already good, quality {number:.0f}": FRAMES})
    assert pipeline.restorer.seen == []
    forced = restore_video(source, source.with_name("b.mkv"), pipeline, RestoreOptions(force=True))
    assert forced.people[0].restored == FRAMES


def test_report_is_json_and_counts(source: Path, fakes: SimpleNamespace) -> None:
    seen: list[int] = []
    pipeline = fakes.pipeline(fakes.face_at((64, 48), 22))
    report = restore_video(
        source, source.with_name("out.mkv"), pipeline, progress=lambda done, total: seen.append(done)
    )
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["summary"] == f"{FRAMES} frames, 1 of 1 faces restored"
    assert data["people"][0]["frames"] == FRAMES
    assert data["models"] == ["fake-detector", "fake-restorer"]
    assert seen[-1] == FRAMES


@pytest.mark.parametrize("options", [{"faces": (0,)}, {"skip": (0,)}, {"points": ((1, 1),)}])
def test_faces_cannot_be_picked_in_a_video(source: Path, options: dict[str, Any], fakes: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="max-faces"):
        restore_video(source, source.with_name("out.mkv"), fakes.pipeline(), RestoreOptions(**options))
    assert not source.with_name("out.mkv").exists()


def test_existing_output_is_kept(source: Path, fakes: SimpleNamespace) -> None:
    target = source.with_name("out.mkv")
    target.write_bytes(b"mine")
    with pytest.raises(OutputError):
        restore_video(source, target, fakes.pipeline())
    assert target.read_bytes() == b"mine"


def test_every_frame_carries_the_mark_unless_told_otherwise(
    tmp_path: Path, astronaut: np.ndarray, fakes: SimpleNamespace
) -> None:
    face = fakes.face_at((222, 118), 44)
    path = tmp_path / "astronaut.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "6", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        for shift in range(3):
            picture = np.roll(astronaut, shift, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))

    def marks(**options: Any) -> list[bool]:
        found = restored(path, fakes.pipeline(face, size=256, identity=True), **options).astype(np.uint8)
        return [detect_face_watermark(frame, face.points5).present for frame in found]

    assert marks() == [True, True, True]
    assert marks(watermark=False) == [False, False, False]
