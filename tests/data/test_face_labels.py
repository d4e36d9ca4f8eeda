"""Attributes of LFW, ages of UTKFace and FG-NET, expressions of RAF-DB: readers, crops, and labels that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.data.actions import read_rafdb, units_of_truth
from facewright.data.ages import labels_in_crop, read_fgnet
from facewright.data.attributes import around, placed, read_lfwa, teaches_machines
from facewright.data.crops import Variation
from facewright.errors import FacewrightError
from facewright.geometry.crop import CropSpec
from facewright.geometry.similarity import transform_points
from facewright.geometry.templates import template_points
from facewright.systems.attributes.lnet_anet.network import ATTRIBUTES

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


def lfwa(path: Path, rows: list[str], names: tuple[str, ...] = ATTRIBUTES, count: int | None = None) -> Path:
    path.write_text("\n".join([str(len(rows) if count is None else count), " ".join(names), *rows]) + "\n")
    return path


def test_lfwa_labels(tmp_path: Path) -> None:
    signs = [1 if i % 3 else -1 for i in range(40)]
    row = f"Ann_Lee_0001.jpg {' '.join(f'{s:2d}' for s in signs)}"
    labels = read_lfwa(lfwa(tmp_path / "list.txt", [row]))
    assert labels["Ann_Lee_0001.jpg"].tolist() == signs
    for damage, match in (
        ({"rows": [row + " 1"]}, "40 attributes"),
        ({"rows": [row.replace("-1", " 0")]}, "other than 1 and -1"),
        ({"rows": [row], "count": 2}, "40 attributes of 2"),
        ({"rows": [row], "names": ATTRIBUTES[::-1]}, "40 attributes"),
        ({"rows": ["Ann_Lee_0001.jpg one"]}, "not the list"),
    ):
        with pytest.raises(FacewrightError, match=match):
            read_lfwa(lfwa(tmp_path / "bad.txt", **damage))
    with pytest.raises(FacewrightError, match="not the list"):
        read_lfwa(tmp_path / "none.txt")


def test_one_in_eight_people_teaches_machines() -> None:
    share = np.mean([teaches_machines(f"Person_{i}") for i in range(4000)])
    assert share == pytest.approx(1 / 8, abs=0.02)


def test_fgnet_names_tell_person_and_age(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("002A31.JPG", "001A08b.JPG", "001A00.jpg"):
        (tmp_path / "images" / name).touch()
    found = read_fgnet(tmp_path)
    assert [(photo.person, photo.age) for photo in found] == [(1, 0), (1, 8), (2, 31)]
    (tmp_path / "images/portrait.jpg").touch()
    with pytest.raises(FacewrightError, match=r"portrait\.jpg is not named"):
        read_fgnet(tmp_path)
    with pytest.raises(FacewrightError, match="holds no FG-NET"):
        read_fgnet(tmp_path / "images")


def test_rafdb_labels_count_from_one(tmp_path: Path) -> None:
    (tmp_path / "train_labels.csv").write_text("image,label\na.jpg,4\nb.jpg,7\n")
    found = read_rafdb(tmp_path)
    assert found == {"aligned/train/train_images/a.jpg": 3, "aligned/train/train_images/b.jpg": 6}
    for text in ("image,label\na.jpg,8\n", "image,label\n", "name,label\na.jpg,1\n", "image,label\na.jpg,happy\n"):
        (tmp_path / "train_labels.csv").write_text(text)
        with pytest.raises(FacewrightError, match=r"RAF-DB|labels other"):
            read_rafdb(tmp_path)


def test_units_of_a_rendered_face() -> None:
    truth = {
        "action_units": {"AU12": 4.0, "AU4": 1.0, "AU45": 5.0},
        "mouth_opening": 0.2,
        "eye_opening": [0.02, 0.05],
    }
    labels, intensity = units_of_truth(truth, ("AU1", "AU4", "AU12", "AU25", "AU43"))
    assert labels.tolist() == [-1, 0, 1, 1, 1]
    np.testing.assert_allclose(intensity, [0, 1, 4, 5, 5])
    truth |= {"mouth_opening": 0.0, "eye_opening": [0.3, 0.02]}  # one eye alone is a wink
    assert units_of_truth(truth, ("AU25", "AU43"))[0].tolist() == [-1, -1]


def test_exact_crops_follow_the_points_and_varied_ones_nearly(fakes: SimpleNamespace) -> None:
    photo = fakes.textured(120, 140)
    spec = CropSpec.aligned(48)
    points = template_points("ffhq", 80) + np.array([30, 20])
    image, matrix, mirrored = Variation(augment=False).crop(photo, points, spec, np.random.default_rng(0))
    assert (image.shape, mirrored) == ((48, 48, 3), False)
    np.testing.assert_allclose(transform_points(matrix, points), template_points("ffhq", 48), atol=1e-6)
    worn, same, _ = Variation(augment=False, damage="severe").crop(photo, points, spec, np.random.default_rng(0))
    assert np.array_equal(same, matrix)
    assert np.abs(worn.astype(int) - image).mean() > 3
    variation = Variation({"vqfr": 1.0})
    first, moved, _ = variation.crop(photo, points, spec, np.random.default_rng(3))
    again, _, _ = variation.crop(photo, points, spec, np.random.default_rng(3))
    assert np.array_equal(first, again)
    off = transform_points(moved, points) - template_points("ffhq", 48)
    assert 0.05 < np.abs(off).max() < 10
    sides = {variation.crop(photo, points, spec, np.random.default_rng(seed))[2] for seed in range(12)}
    assert sides == {True, False}


def test_coarse_labels_land_where_they_belong() -> None:
    """Labels of 8 x 8 squares of a photo of 64 px, seen through a crop that is shifted by 16 px and half as large."""
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:] = 5
    matrix = np.array([[0.5, 0, -8], [0, 0.5, 0]])
    seen = labels_in_crop(labels, (64, 64, 3), matrix, 32)
    assert (seen[2:28, 2:6] == 0).all()  # photo columns 20 to 30
    assert (seen[2:28, 10:22] == 5).all()  # photo columns 36 to 60
    assert (seen[:, 26:] == 255).all()  # beyond the photo


def test_heads_are_placed_inside_scenes(fakes: SimpleNamespace) -> None:
    photo = np.full((250, 250, 3), 200, np.uint8)
    points = template_points("ffhq", 170) + 40
    background = np.zeros((180, 240, 3), np.uint8)
    boxes = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scene, box = placed(photo, points, background, 160, rng)
        assert scene.shape == (160, 160, 3)
        middle = (box[:2] + box[2:]) / 2
        assert scene[int(middle[1]), int(middle[0])].min() > 190
        assert (scene[[0, 0, -1, -1], [0, -1, 0, -1]] < 60).sum() >= 6  # most corners show the background
        boxes.append(box)
        head = around(scene, box, 64, rng)
        assert head.shape == (64, 64, 3)
        assert head[16:48, 16:48].mean() > 80
    assert np.ptp(np.array(boxes)[:, 0]) > 40
