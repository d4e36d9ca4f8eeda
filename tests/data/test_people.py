"""Making the split: who is joined, on which side a group comes, and finding and embedding the faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from skimage import data

from facewright.data import people
from facewright.data.people import (
    CROWD,
    FoundFaces,
    PeopleOf,
    PictureSet,
    alike,
    crossings,
    divide,
    find_faces,
    groups_of,
    person_numbers,
    sides_before,
    split_people,
    summary,
)
from facewright.data.split import Place, SplitTable, is_validation
from facewright.errors import FacewrightError

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = SplitTable({}, frozenset())
VAL, VAL_TOO, VAL_THREE, TRAIN = "person 1", "person 4", "person 8", "person 2"  # by the hash of the name
VAL_NAME = next(f"{i}" for i in range(100) if is_validation(f"scut/{i}"))


def on_circle(*angles: float) -> np.ndarray:
    """Embeddings on a circle: the cosine of two is that of the difference of their angles."""
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def of(names: list[str], *angles: float) -> PeopleOf:
    return PeopleOf(np.array(names), on_circle(*angles))


def labelled(names: list[str], subjects: list[str], *angles: float) -> PeopleOf:
    """Faces of LFW or UTKFace; the recogniser sees them all at −1.5 rad, their own embeddings say who they are."""
    seen = on_circle(*([-1.5] * len(names)))
    return PeopleOf(np.array(names), seen, on_circle(*angles), np.array(subjects))


def side(table: SplitTable, name: str, picture: str) -> str:
    return table.sets[name][picture].side


@pytest.mark.parametrize("block", [1, 2, 100])
def test_groups_are_joined_through_others(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "_BLOCK", block)
    # 0.9 rad apart is a cosine of 0.62; the ends of a chain of three are not alike, yet one person
    groups = groups_of(of(["a", "b", "c", "d"], 0.0, 3.0, 0.9, 1.8))
    assert groups[0] == groups[2] == groups[3]
    assert groups[1] != groups[0]


def test_between_labelled_collections_their_own_embeddings_decide() -> None:
    lfw, utkface = labelled(["x"], [VAL], 0.0), labelled(["y", "z"], ["y", "z"], 0.1, 2.0)
    assert alike(lfw, utkface).tolist() == [[0, 0]]
    assert alike(of(["w"], -1.4), utkface).tolist() == [[0, 0], [0, 1]]


def test_groups_keep_together_and_one_in_ten_validates() -> None:
    names = [f"set/{i:04}.jpg" for i in range(2000)]
    alone, nobody, new = np.arange(2000), np.zeros(2000, bool), np.full(2000, "", "<U7")
    sides = divide(names, alone, new, nobody)
    assert 0.07 < sides.count("val") / 2000 < 0.13
    for seen, first in ((nobody, "val"), (np.arange(2000) == 1, "")):
        before = new.copy()
        before[0] = first
        pairs = divide(names, alone // 2, before, seen)
        assert pairs[::2] == pairs[1::2]
    both = np.array(["val", "val"])
    assert divide(names[:2], np.zeros(2, int), both, np.array([False, True])) == ["train", "train"]
    assert divide(names[:2], np.zeros(2, int), np.array(["", "val"]), nobody[:2]) == ["val", "val"]


def test_a_crowd_is_no_person_and_trains() -> None:
    count = CROWD + 1
    names, one, nobody = [f"set/{i:04}.jpg" for i in range(count)], np.zeros(count, int), np.zeros(count, bool)
    assert set(divide(names, one, np.full(count, "val"), nobody)) == {"train"}
    assert not person_numbers(names, one).any()


def test_people_of_several_pictures_are_numbered() -> None:
    assert person_numbers(["d", "c", "b", "a"], np.array([0, 1, 0, 1])).tolist() == [2, 1, 2, 1]
    assert person_numbers(["a", "b"], np.array([0, 1])).tolist() == [0, 0]


def test_the_first_splits_of_the_collections_were_by_name() -> None:
    given = labelled(["a.jpg", "b.jpg"], [VAL, TRAIN], 0.0, 1.0)
    for name in ("lfw", "utkface"):
        assert sides_before(NOTHING, name, given).tolist() == ["val", "train"]
    assert sides_before(NOTHING, "scut", of(["a"], 0.0)).tolist() == [""]
    former = SplitTable({"utkface": {"a.jpg": Place("train", 0), "b.jpg": Place("dropped", 0)}}, frozenset())
    assert sides_before(former, "utkface", given).tolist() == ["train", ""]


def split_of(lfw: PeopleOf, **sets: PeopleOf) -> SplitTable:
    return split_people({"lfw": lfw, **sets}, NOTHING)


FAR = labelled(["l"], [TRAIN], 3.0)


def test_who_was_trained_on_or_is_alike_to_a_training_person_trains_with_the_group() -> None:
    table = split_of(FAR, utkface=labelled(["a", "b", "c", "d"], [VAL, VAL_TOO, VAL_THREE, TRAIN], 0.0, 0.5, 3.1, -2.0))
    assert [side(table, "utkface", name) for name in "abcd"] == ["val", "val", "train", "train"]
    joined = split_of(FAR, utkface=labelled(["a", "b", "d"], [VAL, VAL_TOO, TRAIN], 0.0, 0.8, 1.6))
    assert {place.side for place in joined.sets["utkface"].values()} == {"train"}


def test_overlaps_with_validation_people_placed_before_are_dropped() -> None:
    lfw = labelled(["l"], [VAL], 0.0)
    table = split_of(lfw, utkface=labelled(["a", "b", "c"], [VAL, VAL_TOO, VAL_THREE], 0.5, 1.3, 3.0))
    assert table.lfw_dropped == frozenset()
    assert side(table, "utkface", "a") == "dropped"
    assert side(table, "utkface", "b") == "dropped"  # alike to the other only, and so of one group
    assert side(table, "utkface", "c") == "val"


def test_a_validation_person_whom_training_has_seen_is_dropped() -> None:
    lfw = labelled(["l"], [VAL], 0.0)
    elsewhere = split_of(lfw, utkface=labelled(["a", "d"], [VAL, TRAIN], 0.5, 1.3))
    assert elsewhere.lfw_dropped == {VAL}
    assert {place.side for place in elsewhere.sets["utkface"].values()} == {"train"}
    inside = split_of(labelled(["l", "m"], [VAL, TRAIN], 0.0, 0.5), utkface=labelled(["x"], [VAL], 3.0))
    assert inside.lfw_dropped == {VAL}


def test_new_sets_give_way_to_those_before() -> None:
    """Their faces alike to somebody for validation are dropped, those alike to somebody for training train."""
    utkface = PeopleOf(np.array(["v", "t"]), on_circle(0.0, 3.0), on_circle(0.0, 3.0), np.array([VAL, TRAIN]))
    lfw = PeopleOf(np.array(["l"]), on_circle(1.5), on_circle(1.5), np.array([TRAIN]))
    names = [VAL_NAME, VAL_NAME + "2", VAL_NAME + "3"]
    table = split_people({"lfw": lfw, "utkface": utkface, "scut": of(names, 0.5, 3.2, -1.3)}, NOTHING)
    assert side(table, "utkface", "v") == "val"
    assert [side(table, "scut", name) for name in names[:2]] == ["dropped", "train"]


def test_splitting_again_changes_nothing_and_crosses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return people.unit(rng.standard_normal((count, 5)))

    subjects = np.array([f"person {i // 2}" for i in range(60)])
    files = np.array([f"{i}.jpg" for i in range(80)])
    sets = {
        "lfw": PeopleOf(subjects, some(60), some(60), subjects),
        "utkface": PeopleOf(files, some(80), some(80), files),
        "scut": PeopleOf(files[:50], some(50)),
    }
    monkeypatch.setattr(people, "SAME", 0.9)
    table = split_people(sets, NOTHING)
    again = split_people(sets, table)
    assert not any(crossings(sets, table).values())
    mixed = {
        name: {key: Place("val" if key < "4" else "train", 0) for key in places} for name, places in table.sets.items()
    }
    assert crossings(sets, SplitTable(mixed, frozenset()))["utkface", "scut"] > 0
    assert again == table
    assert len(summary(table)) == 3


class _Detector:
    """Finds a face in every picture that is wider than high."""

    def detect(self, image: np.ndarray) -> list[object]:
        from facewright.face import Face
        from facewright.geometry.templates import template_points

        height, width = image.shape[:2]
        if height > width:
            return []
        points = template_points("ffhq", height).astype(np.float32)
        small = points * 0.5
        return [Face(np.array([0, 0, 9, 9], np.float32), 0.9, p, None) for p in (small, points)]


class _Embedder:
    def embed(self, crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), -1, 3).mean(1)
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def test_the_largest_face_of_every_picture_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "_BATCH", 2)
    folder = tmp_path / "faces" / "sub"
    folder.mkdir(parents=True)
    image = cv2.resize(data.astronaut(), (80, 64))
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    cv2.imwrite(str(folder / "none.png"), image.transpose(1, 0, 2))
    heard: list[str] = []
    faces = find_faces(PictureSet("faces", ("**/*.png",)), tmp_path, _Detector(), _Embedder(), log=heard.append)  # type: ignore[arg-type]
    assert list(faces.names) == ["sub/0.png", "sub/1.png", "sub/2.png"]
    assert any("none.png" in line for line in heard)
    assert faces.embeddings.shape == (3, 3)
    assert np.ptp(faces.points5[0, :, 0]) == pytest.approx(64 * (318.9 - 192.98) / 512, abs=0.5)
    faces.save(tmp_path / "found.npz")
    again = FoundFaces.load(tmp_path / "found.npz")
    assert np.array_equal(again.points5, faces.points5)
    assert np.allclose(again.embeddings, faces.embeddings, atol=1e-3)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(FacewrightError, match=r"x\.npz"):
        FoundFaces.load(tmp_path / "x.npz")
    with pytest.raises(FacewrightError, match="no face in any picture"):
        find_faces(PictureSet("empty", ("*",)), tmp_path, _Detector(), _Embedder(), log=lambda _: None)  # type: ignore[arg-type]
