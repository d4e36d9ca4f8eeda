"""Reasons for low quality: every rule answers to its own damage and to no other; percentiles of a reference set."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.face import DegradationEstimate, Face, Pose, Reason
from facewright.geometry.resample import crop_face
from facewright.systems.quality.reasons import (
    Factors,
    Limits,
    explain,
    find_reasons,
    geometry,
    measure,
    percentiles,
    reference_quantiles,
)

POINTS = np.array([[204.8, 100.4], [246.4, 103.1], [224.1, 126.3], [200.9, 137.6], [245.5, 140.4]], np.float32)
FACE = Face(np.array([178.9, 53.8, 272.0, 179.2], np.float32), 1.0, POINTS, Pose(0.0, -10.0, 3.6))
FAULTLESS = Factors(eye_distance=60.0, yaw=0.0, pitch=0.0, outside=0.0)


def reasons(photo: np.ndarray, face: Face = FACE, **options) -> list[Reason]:
    return find_reasons(crop_face(photo, face.points5, 112, "arcface"), face, **options)


def covered(photo: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    photo = photo.copy()
    photo[125:165, 192:256] = colour
    return photo


def shaded(photo: np.ndarray) -> np.ndarray:
    ramp = np.interp(np.arange(photo.shape[1]), [195, 256], [1.0, 0.2])
    return (photo * ramp[:, None]).astype(np.uint8)


DAMAGE = {
    Reason.BLUR: lambda photo: cv2.GaussianBlur(photo, (0, 0), 4),
    Reason.DARK: lambda photo: (photo * 0.25).astype(np.uint8),
    Reason.OVEREXPOSED: lambda photo: np.clip(photo * 2.5, 0, 255).astype(np.uint8),
    Reason.UNEVEN_LIGHT: shaded,
    Reason.OCCLUSION: lambda photo: covered(photo, (90, 150, 200)),
}


def test_a_good_portrait_has_no_reason(astronaut):
    assert reasons(astronaut) == []


@pytest.mark.parametrize("reason", DAMAGE)
def test_damage_is_named_and_nothing_else(astronaut, reason):
    assert reasons(DAMAGE[reason](astronaut)) == [reason]


def test_a_black_cover_is_an_occlusion(astronaut):
    assert reasons(covered(astronaut, (0, 0, 0))) == [Reason.OCCLUSION]


def test_greyscale_is_no_occlusion(astronaut):
    grey = cv2.cvtColor(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert reasons(grey) == []


def test_a_small_face_is_small_not_blurred(astronaut):
    small = cv2.resize(astronaut, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert reasons(small, FACE.scaled(0.25)) == [Reason.TOO_SMALL]


def test_a_face_at_the_border_is_cut_off(astronaut):
    shift = np.array([224, 0], np.float32)
    face = replace(FACE, points5=POINTS - shift, box=FACE.box - np.tile(shift, 2))
    found = measure(crop_face(np.ascontiguousarray(astronaut[:, 224:]), face.points5, 112, "arcface"), face)
    assert 0.35 < found.outside < 0.6
    assert explain(found)[0] is Reason.CUT_OFF


@pytest.mark.parametrize(("pose", "reason"), [(Pose(-50, 0, 0), Reason.YAW), (Pose(0, 40, 0), Reason.PITCH)])
def test_pose_is_taken_from_the_face(astronaut, pose, reason):
    assert reasons(astronaut, replace(FACE, pose=pose)) == [reason]


def test_an_estimate_adds_compression_and_blur(astronaut):
    estimate = DegradationEstimate(
        blur_sigma=8.0, downscale=1.0, noise_sigma=0.0, jpeg_quality=30.0, psnr=25.0, ssim=0.7
    )
    assert reasons(astronaut, estimate=estimate) == [Reason.BLUR, Reason.COMPRESSION]


def test_reasons_come_worst_first_and_limits_can_be_moved():
    factors = replace(FAULTLESS, eye_distance=20.0, yaw=-70.0, blur=0.7)
    assert explain(factors) == [Reason.YAW, Reason.TOO_SMALL, Reason.BLUR]
    assert explain(factors, Limits(eye_distance=10, yaw=80, blur=0.8)) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eye_distance", Reason.TOO_SMALL),
        ("yaw", Reason.YAW),
        ("pitch", Reason.PITCH),
        ("outside", Reason.CUT_OFF),
        ("blur", Reason.BLUR),
        ("highlights", Reason.DARK),
        ("clipped", Reason.OVEREXPOSED),
        ("unevenness", Reason.UNEVEN_LIGHT),
        ("skin_difference", Reason.OCCLUSION),
        ("jpeg_quality", Reason.COMPRESSION),
        ("blur_sigma", Reason.BLUR),
    ],
)
def test_each_factor_has_its_limit(name, reason):
    limit = getattr(Limits(), name)
    worse = 0.99 if reason in (Reason.TOO_SMALL, Reason.DARK, Reason.COMPRESSION) else 1.01
    assert explain(replace(FAULTLESS, **{name: limit})) == []
    assert explain(replace(FAULTLESS, **{name: limit * worse})) == [reason]


def test_a_picture_of_one_colour_breaks_nothing():
    flat = np.full((300, 300, 3), 128, np.uint8)
    assert reasons(flat) == [Reason.BLUR]


# --- geometry of five points


def turned_head(yaw: float, pitch: float) -> np.ndarray:
    """Five points of a simple head (eyes, nose tip 0.55 eye distances before them, mouth), turned, in pixels."""
    head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.5, 0.55], [-0.4, 1.05, 0.05], [0.4, 1.05, 0.05]])
    y, p = np.radians([yaw, pitch])
    around = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    return 40 * (head @ (around @ nod).T)[:, :2] + 100


def test_rough_yaw_of_a_turned_head():
    for yaw in (-30, -10, 0, 10, 30):
        assert geometry(turned_head(yaw, 0)).yaw == pytest.approx(yaw, abs=5)


def test_rough_pitch_follows_the_nod():
    up, level, down = (geometry(turned_head(0, p)).pitch for p in (20, 0, -20))
    assert up - level > 15
    assert level - down > 15


def test_geometry_ignores_place_and_size_and_turns_with_roll():
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    plain, moved = geometry(POINTS), geometry(3 * POINTS @ turn.T + (7, -5))
    assert moved.eye_distance == pytest.approx(3 * plain.eye_distance, rel=1e-6)
    assert moved.roll == pytest.approx(plain.roll + 25, abs=1e-4)
    for name in ("yaw_ratio", "pitch_ratio", "nose_ratio"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name), abs=1e-6)


def test_a_mirrored_face_turns_the_other_way():
    plain, mirrored = geometry(POINTS), geometry(POINTS[[1, 0, 2, 4, 3]] * (-1, 1))
    assert mirrored.yaw == pytest.approx(-plain.yaw, abs=1e-6)
    assert mirrored.nose_ratio == pytest.approx(-plain.nose_ratio, abs=1e-6)
    assert mirrored.pitch == pytest.approx(plain.pitch, abs=1e-6)


def test_points_in_one_place_give_numbers():
    found = geometry(np.full((5, 2), 7.0))
    assert np.isfinite([found.eye_distance, found.yaw, found.pitch, found.roll, found.nose_ratio]).all()


# --- percentiles


def test_percentiles_agree_with_scipy():
    from scipy.stats import percentileofscore

    scores = np.random.default_rng(0).normal(0.4, 0.1, 5000)
    asked = np.array([0.2, 0.35, 0.4, 0.5])
    expected = [percentileofscore(scores, v) for v in asked]
    assert percentiles(asked, reference_quantiles(scores)) == pytest.approx(expected, abs=0.2)


def test_percentiles_stay_in_their_range_and_order():
    reference = reference_quantiles(np.linspace(-1, 1, 500))
    ranks = percentiles(np.array([-5.0, -1.0, 0.0, 1.0, 5.0]), reference)
    assert ranks == pytest.approx([0, 0, 50, 100, 100], abs=1e-3)


@pytest.mark.parametrize("scores", [np.zeros(100), np.r_[np.zeros(200), np.nan]])
def test_calibration_wants_enough_numbers(scores):
    with pytest.raises(UsageError, match="calibration needs"):
        reference_quantiles(scores)


def test_uncalibrated_weights_have_no_percentile():
    with pytest.raises(UsageError, match="never calibrated"):
        percentiles(np.array([0.5]), np.zeros(101, np.int32))
