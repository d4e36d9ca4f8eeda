"""Rendered heads among the faces that detectors learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.data import large_pose, parsing, renders
from facewright.data.detection import BOX, FACE, LABEL, POSE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight renders instead of the full number, kept away from the cache of prepared data."""
    monkeypatch.setattr(parsing, "RENDERS", {"val": (22, 8)})
    monkeypatch.setattr(renders, "data_cache", lambda: tmp_path)
    return shared_dir / "data"


@pytest.mark.shared
def test_rendered_faces_are_labelled_like_the_collections(root: Path) -> None:
    faces = large_pose.LargePoseFaces("val", root, rendered=1.0)
    rng = np.random.default_rng(0)
    drawn = [faces.any(rng) for _ in range(60)]
    yaws = np.array([abs(face.pose[0]) for face in drawn])
    known = [abs(faces.shards.truth(i)["pose"]["yaw"]) for i in range(8)]
    ranges = np.unique(np.digitize(known, large_pose.YAW_EDGES))
    shares = np.bincount(np.digitize(yaws, large_pose.YAW_EDGES), minlength=3)[ranges] / len(drawn)
    np.testing.assert_allclose(shares, 1 / len(ranges), atol=0.2)
    assert {face.image.shape for face in drawn} == {(parsing.RENDER_SIZE, parsing.RENDER_SIZE, 3)}
    assert {bool(face.pose[0] > 0) for face in drawn} == {True, False}
    for face in drawn:
        assert (face.points >= face.box[:2] - 8).all()
        assert (face.points <= face.box[2:] + 8).all()
        # the nose points where the head is turned to
        between_eyes = face.points[:2].mean(0)
        if abs(face.pose[0]) > 20 and abs(face.pose[2]) < 15:
            assert np.sign(face.points[2, 0] - between_eyes[0]) == np.sign(face.pose[0])


@pytest.mark.shared
def test_share_of_rendered_faces(root: Path) -> None:
    side = parsing.RENDER_SIZE
    for share in (0.0, 0.4):
        faces = large_pose.LargePoseFaces("val", root, rendered=share)
        rng = np.random.default_rng(1)
        rendered = np.mean([faces.any(rng).image.shape[0] == side for _ in range(200)])
        assert rendered == pytest.approx(share, abs=0.1 * (share > 0))


@pytest.mark.shared
def test_scenes_and_crops_repeat(root: Path) -> None:
    scenes = [large_pose.LargePoseScenes("val", root, seed=4, size=192, smallest=8, rendered=0.5) for _ in range(2)]
    for index in range(4):
        (image, rows), (again, same) = (s.scene(index) for s in scenes)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(rows, same)
    rows = np.concatenate([scenes[0].scene(i)[1] for i in range(40)])
    rows = rows[rows[:, LABEL] == FACE]
    sides = np.sqrt((rows[:, BOX][:, 2:] - rows[:, BOX][:, :2]).prod(1))
    assert 7.5 < sides.min() < 10
    assert np.abs(rows[:, POSE][:, 0]).max() > 40
    crops = large_pose.LargePoseCrops("val", root, seed=4, negatives=0.0, rendered=1.0)
    item = crops[3]
    np.testing.assert_array_equal(item["image"], crops[3]["image"])
    assert item["face"] == 1
