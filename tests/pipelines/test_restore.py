"""The restore pipeline with fake networks: what changes, what does not, what is said about it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from facewright.errors import UsageError
from facewright.face import DegradationEstimate, Pose
from facewright.geometry.crop import CropSpec
from facewright.io.image import Photo, read
from facewright.io.provenance import detect_face_watermark, read_provenance
from facewright.metrics import detail_ratio
from facewright.metrics.calibration import AffineLlr, ScoreCalibration
from facewright.pipelines.order import reading_order
from facewright.pipelines.restore import RestorePipeline, RestoreResult, quality, quality_after
from facewright.tasks.card import Preprocess
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from facewright.face import Face

SIZE = (200, 300)


def patches(result: RestoreResult) -> np.ndarray:
    """(H, W) where any face's mask is above 0."""
    touched = np.zeros((result.base.height, result.base.width), bool)
    for face in result.faces:
        if face.patch is not None:
            x0, y0, x1, y1 = face.patch.box
            touched[y0:y1, x0:x1] |= face.patch.mask > 0
    return touched


@pytest.fixture
def two(fakes: SimpleNamespace) -> tuple[Face, Face]:
    return fakes.face_at((80, 90), 30, angle=8), fakes.face_at((220, 100), 40)


@pytest.fixture
def photo(fakes: SimpleNamespace) -> Photo:
    return read(fakes.textured(*SIZE))


# --- what changes


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(3, np.uint8), (3, np.uint16), (1, np.uint8), (1, np.uint16), (4, np.uint8), (2, np.uint8)],
    ids=["rgb8", "rgb16", "grey8", "grey16", "rgba8", "greyalpha8"],
)
@pytest.mark.parametrize("watermark", [True, False])
def test_pixels_outside_the_faces_keep_their_bits(
    channels: int, dtype: Any, watermark: bool, two: tuple[Face, Face], fakes: SimpleNamespace
) -> None:
    source = read(fakes.textured(*SIZE, channels=channels, dtype=dtype))
    result = fakes.pipeline(*two)(source, RestoreOptions(watermark=watermark))
    touched = patches(result)
    assert 0.02 < touched.mean() < 0.5
    assert result.image.pixels.dtype == source.pixels.dtype
    assert np.array_equal(result.image.pixels[~touched], source.pixels[~touched])
    assert (result.image.pixels != source.pixels).any(2)[touched].mean() > 0.5
    assert (result.image.alpha is None) == (channels in (1, 3))
    if source.alpha is not None:
        assert np.array_equal(result.image.alpha, source.alpha)


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (3, np.uint16), (1, np.uint8)])
def test_identity_restorer_changes_not_one_bit(
    channels: int, dtype: Any, two: tuple[Face, Face], fakes: SimpleNamespace
) -> None:
    source = read(fakes.textured(*SIZE, channels=channels, dtype=dtype))
    result = fakes.pipeline(*two, identity=True)(source, RestoreOptions(watermark=False))
    assert result.restored_count == 2
    assert np.array_equal(result.image.pixels, source.pixels)


def test_original_stays_as_it_was(photo: Photo, two: tuple[Face, Face], fakes: SimpleNamespace) -> None:
    before = photo.pixels.copy()
    result = fakes.pipeline(*two)(photo)
    assert np.array_equal(photo.pixels, before)
    assert result.original is photo


@pytest.mark.parametrize("upscale", [2, 4])
def test_upscale_enlarges_and_changes_only_faces(
    upscale: int, photo: Photo, two: tuple[Face, Face], fakes: SimpleNamespace
) -> None:
    result = fakes.pipeline(*two)(photo, RestoreOptions(upscale=upscale, relight=True))  # type: ignore[arg-type]
    assert result.image.pixels.shape == (SIZE[0] * upscale, SIZE[1] * upscale, 3)
    touched = patches(result)
    plain = photo.resized(upscale).pixels
    assert np.array_equal(result.image.pixels[~touched], plain[~touched])
    x, y = np.rint(two[1].scaled(upscale).points5[2]).astype(int)
    assert touched[y, x]
    assert np.abs(result.image.pixels[y, x].astype(int) - plain[y, x]).max() > 5


