"""Following faces over time: numbers stay, jitter goes, gaps are bridged, cuts reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.face import Face
from facewright.geometry.similarity import transform_points
from facewright.pipelines.tracking import (
    FaceTracker,
    OneEuroFilter,
    SceneCuts,
    TrackerOptions,
    face_motion,
    match_faces,
    warped_difference,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY = np.full((120, 160, 3), 128, np.uint8)
SHAPE = np.array([(-0.5, -0.4), (0.5, -0.4), (0, 0.1), (-0.4, 0.6), (0.4, 0.6)])


def face_at(x: float, y: float, eye_distance: float = 20.0, jitter: NDArray[np.float64] | float = 0.0) -> Face:
    points = SHAPE * eye_distance + (x, y) + jitter
    box = np.array([x - eye_distance, y - 1.2 * eye_distance, x + eye_distance, y + 1.2 * eye_distance])
    return Face(box.astype(np.float32), 0.9, points.astype(np.float32))


def texture(seed: int = 0, size: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 20, 235, cv2.NORM_MINMAX)  # type: ignore[return-value]


def test_one_euro_steadies_a_resting_signal_and_follows_a_moving_one() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (300, 5, 2))
    rest = OneEuroFilter(1.0, 7.0)
    steady = np.array([rest(x, 1 / 30) for x in noise])
    jitter = lambda signal: np.abs(np.diff(signal[30:], axis=0)).mean()  # noqa: E731
    assert jitter(steady) < 0.4 * jitter(noise)

    ramp = np.arange(300)[:, None, None] / 30 + np.zeros((1, 5, 2))  # 1.4 units per second along the diagonal
    moving = OneEuroFilter(1.0, 7.0)
    lag = ramp - np.array([moving(x, 1 / 30) for x in ramp])
    assert 0 <= lag[-1].max() < 0.03


def test_one_euro_first_value_passes_and_constant_stays() -> None:
    signal = np.full((5, 2), 3.25)
    low_pass = OneEuroFilter(1.0, 7.0)
    for _ in range(3):
        np.testing.assert_array_equal(low_pass(signal, 0.04), signal)


def test_numbers_stay_when_two_faces_pass_each_other() -> None:
    tracker = FaceTracker()
    for i in range(40):
        left, right = face_at(30 + 2.5 * i, 35), face_at(130 - 2.5 * i, 75)
        seen = [left, right] if i % 2 else [right, left]  # the detector's order means nothing
        tracked = {t.id: t for t in tracker.update(GREY, seen, i / 25)}
        assert set(tracked) == {1, 2}
        if i == 0:
            upper = min(tracked, key=lambda k: tracked[k].face.centre[1])
        assert tracked[upper].face.centre[1] == pytest.approx(35, abs=1)
        assert tracked[upper].age == i


def test_points_are_steadier_than_the_detections_without_bias() -> None:
    rng = np.random.default_rng(1)
    tracker, raw, smooth = FaceTracker(), [], []
    for i in range(100):
        face = face_at(80, 60, jitter=rng.normal(0, 0.4, (5, 2)))
        raw.append(face.points5)
        smooth.append(tracker.update(GREY, [face], i / 25)[0].face.points5)
    assert np.abs(np.diff(smooth[10:], axis=0)).mean() < 0.5 * np.abs(np.diff(raw[10:], axis=0)).mean()
    np.testing.assert_allclose(np.mean(smooth[10:], 0), np.mean(raw[10:], 0), atol=0.2)


def test_a_short_gap_is_bridged_with_a_fading_face_and_a_long_one_ends_the_track() -> None:
    tracker = FaceTracker(TrackerOptions(max_gap=5, fade=6))
    for i in range(5):
        tracker.update(GREY, [face_at(80, 60)], i / 25)
    alphas = [tracker.update(GREY, [], (5 + i) / 25)[0].alpha for i in range(5)]
    assert alphas == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    back = tracker.update(GREY, [face_at(80, 60)], 10 / 25)
    assert [t.id for t in back] == [1]
    assert back[0].alpha == pytest.approx(2 / 6)
    for i in range(6):
        left = tracker.update(GREY, [], (11 + i) / 25)
    assert left == []
    for i in range(2):
        again = tracker.update(GREY, [face_at(80, 60)], (17 + i) / 25)
    assert [t.id for t in again] == [2]


def test_a_face_seen_once_is_not_believed_and_a_new_one_fades_in() -> None:
    tracker = FaceTracker(TrackerOptions(fade=4))
    tracker.update(GREY, [], 0.0)
    assert tracker.update(GREY, [face_at(80, 60)], 0.04) == []
    assert tracker.update(GREY, [], 0.08) == []
    assert tracker.update(GREY, [face_at(80, 60)], 0.12) == []
    alphas = [tracker.update(GREY, [face_at(80, 60)], 0.16 + 0.04 * i)[0].alpha for i in range(6)]
    assert alphas == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_faces_of_a_first_frame_are_shown_at_once() -> None:
    assert [t.alpha for t in FaceTracker().update(GREY, [face_at(80, 60)], 0.0)] == [1.0]


def test_faces_are_followed_between_detections() -> None:
    image, tracker = texture(), FaceTracker()
    for i in range(13):
        moved = cv2.warpAffine(image, np.float64([[1, 0, 2 * i], [0, 1, i]]), (160, 120), borderMode=cv2.BORDER_WRAP)  # type: ignore[arg-type, call-overload]
        seen = [face_at(60 + 2 * i, 50 + i)] if i % 4 == 0 else None
        (tracked,) = tracker.update(moved, seen, i / 25)
        assert tracked.alpha == 1
        if i > 4:
            assert tracked.face.centre == pytest.approx((60 + 2 * i, 50 + i), abs=1.5)


def test_face_motion_is_the_similarity_between_the_frames() -> None:
    image = cv2.cvtColor(texture(3), cv2.COLOR_RGB2GRAY)
    true = cv2.getRotationMatrix2D((80, 60), 4, 1.03)
    true[:, 2] += (3, -2)
    motion = face_motion(image, cv2.warpAffine(image, true, (160, 120)), face_at(80, 60))  # type: ignore[arg-type]
    assert motion is not None
    points = face_at(80, 60).points5
    np.testing.assert_allclose(transform_points(motion, points), transform_points(true, points), atol=0.3)  # type: ignore[arg-type]
    assert face_motion(GREY[..., 0], GREY[..., 0], face_at(-300, 60)) is None


def test_matching_takes_the_best_pairing_of_all() -> None:
    known = [face_at(60, 60), face_at(72, 60)]
    seen = [face_at(71, 60), face_at(83, 60), face_at(300, 300)]
    assert match_faces(known, seen) == {0: 0, 1: 1}
    assert match_faces([], seen) == {}


def test_scene_cuts() -> None:
    cuts, dark, bright = SceneCuts(), texture(0) // 3, 255 - texture(1) // 3
    rng = np.random.default_rng(0)
    noisy = [np.clip(dark + rng.normal(0, 8, dark.shape), 0, 255).astype(np.uint8) for _ in range(5)]
    assert [cuts(image) for image in noisy] == [True, False, False, False, False]
    assert cuts(bright)
    assert not any(cuts(np.roll(bright, 12 * i, 1)) for i in range(8))  # a fast pan


def test_a_cut_resets_the_tracks_but_never_reuses_a_number() -> None:
    tracker, first, second = FaceTracker(), texture(0) // 3, 255 - texture(1) // 3
    assert tracker.starts_scene(first)
    assert [t.id for t in tracker.update(first, [face_at(80, 60)], 0.0)] == [1]
    assert not tracker.starts_scene(first)
    assert [t.id for t in tracker.update(first, [face_at(80, 60)], 0.04)] == [1]
    assert tracker.starts_scene(second)
    (after,) = tracker.update(second, [face_at(82, 60)], 0.08)
    assert (after.id, after.alpha) == (2, 1.0)
    np.testing.assert_array_equal(after.face.points5, face_at(82, 60).points5)


def test_warped_difference_takes_motion_out() -> None:
    image = cv2.GaussianBlur(texture(5, (240, 320)), (0, 0), 3)
    points = face_at(150, 110, 60).points5
    motion = cv2.getRotationMatrix2D((150, 110), 7, 1.1)
    motion[:, 2] += (9, -4)
    moved = cv2.warpAffine(image, motion, (320, 240), flags=cv2.INTER_CUBIC)
    moved_points = transform_points(motion, points)  # type: ignore[arg-type]
    assert warped_difference(image, image, points, points) == 0  # type: ignore[arg-type]
    assert warped_difference(image, moved, points, moved_points) < 1.5  # type: ignore[arg-type]
    assert warped_difference(image, moved, points, points) > 8  # type: ignore[arg-type]
    brighter = np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8)
    assert warped_difference(image, brighter, points, points) == pytest.approx(5, abs=0.1)  # type: ignore[arg-type]
