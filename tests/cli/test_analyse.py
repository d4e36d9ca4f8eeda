"""facewright analyse and portrait on a public-domain photo with the shipped networks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

import facewright as fw
from facewright.geometry.similarity import fit_similarity, transform_points
from facewright.io.provenance import read_provenance
from facewright.systems.landmarks.facewarp.network import FaceWarpConfig, mean_shape

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def portrait(tmp_path: Path, astronaut: np.ndarray) -> Path:
    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


def part(face: Any, name: str) -> np.ndarray:
    """(row, column) pairs of a part of the face in the photo of 512 px."""
    whole = face.mask.in_photo((512, 512))
    return np.argwhere(whole == face.mask.classes.index(name))


def test_parts_lie_at_their_landmarks(astronaut: np.ndarray) -> None:
    (face,) = fw.analyse(astronaut)
    points = face.points68
    assert face.confidence.mean() > 0.7
    assert abs(face.pose.yaw) < 25
    left = part(face, "l_eye")[:, ::-1].mean(0)
    right = part(face, "r_eye")[:, ::-1].mean(0)
    unit = float(np.hypot(*(points[42:48].mean(0) - points[36:42].mean(0))))
    assert np.hypot(*(left - points[42:48].mean(0))) < 0.15 * unit  # her left eye is on the picture's right
    assert np.hypot(*(right - points[36:42].mean(0))) < 0.15 * unit
    assert np.hypot(*(part(face, "nose")[:, ::-1].mean(0) - points[29])) < 0.35 * unit
    lips = np.concatenate([part(face, "u_lip"), part(face, "l_lip")])[:, ::-1].mean(0)
    assert np.hypot(*(lips - points[48:60].mean(0))) < 0.2 * unit
    hair = part(face, "hair")
    assert len(hair) > 2000
    assert hair[:, 0].min() < points[19, 1] - 0.6 * unit
    assert face.mask.in_photo((512, 512))[5, 500] == 0


@pytest.mark.parametrize(
    "change", [[[0.8, 0], [0, 1]], [[1, 0], [0, 0.8]], [[1, 0.2], [0, 1]]], ids=["narrow", "low", "sheared"]
)
def test_landmarks_follow_what_the_picture_shows(astronaut: np.ndarray, change: list[list[float]]) -> None:
    """A narrower, lower or sheared face has other proportions, which the mean face, however placed, has not."""
    (face,) = fw.analyse(astronaut)
    matrix = np.hstack([np.array(change), np.zeros((2, 1))])
    size = [int(np.ceil(512 * sum(row))) for row in change]
    (changed,) = fw.analyse(cv2.warpAffine(astronaut, matrix, size, flags=cv2.INTER_AREA))
    wanted = face.points68 @ np.array(change).T
    mean = mean_shape(FaceWarpConfig.compact()).numpy().astype(float)
    placed = transform_points(fit_similarity(mean, wanted), mean)
    own, of_the_mean = (np.linalg.norm(points - wanted, axis=1).mean() for points in (changed.points68, placed))
    assert own < 0.6 * of_the_mean


def test_analyse_prints_draws_and_writes(run: Any, portrait: Path, tmp_path: Path) -> None:
    drawn, written = tmp_path / "drawn.png", tmp_path / "out.json"
    code, out, _ = run("analyse", portrait, "--draw", drawn, "-o", written, "--json")
    assert code == 0
    (face,) = json.loads(out)["faces"]
    assert json.loads(written.read_text()) == json.loads(out)
    assert len(face["points68"]) == len(face["confidence"]) == 68
    assert {"skin", "nose", "hair"} <= set(face["mask"]["pixels"])
    before, after = (np.asarray(Image.open(p).convert("RGB"), int) for p in (portrait, drawn))
    assert before.shape == after.shape
    assert np.abs(after - before).mean() > 2
    code, out, _ = run("analyse", portrait)
    assert code == 0
    assert "1 face" in out
    assert "skin" in out
    code, _, err = run("analyse", portrait, "--draw", drawn)
    assert code == 2
    assert "exists" in err


def test_blurred_background_leaves_the_face_its_bits(run: Any, portrait: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    code, _, _ = run("portrait", portrait, "-o", target, "--background", "blur", "--blur", "1")
    assert code == 0
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (portrait, target))
    assert np.array_equal(after[120:140, 215:235], before[120:140, 215:235])
    assert np.abs(after[5:60, 440:500].astype(int) - before[5:60, 440:500]).mean() > 2
    record = read_provenance(target)
    assert record is not None
    assert record.action == "edited"
    assert record.parameters["background"] == "blur"


def test_removed_background_is_transparent_behind_the_person(run: Any, portrait: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    assert run("portrait", portrait, "-o", target, "--background", "remove")[0] == 0
    picture = np.asarray(Image.open(target))
    assert picture.shape == (512, 512, 4)
    assert picture[120:140, 215:235, 3].min() > 240
    assert picture[5:60, 5:60, 3].max() < 60
    assert picture[420:440, 200:240, 3].mean() > 200  # the suit, below the parser's crop


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--background", "remove"], "transparent"),
        (["--background", "beach"], "neither keep, blur, remove nor a picture"),
    ],
)
def test_impossible_wishes_are_refused(
    run: Any, portrait: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    target = tmp_path / "out.jpg"
    code, out, err = run("portrait", portrait, "-o", target, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert not target.exists()


def test_a_picture_without_face_is_no_portrait(run: Any, tmp_path: Path) -> None:
    empty = tmp_path / "wall.png"
    Image.fromarray(np.full((200, 300, 3), 120, np.uint8)).save(empty)
    code, _, err = run("portrait", empty, "-o", tmp_path / "out.png", "--background", "blur")
    assert code == 2
    assert "no face was found" in err
    assert run("analyse", empty)[1].strip().endswith("0 faces")


def test_grey_and_transparent_pictures_stay_so(run: Any, tmp_path: Path, astronaut: np.ndarray) -> None:
    grey = tmp_path / "grey.png"
    Image.fromarray(astronaut).convert("LA").save(grey)
    target = tmp_path / "out.png"
    assert run("portrait", grey, "-o", target, "--background", "blur", "--smooth-skin", "0.5")[0] == 0
    assert Image.open(target).mode == "LA"


def test_attributes_of_a_smiling_woman(run: Any, portrait: Path) -> None:
    code, out, _ = run("attributes", portrait, "--json")
    assert code == 0
    (face,) = json.loads(out)[0]["faces"]
    told = face["attributes"]
    assert face["calibrated"]
    assert face["withheld"] == []
    assert told["Smiling"] > 0.8
    assert max(told["Eyeglasses"], told["Mustache"], told["Bald"], told["Wearing_Hat"]) < 0.3
    assert "Attractive" not in told
    (every,) = fw.attributes(portrait, every=True)
    assert every.traits.attributes is not None
    assert len(every.traits.attributes.probabilities) == 40
    assert every.traits.attributes.probabilities["Male"] < 0.5


def test_expression_and_units_of_a_smiling_woman(run: Any, portrait: Path) -> None:
    code, out, _ = run("expression", portrait, "--json")
    assert code == 0
    (face,) = json.loads(out)[0]["faces"]
    assert face["expression"] == "happiness"
    assert face["expressions"]["happiness"] > 0.5
    assert face["calibrated"]
    (units,) = fw.action_units(portrait)
    assert units.traits.actions is not None
    found = units.traits.actions.units
    assert found["AU12"].probability > found["AU15"].probability


def test_age_of_a_grown_woman(run: Any, portrait: Path) -> None:
    code, out, _ = run("age", portrait, "--json")
    assert code == 0
    (face,) = json.loads(out)[0]["faces"]
    age = face["age"]
    assert 18 < age["years"] < 60
    assert age["low"] < age["years"] < age["high"] < age["low"] + 45
