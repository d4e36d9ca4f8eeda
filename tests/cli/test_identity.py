"""facewright verify, embed and quality on public-domain photos with the shipped networks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import lfw_subset

from facewright.metrics.calibration import AffineLlr, ScoreCalibration
from facewright.metrics.verification import OperatingPoint
from facewright.systems.recognise.pfid.network import PFID, PFIDConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def album(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """The astronaut, the same photo small and badly compressed, two of her side by side, and a picture of nothing."""
    folder = tmp_path / "album"
    folder.mkdir()
    photo = Image.fromarray(astronaut)
    photo.save(folder / "large.png")
    photo.resize((220, 220)).save(folder / "small.jpg", quality=60)
    Image.fromarray(np.hstack([astronaut, astronaut[:, ::-1]])).save(folder / "two.png")
    Image.fromarray(np.full((120, 120, 3), 90, np.uint8)).save(folder / "grey.png")
    return folder


def test_two_photos_of_one_person_are_the_same(run: Any, album: Path) -> None:
    code, out, _ = run("verify", album / "large.png", album / "small.jpg", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["decision"] == "same"
    assert data["similarity"] >= data["threshold"]
    assert data["probability"] > 0.95
    assert data["faces"][0]["eye_distance"] > data["faces"][1]["eye_distance"]
    assert "embedding" not in data["faces"][0]


@pytest.mark.parametrize("number", [0, 1, 7])
def test_other_people_are_not_the_same(run: Any, album: Path, number: int) -> None:
    """Three of the small faces that come with scikit-image."""
    face = cv2.resize((255 * lfw_subset()[number]).astype(np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC)
    canvas = np.full((320, 320), 128, np.uint8)
    canvas[60:260, 60:260] = face
    Image.fromarray(canvas).save(album / "other.png")
    code, out, _ = run("verify", album / "large.png", album / "other.png", "--json")
    data = json.loads(out)
    assert (code, data["decision"]) == (0, "different")
    assert data["similarity"] < 0.2
    assert data["probability"] < 0.05


def test_several_faces_need_a_choice(run: Any, album: Path) -> None:
    code, _, err = run("verify", album / "large.png", album / "two.png")
    assert code == 2
    assert "two.png: 2 faces" in err
    assert "--largest" in err
    code, out, _ = run("verify", album / "large.png", album / "two.png", "--largest")
    assert (code, out.split(":")[0]) == (0, "same")


def test_any_recogniser_can_be_named_with_weights_of_its_own(run: Any, album: Path, tmp_path: Path) -> None:
    folder = PFID(PFIDConfig(backbone="thin", size=32, individuals=3, width=8)).save_pretrained(tmp_path / "weights")
    asked = ("verify", album / "large.png", album / "small.jpg", "--model", "pfid", "--weights", folder, "--json")
    code, out, _ = run(*asked)
    data = json.loads(out)
    assert (code, data["decision"], data["probability"]) == (0, "cannot tell", None)
    assert data["faces"][0]["model"] == "pfid"
    points = (OperatingPoint(1e-3, data["similarity"] - 0.01, 0.9, 1e-3, 10),)
    digest = data["faces"][0]["weights_sha256"]
    calibration = ScoreCalibration("pfid", digest, "two photos", 1, 1, AffineLlr(1.0, 0.0), points)
    (folder / "calibration.json").write_text(calibration.to_json(), encoding="utf-8")
    assert json.loads(run(*asked)[1])["decision"] == "same"


def test_gallery_and_verify_agree_about_a_tiny_face(run: Any, album: Path, tmp_path: Path) -> None:
    """The shipped networks on a photo shrunk until its eyes are under 8 pixels apart."""
    tiny, gallery = album / "tiny.png", tmp_path / "people.gallery"
    Image.open(album / "large.png").resize((68, 68), Image.Resampling.LANCZOS).save(tiny)
    said = "px between the eyes"
    code, out, _ = run("verify", album / "large.png", tiny)
    assert code == 0
    assert out.startswith("cannot tell: the second face is too small, ")
    assert "(forced: the second face is too small" in run("verify", album / "large.png", tiny, "--force")[1]
    assert run("gallery", "create", gallery)[0] == 0
    code, _, err = run("gallery", "enrol", gallery, tiny, "--person", "Eileen")
    assert code == 2
    assert f"tiny.png: the face is too small, {out.split('too small, ')[1].split()[0]} {said}" in err
    assert run("gallery", "enrol", gallery, album / "large.png", "--person", "Eileen")[0] == 0
    code, out, _ = run("gallery", "search", gallery, tiny)
    assert out.rstrip().endswith("cannot tell")
    assert said in out
    found = json.loads(run("gallery", "search", gallery, album / "small.jpg", "--json")[1])[0]["faces"][0]
    match, same = (
        found["matches"][0],
        json.loads(run("verify", tiny.with_name("large.png"), album / "small.jpg", "--json")[1]),
    )
    assert (match["decision"], found["fault"]) == ("same", "")
    for name in ("llr", "probability", "threshold"):
        assert match[name] == pytest.approx(same[name], abs=1e-3)


def test_what_embeds_no_faces_is_refused(run: Any, album: Path) -> None:
    code, _, err = run("verify", album / "large.png", album / "small.jpg", "--model", "frgp")
    assert code == 2
    assert "frgp is not a recogniser; choose one of" in err


def test_photo_without_a_face_is_named(run: Any, album: Path) -> None:
    code, _, err = run("verify", album / "grey.png", album / "large.png")
    assert code == 2
    assert "grey.png: no face" in err


def test_unknown_rate_lists_the_known(run: Any, album: Path) -> None:
    code, _, err = run("verify", album / "large.png", album / "small.jpg", "--far", "0.3")
    assert code == 2
    assert "0.001" in err


def test_embeddings_of_a_folder_and_of_its_bad_file(run: Any, album: Path, tmp_path: Path) -> None:
    (album / "broken.jpg").write_bytes(b"not a picture")
    target = tmp_path / "out.json"
    code, _, err = run("embed", album, "-o", target)
    assert code == 1
    assert "broken.jpg" in err
    results = {r["source"].rsplit("/")[-1]: r for r in json.loads(target.read_text())}
    assert [len(results[n]["faces"]) for n in ("large.png", "two.png", "grey.png", "broken.jpg")] == [1, 2, 0, 0]
    vectors = [np.array(results[n]["faces"][0]["embedding"]) for n in ("large.png", "small.jpg")]
    assert all(np.linalg.norm(v) == pytest.approx(1, abs=1e-3) for v in vectors)
    assert vectors[0] @ vectors[1] > 0.5


def test_quality_falls_with_size_and_says_so(run: Any, album: Path) -> None:
    code, out, _ = run("quality", album / "large.png", "--json")
    (good,) = json.loads(out)[0]["faces"]
    assert code == 0
    assert "too_small" not in good["quality"]["reasons"]
    _, out, _ = run("quality", album / "small.jpg", "--json")
    (poor,) = json.loads(out)[0]["faces"]
    assert "too_small" in poor["quality"]["reasons"]
    assert poor["quality"]["quality"] < good["quality"]["quality"]
    _, out, _ = run("quality", album / "small.jpg")
    assert "too_small" in out


def test_folder_without_photos_is_refused(run: Any, tmp_path: Path) -> None:
    code, _, err = run("embed", tmp_path)
    assert code == 2
    assert "holds no photo" in err
