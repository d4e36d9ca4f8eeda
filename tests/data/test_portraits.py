"""Whole pictures and polar views for parsers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from facewright.data import portraits
from facewright.errors import UsageError
from facewright.systems.parse.taxonomy import EASYPORTRAIT_9, IBUG_11, IGNORED

if TYPE_CHECKING:
    from pathlib import Path

SKIN, HAIR = IBUG_11.index("skin"), IBUG_11.index("hair")
LEFT, RIGHT = IBUG_11.index("l_eye"), IBUG_11.index("r_eye")


def write_pair(image: Path, labels: Path, values: np.ndarray) -> None:
    """A label map, and a picture that shows ten times the label."""
    for path, array in ((image, np.repeat(10 * values[..., None], 3, 2)), (labels, values)):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), array.astype(np.uint8))


@pytest.fixture
def selfies(tmp_path: Path) -> Path:
    values = np.zeros((40, 20), np.uint8)
    values[10:30, 5:15] = EASYPORTRAIT_9.index("skin")
    write_pair(tmp_path / "images/train/a.jpg", tmp_path / "annotations/train/a.png", values)
    return tmp_path


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    values = np.zeros((80, 100), np.uint8)
    values[5:60, 30:70] = HAIR
    values[20:60, 34:66] = SKIN
    values[30:34, 40:46], values[30:34, 54:60] = RIGHT, LEFT  # the subject's right eye lies on the picture's left
    write_pair(tmp_path / "train/a.jpg", tmp_path / "train/a.png", values)
    return tmp_path


def test_portraits_are_padded_to_squares(selfies: Path) -> None:
    item = portraits.Portraits("train", size=80, folder=str(selfies), distort=False)[0]
    image, labels = item["image"].numpy(), item["labels"].numpy()
    assert image.shape == (80, 80, 3)
    assert (labels[:, :20] == IGNORED).all()
    assert (labels[:, 60:] == IGNORED).all()
    assert not image[:, :19].any()
    assert labels[40, 40] == EASYPORTRAIT_9.index("skin")
    assert image[40, 40, 0] == pytest.approx(10 * EASYPORTRAIT_9.index("skin"), abs=2)


def test_distortion_is_seeded_and_keeps_labels(selfies: Path) -> None:
    data = portraits.Portraits("train", seed=3, size=64, folder=str(selfies))
    plain = portraits.Portraits("train", seed=3, size=64, folder=str(selfies), distort=False)
    changed = 0
    for index in range(12):
        torch.testing.assert_close(data[index]["image"], data[index]["image"])
        torch.testing.assert_close(data[index]["labels"], plain[index]["labels"])
        changed += int((data[index]["image"] != plain[index]["image"]).any())
    assert changed >= 8


def test_distortion_has_the_published_reach() -> None:
    image, rng = np.full((4, 4, 3), 128, np.uint8), np.random.default_rng(0)
    values = np.array([portraits.distorted(image, rng)[0, 0, 0] for _ in range(1500)])
    assert values.max() <= 144
    assert values.min() >= (128 - 16) // 2
    assert (values == 128).mean() == pytest.approx(0.27, abs=0.04)


def test_box_goes_around_the_face_without_hair(masks: Path) -> None:
    labels = cv2.imread(str(masks / "train/a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(portraits.face_box(labels), [34, 20, 66, 60])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no face"):
        portraits.face_box(np.full((8, 8), HAIR, np.uint8))


def test_polar_view_starts_in_the_middle_and_turns_by_rows(masks: Path) -> None:
    labels = cv2.imread(str(masks / "train/a.png"), cv2.IMREAD_UNCHANGED)
    image = np.repeat(10 * labels[..., None], 3, 2)
    box = np.array([34.0, 20, 66, 60])
    view, seen = portraits.polar_pair(image, labels, box, 64)  # type: ignore[arg-type]
    assert (seen[:, 0] == SKIN).all()
    assert (seen == IGNORED).any()
    assert not view[seen == IGNORED].any()
    quarter, turned = portraits.polar_pair(image, labels, box, 64, angle=np.pi / 2)  # type: ignore[arg-type]
    assert quarter.shape == (64, 64, 3)
    # a quarter of a turn is a quarter of the rows, but for the axes of the box's ellipse
    alike = [(turned.numpy() == np.roll(seen.numpy(), shift, 0)).mean() for shift in (16, -16, 0)]
    assert max(alike[:2]) > 0.85 > alike[2]


def test_mirrored_faces_swap_eyes(masks: Path) -> None:
    data = portraits.PolarFaces("train", seed=1, size=64, folder=str(masks))
    image = np.zeros((4, 8, 3), np.uint8)
    labels = np.zeros((4, 8), np.uint8)
    labels[:, 1], labels[:, 6] = RIGHT, LEFT
    _, mirrored = portraits.mirrored_pair(image, labels, rendered=False)
    np.testing.assert_array_equal(mirrored, labels)
    first, again = data[5], data[5]
    for key in first:
        torch.testing.assert_close(first[key], again[key])
    plain = portraits.PolarFaces("train", seed=1, size=64, folder=str(masks), augment=False)[0]
    torch.testing.assert_close(plain["box"], torch.tensor([34.0, 20, 66, 60]))
