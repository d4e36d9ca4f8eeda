"""Restoring by references: which photos and faces count, who is refused, what is said about it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.face import DegradationEstimate, Pose
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.pipelines.references import (
    MOST,
    Gate,
    ReferenceDesk,
    ReferencedRestorer,
    ReferenceFace,
    ReferenceNetworks,
    ReferenceSet,
    ReferenceUse,
    choose,
    short_names,
)
from facewright.pipelines.restore import RestorePipeline
from facewright.tasks.card import Preprocess
from facewright.tasks.restore import ReferenceRestorer, RestoreOptions

GATE = Gate(bias=-2.0, similarity=4.0, retained=0.0, product=0.0, least=0.0)  # alike from a cosine of 0.5 on
BACKGROUND = 90


class Assessor:
    """Says that a crop is fair, and ruined where it is dark."""

    def assess(self, crops: np.ndarray) -> list[DegradationEstimate]:
        ruined, fair = DegradationEstimate(9, 16, 20, 10, 15, 0.1), DegradationEstimate(0.3, 1, 1, 97, 36, 0.85)
        return [ruined if int(crop.max()) < 60 else fair for crop in crops]


class Blind(Assessor):
    """Leaves a crop of 256 px as it is."""

    preprocess = Preprocess(CropSpec.aligned(256))

    def restore(self, crops: np.ndarray, **_: Any) -> np.ndarray:
        return crops


class ByReferences(Assessor):
    """Brightens crops of 96 px by 10, and takes 30 for each reference."""

    slug, weights_sha256 = "by-references", "ab" * 32
    preprocess = Preprocess(CropSpec.aligned(96))

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        return crops + 10

    def restore_by(self, crops: np.ndarray, references: Any, *, seed: int | None = None) -> np.ndarray:
        self.seeds.append(seed)
        assert len(references) == len(crops)
        assert all(own.shape[1:] == crops.shape[1:] for own in references)
        return np.stack([crop + 10 - 30 * len(own) for crop, own in zip(crops, references)])


class Colours:
    """Tells people by the colour of their faces: red from green from blue."""

    preprocess = Preprocess(CropSpec.aligned(112, "arcface"))

    def embed(self, crops: np.ndarray) -> np.ndarray:
        middle = crops[:, 40:72, 40:72].reshape(len(crops), -1, 3).mean(1).astype(np.float32)
        vectors = middle - middle.mean(1, keepdims=True)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


@pytest.fixture
def networks() -> Any:
    calibration = SimpleNamespace(llr=lambda similarity: 4 * similarity - 2)
    return ReferenceNetworks(Blind(), Colours(), calibration, GATE)  # type: ignore[arg-type]


RED, GREEN = (180, 90, 90), (90, 180, 90)


def painted(*people: tuple[Any, tuple[int, int, int]], size: tuple[int, int] = (200, 300)) -> np.ndarray:
    """A photo with a disc of a colour for every face."""
    photo = np.full((*size, 3), BACKGROUND, np.uint8)
    for face, colour in people:
        cv2.circle(photo, tuple(int(v) for v in face.points5.mean(0)), int(2 * face.eye_distance), colour, -1)
    return photo


class Finder:
    """Finds in a photo what was said to be in it, by the photo's size."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], list[Any]] = {}

    def detect(self, image: np.ndarray) -> list[Any]:
        return self.known.get(image.shape, [])


@pytest.fixture
def album(tmp_path: Path, fakes: SimpleNamespace) -> Any:
    """Makes photos whose faces the desk's detector finds."""
    finder = Finder()

    def add(name: str, *people: tuple[Any, tuple[int, int, int]], dark: bool = False) -> Path:
        size = (200 + 2 * len(finder.known), 300)
        photo = painted(*people, size=size)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), (photo // 4 if dark else photo)[..., ::-1])
        finder.known[(*size, 3)] = [face for face, _ in people]
        return path

    def face(eyes: float = 40.0, x: float = 150, **fields: Any) -> Any:
        return fakes.face_at((x, 100), eyes, **fields)

    return SimpleNamespace(add=add, face=face, detector=finder, folder=tmp_path)


@pytest.fixture
def desk(album: Any, networks: Any) -> ReferenceDesk:
    return ReferenceDesk(album.detector, ByReferences.preprocess.crop, lambda: networks)


# --- which photos and faces


def test_photos_and_folders_are_read_and_one_person_stands_together(desk: ReferenceDesk, album: Any) -> None:
    one = album.add("one.png", (album.face(), RED))
    for name in ("a.png", "b.png"):
        album.add(f"her/{name}", (album.face(), RED))
    other = album.add("other.png", (album.face(), GREEN))
    found = desk.gather([str(one), str(album.folder / "her"), str(other)])
    assert [sorted(face.name for face in person) for person in found.people] == [
        ["a.png", "b.png", "one.png"],
        ["other.png"],
    ]
    assert found.unusable == {}
    assert desk.gather([str(one), str(album.folder / "her"), str(other)]) is found  # nothing is read twice


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"eyes": 12.0}, "too small, 12 px between the eyes"),
        ({"pose": Pose(-70, 0, 0)}, "turned too far, yaw -70 degrees"),
        ({"score": 0.3}, "no face was found"),
    ],
)
def test_a_face_that_says_too_little_is_named(desk: ReferenceDesk, album: Any, fields: Any, why: str) -> None:
    bad = album.add("bad.png", (album.face(**fields), RED))
    with pytest.raises(UsageError, match=why):
        desk.gather([str(bad)])
    good = album.add("good.png", (album.face(), RED))
    found = desk.gather([str(bad), str(good)])
    assert [face.name for face in found.faces] == ["good.png"]
    assert why in found.unusable["bad.png"]


