"""The chart, the statistics of skin and how they are learned, and procedural detail."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.errors import WeightsError
from facewright.render import coarse_face, load_ict
from facewright.render.skin import (
    ASSET,
    CHART,
    chart_cm,
    chart_of,
    chart_uv,
    freckles,
    linear_of_srgb,
    noise,
    read_statistics,
    sample_chart,
    skin_colour,
    skin_map,
    smoothstep,
    srgb_from_linear,
    statistics,
    wrinkles,
)

if TYPE_CHECKING:
    from types import ModuleType

TOOL = Path(__file__).parents[2] / "tools" / "fit_skin.py"


@pytest.fixture(scope="module")
def fit_skin() -> ModuleType:
    found = importlib.util.spec_from_file_location("fit_skin", TOOL)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # its dataclasses look for it there
    found.loader.exec_module(module)
    return module


def test_linear_light_of_known_codes():
    codes = np.array([0.0, 0.04045, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(linear_of_srgb(codes), [0, 0.0031308, 0.2140411, 1], atol=1e-6)


def test_srgb_is_the_standard() -> None:
    values = np.array([0.0, 0.0031308, 0.18, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(srgb_from_linear(values), [0, 0.04045, 0.46135, 1, 1], atol=1e-4)


def test_chart_lays_landmarks_of_any_model_on_its_own():
    data, reference = coarse_face(), statistics().landmarks
    own = data.mean[data.landmarks68]
    difference = chart_cm(chart_of(own, own, reference)) - chart_cm(chart_of(reference, reference, reference))
    assert np.abs(difference).max() < 0.15


def test_chart_does_not_depend_on_unit_and_origin():
    data, reference = coarse_face(), statistics().landmarks
    moved = data.rescaled(0.1, centre=np.array([1.0, -2.0, 3.0], np.float32))
    charts = [chart_of(d.mean, d.mean[d.landmarks68], reference) for d in (data, moved)]
    np.testing.assert_allclose(charts[0], charts[1], atol=1e-3)


def test_chart_spans_its_angles_and_heights():
    corners = np.array([[0, 0], [1, 1], [0.5, 0.5]], np.float32)
    half = CHART.longitude * 9
    expected = [[-half, CHART.top], [half, CHART.bottom], [0, (CHART.top + CHART.bottom) / 2]]
    np.testing.assert_allclose(chart_cm(corners), expected, atol=1e-5)
    np.testing.assert_allclose(chart_uv(chart_cm(corners)), corners, atol=1e-6)


def test_asset_is_small_and_hides_every_photo():
    known = statistics()
    assert ASSET.stat().st_size <= 3e6
    assert len(known.basis) <= 24
    assert known.photos >= 1000
    assert known.photos > 40 * len(known.basis)
    assert 0 < known.largest_share <= 0.02


def test_components_are_orthogonal_and_ordered():
    flat = statistics().basis.reshape(len(statistics().basis), -1)
    size = np.linalg.norm(flat, axis=1)
    cosine = flat @ flat.T / np.outer(size, size)
    assert np.abs(cosine - np.eye(len(flat))).max() < 0.05
    assert size[0] > 2 * size[-1]


def test_tone_runs_from_dark_to_light_and_stays_reddish():
    dark, middle, light = (skin_colour((t, 0, 0)) for t in (-2, 0, 1))
    assert (dark < middle).all()
    assert (middle < light).all()
    for colour in (dark, middle, light):
        assert 0 < colour[2] < colour[1] < colour[0] < 1


def test_map_has_lips_and_brows_and_ends_in_plain_skin():
    found = skin_map((), 0.3)
    points = statistics().landmarks
    at = chart_of(points, points, points)
    lip = sample_chart(found, (at[[57]] + at[[66]]) / 2)[0]  # type: ignore[arg-type]
    brow = sample_chart(found, at[[19, 24]] + [0, 0.01]).mean(0)  # type: ignore[arg-type]
    cheek = sample_chart(found, chart_uv(np.array([[-4.0, 0.0], [4.0, 0.0]]))).mean(0)
    assert lip[0] - lip[1] > cheek[0] - cheek[1] + 0.1  # redder
    assert brow.mean() < cheek.mean() - 0.3  # darker
    assert np.abs(found[:, [0, -1]]).max() < 0.02
    assert np.abs(found[[0, -1]]).max() < 0.02


def test_map_is_linear_in_the_scores():
    none, one, two = (skin_map([0.0, s], 0.4) for s in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(two - none, 2 * (one - none), atol=1e-5)
    assert np.abs(one - none).max() > 0.02


def test_damaged_statistics_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="fit_skin"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not arrays")
    with pytest.raises(WeightsError, match="fit_skin"):
        read_statistics(tmp_path / "text.npz")
    with np.load(ASSET) as arrays:
        fields = dict(arrays)
    fields["mean"] = fields["mean"][:-1]
    np.savez(tmp_path / "short.npz", **fields)
    with pytest.raises(WeightsError, match="do not fit"):
        read_statistics(tmp_path / "short.npz")


def test_noise_is_seeded_smooth_and_centred():
    points = np.random.default_rng(0).uniform(-20, 20, (20000, 3)).astype(np.float32)
    values = noise(points, 1.0, 3)
    np.testing.assert_array_equal(values, noise(points, 1.0, 3))
    assert abs(values.mean()) < 0.02
    assert np.abs(values).max() <= 1
    assert np.abs(noise(points + 0.01, 1.0, 3) - values).max() < 0.07
    assert abs(np.corrcoef(values, noise(points, 1.0, 4))[0, 1]) < 0.05


def test_smoothstep_runs_either_way():
    np.testing.assert_allclose(smoothstep(1.0, 3.0, np.array([0, 1, 2, 3, 4])), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smoothstep(3.0, 1.0, np.array([0, 1, 2, 3, 4])), [1, 1, 0.5, 0, 0])


def test_wrinkles_come_with_age_on_the_forehead_and_not_on_the_nose():
    x, y = np.meshgrid(np.linspace(-3, 3, 60), np.linspace(7.6, 9.5, 60))
    places = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
    points = np.c_[places, np.full(len(places), 10)].astype(np.float32)
    young, middle, old = (wrinkles(places, points, age, 1) for age in (0.2, 0.6, 1.0))
    assert np.abs(young).max() == 0
    assert old.mean() < middle.mean() < -0.005
    nose = np.tile(np.array([[0.0, 1.0]], np.float32), (5, 1))
    assert np.abs(wrinkles(nose, points[:5], 1.0, 1)).max() < 0.01


def test_freckles_darken_cheeks_most_in_blue():
    points = np.random.default_rng(1).uniform([2, 0, 9], [5, 2, 10], (20000, 3)).astype(np.float32)
    few, many = (freckles(points[:, :2], points, amount, 5) for amount in (0.3, 1.0))
    assert many.mean() < few.mean() < 0
    assert (many[:, 2] <= many[:, 1]).all()
    assert (many[:, 1] <= many[:, 0]).all()
    assert (many.min(1) > -0.05).mean() > 0.3  # spots, not a veil


def test_components_are_found_in_spite_of_gaps_and_outliers(fit_skin):
    rng = np.random.default_rng(2)
    true = np.linalg.qr(rng.normal(size=(120, 3)))[0].T * np.array([[4.0], [3.0], [2.0]])
    scores = rng.normal(size=(400, 3))
    values = (0.3 + scores @ true + rng.normal(0, 0.01, (400, 120))).astype(np.float32)
    seen = (rng.random(values.shape) < 0.8).astype(np.float32)
    values[seen == 0] = 50.0
    spoiled = rng.random(values.shape) < 0.03
    values[spoiled] += 3.0
    mean, basis, _ = fit_skin.robust_components(values, seen, 3, rounds=25)
    assert np.abs(mean - 0.3 - scores.mean(0) @ true).max() < 0.12
    angles = np.linalg.svd(np.linalg.qr(true.T)[0].T @ np.linalg.qr(basis.T.astype(np.float64))[0])[1]
    assert angles.min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(basis, axis=1), [4, 3, 2], rtol=0.12)


def test_smooth_shading_is_taken_out_and_spots_stay(fit_skin):
    rng = np.random.default_rng(3)
    normals = rng.normal(size=(3000, 3)) * [1, 1, 0.5] + [0, 0, 1.5]
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    spots = np.where(rng.random(3000) < 0.05, -0.8, 0.0).astype(np.float32)
    shading = 0.5 * normals[:, 0] + 0.3 * normals[:, 1]
    values = np.repeat((shading + spots)[:, None], 3, 1).astype(np.float32)
    mean = np.zeros((3000, 3), np.float32)
    clean = fit_skin.without_shading(values, np.ones(3000, bool), normals, mean)[:, 0]
    difference = clean - spots
    assert shading.std() > 0.2
    assert difference.std() < 0.2 * shading.std()


@pytest.mark.shared
def test_pose_and_shape_explain_projected_landmarks(fit_skin, shared_dir):
    data = load_ict(shared_dir / "data" / "ict_facekit.npz").only(["face"])
    mean = data.mean[data.landmarks68]
    basis = np.concatenate([data.identity[: fit_skin.IDENTITIES], data.expression])[:, data.landmarks68]
    rng = np.random.default_rng(4)
    coefficients = np.zeros(len(basis))
    coefficients[:10] = rng.normal(0, 1, 10)
    shape = mean + np.tensordot(coefficients, basis, 1)
    turn = np.radians(12)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    points = (shape @ rotation.T)[:, :2] * [8, -8] + 100
    fit = fit_skin.fit_landmarks(points.astype(np.float32), mean, basis)
    assert fit.error < 0.01
    assert np.degrees(np.arccos((np.trace(fit.rotation @ rotation.T) - 1) / 2)) < 4
