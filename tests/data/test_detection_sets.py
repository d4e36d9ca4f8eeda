"""Readers of detection sets on tiny made folders: what the numbers become, and what is said of damaged files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from facewright.data.detection import BOX, BOX_ONLY, FACE, IGNORED, LABEL, POINTS, POSE
from facewright.data.detection_sets import (
    read_detections,
    read_point_labels,
    read_wider_difficulty,
    read_wider_face,
    read_wider_list,
    write_detections,
)
from facewright.errors import FacewrightError, UsageError
from facewright.metrics.detection import Detections, wider_average_precision

if TYPE_CHECKING:
    from pathlib import Path

LISTING = """0--Parade/first.jpg
2
10 20 30 40 0 0 1 0 2 1
1 2 3 4 2 1 0 1 0 0
1--Handshaking/empty.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/last.jpg
1
5 5 10 12 1 0 0 0 0 0
"""
NAMES = ("0--Parade/first.jpg", "1--Handshaking/empty.jpg", "1--Handshaking/last.jpg")


def put_pictures(folder: Path) -> None:
    for i, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((60, 80, 3), (0, 0, 50 * i + 100), np.uint8))


@pytest.fixture
def wider(tmp_path: Path) -> Path:
    put_pictures(tmp_path / "WIDER_val" / "images")
    listing = tmp_path / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    listing.parent.mkdir()
    listing.write_text(LISTING)
    return tmp_path


def test_wider_boxes_flags_and_pictures(wider: Path) -> None:
    first, empty, last = read_wider_face(wider, "val")
    assert [p.event for p in (first, empty, last)] == ["0--Parade", "1--Handshaking", "1--Handshaking"]
    assert first.boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert first.invalid.tolist() == [False, True]
    assert (first.blur.tolist(), first.occlusion.tolist()) == ([0, 2], [2, 0])
    assert (first.expression.tolist(), first.illumination.tolist(), first.pose.tolist()) == ([0, 1], [1, 0], [1, 0])
    assert empty.boxes.shape == (0, 4)
    assert last.boxes.tolist() == [[5, 5, 15, 17]]
    pixels = last.read()
    assert pixels.shape == (60, 80, 3)
    assert pixels[30, 40, 0] == pytest.approx(200, abs=3)  # red comes first
    assert pixels[30, 40, 2] < 10


def test_wider_faces_become_labels_and_things_to_measure(wider: Path) -> None:
    first, empty, _ = read_wider_face(wider, "val")
    rows = first.rows()
    assert rows[:, BOX].tolist() == first.boxes.tolist()
    assert rows[:, LABEL].tolist() == [BOX_ONLY, IGNORED]
    assert first.ground_truth().spared.tolist() == [False, True]
    assert empty.rows().shape == (0, 18)


def test_wider_list_without_the_line_of_zeros(wider: Path) -> None:
    listing = wider / "short.txt"
    listing.write_text(LISTING.replace("0 0 0 0 0 0 0 0 0 0\n", "").replace("\n", "\r\n"))
    pictures = read_wider_list(listing, wider / "WIDER_val" / "images")
    assert [len(p.boxes) for p in pictures] == [2, 0, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("first.jpg", "gone.jpg", "line 1: there is no picture"),
        ("1\n5 5", "2\n5 5", "line 8: .* has 2 faces, but the file ends"),
        ("2\n10", "many\n10", "line 1: the number of faces must follow"),
        ("10 20 30 40 0", "10 20 30 40", "line 3: expected 10 numbers"),
        ("10 20 30 40 0", "10 20 x 40 0", "line 3: expected numbers"),
        ("10 20 30 40 0", "10 20 30 40 3", "line 3: flag 1 is a number below 3"),
    ],
)
def test_damaged_wider_lists_name_the_line(wider: Path, old: str, new: str, message: str) -> None:
    listing = wider / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    listing.write_text(LISTING.replace(old, new, 1))
    with pytest.raises(FacewrightError, match=message):
        read_wider_face(wider, "val")


def test_missing_or_empty_files_are_said(wider: Path) -> None:
    with pytest.raises(FacewrightError, match="cannot be read"):
        read_wider_face(wider, "train")
    (wider / "nothing.txt").write_text("\n")
    with pytest.raises(FacewrightError, match="lists no pictures"):
        read_wider_list(wider / "nothing.txt", wider)
    picture = read_wider_face(wider, "val")[0]
    picture.path.write_bytes(b"no picture")
    with pytest.raises(FacewrightError, match="cannot be decoded"):
        picture.read()


def cells(items: list[np.ndarray | str]) -> np.ndarray:
    column = np.empty((len(items), 1), object)
    for i, item in enumerate(items):
        column[i, 0] = item
    return column


def put_difficulty(folder: Path, faces: list[list[int]]) -> None:
    """A list as the evaluation tools have it: per event a column of names, and of indices from 1."""
    one, two, three = (np.array(f, np.uint8).reshape(-1, 1) for f in faces)
    savemat(
        folder / "wider_hard_val.mat",
        {
            "file_list": cells([cells(["first"]), cells(["empty", "last"])]),
            "gt_list": cells([cells([one]), cells([two, three])]),
        },
    )


def test_difficulties_are_read_from_the_published_tools(wider: Path) -> None:
    pictures = read_wider_face(wider, "val")
    put_difficulty(wider, [[2, 1], [], [1]])
    kept = read_wider_difficulty(wider, "hard", pictures)
    assert [k.tolist() for k in kept] == [[1, 0], [], [0]]
    found = [Detections(p.boxes, np.arange(len(p.boxes)) + 1.0) for p in pictures]  # type: ignore[arg-type]
    assert wider_average_precision(found, [p.ground_truth() for p in pictures], kept) == 1
    put_difficulty(wider, [[3], [], [1]])
    with pytest.raises(FacewrightError, match=r"a face that first\.jpg does not have"):
        read_wider_difficulty(wider, "hard", pictures)
    with pytest.raises(FacewrightError, match=r"wider_easy_val\.mat is not"):
        read_wider_difficulty(wider, "easy", pictures)
    with pytest.raises(UsageError, match="choose easy, medium or hard"):
        read_wider_difficulty(wider, "simple", pictures)  # type: ignore[arg-type]


def test_points_and_pose_of_text_labels(tmp_path: Path) -> None:
    put_pictures(tmp_path / "images")
    points = " ".join(f"{x}.5 {x + 1} 0.0" for x in (10, 20, 15, 11, 19))
    nothing = " ".join(["-1 -1 -1"] * 5)
    (tmp_path / "label.txt").write_text(
        f"# {NAMES[0]}\n1 2 30 40 {points} 0.9 12 -20 5\n3 4 5 6 {nothing} 0.2\n# {NAMES[1]}\n# {NAMES[2]}\n7 8 9 10\n"
    )
    first, empty, last = read_point_labels(tmp_path / "label.txt")
    assert first.boxes.tolist() == [[1, 2, 31, 42], [3, 4, 8, 10]]
    assert first.points[0].tolist() == [[10.5, 11], [20.5, 21], [15.5, 16], [11.5, 12], [19.5, 20]]
    assert np.isnan(first.points[1]).all()
    assert first.pose[0].tolist() == [20, 12, 5]  # the nose of yaw -20 points to the picture's right here
    assert empty.boxes.shape == (0, 4)
    rows = first.rows()
    assert rows[:, LABEL].tolist() == [FACE, BOX_ONLY]
    assert rows[0, POINTS].tolist() == first.points[0].ravel().tolist()
    assert rows[0, POSE].tolist() == [20, 12, 5]
    assert np.isfinite(rows).all()
    assert last.rows()[0, LABEL] == BOX_ONLY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 4\n", "line 1: a face comes before"),
        (f"# {NAMES[0]}\n1 2 3\n", "line 2: a face has 4, 19, 20 or 23 numbers, this one 3"),
        ("# nobody.jpg\n", "line 1: there is no picture"),
        ("", "lists no pictures"),
    ],
)
def test_damaged_text_labels_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    put_pictures(tmp_path / "images")
    (tmp_path / "label.txt").write_text(text)
    with pytest.raises(FacewrightError, match=message):
        read_point_labels(tmp_path / "label.txt")


def test_detections_round_trip_in_the_tools_layout(wider: Path) -> None:
    pictures = read_wider_face(wider, "val")
    found = [Detections(np.array([[1, 2, 4, 6.5], [0, 0, 9, 9]]), np.array([0.25, 0.5])), Detections(), Detections()]
    write_detections(wider / "out", pictures, found)
    text = (wider / "out" / "0--Parade" / "first.txt").read_text()
    assert text == "first\n2\n0 0 9 9 0.5\n1 2 3 4.5 0.25\n"
    again = read_detections(wider / "out", pictures)
    assert again[0].boxes.tolist() == [[0, 0, 9, 9], [1, 2, 4, 6.5]]
    assert again[1].boxes.shape == (0, 4)
    (wider / "out" / "0--Parade" / "first.txt").write_text("first\n3\n0 0 9 9 0.5\n")
    with pytest.raises(FacewrightError, match="the number of detections"):
        read_detections(wider / "out", pictures)