def test_ruined_and_unreadable_photos_are_named(desk: ReferenceDesk, album: Any) -> None:
    dark = album.add("dark.png", (album.face(), RED), dark=True)
    broken = album.folder / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0nothing")
    with pytest.raises(UsageError, match=r"none of the references.*dark\.png: its face is too damaged.*broken\.jpg"):
        desk.gather([str(dark), str(broken)])
    with pytest.raises(UsageError, match=r"away\.png does not exist"):
        desk.gather([str(album.folder / "away.png")])


def test_of_several_faces_the_largest_or_the_one_like_the_others_is_taken(desk: ReferenceDesk, album: Any) -> None:
    two = album.add("two.png", (album.face(44, x=80), GREEN), (album.face(40, x=220), RED))
    alone = desk.gather([str(two)])
    assert alone.notes == ("reference two.png shows 2 faces; the largest was taken",)
    assert alone.faces[0].vector.argmax() == 1
    her = album.add("her.png", (album.face(), RED))
    found = desk.gather([str(two), str(her)])
    assert found.notes == ("reference two.png shows 2 faces; the one most like the other references was taken",)
    assert len(found.people) == 1
    assert all(face.vector.argmax() == 0 for face in found.faces)


def test_files_called_alike_are_told_apart() -> None:
    assert short_names([Path("a/x.jpg"), Path("b/x.jpg"), Path("y.jpg")]) == ["a/x.jpg", "b/x.jpg", "y.jpg"]


# --- whose references count


def reference(name: str, *vector: float, worth: float = 1.0) -> ReferenceFace:
    unit = np.array(vector, np.float32) / np.linalg.norm(vector)
    return ReferenceFace(name, np.zeros((96, 96, 3), np.uint8), unit.astype(np.float32), worth)


def test_a_strangers_references_do_not_count() -> None:
    here = np.array([1, 0, 0], np.float32)
    mine, other = (reference("mine", 1, 0.1, 0),), (reference("other", 0, 1, 0),)
    found = choose(ReferenceSet((other, mine)), here, 0.5, GATE)
    assert [face.name for face in found.used] == ["mine"]
    assert found.refused == {"other": "it does not look like this person"}
    assert choose(ReferenceSet((other,)), here, 0.5, GATE).used == ()


def test_in_a_crowd_a_face_must_be_more_alike() -> None:
    here, found = np.array([1, 0, 0], np.float32), ReferenceSet(((reference("mine", 1, 1, 0),),))
    assert GATE.llr(0.7071, 0.5) == pytest.approx(0.828, abs=1e-3)
    assert choose(found, here, 0.5, GATE, crowd=2).used
    assert not choose(found, here, 0.5, GATE, crowd=3).used


def test_the_best_few_are_used_and_the_others_named() -> None:
    person = tuple(reference(str(i), 1, 0, 0) for i in range(MOST + 2))
    found = choose(ReferenceSet((person,)), np.array([1, 0, 0], np.float32), 0.5, GATE)
    assert [face.name for face in found.used] == ["0", "1", "2", "3", "4"]
    assert set(found.refused) == {"5", "6"}
    assert set(found.refused.values()) == {f"the best {MOST} are used"}


def test_the_gates_ratio_by_hand() -> None:
    gate = Gate(bias=1.0, similarity=2.0, retained=3.0, product=4.0, least=0.0)
    assert gate.llr(0.5, 0.25) == pytest.approx(1 + 2 * 0.5 + 3 * 0.25 + 4 * 0.5 * 0.25)


def test_the_shipped_gate_asks_for_less_likeness_of_a_ruin() -> None:
    gate = Gate.shipped()
    for left in (0.1, 0.5, 0.9):
        assert gate.llr(0.6, left) > gate.llr(0.2, left)
    assert gate.llr(0.3, 0.2) > gate.llr(0.3, 0.8)
    assert gate.llr(0.9, 0.6) > gate.least > gate.llr(0.0, 0.6)


# --- what they do