def test_overlapping_faces_blend_and_identity_still_keeps_every_bit(photo: Photo, fakes: SimpleNamespace) -> None:
    faces = fakes.face_at((140, 100), 40), fakes.face_at((170, 105), 36)
    same = fakes.pipeline(*faces, identity=True)(photo, RestoreOptions(watermark=False))
    assert np.array_equal(same.image.pixels, photo.pixels)
    changed = fakes.pipeline(*faces)(photo)
    touched = patches(changed)
    assert np.array_equal(changed.image.pixels[~touched], photo.pixels[~touched])
    # the larger face lies on top: where its mask is full, it looks as if it were alone
    alone = fakes.pipeline(faces[0])(photo)
    patch = alone.faces[0].patch
    assert patch is not None
    x0, y0, x1, y1 = patch.box
    full = patch.mask >= 1
    a, b = (r.image.pixels[y0:y1, x0:x1][full].astype(int) for r in (changed, alone))
    assert np.abs(a - b).max() <= 1


def test_faces_cut_by_the_border(photo: Photo, fakes: SimpleNamespace) -> None:
    faces = fakes.face_at((4, 100), 40), fakes.face_at((296, 196), 40)
    result = fakes.pipeline(*faces)(photo)
    assert result.restored_count == 2
    touched = patches(result)
    assert touched[100, 0]
    assert touched[-1, -1]
    assert np.array_equal(result.image.pixels[~touched], photo.pixels[~touched])


def test_face_outside_the_photo_is_reported_not_restored(photo: Photo, fakes: SimpleNamespace) -> None:
    result = fakes.pipeline(fakes.face_at((-300, -300), 30))(photo)
    assert (result.faces[0].restored, result.faces[0].reason) == (False, "outside the picture")
    assert np.array_equal(result.image.pixels, photo.pixels)


def test_rotated_picture_is_restored_upright(tmp_path: Path, fakes: SimpleNamespace) -> None:
    upright = fakes.textured(*SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "turned.png", exif=exif)
    face = fakes.face_at((220, 100), 40)
    result = fakes.pipeline(face)(read(tmp_path / "turned.png"))
    assert np.array_equal(result.original.pixels, upright)
    expected = fakes.pipeline(face)(read(upright))
    assert np.array_equal(result.image.pixels, expected.image.pixels)
    saved = read(result.save(tmp_path / "out.png"))
    assert np.array_equal(saved.pixels, expected.image.pixels)


def test_grey_photo_stays_grey(fakes: SimpleNamespace) -> None:
    grey = fakes.textured(*SIZE, channels=1)
    result = fakes.pipeline(fakes.face_at((150, 100), 40))(read(np.repeat(grey, 3, 2)))
    assert np.ptp(result.image.pixels.astype(int), axis=2).max() == 0
    assert result.restored_count == 1


# --- which faces


def test_no_face_leaves_the_picture_and_says_so(photo: Photo, fakes: SimpleNamespace, tmp_path: Path) -> None:
    pipeline = fakes.pipeline()
    result = pipeline(photo)
    assert result.summary == "no face found; the picture is unchanged"
    assert np.array_equal(result.image.pixels, photo.pixels)
    assert pipeline.restorer.seen == []
    assert read_provenance(result.save(tmp_path / "same.png")) is None
    assert np.array_equal(read(tmp_path / "same.png").pixels, photo.pixels)
    assert "only enlarged" in pipeline(photo, RestoreOptions(upscale=2)).summary


def number_at(ssim: float) -> float:
    """The quality of what the fake restorer says of its inputs."""
    return quality(DegradationEstimate(1.0, 2.0, 3.0, 90.0, 25.0, ssim))


def test_the_number_is_no_bare_structural_similarity() -> None:
    assert number_at(0.99) > number_at(0.9) > number_at(0.75) > number_at(0.6)
    severe = DegradationEstimate(2.0, 5.3, 9.9, 75.0, 25.0, 0.75)
    assert quality(severe) < 65


