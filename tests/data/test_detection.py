"""Composed scenes: labels follow their pixels, splits stay apart, an index means one scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.data import detection
from facewright.data.detection import BOX, COLUMNS, FACE, IGNORED, LABEL, PADDING, POINTS, POSE, LabelledFace, Placement
from facewright.face import Face, Pose

if TYPE_CHECKING:
    from pathlib import Path

SPOTS = np.array([[30.0, 40], [60, 40], [46, 55], [34, 70], [58, 70]])


def spotted_face() -> LabelledFace:
    """A dark picture with a bright spot of its own brightness on every landmark."""
    image = np.zeros((100, 90, 3), np.uint8)
    for i, (x, y) in enumerate(SPOTS.astype(int)):
        image[y - 2 : y + 3, x - 2 : x + 3] = 100 + 30 * i
    return LabelledFace(image, np.array([20.0, 20, 70, 90]), SPOTS, np.array([20.0, 5.0, -10.0]))


def spots_in(canvas: np.ndarray, points: np.ndarray) -> list[int]:
    return [int(canvas[round(y), round(x), 0]) for x, y in points]


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (1.7, 25.0), (0.9, -70.0), (0.5, 15.0)])
def test_points_stay_on_their_pixels(scale: float, angle: float) -> None:
    face = spotted_face()
    placement = Placement((110.0, 95.0), scale, angle)
    canvas = np.zeros((200, 200, 3), np.uint8)
    detection.draw(canvas, face.image, placement.matrix(detection.box_centre(face.box)), None)
    row = detection.placed_row(face, placement)
    expected = [100, 130, 160, 190, 220]
    assert spots_in(canvas, row[POINTS].reshape(5, 2)) == pytest.approx(expected, abs=12)
    assert row[POSE].tolist() == [20, 5, -10 + angle]
    assert (row[BOX][:2] + row[BOX][2:]).tolist() == pytest.approx([220, 190])


def test_box_of_a_turned_face_is_that_of_its_ellipse() -> None:
    face = spotted_face()
    quarter = detection.placed_row(face, Placement((0.0, 0.0), 1.0, 90.0))
    assert quarter[BOX].tolist() == pytest.approx([-35, -25, 35, 25], abs=1e-4)
    slanted = detection.placed_row(face, Placement((0.0, 0.0), 2.0, 30.0))
    assert slanted[2] == pytest.approx(2 * np.hypot(25 * np.cos(np.pi / 6), 35 * np.sin(np.pi / 6)), rel=1e-5)


def test_mirroring_swaps_sides_and_turns_yaw_and_roll() -> None:
    face = spotted_face()
    mirrored = face.mirrored()
    assert spots_in(mirrored.image, mirrored.points) == [130, 100, 160, 220, 190]
    assert mirrored.points[0, 0] < mirrored.points[1, 0]
    assert mirrored.points[3, 0] < mirrored.points[4, 0]
    assert mirrored.pose.tolist() == [-20, 5, 10]
    twice = mirrored.mirrored()
    np.testing.assert_array_equal(twice.image, face.image)
    np.testing.assert_allclose(twice.box, face.box)
    assert mirrored.size == pytest.approx(face.size)


def test_only_the_region_and_mask_are_drawn() -> None:
    canvas = np.full((60, 60, 3), 7, np.uint8)
    image = np.full((60, 60, 3), 200, np.uint8)
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    mask = np.zeros((60, 60), np.float32)
    mask[10:50, 10:50] = 1
    detection.draw(canvas, image, identity, mask, (0, 0, 30, 60))
    assert (canvas[10:50, 10:30] == 200).all()
    assert (canvas[:, 30:] == 7).all()
    assert (canvas[:10] == 7).all()


def test_faces_that_get_hidden_are_ignored() -> None:
    face = spotted_face()
    rows = [np.zeros(COLUMNS, np.float32) for _ in range(3)]
    for row, box in zip(rows, ([10, 10, 60, 60], [90, 90, 120, 120], [150, 150, 190, 190])):
        row[BOX], row[LABEL] = box, FACE
    canvas = np.zeros((200, 200, 3), np.uint8)
    detection.draw_over(canvas, face, Placement((100.0, 100.0), 1.0, 0.0), np.ones((100, 90), np.float32), rows)
    assert [row[LABEL] for row in rows] == [FACE, IGNORED, FACE]


def test_visible_share() -> None:
    assert detection.visible_share(np.array([0.0, 0, 10, 10]), (5, 0, 100, 100)) == 0.5
    assert detection.visible_share(np.array([0.0, 0, 10, 10]), (20, 20, 30, 30)) == 0


def test_photograph_reports_lost_resolution_and_stays_in_range() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    shares = set()
    for seed in range(40):
        out, share = detection.photograph(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        shares.add(share)
        if share < 0.7:
            assert (
                np.abs(np.diff(out.astype(float), axis=1)).mean() < np.abs(np.diff(image.astype(float), axis=1)).mean()
            )
    assert max(shares) == 1.0
    assert min(shares) < 0.7


def test_five_points_of_sixty_eight() -> None:
    landmarks = np.zeros((68, 2))
    landmarks[36:42] = [[0, 0], [1, -1], [2, -1], [3, 0], [2, 1], [1, 1]]
    landmarks[42:48] = landmarks[36:42] + 10
    landmarks[30], landmarks[48], landmarks[54] = (7, 8), (3, 12), (11, 12)
    offset = detection.LANDMARK_OFFSET * 10 * np.sqrt(2)
    expected = np.array([[1.5, 0], [11.5, 10], [7, 8], [3, 12], [11, 12]]) - offset
    np.testing.assert_allclose(detection.five_points(landmarks), expected)


def found(box: list[float], shift: float = 0.0, pose: tuple[float, float, float] = (0, 0, 0)) -> Face:
    points = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]], np.float32) + shift
    return Face(np.array(box, np.float32), 0.9, points, Pose(*pose))


def test_tally_counts_found_missed_false_and_ignored() -> None:
    rows = np.zeros((3, COLUMNS), np.float32)
    rows[:, BOX] = [[0, 0, 40, 40], [100, 100, 140, 140], [200, 200, 210, 210]]
    rows[:, POINTS] = found([0, 0, 1, 1]).points5.ravel()
    rows[:, POSE] = (10, 0, -5)
    rows[:, LABEL] = [FACE, FACE, IGNORED]
    faces = [
        found([1, 1, 41, 41], shift=1.0, pose=(13, 0, -5)),
        found([0, 0, 38, 40]),  # the same face again
        found([200, 200, 211, 211]),  # ignored
        found([60, 60, 90, 90]),
    ]
    result = detection.tally(faces, rows)
    assert result.found.tolist() == [True, False]
    assert result.sizes.tolist() == [40, 40]
    assert result.false_alarms == 2
    assert result.point_error.tolist() == pytest.approx([np.sqrt(2) / 20])
    assert result.eye_distance.tolist() == [20]
    assert result.pose_error.tolist() == [[3, 0, 0]]


def test_collate_pads_with_rows_nobody_reads() -> None:
    items = [{"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "faces": torch.ones(n, COLUMNS)} for n in (0, 2, 1)]
    batch = detection.Scenes.collate(items)
    assert batch["image"].shape == (3, 3, 8, 8)
    assert batch["faces"][..., LABEL].tolist() == [[PADDING, PADDING], [1, 1], [1, PADDING]]


@pytest.fixture(scope="module")
def scenes(shared_dir: Path) -> detection.Scenes:
    return detection.Scenes("val", shared_dir / "data", seed=3, size=192)


@pytest.fixture(scope="module")
def crops(shared_dir: Path) -> detection.Crops:
    return detection.Crops("val", shared_dir / "data", seed=3)


@pytest.mark.shared
class TestCrops:
    def test_a_crop_is_a_function_of_its_index(self, crops: detection.Crops) -> None:
        assert all(torch.equal(a, b) for a, b in zip(crops[4].values(), crops[4].values()))
        assert not torch.equal(crops[4]["image"], crops[5]["image"])

    def test_faces_are_upright_and_near_the_template(self, crops: detection.Crops) -> None:
        items = [item for item in (crops[i] for i in range(60)) if item["face"] == 1]
        assert 15 < len(items) < 45
        points = torch.stack([item["points"] for item in items])
        assert points.abs().mean() < 0.25
        assert points.mean((0, 1)).abs().max() < 0.1
        assert torch.stack([item["angles"] for item in items])[:, 2].abs().mean() < 0.5


@pytest.mark.shared
class TestScenes:
    def test_a_scene_is_a_function_of_its_index(self, scenes: detection.Scenes) -> None:
        first, again, other = scenes[5], scenes[5], scenes[6]
        assert torch.equal(first["image"], again["image"])
        assert torch.equal(first["faces"], again["faces"])
        assert not torch.equal(first["image"], other["image"])

    def test_labels_are_sane(self, scenes: detection.Scenes) -> None:
        rows = torch.cat([scenes[i]["faces"] for i in range(40)]).numpy()
        faces = rows[rows[:, LABEL] == FACE]
        sizes = np.sqrt((faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1]))
        assert len(faces) > 60
        assert sizes.min() >= 0.9 * scenes.smallest
        assert sizes.max() <= 1.2 * scenes.largest
        points = faces[:, POINTS].reshape(-1, 5, 2)
        inside = (points > faces[:, None, :2] - 8) & (points < faces[:, None, 2:4] + 8)
        assert inside.mean() > 0.97
        lean = np.degrees(np.arctan2(*(points[:, 1] - points[:, 0]).T[::-1]))
        frontal = np.abs(faces[:, 14]) < 25
        assert np.corrcoef(lean[frontal], faces[frontal, 16])[0, 1] > 0.9
        nose = (points[:, 2, 0] - points[:, :2, 0].mean(1)) / sizes
        upright = np.abs(faces[:, 16]) < 15
        assert np.corrcoef(nose[upright], faces[upright, 14])[0, 1] > 0.7

    def test_splits_share_nobody(self, shared_dir: Path) -> None:
        train, val = (detection.FaceSource(split, shared_dir / "data") for split in ("train", "val"))
        for a, b in zip(train.collections, val.collections):
            people = [set(c.labels["subject"][rows]) for c, rows in ((a, a.rows), (b, b.rows))]
            assert people[1]
            assert not people[0] & people[1]
        counts = [len(detection.load_backgrounds(split, shared_dir / "data")) for split in ("train", "val")]
        assert sum(counts) == 352
        assert counts[1] > 20

    def test_some_scenes_are_empty(self, scenes: detection.Scenes) -> None:
        assert any(not (scenes[i]["faces"][:, LABEL] == FACE).any() for i in range(40))
