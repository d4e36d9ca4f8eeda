"""The made operating room: clothes sit where they should, halves share nobody, labels follow their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.data import operating_room as room
from facewright.data.detection import BOX, BOX_ONLY, COLUMNS, FACE, IGNORED, LABEL, POINTS, POSE, LabelledFace

if TYPE_CHECKING:
    from pathlib import Path


def landmarks() -> np.ndarray:
    """A plain frontal face of 68 points in a 200 px picture: jaw from ear to ear, brows, nose, eyes, mouth."""
    turn = np.linspace(np.pi, 0, 17)
    jaw = np.stack([100 + 50 * np.cos(turn), 90 + 70 * np.sin(turn)], 1)
    brows = np.stack([[*np.linspace(60, 90, 5), *np.linspace(110, 140, 5)], np.full(10, 75.0)], 1)
    bridge = np.stack([np.full(4, 100.0), np.linspace(85, 115, 4)], 1)
    base = np.stack([np.linspace(90, 110, 5), np.full(5, 120.0)], 1)
    eyes = [[75 + dx, 90 + dy] for dx, dy in ((-8, 0), (-3, -3), (3, -3), (8, 0), (3, 3), (-3, 3))]
    eyes += [[x + 50, y] for x, y in eyes]
    mouth = np.stack([100 + 20 * np.cos(np.linspace(np.pi, -np.pi, 20)), 138 + 8 * np.sin(np.linspace(0, 6.28, 20))], 1)
    return np.concatenate([jaw, brows, bridge, base, eyes, mouth]).astype(np.float64)


GREY = np.full((200, 200, 3), 140, np.uint8)


def changed(after: np.ndarray) -> np.ndarray:
    return np.abs(after.astype(int) - GREY).max(-1) > 8


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_covers_nose_tip_mouth_and_chin_but_not_the_eyes(seed: int) -> None:
    marks = landmarks()
    worn = changed(room.wear_mask(GREY, marks, np.random.default_rng(seed)))
    for x, y in (*marks[31:36], *marks[48:68], marks[8] - (0, 6)):
        assert worn[round(y), round(x)]
    for x, y in (*marks[36:48], *marks[17:27]):
        assert not worn[round(y), round(x)]
    assert (GREY == 140).all()  # the picture given is not painted on


@pytest.mark.parametrize("seed", range(5))
def test_a_cap_covers_the_hair_but_neither_brows_nor_eyes(seed: int) -> None:
    marks = landmarks()
    worn = changed(room.wear_cap(GREY, marks, np.random.default_rng(seed)))
    assert worn[30:50, 85:115].all()
    for x, y in (*marks[36:48], *marks[17:27], *marks[48:68]):
        assert not worn[round(y), round(x)]


def test_fabric_keeps_the_light_of_the_face() -> None:
    lit = np.repeat(np.linspace(60, 220, 200)[None, :, None], 200, 0).repeat(3, 2).astype(np.uint8)
    worn = room.wear_mask(lit, landmarks(), np.random.default_rng(0))
    assert worn[140, 130].mean() > 1.2 * worn[140, 70].mean()


def test_the_camera_is_dim_cold_and_noisy() -> None:
    results = [room.ceiling_camera(np.full((64, 64, 3), 180, np.uint8), np.random.default_rng(i)) for i in range(12)]
    for image, sharpness in results:
        assert image.mean() < 175
        assert image[..., 2].mean() > image[..., 0].mean()
        assert 0 < sharpness <= 1
    assert min(sharpness for _, sharpness in results) < 0.8
    assert np.median([image.std(axis=(0, 1)).mean() for image, _ in results]) > 1


def test_motion_blur_keeps_light_and_smears_along_its_line() -> None:
    spot = np.zeros((21, 21, 3), np.float32)
    spot[10, 10] = 1
    for angle, axis in ((0.0, 1), (np.pi / 2, 0)):
        smeared = room._smear(spot, 4, angle)[..., 0]
        assert smeared.sum() == pytest.approx(1, abs=1e-5)
        extent = np.ptp(np.nonzero(smeared), axis=1)
        assert extent[axis] >= 3
        assert extent[1 - axis] == 0


def test_box_and_points_of_exact_landmarks() -> None:
    marks = landmarks()
    x0, y0, x1, y1 = room.box_of_landmarks(marks)
    assert (x0, x1) == pytest.approx((50, 150), abs=4)
    assert y0 < marks[17:27, 1].min() - 15  # the forehead belongs to a face
    assert y1 == pytest.approx(160, abs=3)
    points = room.five_points_of(marks)
    np.testing.assert_allclose(points[:2], [[75, 90], [125, 90]])
    np.testing.assert_allclose(points[2:], marks[[30, 48, 54]])


def label(box: tuple[float, ...], kind: float = FACE) -> np.ndarray:
    row = np.zeros(COLUMNS, np.float32)
    row[BOX], row[LABEL], row[POSE] = box, kind, (10, 5, -3)
    corners = np.array(box).reshape(2, 2)
    row[POINTS] = (
        corners[0] + np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * np.ptp(corners, 0)
    ).ravel()
    return row


@pytest.mark.parametrize("seed", range(8))
def test_zoomed_labels_stay_on_their_pixels(seed: int) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:70, 40:80] = (0, 90, 0)
    rows = np.stack([label((39.5, 29.5, 79.5, 69.5)), label((300, 300, 320, 320))])
    out, moved = room.zoomed(image, rows, 128, np.random.default_rng(seed))
    assert out.shape == (128, 128, 3)
    green = np.argwhere(out[..., 1] > 45)[:, ::-1]
    if not len(moved):
        return
    x0, y0, x1, y1 = moved[0, BOX]
    inside = [v for v in (x0, y0, x1, y1) if 1 < v < 126]
    seen = [green[:, 0].min() - 0.5, green[:, 1].min() - 0.5, green[:, 0].max() + 0.5, green[:, 1].max() + 0.5]
    for expected, got in zip((x0, y0, x1, y1), seen):
        if expected in inside:
            assert got == pytest.approx(expected, abs=1.5)
    assert len(moved) == 1
    assert moved[0, POINTS][0] < moved[0, POINTS][2]  # the picture's left eye stays left


def test_faces_cut_by_the_border_are_ignored() -> None:
    rows = np.stack([label((-30, 20, 30, 80), BOX_ONLY), label((50, 20, 90, 80), BOX_ONLY)])
    for seed in range(6):
        _, moved = room.zoomed(np.zeros((100, 100, 3), np.uint8), rows, 100, np.random.default_rng(seed))
        assert moved[0, LABEL] == IGNORED


def test_mirrored_rows_twice_are_the_same_and_turn_yaw() -> None:
    rows = np.stack([label((10, 20, 30, 50)), label((0, 0, 9, 9), IGNORED)])
    once = room.mirrored_rows(rows, 100)
    assert once[0, BOX].tolist() == [69, 20, 89, 50]
    assert once[0, POSE].tolist() == [-10, 5, 3]
    np.testing.assert_allclose(room.mirrored_rows(once, 100), rows, atol=1e-5)


class FewScenes:
    """A source of one grey scene that tells its number."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "faces": torch.full((1, COLUMNS), float(index))}


