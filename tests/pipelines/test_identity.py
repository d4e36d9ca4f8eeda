"""Embedding and verifying the faces of photos: choice of the face, decisions, and reasons."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.data.identity import open_identities
from facewright.data.pairs import many_pairs
from facewright.errors import UsageError, WeightsError
from facewright.face import Face, FaceQuality, Pose, Reason
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.loading import create
from facewright.metrics.calibration import AffineLlr, ScoreCalibration, fit_affine
from facewright.metrics.verification import OperatingPoint, roc
from facewright.pipelines.identity import (
    Evidence,
    FaceEmbedding,
    IdentityPipeline,
    calibration_of,
    decide,
    only_face,
)
from facewright.tasks.card import Preprocess
from facewright.tasks.declare import get_task

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

CALIBRATION = ScoreCalibration(
    "mean-colour",
    "ab" * 32,
    "made-up pairs",
    10,
    10,
    AffineLlr(20.0, -10.0),
    tuple(OperatingPoint(far, t, 0.9, far, 10) for far, t in ((1e-2, 0.6), (1e-3, 0.7), (1e-4, 0.8))),
)


class MeanColour:
    """A recogniser for which people differ by the mean colour of their face."""

    slug = "mean-colour"
    weights_sha256 = "ab" * 32
    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def embed(self, crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), -1, 3).mean(1).astype(np.float32) - 127.5
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def photo_of(colour: tuple[int, int, int]) -> Any:
    return read(np.full((200, 200, 3), colour, np.uint8))


@pytest.fixture
def one(fakes: SimpleNamespace) -> Face:
    return fakes.face_at((100, 100))


def pipeline(fakes: SimpleNamespace, *faces: Face, **options: Any) -> IdentityPipeline:
    return IdentityPipeline(fakes.Detector(*faces), MeanColour(), CALIBRATION, **options)


def test_embeddings_come_in_reading_order_with_their_model(fakes: SimpleNamespace) -> None:
    right, left = fakes.face_at((150, 100), 20.0), fakes.face_at((50, 100), 20.0)
    found = pipeline(fakes, right, left).embed(photo_of((200, 100, 50)))
    assert [f.face for f in found] == [left, right]
    assert found[0].similarity(found[1]) == pytest.approx(1, abs=1e-5)
    assert (found[0].model, found[0].sha256) == ("mean-colour", "ab" * 32)
    assert len(json.loads(json.dumps(found[0].to_dict()))["embedding"]) == 3


def test_no_face_gives_no_embedding(fakes: SimpleNamespace) -> None:
    assert pipeline(fakes).embed(photo_of((9, 9, 9))) == []


def test_same_colour_is_the_same_person_and_another_is_not(fakes: SimpleNamespace, one: Face) -> None:
    networks = pipeline(fakes, one)
    red, green = photo_of((220, 40, 40)), photo_of((40, 220, 40))
    same = networks.verify(red, red)
    assert (same.decision, same.similarity, same.threshold) == ("same", pytest.approx(1, abs=1e-5), 0.7)
    assert same.llr == pytest.approx(10, abs=1e-3)
    other = networks.verify(red, green)
    assert other.decision == "different"
    assert other.probability < 0.05
    assert set(json.loads(json.dumps(same.to_dict()))) >= {"decision", "reason", "llr", "probability", "faces"}


class Told:
    """A liveness estimator that says what it is told."""

    preprocess = Preprocess(CropSpec.aligned(80, "arcface"))

    def __init__(self, vote: float) -> None:
        self.vote = vote

    def live(self, photo: np.ndarray, faces: Any) -> np.ndarray:
        return np.full(len(faces), self.vote)


def test_a_match_of_a_face_that_is_not_live_is_none(fakes: SimpleNamespace, one: Face) -> None:
    networks = pipeline(fakes, fakes.face_at((100, 100), 40.0))
    photo = read(np.asarray(fakes.textured(200, 200)))
    other = read(255 - np.asarray(fakes.textured(200, 200)))
    live = networks.verify(photo, photo, liveness=Told(0.9))
    assert (live.decision, live.note) == ("same", "")
    assert live.liveness is not None
    assert live.to_dict()["liveness"]["decision"] == "live"
    assert "liveness of the second face" in live.lines()[-1]
    shown = networks.verify(photo, photo, liveness=Told(0.1))
    assert shown.decision == "cannot tell"
    assert shown.reason.startswith("the face is not known to be live (it looks like an attack); similarity")
    assert networks.verify(photo, other, liveness=Told(0.1)).decision == networks.verify(photo, other).decision
    unasked = networks.verify(photo, photo)
    assert unasked.liveness is None
    assert "ask for liveness" in unasked.note


def test_number_of_faces_is_checked_and_named(fakes: SimpleNamespace) -> None:
    small, large = fakes.face_at((50, 100), 20.0), fakes.face_at((140, 100), 40.0)
    assert only_face([small, large], "b.jpg", largest=True) is large
    with pytest.raises(UsageError, match=r"b\.jpg: 2 faces .*--largest"):
        only_face([small, large], "/a/b.jpg")
    with pytest.raises(UsageError, match="no face"):
        only_face([], "b.jpg")
    passer_by = fakes.face_at((10, 100), 19.0)
    assert only_face([passer_by, large], "b.jpg") is large
    doubtful = [fakes.face_at((50, 50), score=0.3), fakes.face_at((50, 50), score=0.62)]
    with pytest.raises(UsageError, match=r"no face was found that counts, the best is low confidence, score 0\.62"):
        only_face([], "b.jpg", doubtful=doubtful)


def embedding(face: Face, quality: FaceQuality | None = None) -> FaceEmbedding:
    return FaceEmbedding(face, np.array([1.0, 0, 0], np.float32), "m", None, quality)


def sides(first: FaceEmbedding, second: FaceEmbedding) -> tuple[Evidence, Evidence]:
    return first.evidence("first"), second.evidence("second")


@pytest.mark.parametrize(
    ("similarity", "llr", "decision"), [(0.7, 4.0, "same"), (0.69, 3.8, "cannot tell"), (0.3, -4.0, "different")]
)
def test_decision_follows_threshold_and_evidence(one: Face, similarity: float, llr: float, decision: str) -> None:
    assert decide(similarity, llr, 0.7, 1e-3, sides(embedding(one), embedding(one)))[0] == decision


def test_doubt_names_what_is_wrong_with_the_pictures(one: Face) -> None:
    poor = embedding(one, FaceQuality(0.1, 3.0, (Reason.BLUR, Reason.TOO_SMALL, Reason.DARK)))
    _, reason = decide(0.6, 2.0, 0.7, 1e-3, sides(embedding(one), poor))
    assert "second picture is blur, too small" in reason
    assert "first" not in reason


def test_a_ruined_picture_can_match_but_not_exclude(one: Face) -> None:
    fine, ruined = (
        embedding(one, FaceQuality(0.4, 50.0, retained_fraction=0.9)),
        embedding(one, FaceQuality(0.4, 50.0, retained_fraction=0.24)),
    )
    assert decide(0.1, -4.0, 0.7, 1e-3, sides(fine, fine))[0] == "different"
    decision, reason = decide(0.1, -4.0, 0.7, 1e-3, sides(fine, ruined))
    assert decision == "cannot tell"
    assert "second picture is too damaged, quality 24" in reason
    assert decide(0.8, 5.0, 0.7, 1e-3, sides(fine, ruined))[0] == "same"


def test_tiny_and_turned_faces_are_no_evidence_however_alike(fakes: SimpleNamespace, one: Face) -> None:
    tiny = embedding(fakes.face_at((20, 20), 6.0))
    turned = embedding(fakes.face_at((100, 100), pose=Pose(-80.0, 0.0, 0.0)))
    for face, word in ((tiny, "too small"), (turned, "turned too far")):
        decision, reason = decide(0.99, 9.0, 0.7, 1e-3, sides(embedding(one), face))
        assert decision == "cannot tell"
        assert word in reason
        assert "second" in reason


def test_embeddings_of_other_weights_do_not_compare(one: Face) -> None:
    vector = np.array([1.0, 0, 0], np.float32)
    with pytest.raises(UsageError, match="cannot be compared"):
        FaceEmbedding(one, vector, "m", "a").similarity(FaceEmbedding(one, vector, "m", "b"))


def test_calibration_of_other_weights_is_refused(fakes: SimpleNamespace, one: Face) -> None:
    other = ScoreCalibration("mean-colour", "cd" * 32, "", 1, 1, AffineLlr(1, 0), ())
    with pytest.raises(WeightsError, match="measure it again"):
        IdentityPipeline(fakes.Detector(one), MeanColour(), other)


def test_without_a_calibration_nothing_is_decided(fakes: SimpleNamespace, one: Face) -> None:
    grey = photo_of((9, 9, 9))
    found = IdentityPipeline(fakes.Detector(one), MeanColour()).verify(grey, grey)
    assert (found.decision, found.probability, found.threshold) == ("cannot tell", None, None)
    assert found.similarity == pytest.approx(1, abs=1e-5)
    assert "calibration.json" in found.reason
    assert found.to_dict()["llr"] is None


def test_a_match_says_that_liveness_was_not_checked(fakes: SimpleNamespace, one: Face) -> None:
    networks = pipeline(fakes, one)
    red, green = photo_of((220, 40, 40)), photo_of((40, 220, 40))
    assert "photo of a photo" in networks.verify(red, red).note
    assert networks.verify(red, green).note == ""


def test_a_recogniser_without_a_template_gets_the_box(fakes: SimpleNamespace, one: Face) -> None:
    class Boxed(MeanColour):
        preprocess = Preprocess(CropSpec.boxed(64, margin=0.15, level_eyes=True))
        seen: np.ndarray

        def embed(self, crops: np.ndarray) -> np.ndarray:
            self.seen = crops
            return super().embed(crops)

    recogniser = Boxed()
    x0, y0, x1, y1 = (round(float(v)) for v in one.box)
    pixels = np.zeros((200, 200, 3), np.uint8)
    pixels[y0:y1, x0:x1] = (220, 40, 40)
    IdentityPipeline(fakes.Detector(one), recogniser).embed(read(pixels))
    assert recogniser.seen.shape == (1, 64, 64, 3)
    share = (recogniser.seen[0, ..., 0] > 110).mean()
    assert share == pytest.approx(one.width * one.height / (1.3 * max(one.width, one.height)) ** 2, abs=0.03)


def test_unknown_false_acceptance_rate_lists_the_known(fakes: SimpleNamespace, one: Face) -> None:
    with pytest.raises(UsageError, match=r"0\.001"):
        pipeline(fakes, one).verify(photo_of((9, 9, 9)), photo_of((9, 9, 9)), far=0.5)


@pytest.mark.shared
def test_shipped_thresholds_are_those_of_people_never_seen(shared_dir: Path) -> None:
    """The embedded recogniser's calibration, measured again on photos of LFW's validation people."""
    recogniser: Any = create(get_task("verify").default, pretrained=True)
    calibration = calibration_of(recogniser)
    assert calibration is not None
    crops = open_identities("lfw", "val", shared_dir / "data")
    vectors = recogniser.embed(crops.aligned(np.arange(len(crops.rows))))
    pairs = many_pairs(crops.subjects)
    scores = (vectors[pairs.first] * vectors[pairs.second]).sum(1)
    curve = roc(scores, pairs.same)
    assert [point.far for point in calibration.points] == [1e-2, 1e-3, 1e-4]
    for point in calibration.points:
        assert curve.threshold_at(point.far) == pytest.approx(point.threshold, abs=2e-3)
        assert curve.tar_at(point.far) == pytest.approx(point.tar, abs=5e-3)
    again = fit_affine(scores, pairs.same)
    assert again.scale == pytest.approx(calibration.llr.scale, rel=0.01)
    assert again.offset == pytest.approx(calibration.llr.offset, rel=0.01)
