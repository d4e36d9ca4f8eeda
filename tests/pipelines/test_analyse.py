"""Analysing photos: records in photo pixels, masks and poses where they belong, odd pictures and odd faces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.face import Face, Landmarks, Pose
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.pipelines import analyse
from facewright.pipelines.analyse import Analyser, FaceMask, draw_analysis, is_in_picture, pose_from_landmarks, to_json
from facewright.systems.landmarks.facewarp.network import FaceWarpConfig, mean_shape
from facewright.tasks.card import Preprocess

if TYPE_CHECKING:
    from types import SimpleNamespace

SHAPE = mean_shape(FaceWarpConfig.compact()).numpy()


class FakeLandmarker:
    """Fills every box with the average face."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def locate(self, image: np.ndarray, faces: list[Face]) -> list[Landmarks]:
        self.asked.append(len(faces))
        confidence = np.linspace(0, 1, 68, dtype=np.float32)
        return [Landmarks((f.box[:2] + SHAPE * (f.box[2:] - f.box[:2])).astype(np.float32), confidence) for f in faces]


class DiscParser:
    """Class 1 in a disc in the middle of the crop, class 2 in its right half."""

    preprocess = Preprocess(CropSpec.aligned(64))
    classes = ("background", "skin", "hair")

    def __init__(self, crop: CropSpec | None = None) -> None:
        self.preprocess = Preprocess(crop or CropSpec.aligned(64))
        self.asked: list[int] = []

    def parse(self, crops: np.ndarray, *, faces: object = None) -> np.ndarray:
        self.asked.append(len(crops))
        y, x = np.mgrid[:64, :64] - 31.5
        disc = (x * x + y * y < 20**2).astype(np.uint8)
        return np.repeat((disc * (1 + (x > 0)))[None], len(crops), 0).astype(np.uint8)


def analyser(fakes: SimpleNamespace, *faces: Face, parser: Any = None) -> Analyser:
    return Analyser(fakes.Detector(*faces), FakeLandmarker(), parser)  # type: ignore[arg-type]


def photo(height: int = 200, width: int = 300, channels: int = 3) -> Any:
    pixels = np.full((height, width, channels), 128, np.uint8)
    return read(pixels[..., 0] if channels == 1 else pixels)


def test_no_face(fakes: SimpleNamespace) -> None:
    assert analyser(fakes)(photo()) == []
    assert json.loads(to_json([]))["faces"] == []
    picture = photo().rgb()
    np.testing.assert_array_equal(draw_analysis(picture, []), picture)


class FakePoses:
    """Yaws of 1, 2, 3 …, in the order of the faces."""

    def poses(self, photo: np.ndarray, faces: Any) -> list[Pose]:
        return [Pose(float(number), 0.0, 0.0) for number, _ in enumerate(faces, 1)]


def test_a_network_for_the_pose_has_the_last_word(fakes: SimpleNamespace) -> None:
    right, left = fakes.face_at((220, 100), 20.0), fakes.face_at((80, 104), 20.0, pose=None)
    parts = fakes.Detector(right, left), FakeLandmarker(), None, FakePoses()
    found = Analyser(*parts)(photo())  # type: ignore[arg-type]
    assert [(a.face, a.pose.yaw, a.pose_from) for a in found] == [(left, 1.0, "network"), (right, 2.0, "network")]
    assert found[0].to_dict()["pose"]["yaw"] == 1.0


def test_faces_come_in_reading_order_with_their_points(fakes: SimpleNamespace) -> None:
    right, left = fakes.face_at((220, 100), 20.0), fakes.face_at((80, 104), 20.0, pose=None)
    found = analyser(fakes, right, left)(photo())
    assert [(a.index, a.face) for a in found] == [(0, left), (1, right)]
    for analysis in found:
        x0, y0, x1, y1 = analysis.face.box
        np.testing.assert_allclose(analysis.points68[30], [(x0 + x1) / 2, y0 + SHAPE[30, 1] * (y1 - y0)], atol=0.01)
    assert [a.pose_from for a in found] == ["landmarks", "detector"]
    assert found[1].pose == right.pose