def test_every_second_item_is_of_the_new_domain_and_an_index_means_one_item() -> None:
    bright = (np.full((64, 64, 3), 220, np.uint8), label((20, 20, 44, 44), BOX_ONLY)[None])
    mixed = room.MixedScenes(FewScenes(), [bright], seed=3, size=64, length=1000)  # type: ignore[arg-type]
    items = [mixed[i] for i in range(6)]
    assert [float(i["faces"][0, 0]) for i in items[::2]] == [3000, 3002, 3004]
    assert all(i["image"].float().mean() > 30 for i in items[1::2])
    assert all(set(i["faces"][:, LABEL].tolist()) <= {BOX_ONLY, IGNORED} for i in items[1::2])
    torch.testing.assert_close(mixed[5]["image"], items[5]["image"])
    batch = room.MixedScenes.collate(items)
    assert batch["image"].shape == (6, 3, 64, 64)


def test_rendered_heads_are_kept_and_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "data_cache", lambda: tmp_path)
    first = room.render_heads(2, seed=5)
    again = room.render_heads(2, seed=5)
    assert len(list(tmp_path.iterdir())) == 1
    for head, same in zip(first, again):
        np.testing.assert_array_equal(head.face.image, same.face.image)
        assert head.face.image.shape == (160, 160, 3)
        assert head.landmarks.shape == (68, 2)
        x0, y0, x1, y1 = head.face.box
        assert 0 < x0 < x1 < 160
        assert y0 < y1 < 160
        assert (head.face.points >= (x0 - 5, y0 - 5)).all()
        assert (head.face.points <= (x1 + 5, y1 + 5)).all()
        assert -40 <= head.face.pose[1] <= 10
    assert isinstance(first[0].face, LabelledFace)


@pytest.mark.shared
def test_halves_share_nobody_and_scenes_repeat(shared_dir: Path) -> None:
    root = shared_dir / "data"
    scenes = {half: room.OperatingRoomScenes(half, root, seed=1, size=128) for half in ("adapt", "test")}
    people = {}
    for half, made in scenes.items():
        source = made.source
        people[half] = {str(c.labels["subject"][r]) for c, rows in zip(source.collections, source.rows) for r in rows}
        image, rows = made.scene(3)
        again, same = made.scene(3)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(rows, same)
        assert image.shape == (128, 128, 3)
        assert rows.shape[1] == COLUMNS
    assert len(people["adapt"]) > 400
    assert not people["adapt"] & people["test"]
