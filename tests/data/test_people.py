"""One split for all sets: who is joined, on which side a group comes, and what the shipped table holds."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from skimage import data

from facewright.data import people
from facewright.data.people import (
    SPLIT_FILE,
    FoundFaces,
    PictureSet,
    divide,
    find_faces,
    groups_of,
    matched_sides,
    pictures_of,
    split_people,
    write_split,
)
from facewright.errors import FacewrightError

if TYPE_CHECKING:
    from pathlib import Path


def unit(*angles: float) -> np.ndarray:
    """Embeddings on a circle: the cosine of two is that of the difference of their angles."""
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def found(names: list[str], embeddings: np.ndarray, sides: list[str] | None = None) -> FoundFaces:
    points = np.zeros((len(names), 5, 2), np.float32)
    return FoundFaces(np.array(names), points, embeddings, np.array(sides or [""] * len(names)))


@pytest.mark.parametrize("block", [1, 2, 100])
def test_groups_are_joined_through_others(block: int) -> None:
    # 0.9 rad apart is a cosine of 0.62; the ends of a chain of three are not alike, yet one person
    groups = groups_of(unit(0.0, 3.0, 0.9, 1.8), block=block)
    assert groups[0] == groups[2] == groups[3]
    assert groups[1] != groups[0]


def test_labelled_people_decide_for_their_group() -> None:
    labelled = found(["t", "v"], unit(0.0, 2.0), ["train", "val"])
    assert matched_sides(unit(0.1, 2.1, 4.0), labelled) == [{"train"}, {"val"}, set()]
    sides = divide(
        ["a", "b", "c", "d", "e"], np.array([0, 0, 1, 2, 2]), [{"train"}, set(), {"val"}, {"train"}, {"val"}]
    )
    assert sides == ["train", "train", "val", "dropped", "dropped"]


def test_unknown_groups_are_divided_one_in_ten_and_always_the_same() -> None:
    names = [f"set/{i}.jpg" for i in range(2000)]
    sides = divide(names, np.arange(2000), [set()] * 2000)
    assert sides == divide(names, np.arange(2000), [set()] * 2000)
    assert 0.07 < sides.count("val") / 2000 < 0.13
    assert "dropped" not in sides


def test_split_leaves_the_labelled_out_and_keeps_people_whole() -> None:
    table = split_people(
        {
            "celebahq": found(["1.jpg", "2.jpg"], unit(0.0, 3.0)),
            "ciplab": found(["a.jpg", "b.jpg"], unit(0.2, 3.2)),
            "lfw": found(["x"], unit(0.1), ["val"]),
        }
    )
    assert set(table) == {"celebahq", "ciplab"}
    assert table["celebahq"]["val"] == ["1.jpg"]
    assert table["ciplab"]["val"] == ["a.jpg"]
    other = next(side for side, files in table["celebahq"].items() if "2.jpg" in files)
    assert "b.jpg" in table["ciplab"][other]


def test_written_split_has_the_same_bytes(tmp_path: Path) -> None:
    table = {"b": {"val": ["2"]}, "a": {"train": ["1"]}}
    write_split(table, tmp_path / "one.gz")
    write_split(dict(reversed(list(table.items()))), tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "one.gz").read_bytes()))["sets"] == table


def test_shipped_split_has_nobody_on_two_sides() -> None:
    assert SPLIT_FILE.is_file()
    for name in ("celebahq", "ciplab"):
        train, val = set(pictures_of(name, "train")), set(pictures_of(name, "val"))
        assert len(train) > 600
        assert len(val) > 50
        assert not train & val
    with pytest.raises(FacewrightError, match="no split of 'nothing'"):
        pictures_of("nothing", "val")


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
