"""Landmark data: published layouts in made-up folders, crops whose points stay on their pixels, styles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from facewright.data import landmarks
from facewright.data.landmarks import (
    STYLES,
    LandmarkCrops,
    PointedFace,
    exaggerate,
    face_length,
    five_of,
    mirror,
    read_300w,
    read_aflw2000,
    read_cofw,
    read_pts,
    read_wflw,
    stylise,
)
from facewright.errors import FacewrightError, MissingDependencyError
from facewright.face import Pose
from facewright.geometry.similarity import transform_points
from facewright.systems.landmarks.facewarp.network import FaceWarpConfig, mean_shape

if TYPE_CHECKING:
    from pathlib import Path

POINTS68 = mean_shape(FaceWarpConfig.compact()).numpy().astype(np.float64) * 128


def write_picture(path: Path, value: int = 90) -> None:
    cv2.imwrite(str(path), np.full((12, 10, 3), (value, 20, 200), np.uint8))


class TestReaders:
    def test_300w(self, tmp_path: Path) -> None:
        folder = tmp_path / "helen" / "testset"
        folder.mkdir(parents=True)
        rows = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in POINTS68)
        (folder / "face.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
        write_picture(folder / "face.png")
        (face,) = read_300w(tmp_path)
        np.testing.assert_allclose(face.points, POINTS68, atol=1e-3)  # files count from one
        assert face.name == "face"
        assert face.image()[0, 0].tolist() == [200, 20, 90]

    def test_damaged_pts_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "face.pts"
        path.write_text("version: 1\nn_points: 68\n{\n1 2\n}\n")
        with pytest.raises(FacewrightError, match=r"face\.pts is not a \.pts file"):
            read_pts(path)
        with pytest.raises(FacewrightError, match="holds no"):
            read_300w(tmp_path / "elsewhere")

    def test_missing_picture_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "face.pts").write_text("version: 1\nn_points: 1\n{\n1 2\n}\n")
        with pytest.raises(FacewrightError, match="no picture of that name"):
            read_300w(tmp_path)

    def test_wflw(self, tmp_path: Path) -> None:
        points = np.arange(196) / 7
        words = [*map(str, points), "10", "20", "110", "140", "1", "0", "0", "0", "1", "0", "0--Parade/x.jpg"]
        (tmp_path / "list.txt").write_text(" ".join(words) + "\n")
        (face,) = read_wflw(tmp_path / "list.txt", tmp_path / "images")
        np.testing.assert_allclose(face.points, points.reshape(98, 2))
        assert face.box is not None
        assert face.box.tolist() == [10, 20, 110, 140]
        assert face.attributes == ("pose", "occlusion")
        assert face.path == tmp_path / "images" / "0--Parade/x.jpg"
        with pytest.raises(FacewrightError, match="missing or cannot be decoded"):
            face.image()
        (tmp_path / "list.txt").write_text("1 2 3\n")
        with pytest.raises(FacewrightError, match="line 1: 3 entries"):
            read_wflw(tmp_path / "list.txt", tmp_path)

    def test_cofw(self, tmp_path: Path) -> None:
        from scipy.io import savemat

        pictures = np.empty((2, 1), object)
        pictures[0, 0], pictures[1, 0] = np.full((8, 9), 5, np.uint8), np.full((6, 7, 3), 9, np.uint8)
        points = np.arange(2 * 87, dtype=float).reshape(2, 87)
        points[:, 58:] = 0
        points[1, 60] = 1
        boxes = np.array([[1.0, 1, 5, 6], [3, 4, 2, 2]])
        savemat(tmp_path / "COFW_test.mat", {"IsT": pictures, "phisT": points, "bboxesT": boxes})
        first, second = read_cofw(tmp_path / "COFW_test.mat")
        np.testing.assert_allclose(first.points, np.stack([np.arange(29), np.arange(29, 58)], 1) - 1)
        assert first.visible.all()
        assert np.flatnonzero(~second.visible).tolist() == [2]
        assert first.image().shape == (8, 9, 3)
        assert second.image().shape == (6, 7, 3)
        assert second.box is not None
        assert second.box.tolist() == [2, 3, 4, 5]

    def test_other_and_damaged_mat_files_are_named(self, tmp_path: Path) -> None:
        from scipy.io import savemat

        savemat(tmp_path / "other.mat", {"x": np.ones(3)})
        with pytest.raises(FacewrightError, match="lacks IsTr"):
            read_cofw(tmp_path / "other.mat")
        (tmp_path / "broken.mat").write_bytes(b"nothing of the kind" * 20)
        with pytest.raises(FacewrightError, match="cannot be read"):
            read_cofw(tmp_path / "broken.mat")
        with pytest.raises(FacewrightError, match="cannot be read"):
            read_cofw(tmp_path / "missing.mat")

    def test_matlab_73_asks_for_h5py(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600))
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        with pytest.raises(MissingDependencyError, match="pip install h5py"):
            read_cofw(tmp_path / "new.mat")

    def test_aflw2000(self, tmp_path: Path) -> None:
        from scipy.io import savemat

        points = np.concatenate([POINTS68.T, np.zeros((1, 68))])
        pose = np.radians([[-10.0, 25.0, 5.0, 0, 0, 0, 0]])
        savemat(tmp_path / "image00002.mat", {"pt3d_68": points, "Pose_Para": pose})
        write_picture(tmp_path / "image00002.jpg")
        (face,) = read_aflw2000(tmp_path)
        np.testing.assert_allclose(face.points, POINTS68)
        assert face.pose is not None
        assert (face.pose.yaw, face.pose.pitch, face.pose.roll) == pytest.approx((-25, -10, 5))
        assert isinstance(face.pose, Pose)


def test_face_length_of_a_turned_head_does_not_vanish() -> None:
    assert face_length(POINTS68) == pytest.approx(np.hypot(*(POINTS68[45] - POINTS68[36])))
    turned = POINTS68.copy()
    turned[:, 0] *= 0.1
    assert face_length(turned) == pytest.approx(0.4 * np.hypot(*np.ptp(turned, axis=0)))


def test_five_points_of_the_mean_face_are_the_templates() -> None:
    from facewright.systems.landmarks.facewarp.network import aligned_crop

    matrix = aligned_crop(128).align(five_of(POINTS68))
    np.testing.assert_allclose(transform_points(matrix, POINTS68), POINTS68, atol=1.5)


class TestStyles:
    @pytest.mark.parametrize("style", STYLES)
    def test_what_is_where_stays(self, style: landmarks.Style, astronaut: np.ndarray) -> None:
        crop = cv2.resize(astronaut[30:230, 130:330], (128, 128), interpolation=cv2.INTER_AREA)
        out = stylise(crop, style, np.random.default_rng(0))  # type: ignore[arg-type]
        assert out.shape == crop.shape
        assert out.dtype == np.uint8
        assert np.abs(out.astype(int) - crop).mean() > 5

        def slopes(image: np.ndarray) -> np.ndarray:
            grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 2)
            return np.hypot(*np.gradient(grey)).ravel()

        assert np.corrcoef(slopes(out), slopes(crop))[0, 1] > 0.3

    def test_cartoons_have_few_colours(self, astronaut: np.ndarray) -> None:
        out = stylise(astronaut[::4, ::4].copy(), "cartoon", np.random.default_rng(1))
        assert len(np.unique(out[..., 0])) < 20

    def test_pixels_follow_exaggerated_landmarks(self) -> None:
        image = np.zeros((128, 128, 3), np.uint8)
        spots = [8, 36, 45, 30, 54]
        for i in spots:
            cv2.circle(image, tuple(int(v) for v in POINTS68[i].round()), 2, (255, 255, 255), -1)
        out, points = exaggerate(image, POINTS68, np.random.default_rng(3))
        assert np.abs(points - POINTS68).max() > 2
        for i in spots:
            x, y = points[i].round().astype(int)
            assert out[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].max() > 150

    def test_no_exaggeration_is_no_change(self, astronaut: np.ndarray) -> None:
        crop = np.ascontiguousarray(astronaut[:128, :128])
        out, points = exaggerate(crop, POINTS68, np.random.default_rng(0), 0.0)
        np.testing.assert_allclose(points, POINTS68)
        assert np.abs(out.astype(int) - crop).max() <= 1


class FakeReal:
    """One face with a bright spot on every point of the eyes."""

    def __init__(self) -> None:
        image = np.full((128, 128, 3), 60, np.uint8)
        for x, y in POINTS68[[36, 45]].round().astype(int):
            image[y - 2 : y + 3, x - 2 : x + 3] = 250
        weights = np.where(np.arange(68) < 8, 0.5, 1).astype(np.float32)
        self.one = PointedFace(image, POINTS68, weights, 12.0, rendered=False)

    def draw(self, rng: np.random.Generator) -> PointedFace:
        return self.one


def made_up(augment: bool = True) -> LandmarkCrops:
    """The data set with one made-up face and without files."""
    crops = LandmarkCrops.__new__(LandmarkCrops)
    crops.split, crops.seed, crops.size, crops.length = "train", 0, 128, 100
    crops.renders, crops.styled, crops.augment, crops.wflw = 0.0, 0.0, augment, False
    crops.real, crops.rendered = FakeReal(), None  # type: ignore[assignment]
    crops.backgrounds = [np.full((60, 60, 3), 40, np.uint8)]
    return crops


class TestCrops:
    def test_points_stay_on_their_pixels(self) -> None:
        crops, hits, flipped = made_up(), [], 0
        for index in range(40):
            item = crops[index]
            flipped += float(item["yaw"]) < 0
            grey = cv2.GaussianBlur(item["image"].float().mean(2).numpy(), (0, 0), 1)
            eyes = item["points"][[36, 45]].round().int().tolist()
            inside = [grey[y, x] for x, y in eyes if 3 < x < 124 and 3 < y < 124]
            hits += [value > np.median(grey) + 15 for value in inside]
        assert np.mean(hits) > 0.75  # the others are covered or lost in noise
        assert 8 < flipped < 32

    def test_an_item_is_a_function_of_its_index(self) -> None:
        crops = made_up()
        assert all(torch.equal(a, b) for a, b in zip(crops[3].values(), crops[3].values()))
        assert not torch.equal(crops[3]["image"], crops[4]["image"])

    def test_without_augmentation_the_crop_is_the_aligned_one(self) -> None:
        item = made_up(augment=False)[0]
        np.testing.assert_allclose(item["points"].numpy(), POINTS68, atol=1.5)
        assert item["weights"][:8].tolist() == [0.5] * 8
        assert float(item["length"]) == pytest.approx(float(face_length(item["points"].numpy())))

    def test_mirroring_is_its_own_inverse(self) -> None:
        np.testing.assert_allclose(mirror(mirror(POINTS68, 128), 128), POINTS68)
        assert mirror(POINTS68, 128)[36, 0] < mirror(POINTS68, 128)[45, 0]


@pytest.mark.shared
def test_real_crops_are_aligned(shared_dir: Path) -> None:
    crops = LandmarkCrops("val", seed=1, renders=0.0, augment=False, root=shared_dir / "data")
    points = np.stack([crops[i]["points"].numpy() for i in range(24)])
    assert np.abs(points.mean(0) - POINTS68).mean() < 2.5
    assert ((points > 0) & (points < 127)).mean() > 0.98


@pytest.mark.shared
def test_warp_pairs_hold_truth_for_judging(shared_dir: Path) -> None:
    pairs = landmarks.WarpPairs("val", seed=1, root=shared_dir / "data")
    item = pairs[2]
    assert item["styled"].shape == item["image"].shape == (128, 128, 3)
    assert float((item["styled_points"] - torch.from_numpy(POINTS68)).norm(dim=1).mean()) < 12
    assert all(torch.equal(a, b) for a, b in zip(item.values(), pairs[2].values()))
