"""What is said of a face: decisions, reasons, marks, regions, videos."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from facewright.errors import WeightsError
from facewright.geometry.crop import CropSpec, template_face
from facewright.io.provenance import Provenance, embed_watermark
from facewright.pipelines import forensics
from facewright.pipelines.forensics import (
    MARKED,
    Examiner,
    ForensicCalibration,
    ForensicFace,
    Judge,
    Kind,
    carries_mark,
    draw,
    made_by_record,
    obstacle,
    summed,
)
from facewright.tasks.card import Preprocess
from facewright.tasks.forensics import Examination

if TYPE_CHECKING:
    from pathlib import Path

    from facewright.face import Face

CROP = CropSpec.aligned(64, "ffhq")
JUDGES: dict[Kind, Judge] = {"manipulated": Judge(1.0, 0.0, 0.3, 0.7), "generated": Judge(2.0, -1.0, 0.3, 0.8)}


class Fake:
    """A detector that says what it was told to say, hot in its upper left quarter."""

    preprocess = Preprocess(CROP)

    def __init__(self, *kinds: float) -> None:
        self.kinds, self.calls = kinds, 0

    def examine(self, crops: np.ndarray) -> Examination:
        self.calls += 1
        maps = np.full((len(crops), 64, 64), 0.1, np.float32)
        maps[:, 16:32, 16:32] = 0.9
        return Examination.of_kinds(np.array([self.kinds] * len(crops)), maps)


def examiner(*kinds: float) -> Examiner:
    calibration = ForensicCalibration("x", JUDGES, ("some edits",))
    return Examiner(Fake(*kinds), calibration)


@pytest.fixture
def photo(fakes: Any) -> np.ndarray:
    return np.asarray(fakes.textured(512, 512))


@pytest.fixture
def face() -> Face:
    return template_face(512)


@pytest.fixture(autouse=True)
def seen_well(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Noise is no good picture of a face; what is wrong with it is tested apart."""
    if "obstacle" not in request.node.name:
        monkeypatch.setattr(forensics, "obstacle", lambda face, cut: "")


@pytest.mark.parametrize(
    ("kinds", "decision"),
    [
        ((0.05, 0.9, 0.05), "manipulated"),
        ((0.02, 0.02, 0.96), "generated"),
        ((0.98, 0.01, 0.01), "no sign found"),
        ((0.5, 0.4, 0.1), "cannot tell"),
    ],
)
def test_decisions(kinds: tuple[float, ...], decision: str, photo: np.ndarray, face: Face) -> None:
    (found,) = examiner(*kinds).judge(photo, [face])
    assert found.decision == decision
    assert found.tried_on == ("some edits",)
    assert found.kinds is not None
    share = kinds[1] / (kinds[1] + kinds[0])
    assert found.kinds["manipulated"] == pytest.approx(share)  # slope 1, no bias: the share itself
    assert found.probability == pytest.approx(max(found.kinds.values())) or decision != "no sign found"
    assert (found.region is not None) == (decision == "manipulated")


def test_the_region_is_the_hottest_part_in_photo_pixels(photo: np.ndarray, face: Face) -> None:
    (found,) = examiner(0.05, 0.9, 0.05).judge(photo, [face])
    assert found.region is not None
    assert np.abs(np.array(found.region) - np.array([16, 16, 31, 31]) * 8).max() <= 8


def test_a_picture_with_our_mark_is_not_judged_by_its_looks(photo: np.ndarray, face: Face) -> None:
    marked = np.rint(embed_watermark(photo.astype(np.float32), psnr=38.0)).astype(np.uint8)
    assert carries_mark(marked, face)
    assert not carries_mark(photo, face)
    judge = examiner(0.01, 0.98, 0.01)
    (found,) = judge.judge(marked, [face])
    assert (found.decision, found.mark, found.reason) == ("cannot tell", True, MARKED)
    assert found.probability is None
    assert judge.forgery.calls == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(("action", "decision"), [("restored", "cannot tell"), ("synthesised", "generated")])
