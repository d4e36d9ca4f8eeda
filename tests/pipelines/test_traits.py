"""What a face says, and when nothing is said: fakes answer, records and words follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.face import ActionUnit, AgeEstimate, Face, FaceActions, FaceAttributes, Pose, Reason
from facewright.pipelines.traits import (
    LIMITS,
    UNTOLD,
    FaceTraits,
    TraitReader,
    reader_for,
    reasons_against,
    traits_dict,
    traits_line,
)
from facewright.systems.attributes.lnet_anet.network import ATTRIBUTES
from facewright.systems.quality.reasons import Limits
from facewright.tasks.analyse import AnalyseOptions
from facewright.tasks.declare import NetworkChoice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import SimpleNamespace


class Oracle:
    """Answers by the place of a face, and remembers whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def estimate(self, photo: np.ndarray, faces: Sequence[Face]) -> list[AgeEstimate]:
        self.asked.append(len(faces))
        return [AgeEstimate(face.centre[0] / 10, face.centre[0] / 10 - 4, face.centre[0] / 10 + 5) for face in faces]

    def describe_faces(self, photo: np.ndarray, faces: Sequence[Face]) -> list[FaceAttributes]:
        return [FaceAttributes({"Eyeglasses": 0.9, "Bald": 0.2, "Attractive": 0.8}, True) for _ in faces]

    def read_actions(self, photo: np.ndarray, faces: Sequence[Face]) -> list[FaceActions]:
        units = {"AU12": ActionUnit(3.25, 0.91), "AU4": ActionUnit(0.5, 0.1)}
        return [FaceActions(units, {"happiness": 0.7, "neutral": 0.3}, True) for _ in faces]


def scene(fakes: SimpleNamespace) -> tuple[np.ndarray, list[Face]]:
    """A large face, a tiny one, and one that is turned away."""
    photo = fakes.textured(300, 600)
    faces = [
        fakes.face_at((120, 150), 60),
        fakes.face_at((300, 150), 6),
        fakes.face_at((450, 150), 60, pose=Pose(80.0, 0.0, 0.0)),
    ]
    return photo, faces


def test_nothing_is_said_of_faces_that_a_picture_does_not_show(fakes: SimpleNamespace) -> None:
    photo, faces = scene(fakes)
    oracle = Oracle()
    traits = TraitReader(age=oracle).read(photo, faces)
    assert oracle.asked == [1]
    assert traits[0].age is not None
    assert traits[0].age.age == pytest.approx(12)
    assert traits[0].withheld == ()
    assert traits[1].age is None
    assert traits[1].withheld[0] is Reason.TOO_SMALL
    assert Reason.YAW in traits[2].withheld
    assert "nothing can be said: yaw" in traits_line(traits[2], ("age",))
    assert traits_dict(traits[2], ("age",)) == {"withheld": ["yaw"], "age": None}


def test_a_blurred_face_is_not_judged(fakes: SimpleNamespace) -> None:
    import cv2

    photo, faces = scene(fakes)
    assert reasons_against(photo, faces[0]) == ()
    blurred = np.asarray(cv2.GaussianBlur(photo, (0, 0), 8), np.uint8)
    assert Reason.BLUR in reasons_against(blurred, faces[0])
    assert TraitReader(age=Oracle()).read(photo, []) == []


def test_limits_name_every_factor_that_is_measured() -> None:
    assert Limits(**LIMITS).jpeg_quality == Limits().jpeg_quality  # no damage is estimated here
    assert set(UNTOLD) <= set(ATTRIBUTES)


def test_judgements_are_told_only_when_asked_for(fakes: SimpleNamespace) -> None:
    photo, faces = scene(fakes)
    reader = TraitReader(attributes=Oracle())
    told = reader.read(photo, faces[:1])[0].attributes
    every = reader.read(photo, faces[:1], every=True)[0].attributes
    assert told is not None
    assert every is not None
    assert list(told.probabilities) == ["Eyeglasses", "Bald"]
    assert list(every.probabilities) == ["Eyeglasses", "Bald", "Attractive"]


def test_records_and_words(fakes: SimpleNamespace) -> None:
    photo, faces = scene(fakes)
    oracle = Oracle()
    (traits,) = TraitReader(oracle, oracle, oracle).read(photo, faces[:1])
    asked = ("age", "attributes", "action_units", "expression", "expressions")
    assert traits_dict(traits, asked) == {
        "withheld": [],
        "age": {"years": 12.0, "low": 8.0, "high": 17.0},
        "attributes": {"Eyeglasses": 0.9, "Bald": 0.2},
        "action_units": {
            "AU12": {"intensity": 3.25, "probability": 0.91},
            "AU4": {"intensity": 0.5, "probability": 0.1},
        },
        "expression": "happiness",
        "expressions": {"happiness": 0.7, "neutral": 0.3},
    }
    assert traits_line(traits, asked) == "looks 12 (8 to 17); Eyeglasses 90%; AU12 3.2; happiness"
    record = FaceTraits(faces[0], traits, ("attributes",))
    assert record.to_dict()["calibrated"] is True
    assert record.line().endswith("Eyeglasses 90%")
    assert "calibrated" not in FaceTraits(faces[0], traits, ("age",)).to_dict()


class Networks:
    """Counts which networks are asked for."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def network(self, slug: str, *_: Any) -> Oracle:
        self.loaded.append(slug)
        return Oracle()


@pytest.mark.parametrize(
    ("options", "loaded", "asked"),
    [
        ({}, [], ()),
        ({"age": True}, ["fpage"], ("age",)),
        ({"expression": True}, ["mlcr"], ("expression", "expressions")),
        (
            {"attributes": True, "action_units": True, "expression": True},
            ["lnet_anet", "mlcr"],
            ("attributes", "action_units", "expression", "expressions"),
        ),
    ],
)
def test_only_networks_that_are_asked_for_are_loaded(
    options: dict[str, bool], loaded: list[str], asked: tuple[str, ...]
) -> None:
    chosen = {"age": False, "attributes": False, "action_units": False, "expression": False} | options
    session = Networks()
    _, fields = reader_for(session, NetworkChoice(), AnalyseOptions(**chosen))  # type: ignore[arg-type]
    assert session.loaded == loaded
    assert fields == asked