@pytest.mark.parametrize(
    ("face", "ssim", "reason"),
    [
        ({"eye_distance": 4.0}, 0.5, "too small, 4.0 px between the eyes"),
        ({"pose": Pose(-81, 0, 0)}, 0.5, "too turned, yaw -81 degrees"),
        ({"score": 0.31}, 0.5, "low confidence, score 0.31"),
        ({}, 0.97, f"already good, quality {number_at(0.97):.0f}"),
    ],
    ids=["small", "turned", "unsure", "good"],
)
def test_faces_left_alone_say_why_unless_forced(
    face: dict[str, Any], ssim: float, reason: str, photo: Photo, fakes: SimpleNamespace
) -> None:
    pipeline = fakes.pipeline(fakes.face_at((150, 100), **face), ssim=ssim)
    result = pipeline(photo)
    assert (result.faces[0].restored, result.faces[0].reason) == (False, reason)
    assert reason.removeprefix("low confidence, ") in result.summary
    assert np.array_equal(result.image.pixels, photo.pixels)
    assert pipeline.restorer.seen == []
    forced = pipeline(photo, RestoreOptions(force=True))
    assert (forced.faces[0].restored, forced.faces[0].reason) == (True, "forced")
    assert not np.array_equal(forced.image.pixels, photo.pixels)


