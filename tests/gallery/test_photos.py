"""Enrolling, searching, verifying and embedding agree on which face is evidence of who somebody is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.errors import UsageError
from facewright.face import Face, FaceQuality, Pose
from facewright.gallery import Gallery
from facewright.gallery.photos import PhotoSearch, enrol_photos, enrolled_evidence, recogniser_id
from facewright.gallery.records import Sample
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.metrics.calibration import AffineLlr, ScoreCalibration
from facewright.metrics.verification import OperatingPoint
from facewright.pipelines.identity import IdentityPipeline
from facewright.tasks.card import Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import SimpleNamespace

SHA256 = "ab" * 32
CALIBRATION = ScoreCalibration(
    "mean-colour", SHA256, "made-up pairs", 10, 10, AffineLlr(20.0, -10.0), (OperatingPoint(1e-3, 0.7, 0.9, 1e-3, 10),)
)

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "good": ({}, ""),
    "small": ({"eye_distance": 5.7}, "too small, 5.7 px between the eyes"),
    "turned": ({"pose": Pose(75.0, 0.0, 0.0)}, "turned too far, yaw 75 degrees"),
    "unsure": ({"score": 0.62}, "low confidence, score 0.62"),
    "a coin": ({"certainty": 0.1}, "probably not a face, certainty 0.10"),
    "ruined": ({"score": 0.95}, "too damaged, quality 20"),
}
"""Fields of a face, and what is said of it as evidence."""


class MeanColour:
    """A recogniser for which people differ by the mean colour of their face."""

    slug = "mean-colour"
    weights_sha256 = SHA256
    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def embed(self, crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), -1, 3).mean(1).astype(np.float32) - 127.5
        return means / np.linalg.norm(means, axis=1, keepdims=True)


class Rater:
    """Faces of score 0.95 are ruined."""

    def rate(self, photo: np.ndarray, faces: list[Face]) -> list[FaceQuality]:
        return [FaceQuality(0.5, 50.0, retained_fraction=0.2 if face.score == 0.95 else 0.9) for face in faces]


class Scene:
    """Photos of one colour with one face of a kind on each, and the pipeline that sees it so."""

    def __init__(self, folder: Path, fakes: SimpleNamespace) -> None:
        self.folder, self.fakes = folder, fakes

    def photo(self, name: str, colour: tuple[int, int, int]) -> Path:
        path = self.folder / f"{name}.png"
        Image.fromarray(np.full((200, 200, 3), colour, np.uint8)).save(path)
        return path

    def identity(self, kind: str) -> IdentityPipeline:
        fields = dict(KINDS[kind][0])
        face = self.fakes.face_at((100, 100), fields.pop("eye_distance", 40.0), **fields)
        return IdentityPipeline(self.fakes.Detector(face), MeanColour(), CALIBRATION, Rater())  # type: ignore[arg-type]


@pytest.fixture
def scene(tmp_path: Path, fakes: SimpleNamespace) -> Scene:
    return Scene(tmp_path, fakes)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.create(tmp_path / "people.gallery", recogniser_id(MeanColour())) as made:
        yield made


RED, GREEN = (220, 40, 40), (40, 220, 40)


def enrolled(gallery: Gallery, photo: Path, identity: IdentityPipeline, *, force: bool = False) -> str:
    """What became of a photo: the error, or ""."""
    (result,) = enrol_photos(gallery, [("Rosa", photo)], identity, force=force)
    return result.error or ""


@pytest.mark.parametrize("kind", KINDS)
def test_all_four_say_the_same_of_a_face(kind: str, scene: Scene, gallery: Gallery) -> None:
    """Rosa is red. The probe of a kind is green: whoever believes in it says that it is another person."""
    good, probe = scene.identity("good"), scene.identity(kind)
    red, green = scene.photo("red", RED), scene.photo("green", GREEN)
    said = KINDS[kind][1]
    assert enrolled(gallery, red, good) == ""

    refusal = enrolled(gallery, green, probe)
    assert (said in refusal) if said else refusal == ""
    if said:
        assert "--force" in refusal
        assert [p.samples for p in gallery.people()] == [1]
    else:
        gallery.remove(["Rosa"])
        assert enrolled(gallery, red, good) == ""

    (first,), found = good.embed(read(red)), probe.embed(read(green))
    counts = kind not in ("unsure", "a coin")
    assert len(found) == counts
    sightings = PhotoSearch(gallery, probe)(green)
    assert len(sightings) == counts
    if counts:
        verification = good.compare(first, found[0])
        (candidate,) = sightings[0].candidates
        assert candidate.judgement.decision == verification.decision == ("cannot tell" if said else "different")
        assert said in verification.reason
        assert said in candidate.judgement.reason
        assert candidate.judgement.llr == pytest.approx(verification.llr, abs=1e-3)
        assert candidate.judgement.probability == pytest.approx(verification.probability, abs=1e-3)
        assert found[0].fault == sightings[0].embedding.fault == ("" if kind == "ruined" else said)
    else:
        with pytest.raises(UsageError, match=said):
            probe.verify(read(green), read(green))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][1]])
def test_force_makes_all_four_take_the_face(kind: str, scene: Scene, gallery: Gallery) -> None:
    good, forced = scene.identity("good"), scene.identity(kind)
    red, green, also_red = scene.photo("red", RED), scene.photo("green", GREEN), scene.photo("also-red", RED)
    said = KINDS[kind][1]
    assert enrolled(gallery, red, forced, force=True) == ""
    assert len(forced.embed(read(red), force=True)) == 1

    verification = forced.verify(read(red), read(green), force=True)
    assert verification.decision == "different"
    assert ("forced" in verification.reason) == (kind != "ruined")
    for probe, wanted in ((also_red, "same"), (green, "different")):
        (found,) = PhotoSearch(gallery, good, force=True)(probe)
        assert found.candidates[0].judgement.decision == wanted

    # what was enrolled by force stays no evidence for those who do not force
    (found,) = PhotoSearch(gallery, good)(green)
    assert found.candidates[0].judgement.decision == "cannot tell"
    assert said in found.candidates[0].judgement.reason
    assert "enrolled" in found.candidates[0].judgement.reason


def test_one_usable_picture_is_enough(scene: Scene, gallery: Gallery) -> None:
    good = scene.identity("good")
    assert enrolled(gallery, scene.photo("a", RED), scene.identity("small"), force=True) == ""
    assert enrolled(gallery, scene.photo("b", (221, 40, 40)), good) == ""
    assert enrolled_evidence(gallery.samples("Rosa")) == ("enrolled", "", "", "")
    (found,) = PhotoSearch(gallery, good)(scene.photo("c", RED))
    assert found.candidates[0].judgement.decision == "same"


def test_samples_of_programs_need_no_face(gallery: Gallery) -> None:
    vector = np.array([1, 0, 0], np.float32)
    for metadata in (
        {},
        {"face": "of an angel"},
        {"face": {"box": [1, 2]}},
        {"face": None, "retained_fraction": "much"},
    ):
        assert enrolled_evidence([Sample("Ada", vector, metadata=metadata)]).fault == ""
    assert enrolled_evidence([]).fault == ""


def test_a_rate_nobody_measured_is_refused_before_the_search(scene: Scene, gallery: Gallery) -> None:
    with pytest.raises(UsageError, match=r"calibrated at a FAR of 0\.001"):
        PhotoSearch(gallery, scene.identity("good"), far=0.5)


def test_a_face_that_is_not_known_to_be_live_is_nobody_for_certain(scene: Scene, gallery: Gallery) -> None:
    class Told:
        preprocess = Preprocess(CropSpec.aligned(80, "arcface"))

        def live(self, photo: np.ndarray, faces: Any) -> np.ndarray:
            return np.full(len(faces), 0.99)

    good = scene.identity("good")
    red = scene.photo("red", RED)
    assert enrolled(gallery, red, good) == ""
    (found,) = PhotoSearch(gallery, good)(red)
    (asked,) = PhotoSearch(gallery, good, liveness=Told())(red)
    assert (found.candidates[0].judgement.decision, found.liveness) == ("same", None)
    assert asked.candidates[0].judgement.decision == "cannot tell"  # one colour all over: nothing of a face is seen
    assert "not known to be live (the face is washed out)" in asked.candidates[0].judgement.reason
    assert asked.to_dict()["liveness"]["decision"] == "cannot tell"
    assert "liveness" not in found.to_dict()