def test_a_record_in_the_file_is_believed(
    action: str, decision: str, photo: np.ndarray, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.io import provenance

    monkeypatch.setattr(provenance, "read_provenance", lambda source: Provenance("1", action=action))
    record = made_by_record(object())  # type: ignore[arg-type]
    (found,) = examiner(0.9, 0.05, 0.05).judge(photo, [face], record)
    assert found.decision == decision
    assert "facewright" in found.reason


def test_weights_that_were_never_calibrated_decide_nothing(photo: np.ndarray, face: Face) -> None:
    (found,) = Examiner(Fake(0.01, 0.99), None).judge(photo, [face])
    assert found.decision == "cannot tell"
    assert "never calibrated" in found.reason
    assert found.probability == pytest.approx(0.99)


def test_small_faces_are_an_obstacle(photo: np.ndarray) -> None:
    small = template_face(100)
    assert "too small" in obstacle(small, CROP.cut(photo, small))


def test_faces_beyond_the_border_are_an_obstacle(photo: np.ndarray, face: Face) -> None:
    away = replace(face, box=face.box + 300, points5=face.points5 + 300)
    assert "outside" in obstacle(away, CROP.cut(photo, away))


def test_morphs_are_a_kind_of_their_own(photo: np.ndarray, face: Face) -> None:
    class Morphs(Fake):
        def examine(self, crops: np.ndarray) -> Examination:
            found = super().examine(crops)
            return Examination({**found.shares, "morphed": np.full(len(crops), 0.9)}, found.maps)

    known = ForensicCalibration("y", {**JUDGES, "morphed": Judge(1.0, 0.0, 0.3, 0.7)}, ("morphs",))
    judge = Examiner(Morphs(0.9, 0.05, 0.05), known)
    (found,) = judge.judge(photo, [face])
    sharp = judge.name(replace(found, soft=False), found.kinds or {})
    assert (sharp.decision, sharp.region) == ("morphed", None)
    soft = judge.name(replace(found, soft=True), found.kinds or {})
    assert (soft.decision, "soft" in soft.reason) == ("cannot tell", True)
    (blurred,) = judge.judge(np.asarray(cv2.GaussianBlur(photo, (0, 0), 4), np.uint8), [face])
    assert blurred.soft
    assert blurred.decision == "cannot tell"


def test_two_kinds_and_three() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    two = Examination.of_kinds(np.array([[0.25, 0.75]]), maps).shares
    assert {name: float(value[0]) for name, value in two.items()} == {"manipulated": 0.75}
    three = Examination.of_kinds(np.array([[0.2, 0.6, 0.2]]), maps).shares
    assert {k: float(v[0]) for k, v in three.items()} == pytest.approx({"manipulated": 0.75, "generated": 0.5})


def test_probabilities_are_those_of_the_logistic_model() -> None:
    assert Judge(2.0, 1.0, 0, 1).probability(0.5) == pytest.approx(1 / (1 + np.exp(-1)))
    assert 0 <= Judge(2.0, 1.0, 0, 1).probability(0.0) < Judge(2.0, 1.0, 0, 1).probability(1.0) <= 1


def test_calibrations_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.calibration.json"
    known = ForensicCalibration("abc", JUDGES, ("a", "b"))
    known.save(path)
    assert ForensicCalibration.load(path) == known
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match="no calibration"):
        ForensicCalibration.load(path)


def test_frames_of_a_video_are_one_answer(face: Face) -> None:
    judge = examiner(0.5, 0.25, 0.25)
    frames = [
        ForensicFace(
            face, "cannot tell", "", probability=max(a, b), kinds={"manipulated": a, "generated": b}, seconds=t
        )
        for t, (a, b) in enumerate([(0.9, 0.1), (0.8, 0.2), (0.4, 0.1)])
    ]
    found = summed(judge, frames)
    odds = np.log([9, 4, 2 / 3]).mean()
    assert found.kinds is not None
    assert found.kinds["manipulated"] == pytest.approx(1 / (1 + np.exp(-odds)))
    assert (found.decision, found.frames, found.seconds) == ("manipulated", 3, 0)


def test_records_are_json_and_lines_name_what_was_found(photo: np.ndarray, face: Face) -> None:
    (found,) = examiner(0.05, 0.9, 0.05).judge(photo, [face])
    data = json.loads(json.dumps(found.to_dict()))
    assert data["decision"] == "manipulated"
    assert data["kinds"].keys() == {"manipulated", "generated"}
    assert "manipulated around" in found.line()


def test_the_drawing_changes_where_it_is_hot(photo: np.ndarray, face: Face) -> None:
    judged = examiner(0.05, 0.9, 0.05).judge(photo, [face])
    picture = draw(photo, judged)
    change = np.abs(picture.astype(int) - photo).mean(2)
    assert picture.shape == photo.shape
    assert change[150:240, 150:240].mean() > 3 * change[400:500, 400:500].mean()