def test_min_score_is_a_dial(photo: Photo, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline(fakes.face_at((150, 100), score=0.6))
    assert pipeline(photo, RestoreOptions(min_score=0.5)).restored_count == 1
    assert pipeline(photo, RestoreOptions(min_score=0.7)).restored_count == 0


@pytest.mark.parametrize(
    ("options", "restored"),
    [
        ({}, [0, 1, 2]),
        ({"faces": (1,)}, [1]),
        ({"faces": (0, 2)}, [0, 2]),
        ({"faces": ()}, []),
        ({"skip": (1,)}, [0, 2]),
        ({"faces": (0, 1), "skip": (1,)}, [0]),
        ({"boxes": ((0, 0, 120, 200),)}, [0]),
        ({"boxes": ((0, 0, 120, 200), (200, 0, 300, 200))}, [0, 2]),
        ({"points": ((150, 100),)}, [1]),
        ({"points": ((150, 100),), "faces": (2,)}, [1, 2]),
        ({"points": ((1, 199),)}, []),
        ({"max_faces": 2}, [1, 2]),
        ({"max_faces": 1}, [2]),
        ({"max_faces": 1, "skip": (2,)}, [1]),
        ({"max_faces": 1, "faces": (0,)}, [0]),
        ({"max_faces": 9}, [0, 1, 2]),
    ],
)
def test_selection(options: dict[str, Any], restored: list[int], photo: Photo, fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((x, 100), eyes) for x, eyes in ((250, 34), (50, 24), (150, 30))]  # detector's order
    result = fakes.pipeline(*faces)(photo, RestoreOptions(**options))
    assert [f.index for f in result.faces if f.restored] == restored
    for face in result.faces:
        assert face.restored or face.reason in ("not selected", f"beyond the {options.get('max_faces')} largest")


def test_max_faces_counts_only_faces_that_need_it(photo: Photo, fakes: SimpleNamespace) -> None:
    """A large false alarm does not use up the place of a real face."""
    alarm, face = fakes.face_at((220, 100), 50, score=0.2), fakes.face_at((80, 100), 30)
    result = fakes.pipeline(alarm, face)(photo, RestoreOptions(max_faces=1))
    assert [f.restored for f in result.faces] == [True, False]
    assert result.faces[1].reason.startswith("low confidence")


@pytest.mark.parametrize("options", [{"faces": (2,)}, {"skip": (-1,)}])
def test_unknown_index_is_an_error(options: dict[str, Any], photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match=r"there is no face (2|-1): 2 were found"):
        fakes.pipeline(*two)(photo, RestoreOptions(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"upscale": 3},
        {"fidelity": 1.1},
        {"fidelity": float("nan")},
        {"strength": -0.1},
        {"max_faces": 0},
        {"seed": -1},
        {"min_score": 2},
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        RestoreOptions(**options)


def test_reading_order(fakes: SimpleNamespace) -> None:
    places = [(200, 210), (40, 60), (240, 50), (120, 75), (60, 200)]
    found = reading_order([fakes.face_at(p, 30) for p in places])
    assert [tuple(round(v) for v in f.centre) for f in found] == [(40, 60), (120, 75), (240, 50), (60, 200), (200, 210)]


# --- dials


def test_strength_reblends_without_the_network(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline(*two)
    full = pipeline(photo)
    calls = list(pipeline.restorer.seen)
    half, none = full.with_strength(0.5), full.with_strength(0)
    middle = (full.image.pixels.astype(float) + photo.pixels) / 2
    touched = patches(full)
    assert np.abs(half.image.pixels - middle)[touched].max() <= 1
    assert np.array_equal(none.image.pixels, photo.pixels)
    assert np.array_equal(half.with_strength(1).image.pixels, full.image.pixels)
    direct = pipeline(photo, RestoreOptions(strength=0.5))
    assert np.array_equal(half.image.pixels, direct.image.pixels)
    assert pipeline.restorer.seen == calls * 2
    assert pipeline.detector.calls == 2
    with pytest.raises(UsageError):
        full.with_strength(2)


def test_fidelity_reaches_the_network_and_changes_the_picture(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline(*two)
    a, b = (pipeline(photo, RestoreOptions(fidelity=f)).image.pixels for f in (1.0, 0.25))
    assert [fidelity for _, fidelity, _ in pipeline.restorer.seen] == [1.0, 0.25]
    assert not np.array_equal(a, b)


def test_faces_share_network_calls(photo: Photo, fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((20 + 25 * i, 100), 20) for i in range(11)]
    pipeline = fakes.pipeline(*faces)
    pipeline(photo)
    assert [count for count, _, _ in pipeline.restorer.seen] == [8, 3]


def test_seed_reaches_the_network_only_while_it_works(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    pipeline = fakes.pipeline(*two)
    runs = [pipeline(photo, RestoreOptions(seed=s)).image.pixels for s in (None, 7, 7, 8, None)]
    assert [seed for _, _, seed in pipeline.restorer.seen] == [None, 7, 7, 8, None]
    assert np.array_equal(runs[1], runs[2])
    assert np.array_equal(runs[0], runs[4])
    assert not np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[1], runs[3])


@pytest.fixture(scope="module")
def noisy() -> Any:
    """A small FRGP whose noise and residual are clearly there, as after training."""
    import torch

    from facewright.systems.restore.frgp.network import FRGP, FRGPConfig

    torch.manual_seed(0)
    widths = (16, 16, 16)
    config = replace(
        FRGPConfig.compact(),
        size=64,
        encoder_widths=widths,
        generator_widths=widths,
        light=(0, 1, 1),
        style_dim=16,
        latent_rank=8,
    )
    model = FRGP(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "noise_strength" in name:
                parameter.fill_(0.3)
            elif "to_rgbs" in name and name.endswith("conv.weight"):
                parameter.normal_(std=0.1)
    return model


def test_a_restorer_that_cannot_judge_needs_an_assessor(fakes: SimpleNamespace) -> None:
    class Blind:
        preprocess = Preprocess(CropSpec.aligned(96))

        def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
            return crops

    with pytest.raises(UsageError, match="Blind does not estimate damage"):
        RestorePipeline(fakes.Detector(), Blind())
    assert RestorePipeline(fakes.Detector(), Blind(), assessor=fakes.Restorer()).checkpoint is None


def test_seed_redraws_the_generators_noise_and_leaves_no_trace(
    noisy: Any, photo: Photo, two: Any, fakes: SimpleNamespace
) -> None:
    pipeline = RestorePipeline(fakes.Detector(*two), noisy)
    before = {k: v.clone() for k, v in noisy.state_dict().items()}
    options = [RestoreOptions(force=True, seed=s) for s in (None, 3, 3, 4, None)]
    plain, three, again, four, last = (pipeline(photo, o).image.pixels for o in options)
    assert np.array_equal(three, again)
    assert np.array_equal(plain, last)
    assert not np.array_equal(plain, three)
    assert not np.array_equal(three, four)
    assert all((before[k] == v).all() for k, v in noisy.state_dict().items())


def test_watermark_is_found_only_when_asked_for(astronaut: np.ndarray, fakes: SimpleNamespace) -> None:
    photo = read(cv2.GaussianBlur(astronaut, (0, 0), 1.2))
    face = fakes.face_at((222, 140), 44)
    found = []
    for watermark in (True, False):
        pipeline = fakes.pipeline(face, size=256, identity=True)
        result = pipeline(photo, RestoreOptions(watermark=watermark))
        found.append(detect_face_watermark(result.image.rgb(), face.points5).present)
    assert found == [True, False]


# --- what is said about it


def test_report_is_json_and_complete(two: Any, fakes: SimpleNamespace, tmp_path: Path) -> None:
    Image.fromarray(fakes.textured(*SIZE)).save(tmp_path / "family.png")
    options = RestoreOptions(skip=(0,), boxes=((0, 0, 300, 200),), upscale=2)
    result = fakes.pipeline(*two)(read(tmp_path / "family.png"), options)
    data = json.loads(json.dumps(result.report(), allow_nan=False))
    assert data["source"] == "family.png"
    assert (data["size"], data["output_size"]) == ([300, 200], [600, 400])
    assert data["models"] == ["fake-detector", "fake-restorer"]
    assert set(data["seconds"]) == {"detect", "align", "restore", "paste"}
    assert data["options"]["upscale"] == 2
    left, right = data["faces"]
    assert (left["restored"], left["reason"], left["quality_after"], left["change"]) == (False, "not selected", None, 0)
    assert (right["restored"], right["quality_before"], right["quality_after"]) == (
        True,
        number_at(0.5),
        number_at(0.5),
    )
    assert right["degradation"]["downscale"] == 2.0
    assert right["change"] > 5
    assert right["box"] == [round(float(v), 2) for v in two[1].box]


def test_quality_after_counts_what_is_true_and_not_what_looks_good(
    photo: Photo, two: Any, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = fakes.pipeline(*two)
    ruined = DegradationEstimate(6.0, 9.0, 8.0, 68.0, 21.0, 0.67)
    flawless = DegradationEstimate(0.0, 1.0, 0.0, 100.0, 45.0, 0.98)
    answers = iter([[ruined, ruined], [flawless, flawless]])
    monkeypatch.setattr(pipeline, "assess", lambda crops: next(answers))
    for face in pipeline(photo).report()["faces"]:
        assert face["restored"]
        assert face["quality_before"] == quality(ruined)
        assert face["quality_after"] == quality_after(ruined, flawless)
        assert quality(ruined) < face["quality_after"] < 45
        assert quality(flawless) > 90


def test_summary_counts(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    assert fakes.pipeline(*two)(photo).summary == "2 of 2 faces restored"
    assert fakes.pipeline(two[0])(photo).summary == "1 of 1 face restored"
    skipped = fakes.pipeline(*two)(photo, RestoreOptions(skip=(1,))).summary
    assert skipped == "1 of 2 faces restored; left alone: 1 (not selected)"
    doubted = fakes.pipeline(two[0], replace(two[1], score=0.62))(photo)
    assert doubted.summary == "1 of 1 face restored; probably no face: 1 (score 0.62)"
    alone = fakes.pipeline(replace(two[0], score=0.4))(photo).summary
    assert alone == "no face found; the picture is unchanged; probably no face: 0 (score 0.40)"


def test_invented_faces_carry_a_warning(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    """From the quality before: below 60 the rest is filled in."""

    def result(ssim: float) -> Any:
        return RestorePipeline(fakes.Detector(*two), fakes.Restorer(ssim=ssim))(photo).faces[0]

    assert quality(result(0.5).before) < 60 < quality(result(0.7).before)
    assert "invented" in result(0.5).warnings[0]
    assert result(0.7).warnings == ()


class PixelRecogniser:
    """Takes the pixels themselves for the identity."""

    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def embed(self, crops: np.ndarray) -> np.ndarray:
        flat = crops.reshape(len(crops), -1).astype(np.float32) - 127.5
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_identity_similarity_comes_from_the_recogniser(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    same = RestorePipeline(fakes.Detector(*two), fakes.Restorer(identity=True), PixelRecogniser())  # type: ignore[arg-type]
    plain = RestoreOptions(watermark=False)
    assert [f.identity for f in same(photo, plain).faces] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert all(f.same_person is None for f in same(photo).faces)
    negative = RestorePipeline(fakes.Detector(*two), fakes.Restorer(), PixelRecogniser())  # type: ignore[arg-type]
    assert all(f.identity is not None and f.identity < 0.999 for f in negative(photo).faces)


def test_doubtful_identity_is_warned_of(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    def result(offset: float) -> Any:
        calibration = ScoreCalibration("pixels", "00", "nobody", 1, 1, AffineLlr(0.0, offset), ())
        pipeline = RestorePipeline(fakes.Detector(*two), fakes.Restorer(ssim=0.7), PixelRecogniser(), calibration)  # type: ignore[arg-type]
        return pipeline(photo).faces[0]

    assert result(2.0).same_person == pytest.approx(1 / (1 + np.exp(-2)))
    assert result(2.0).warnings == ()
    assert "person" in result(-2.0).warnings[0]
    assert result(-2.0).to_dict()["same_person"] == pytest.approx(1 / (1 + np.exp(2)), abs=1e-4)


def test_change_map_is_zero_outside_the_faces(photo: Photo, two: Any, fakes: SimpleNamespace) -> None:
    result = fakes.pipeline(*two)(photo)
    change = result.change_map()
    touched = patches(result)
    assert change.shape == SIZE
    assert change[~touched].max() == 0
    assert change[touched].mean() > 3


def test_compare_sheet_has_photo_and_faces(photo: Photo, two: Any, fakes: SimpleNamespace, tmp_path: Path) -> None:
    sheet = fakes.pipeline(*two)(photo).compare()
    # margins of 12, labels of 22: title, the photo twice, then four face crops of 256
    assert (sheet.height, sheet.width) == (12 + 22 + (200 + 34) + (256 + 34), 4 * (256 + 12) + 12)
    assert np.array_equal(sheet.pixels[34:234, 12:312], photo.pixels)
    nothing = fakes.pipeline()(photo).compare()
    assert (nothing.height, nothing.width) == (12 + 22 + 200 + 34, 2 * (300 + 12) + 12)
    sheet.save(tmp_path / "sheet.png")


def test_compare_sheet_of_a_large_photo_is_small(fakes: SimpleNamespace) -> None:
    sheet = fakes.pipeline()(read(np.zeros((900, 1600, 3), np.uint8))).compare()
    assert sheet.width == 2 * (640 + 12) + 12


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_saved_picture_carries_its_provenance(
    suffix: str, photo: Photo, two: Any, fakes: SimpleNamespace, tmp_path: Path
) -> None:
    import facewright

    options = RestoreOptions(fidelity=0.75, skip=(0,), seed=4)
    result = fakes.pipeline(*two)(photo, options)
    record = read_provenance(result.save(tmp_path / f"a.{suffix}"))
    assert record is not None
    assert (record.version, record.models) == (facewright.__version__, ("fake-detector", "fake-restorer"))
    assert record.checkpoint == "ab" * 32
    assert record.faces == (pytest.approx(tuple(float(v) for v in two[1].box)),)
    assert (record.parameters["fidelity"], record.parameters["seed"]) == (0.75, 4)
    assert read_provenance(result.save(tmp_path / f"b.{suffix}", provenance=False)) is None
    assert read_provenance(result.with_strength(0).save(tmp_path / f"c.{suffix}")) is None


def test_too_large_an_enlargement_is_one_clear_line(
    photo: Photo, two: Any, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Photo, "resized", full)
    with pytest.raises(UsageError, match=r"cannot enlarge 300 x 200 pixels 4 times; lower --upscale"):
        fakes.pipeline(*two)(photo, RestoreOptions(upscale=4))


# --- the shipped weights on a real photo


def _weights_missing() -> bool:
    from facewright.tasks.card import cards

    return not all(cards()[slug].checkpoints for slug in ("mos", "frgp"))


needs_weights = pytest.mark.skipif(_weights_missing(), reason="the trained weights are not embedded in this checkout")


@needs_weights
def test_real_photo_end_to_end(astronaut: np.ndarray) -> None:
    """Found where she is; made small and restored, her face gets the detail of the large original, at no more error."""
    import facewright as fw

    found = fw.detect(astronaut)
    assert len(found) == 1
    assert np.hypot(*(found[0].points5[:2].mean(0) - (222, 107))) < 14
    assert 30 < found[0].eye_distance < 60

    small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    result = fw.restore(small, upscale=2, force=True, watermark=False)
    patch = result.faces[0].patch  # type: ignore[union-attr]
    assert isinstance(result, RestoreResult)
    assert patch is not None
    x0, y0, x1, y1 = patch.box
    inside = patch.mask > 0.9

    def psnr(picture: np.ndarray) -> float:
        error = (picture[y0:y1, x0:x1].astype(float) - astronaut[y0:y1, x0:x1])[inside]
        return float(10 * np.log10(255**2 / (error**2).mean()))

    def detail(picture: np.ndarray) -> float:
        return detail_ratio(picture[y0:y1, x0:x1], astronaut[y0:y1, x0:x1], mask=inside)

    # what is drawn is taken further than the least error wants, so that it shows
    assert psnr(result.image.rgb()) > psnr(result.base.rgb()) - 0.15
    assert 1.5 * detail(result.base.rgb()) < detail(result.image.rgb()) < 1.1


@needs_weights
def test_every_dial_works_on_a_real_photo(astronaut: np.ndarray) -> None:
    import facewright as fw

    small = cv2.resize(astronaut, (200, 200), interpolation=cv2.INTER_AREA)
    plain = fw.restore(small, force=True).image.pixels  # type: ignore[union-attr]
    for change in ({"fidelity": 0.3}, {"strength": 0.5}, {"seed": 1}, {"skip": (0,)}, {"watermark": False}):
        other = fw.restore(small, force=True, **change).image.pixels  # type: ignore[union-attr]
        assert not np.array_equal(plain, other), change
    assert np.array_equal(plain, fw.restore(small, force=True).image.pixels)  # type: ignore[union-attr]


def test_a_photo_without_faces_is_copied_byte_by_byte(tmp_path: Path, fakes: SimpleNamespace) -> None:
    source = tmp_path / "in.jpg"
    Image.fromarray(fakes.textured(*SIZE)).save(source, quality=80)
    result = fakes.pipeline()(read(source))
    assert result.save(tmp_path / "out.jpg").read_bytes() == source.read_bytes()
    assert (tmp_path / "out.jpg").stat().st_size > 0
    assert np.array_equal(read(result.save(tmp_path / "out.png")).pixels, read(source).pixels)
    smaller = fakes.pipeline()(read(source), RestoreOptions(upscale=2)).save(tmp_path / "large.jpg")
    assert read(smaller).width == 2 * SIZE[1]


# --- things that are not faces, and faces that are turned


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_face_is_restored_as_the_upright_one_is(turn: int, fakes: SimpleNamespace) -> None:
    from facewright.geometry.turns import turned_by, turned_face

    picture = fakes.textured(*SIZE)
    face = fakes.face_at((150, 100), 30, angle=6)
    options = RestoreOptions(watermark=False, grain="none")
    upright = fakes.pipeline(face)(read(picture), options)
    turned = fakes.pipeline(turned_face(face, turn, SIZE))(
        read(np.ascontiguousarray(turned_by(picture, turn))), options
    )
    wanted = turned_by(upright.image.pixels, turn).astype(int)
    assert np.abs(turned.image.pixels - wanted).max() <= 3
    assert np.abs(turned_by(picture, turn).astype(int) - wanted).max() > 30
    words = {90: "turned 90 degrees clockwise", 180: "upside down", 270: "turned 90 degrees counter-clockwise"}
    assert turned.summary == f"1 of 1 face restored; 1 face {words[turn]}"
    assert turned.report()["faces"][0]["turn"] == turn


def test_what_a_second_opinion_doubts_keeps_its_pixels(photo: Photo, fakes: SimpleNamespace) -> None:
    doubted, believed = fakes.face_at((80, 90), 30, certainty=0.2), fakes.face_at((220, 100), 30, certainty=0.9)
    result = fakes.pipeline(doubted, believed)(photo)
    assert [face.restored for face in result.faces] == [False, True]
    assert result.faces[0].reason == "probably not a face, certainty 0.20"
    assert result.summary == "1 of 1 face restored; probably no face: 0 (certainty 0.20)"
    assert not patches(result)[60:120, 50:110].any()
    forced = fakes.pipeline(doubted)(photo, RestoreOptions(force=True))
    assert forced.faces[0].restored


def test_long_lists_of_the_summary_say_how_many_more(fakes: SimpleNamespace) -> None:
    small = [fakes.face_at((20 + 25 * n, 40), 4) for n in range(9)]
    doubtful = [fakes.face_at((20 + 25 * n, 140), 8, certainty=0.1) for n in range(7)]
    summary = fakes.pipeline(*small, *doubtful)(read(fakes.textured(*SIZE))).summary
    assert "5 (too small, 4.0 px between the eyes) and 3 more; probably no face: 9 (certainty" in summary
    assert summary.endswith("14 (certainty 0.10) and 1 more")
    assert summary.startswith("0 of 9 faces restored")