def test_false_alarms_and_impossible_boxes_are_left_out(fakes: SimpleNamespace) -> None:
    good = fakes.face_at((100, 100), 30.0)
    points = good.points5
    odd = [
        Face(np.array(box, np.float32), 0.9, points)
        for box in ([50, 50, 50, 90], [60, 90, 90, 60], [-80, 10, -5, 60], [400, 10, 450, 60], [np.nan, 0, 9, 9])
    ]
    doubtful = fakes.face_at((200, 100), 30.0, score=0.5)
    run = analyser(fakes, good, doubtful, *odd)
    assert [a.face for a in run(photo())] == [good]
    assert len(run(photo(), min_score=0.4)) == 2
    with pytest.raises(UsageError, match="face 1 has no area"):
        run.of_faces(photo().rgb(), [good, odd[0]])
    with pytest.raises(UsageError, match="outside 0…1"):
        run(photo(), min_score=1.5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_pictures(fakes: SimpleNamespace, channels: int) -> None:
    picture = photo(channels=channels)
    found = analyser(fakes, fakes.face_at((100, 100), 30.0), parser=DiscParser())(picture)
    assert len(found) == 1
    pixels = np.full((200, 300) if channels == 1 else (200, 300, channels), 128, np.uint8)
    assert draw_analysis(pixels, found).shape == (200, 300, 3)


def test_face_larger_than_the_picture(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((30, 30), 300.0)
    found = analyser(fakes, face, parser=DiscParser())(photo(60, 70))[0]
    assert found.mask is not None
    x0, y0, x1, y1 = found.mask.box
    assert 0 <= x0 < x1 <= 70
    assert 0 <= y0 < y1 <= 60
    assert found.mask.labels.shape == (y1 - y0, x1 - x0)
    assert draw_analysis(photo(60, 70).rgb(), [found]).shape == (60, 70, 3)


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_masks_lie_where_the_crop_was(fakes: SimpleNamespace, angle: float) -> None:
    from facewright.geometry.crop import align_matrix
    from facewright.geometry.similarity import invert, transform_points

    face = fakes.face_at((150, 110), 40.0, angle=angle)
    mask = analyser(fakes, face, parser=DiscParser())(photo())[0].mask
    assert mask is not None
    whole = mask.in_photo((200, 300))
    matrix = align_matrix(face.points5, 64, "ffhq")
    y, x = np.mgrid[:200, :300]
    u, v = np.moveaxis(transform_points(matrix, np.stack([x, y], -1)) - 31.5, -1, 0)
    expected = (u * u + v * v < 20**2) * (1 + (u > 0))
    assert (whole != expected).mean() < 0.01
    assert set(np.unique(whole)) == {0, 1, 2}
    centre = transform_points(invert(matrix), np.array([[31.5, 31.5]]))[0]
    rows, columns = np.nonzero(whole)
    np.testing.assert_allclose([columns.mean(), rows.mean()], centre, atol=1)


def test_masks_of_box_crops_lie_around_the_box(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((150, 100), 30.0, angle=40.0)
    mask = analyser(fakes, face, parser=DiscParser(CropSpec.boxed(64, margin=0.5)))(photo())[0].mask
    assert mask is not None
    rows, columns = np.nonzero(mask.in_photo((200, 300)))
    np.testing.assert_allclose([columns.mean(), rows.mean()], face.centre, atol=1.5)
    assert np.ptp(rows) == pytest.approx(2 * max(face.width, face.height) * 40 / 64, abs=4)


class HalvesParser:
    """Class 1 in the left half of a whole photo, class 2 in its right half."""

    preprocess = Preprocess(CropSpec.whole())
    classes = ("background", "skin", "hair")

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def parse(self, photos: np.ndarray, *, faces: object = None) -> np.ndarray:
        self.asked.append(photos.shape)
        labels = np.ones(photos.shape[:3], np.uint8)
        labels[..., photos.shape[2] // 2 :] = 2
        return labels


def test_a_parser_of_whole_photos_sees_the_photo_once(fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((60, 100), 20.0), fakes.face_at((150, 100), 20.0, angle=30.0)]
    parser = HalvesParser()
    first, second = (found.mask for found in analyser(fakes, *faces, parser=parser)(photo()))
    assert parser.asked == [(1, 200, 300, 3)]
    assert first is not None
    assert second is not None
    half = 1.4 * 2 * 20.0  # the longer side of the box
    assert first.box == (int(60 - half), int(100 - half), int(60 + half), int(100 + half))
    assert set(np.unique(first.labels)) == {1}
    whole = second.in_photo((200, 300))
    assert (whole[60:140, 100:150] == 1).all()
    assert (whole[60:140, 150:200] == 2).all()
    assert analyser(fakes, parser=parser)(photo()) == []


def test_an_empty_mask_is_no_accident(fakes: SimpleNamespace) -> None:
    parser = DiscParser()
    parser.parse = lambda crops, faces=None: np.zeros(crops.shape[:3], np.uint8)  # type: ignore[method-assign, misc]
    found = analyser(fakes, fakes.face_at((100, 100), 30.0), parser=parser)(photo())
    assert not found[0].mask.in_photo((200, 300)).any()
    assert draw_analysis(photo().rgb(), found).shape == (200, 300, 3)


def test_a_thousand_faces_run_in_batches_with_small_masks(fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((20 + 30 * (i % 40), 20 + 35 * (i // 40)), 10.0) for i in range(1000)]
    parser = DiscParser()
    found = analyser(fakes, *faces, parser=parser)(photo(920, 1240))
    assert len(found) == 1000
    assert max(parser.asked) <= analyse.BATCH
    assert sum(a.mask.labels.nbytes for a in found if a.mask) < 4 * 920 * 1240


class TestPose:
    @pytest.mark.parametrize("pose", [(0, 0, 0), (35, 0, 0), (-50, 10, 0), (10, -25, 15), (0, 20, -30)])
    def test_of_a_rendered_average_face(self, pose: tuple[float, float, float]) -> None:
        from facewright.render import Camera, MorphableModel, coarse_face, place, rotation_from_pose

        data = coarse_face()
        vertices = place(MorphableModel(data).vertices(), rotation_from_pose(torch.tensor([pose], dtype=torch.float32)))
        points = Camera.from_fov(256, 25, distance=110).project(vertices).xy[0, torch.from_numpy(data.landmarks68)]
        found = pose_from_landmarks(points.numpy())
        np.testing.assert_allclose([found.yaw, found.pitch, found.roll], pose, atol=4)
        doubled = pose_from_landmarks(2 * points.numpy() + 100)
        np.testing.assert_allclose([doubled.yaw, doubled.pitch], [found.yaw, found.pitch], atol=0.1)

    def test_of_points_in_one_place(self) -> None:
        assert pose_from_landmarks(np.full((68, 2), 7.0)) == Pose(0.0, 0.0, 0.0)


def test_json_is_complete(fakes: SimpleNamespace) -> None:
    picture = photo()
    found = analyser(fakes, fakes.face_at((100, 100), 30.0), parser=DiscParser())(picture)
    data = json.loads(to_json(found, picture))
    face = data["faces"][0]
    assert data["size"] == [300, 200]
    assert np.shape(face["points68"]) == (68, 2)
    assert np.shape(face["points5"]) == (5, 2)
    assert len(face["confidence"]) == 68
    assert face["pose"] == {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}
    pixels = face["mask"]["pixels"]
    assert pixels["skin"] == pytest.approx(pixels["hair"], rel=0.1)


def test_drawing_colours_points_by_confidence_and_leaves_the_rest(fakes: SimpleNamespace) -> None:
    picture = photo()
    found = analyser(fakes, fakes.face_at((150, 100), 50.0))(picture)
    before = picture.rgb()
    canvas = draw_analysis(before, found)
    unsure, sure = (canvas[tuple(found[0].points68[i].round().astype(int)[::-1])].astype(int) for i in (0, 67))
    assert unsure[0] > unsure[1] + 100
    assert sure[1] > sure[0] + 100
    np.testing.assert_array_equal(canvas[:, :40], before[:, :40])
    assert (before == 128).all()
    with pytest.raises(UsageError, match="uint8 grey, RGB or RGBA"):
        draw_analysis(before.astype(np.float32), found)


def test_masks_tint_their_pixels_only() -> None:
    picture = np.full((20, 20, 3), 100, np.uint8)
    labels = np.zeros((6, 8), np.uint8)
    labels[2:4, 2:6] = 3
    face = Face(np.array([5, 5, 15, 15], np.float32), 0.9, np.zeros((5, 2), np.float32))
    points = np.full((68, 2), -50, np.float32)
    analysis = analyse.FaceAnalysis(
        0, face, points, np.ones(68, np.float32), Pose(0, 0, 0), "detector", FaceMask((4, 7, 12, 13), labels)
    )
    assert (draw_analysis(picture, [analysis])[9:11, 6:10] != 100).any(2).all()
    assert analysis.mask is not None
    assert analysis.mask.to_dict() == {"box": [4, 7, 12, 13], "pixels": {"0": 40, "3": 8}}


def test_faces_in_the_picture() -> None:
    def at(*box: float) -> bool:
        return is_in_picture(Face(np.array(box, np.float32), 1.0, np.zeros((5, 2), np.float32)), (50, 80))

    assert at(-10, -10, 5, 5)
    assert at(-1000, -1000, 1000, 1000)
    assert not at(80, 0, 90, 10)
    assert not at(10, 10, 10, 20)
