"""Liveness: votes of both networks, thresholds, and when nothing can be said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.pipelines.liveness import judged, load
from facewright.tasks.card import Preprocess
from facewright.tasks.declare import NetworkChoice, get_task
from facewright.tasks.liveness import LivenessOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import SimpleNamespace

    from facewright.face import Face


class Oracle:
    """Votes as it is told."""

    def __init__(self, vote: float, margin: float = 0.85, size: int = 80) -> None:
        self.vote = vote
        self.preprocess = Preprocess(CropSpec.framed(size, margin=margin))

    def live(self, photo: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
        return np.full(len(faces), self.vote)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.zeros((400, 500, 3), np.uint8)


@pytest.mark.parametrize(
    ("votes", "least", "decision"),
    [
        ((0.9, 0.8), 0.5, "live"),
        ((0.1, 0.3), 0.5, "attack"),
        ((0.9, 0.2), 0.5, "live"),  # the mean counts
        ((0.9, 0.8), 0.95, "attack"),
        ((0.9, 0.14), 0.5, "cannot tell"),
    ],
)
def test_the_mean_vote_decides(
    rgb: np.ndarray, fakes: SimpleNamespace, votes: tuple[float, ...], least: float, decision: str
) -> None:
    face = fakes.face_at((250, 200), 30.0)
    found = judged(rgb, [face], [Oracle(v) for v in votes], least)
    assert [one.decision for one in found] == [decision]
    assert found[0].vote == pytest.approx(np.mean(votes))
    assert (found[0].reason == "the votes are split") == (decision == "cannot tell")


def test_a_face_whose_surroundings_are_cut_off_cannot_be_told(rgb: np.ndarray, fakes: SimpleNamespace) -> None:
    face = replace(fakes.face_at((250, 200), 30.0), box=np.array([20, 20, 480, 390], np.float32))
    found = judged(rgb, [face], [Oracle(0.9, margin=1.5)])[0]
    assert (found.decision, found.reason) == ("cannot tell", "too little of what is around the face is in the photo")


def test_a_face_smaller_than_the_crop_cannot_be_told(rgb: np.ndarray, fakes: SimpleNamespace) -> None:
    face = fakes.face_at((250, 200), 8.0)  # 22 px high, 2.7 times of which are 60
    found = judged(rgb, [face], [Oracle(0.9)])[0]
    assert (found.decision, found.reason) == ("cannot tell", "the face is too small")
    assert found.to_dict()["vote"] == 0.9
    assert "cannot tell (the face is too small)" in found.line()


class Networks:
    """Hands out oracles and notes what was asked for."""

    def __init__(self, detector: Any) -> None:
        self._detector, self.asked = detector, []  # type: ignore[var-annotated]

    def network(self, slug: str, weights: str | None = None, device: str = "auto") -> Oracle:
        self.asked.append((slug, weights))
        return Oracle(0.9 if weights == "v2" else 0.7)

    def detector(self, choice: NetworkChoice) -> Any:
        return self._detector


def test_both_published_networks_vote_unless_one_is_named(rgb: np.ndarray, fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((350, 200), 30.0), fakes.face_at((150, 200), 30.0), fakes.face_at((250, 90), 30.0)]
    doubted = replace(faces[2], certainty=0.0)
    networks = Networks(fakes.Detector(*faces[:2], doubted))
    task = get_task("liveness")
    found = load(networks, task, NetworkChoice())(read(rgb), LivenessOptions())  # type: ignore[arg-type]
    assert networks.asked == [("minifasnet", "v2"), ("minifasnet", "v1se")]
    assert [one.vote for one in found] == pytest.approx([0.8, 0.8])
    assert found[0].face.box[0] < found[1].face.box[0]  # in reading order, without what is no face
    load(networks, task, NetworkChoice(weights="v1se"))  # type: ignore[arg-type]
    assert networks.asked[2:] == [("minifasnet", "v1se")]


def test_a_threshold_outside_is_refused() -> None:
    with pytest.raises(UsageError, match=r"least_vote 1\.5 is outside 0…1"):
        LivenessOptions(least_vote=1.5)
