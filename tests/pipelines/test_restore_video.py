"""Videos through the restore pipeline: the options that apply, what is refused, what is reported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest

from facewright.errors import OutputError, UsageError
from facewright.geometry.crop import CropSpec, template_face
from facewright.io.image import read
from facewright.io.provenance import detect_face_watermark
from facewright.io.video import Frame
from facewright.pipelines.edit import Cut
from facewright.pipelines.restore import RestoreEdit, RestorePipeline, quality
from facewright.pipelines.restore_video import restore_video, video_stage
from facewright.pipelines.two_stage import TwoStageRestorer
from facewright.tasks.card import Preprocess
from facewright.tasks.declare import option_fields
from facewright.tasks.restore import RestoreOptions

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
    (person,) = report.people
    assert (person.restored, person.skipped) == (0, {"already good": FRAMES})
    assert person.details["quality_before"] == pytest.approx(number)
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


def test_faces_are_picked_by_number_and_place(source: Path, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline(fakes.face_at((30, 48), 14), fakes.face_at((96, 48), 16))
    for options, wanted in (
        ({"faces": (1,)}, [0, FRAMES]),
        ({"skip": (1,)}, [FRAMES, 0]),
        ({"points": ((96.0, 48.0),)}, [0, FRAMES]),
        ({"boxes": ((10.0, 30.0, 50.0, 70.0),)}, [FRAMES, 0]),
    ):
        report = restore_video(source, source.with_name("out.mkv"), pipeline, RestoreOptions(**options), overwrite=True)
        assert [person.restored for person in report.people] == wanted, options
    report = restore_video(source, source.with_name("b.mkv"), pipeline, RestoreOptions(faces=(0, 7)))
    assert report.missing == (7,)
    assert report.summary.endswith("1 of 2 faces restored; there was no face 7")


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        ({"old_photo": True}, {}, "--old-photo repairs a print"),
        ({"faces": (0,)}, {"resume": True}, "--resume is not possible"),
    ],
)
def test_what_makes_no_sense_in_a_video_is_refused_with_the_reason(
    options: dict[str, Any], more: dict[str, Any], said: str, source: Path, fakes: SimpleNamespace
) -> None:
    with pytest.raises(UsageError, match=said):
        restore_video(source, source.with_name("out.mkv"), fakes.pipeline(), RestoreOptions(**options), **more)
    assert not source.with_name("out.mkv").exists()


def test_a_background_is_refused(source: Path, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline()
    pipeline.enlarger = object()
    with pytest.raises(UsageError, match="it would flicker from frame to frame; omit --background"):
        restore_video(source, source.with_name("out.mkv"), pipeline)


def test_a_frame_and_a_photo_go_the_same_way(source: Path, fakes: SimpleNamespace) -> None:
    """What the first frame of a video shows is what restoring it as a photo shows, for every dial of both."""
    face = fakes.face_at((64, 48), 22, score=0.9)
    still = read(frames(source)[0].astype(np.uint8))
    dials: tuple[dict[str, Any], ...] = (
        {},
        {"strength": 0.4},
        {"relight": True},
        {"fidelity": 0.5},
        {"whole": True},
        {"upscale": 2},
    )
    for options in dials:
        pipeline = fakes.pipeline(face)
        chosen = RestoreOptions(grain="none", watermark=False, **options)
        photo = pipeline(still, chosen).image.rgb().astype(int)
        stage = video_stage(pipeline, chosen)
        (frame,) = stage([Frame(0, 0.0, still.rgb())])
        assert np.abs(frame.astype(int) - photo).max() <= 1, options


def test_large_faces_get_both_stages_and_small_ones_the_first(fakes: SimpleNamespace) -> None:
    structure, detail = fakes.Restorer(64), fakes.Restorer(128)
    pipeline = RestorePipeline(fakes.Detector(), TwoStageRestorer(structure, detail))
    edit = RestoreEdit(pipeline, RestoreOptions(), by_size=True)
    unit = 128 / template_face(128).eye_distance  # eye distances that the larger crop is wide
    sizes = [edit.crop_for(fakes.face_at((200, 200), 128 / unit / zoom)).size for zoom in (1.0, 1.5, 1.7, 3.0)]
    assert sizes == [128, 128, 64, 64]
    wavering = fakes.face_at((200, 200), 128 / unit / 1.7)
    assert edit.crop_for(wavering, detail.preprocess.crop).size == 128
    assert edit.crop_for(wavering, structure.preprocess.crop).size == 64
    assert RestoreEdit(pipeline, RestoreOptions()).crop_for(wavering).size == 128
    upscaled = RestoreEdit(pipeline, RestoreOptions(upscale=2), by_size=True)
    assert upscaled.crop_for(fakes.face_at((200, 200), 128 / unit / 3)).size == 128

    picture = fakes.textured(400, 400)
    for zoom, counts in ((1.0, (1, 1)), (3.0, (1, 0))):
        structure.seen.clear()
        detail.seen.clear()
        face = fakes.face_at((200, 200), 128 / unit / zoom)
        crop = edit.crop_for(face)
        cut = Cut(0, face, crop.cut(picture, face))
        edit.edit([cut], edit.decide(picture, [cut]))
        assert (len(structure.seen), len(detail.seen)) == counts


OPTIONS: dict[str, dict[str, Any]] = {
    "upscale": {"upscale": 2},
    "strength": {"strength": 0.5},
    "faces": {"faces": (1,)},
    "skip": {"skip": (0,)},
    "boxes": {"boxes": ((70.0, 20.0, 120.0, 80.0),)},
    "points": {"points": ((96.0, 48.0),)},
    "max_faces": {"max_faces": 1},
    "min_score": {"min_score": 0.85},
    "force": {"force": True},
    "watermark": {"watermark": False},
    "hair": {"hair": True},
    "whole": {"whole": True},
    "grain": {"grain": "none"},
    "fidelity": {"fidelity": 0.2},
    "seed": {"seed": 3},
    "relight": {"relight": True},
    "old_photo": {"old_photo": True},
    "scratches": {"scratches": False},
    "tones": {"tones": False},
    "damage_mask": {"damage_mask": "mask.png"},
    "references": {"references": ("her.jpg",)},
}


class BandParser:
    """Hair in the upper third of a crop, skin in the middle, background in the lower."""

    classes = ("background", "skin", "hair")
    preprocess = Preprocess(CropSpec.aligned(96))

    def parse(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        return np.asarray(self.probabilities(crops).argmax(1), np.uint8)

    def probabilities(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        found = np.zeros((len(crops), 3, *crops.shape[1:3]), np.float32)
        third = crops.shape[1] // 3
        found[:, 2, :third] = found[:, 1, third : 2 * third] = found[:, 0, 2 * third :] = 1
        return found


def test_every_option_is_tried() -> None:
    assert set(OPTIONS) == {option.name for option in option_fields(RestoreOptions)}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_a_video_or_is_refused(name: str, source: Path, fakes: SimpleNamespace) -> None:
    class Blurring(fakes.Restorer):  # type: ignore[misc, name-defined]
        """Takes the grain out, too, so that there is some to put back."""

        def restore(self, crops: np.ndarray, **dials: Any) -> np.ndarray:
            return np.stack([cv2.GaussianBlur(crop, (0, 0), 2) for crop in super().restore(crops, **dials)])

    rng = np.random.default_rng(0)
    grainy = np.clip(fakes.textured(HEIGHT, WIDTH) + rng.normal(0, 8, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    large, small, tiny = (
        fakes.face_at((36, 48), 18, score=0.95),
        fakes.face_at((96, 48), 14, score=0.8),
        fakes.face_at((66, 84), 4.0),
    )
    pipeline = RestorePipeline(fakes.Detector(large, small, tiny), Blurring(), parser=BandParser())

    def played(**options: Any) -> np.ndarray:
        chosen = RestoreOptions(**options)
        stage = video_stage(pipeline, chosen)
        return np.stack(stage([Frame(i, i / 25, grainy) for i in range(3)]))

    try:
        changed = played(**OPTIONS[name])
    except UsageError:
        assert name in {"old_photo", "scratches", "tones", "damage_mask", "references"}
        return
    plain = played()
    assert changed.shape != plain.shape or (changed != plain).any()


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