def test_what_references_did_in_a_line() -> None:
    use = ReferenceUse(("a.jpg",), {"b.jpg": "no face was found", "c.jpg": "no face was found"}, 0.414, 0.587)
    assert use.line == "1 of 3 references used, likeness to them 0.41 → 0.59; not used: b.jpg, c.jpg: no face was found"
    assert use.to_dict()["after"] == 0.587
    assert ReferenceUse(refused={"b.jpg": "no face was found"}).line == (
        "no reference was used (b.jpg: no face was found)"
    )


def test_a_restorer_with_references_has_no_fidelity() -> None:
    assert isinstance(ByReferences(), ReferenceRestorer)
    restorer = ReferencedRestorer(ByReferences(), [reference("a", 1, 0, 0), reference("b", 1, 0, 0)])
    crops = np.full((3, 96, 96, 3), 100, np.uint8)
    assert np.array_equal(restorer.restore(crops, seed=3), crops - 50)
    with pytest.raises(UsageError, match="no fidelity"):
        restorer.restore(crops, fidelity=0.5)


@pytest.fixture
def pipeline(networks: Any, desk: ReferenceDesk, album: Any) -> RestorePipeline:
    return RestorePipeline(album.detector, ByReferences(), references=desk)


def test_only_the_person_of_the_references_is_restored_by_them(pipeline: RestorePipeline, album: Any) -> None:
    group = album.add("group.png", (album.face(30, x=80), RED), (album.face(30, x=220), GREEN))
    her = album.add("her.png", (album.face(), RED))
    plain = pipeline(read(group), RestoreOptions(watermark=False, relight=True))
    found = pipeline(read(group), RestoreOptions(watermark=False, relight=True, references=[her]))  # type: ignore[arg-type]
    red, green = (tuple(int(v) for v in face.face.centre) for face in found.faces)
    assert int(found.image.pixels[red[1], red[0], 0]) < int(plain.image.pixels[red[1], red[0], 0]) - 15
    assert np.array_equal(found.image.pixels[green[1], green[0]], plain.image.pixels[green[1], green[0]])
    assert [face.references.used for face in found.faces if face.references] == [("her.png",), ()]
    assert "it does not look like this person" in found.faces[1].warnings[-1]
    assert "face 0: 1 of 1 reference used, likeness to them 1.00 → 1.00" in found.summary
    report = found.report()
    assert report["faces"][0]["references"]["used"] == ["her.png"]
    assert plain.report()["faces"][0]["references"] is None


def test_the_seed_reaches_the_restorer(pipeline: RestorePipeline, album: Any) -> None:
    photo, her = (album.add(name, (album.face(), RED)) for name in ("photo.png", "her.png"))
    pipeline(read(photo), RestoreOptions(references=(str(her),), seed=5))
    assert pipeline.restorer.seeds == [5]  # type: ignore[attr-defined]


def test_notes_about_references_are_in_the_report(pipeline: RestorePipeline, album: Any) -> None:
    photo = album.add("photo.png", (album.face(30), RED))
    two = album.add("two.png", (album.face(44, x=80), RED), (album.face(40, x=220), GREEN))
    found = pipeline(read(photo), RestoreOptions(references=(str(two),)))
    assert "reference two.png shows 2 faces; the largest was taken" in found.report()["notes"]


def test_bad_references_stop_the_work_before_it_begins(pipeline: RestorePipeline, album: Any) -> None:
    photo = album.add("photo.png", (album.face(30), RED))
    with pytest.raises(UsageError, match="no face was found"):
        pipeline(read(photo), RestoreOptions(references=(str(album.add("empty.png")),)))


def test_a_restorer_that_takes_none_says_which_does(album: Any, desk: ReferenceDesk, fakes: SimpleNamespace) -> None:
    photo = album.add("photo.png", (album.face(30), RED))
    other = RestorePipeline(album.detector, fakes.Restorer(), references=desk)
    with pytest.raises(UsageError, match="restores without references; add --model refldm"):
        other(read(photo), RestoreOptions(references=(str(photo),)))


def test_videos_are_refused(pipeline: RestorePipeline) -> None:
    from facewright.pipelines.restore_video import video_stage

    with pytest.raises(UsageError, match="references work for photos"):
        video_stage(pipeline, RestoreOptions(references=("her.jpg",)))


def test_refldm_takes_references() -> None:
    import torch

    from facewright.systems.restore.refldm.network import RefLDM

    with torch.device("meta"):
        assert isinstance(RefLDM(), ReferenceRestorer)


def test_one_path_or_a_list_of_paths_are_options_all_the_same() -> None:
    assert RestoreOptions(references="her.jpg").references == ("her.jpg",)  # type: ignore[arg-type]
    assert RestoreOptions(references=[Path("a.jpg"), "b.jpg"]).references == ("a.jpg", "b.jpg")  # type: ignore[arg-type]
