"""PartSpectrum: what a description holds, readouts fitted on data made for it, maps, and the embedded weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from facewright.data.forgeries import FORENSIC_CROP
from facewright.errors import UsageError
from facewright.systems.forgery.features import SPECTRUM, FixedFeatures
from facewright.systems.forgery.partspectrum.network import (
    CELL,
    KINDS,
    PARTS,
    WINDOWS,
    PartSpectrum,
    PartSpectrumConfig,
    describe,
    description_width,
    part_shapes,
)
from facewright.systems.forgery.partspectrum.training import fit_readout, logistic_loss, set_scale, store


def fixed(seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    near, far = FixedFeatures.channels
    return [torch.randn(2, near, 32, 32, generator=rng), torch.randn(2, far, 16, 16, generator=rng)]


def crops(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)


def test_it_sees_the_crops_it_was_fitted_on() -> None:
    assert PartSpectrum.preprocess_for(PartSpectrumConfig()).crop == FORENSIC_CROP


def test_windows_lie_on_their_parts() -> None:
    from facewright.geometry.crop import template_face
    from facewright.geometry.similarity import transform_points

    points = template_face(512).points5.astype(np.float64)
    there = transform_points(FORENSIC_CROP.align(points), points) / CELL
    for name, point in zip(("left eye", "right eye", "nose"), there):
        top, bottom, left, right = WINDOWS[name]
        assert left <= point[0] < right
        assert top <= point[1] < bottom
    top, bottom, left, right = WINDOWS["mouth"]
    assert top <= there[3:, 1].mean() < bottom
    assert left <= there[3:, 0].mean() < right


@pytest.mark.parametrize(
    "config", [PartSpectrumConfig(), PartSpectrumConfig.compact(), PartSpectrumConfig(False, False, False)]
)
def test_a_description_has_the_width_it_says(config: PartSpectrumConfig) -> None:
    assert describe(fixed(), config).shape == (2, description_width(config))


def test_a_description_is_means_spreads_and_differences() -> None:
    parts = fixed()
    seen = describe(parts, PartSpectrumConfig.compact())
    near = parts[0]
    top, bottom, left, right = WINDOWS["left eye"]
    eye = near[:, :, top:bottom, left:right].flatten(2)
    width = near.shape[1]
    assert torch.allclose(seen[:, :width], eye.mean(2), atol=1e-6)
    assert torch.allclose(seen[:, width : width + SPECTRUM], eye[:, :SPECTRUM].std(2, correction=0), atol=1e-5)
    other = near[:, :SPECTRUM, WINDOWS["right eye"][0] : WINDOWS["right eye"][1], 18:24].flatten(2).mean(2)
    differences = seen[:, -8 * SPECTRUM : -7 * SPECTRUM]
    assert torch.allclose(differences, (eye.mean(2)[:, :SPECTRUM] - other).abs(), atol=1e-5)


def test_readouts_are_linear_in_what_is_scaled() -> None:
    torch.manual_seed(0)
    model = PartSpectrum(PartSpectrumConfig.compact())
    parts = fixed()
    seen = describe(parts, model.config)
    set_scale(model, np.concatenate([seen.numpy(), 2 * seen.numpy(), -seen.numpy()]))
    expected = model.kinds((seen - model.centre) / model.scale)
    assert torch.allclose(model.read(parts).kinds, expected, atol=1e-4)


def test_the_loss_by_hand_and_its_gradient() -> None:
    x, y = np.array([[1.0], [-1.0]]), np.array([1.0, 0.0])
    importance = np.array([0.5, 0.5])
    value, _ = logistic_loss(np.array([1.0, 0.0]), x, y, importance, 0.2)
    assert value == pytest.approx(np.log1p(np.exp(-1)) + 0.1)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), (rng.random(9) > 0.5).astype(float)
    args = (x, y, rng.random(9), 0.3)
    worst = check_grad(lambda w: logistic_loss(w, *args)[0], lambda w: logistic_loss(w, *args)[1], rng.normal(size=4))
    assert worst < 1e-5


def test_a_readout_finds_the_direction_that_tells() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.2  # sides of different size weigh alike
    seen = rng.normal(size=(400, 12))
    seen[:, 3] += 2.0 * labels
    weights, bias = fit_readout(seen, labels, penalty=0.01)
    assert np.abs(weights).argmax() == 3
    scores = seen @ weights + bias
    assert scores[labels].mean() > 0 > scores[~labels].mean()
    heavier, _ = fit_readout(seen, labels, penalty=10.0)
    assert np.linalg.norm(heavier) < np.linalg.norm(weights)
    with pytest.raises(UsageError, match="with and without"):
        fit_readout(seen, np.zeros(400, bool), penalty=1.0)


def test_more_pictures_of_one_side_do_not_make_it_weigh_more() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) < 20
    seen = rng.normal(size=(60, 4)) + labels[:, None]
    weights, bias = fit_readout(seen, labels, penalty=0.1)
    doubled = np.concatenate([np.arange(60), np.arange(20, 60), np.arange(20, 60)])
    again, other = fit_readout(seen[doubled], labels[doubled], penalty=0.1)
    np.testing.assert_allclose(again, weights, atol=1e-3)
    assert other == pytest.approx(bias, abs=1e-3)


def test_maps_are_hot_where_a_readout_says_so() -> None:
    torch.manual_seed(0)
    model = PartSpectrum(PartSpectrumConfig.compact()).eval()
    width = description_width(model.config)
    for number in range(len(PARTS)):
        store(model.parts, number, np.zeros(width), 3.0 if PARTS[number] == "mouth" else -3.0)
    found = model.examine(crops())
    assert found.shares.keys() == set(KINDS)
    for heat in found.maps:
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        top, bottom, left, right = (CELL * edge for edge in WINDOWS["mouth"])
        assert top <= y < bottom
        assert left <= x < right
        assert heat[0, 0] < 0.01


def test_the_shapes_of_parts_are_one_in_the_middle_and_fall_outside() -> None:
    shapes = part_shapes()
    assert shapes.shape == (4, 256, 256)
    for shape, name in zip(shapes, PARTS):
        top, bottom, left, right = (CELL * edge for edge in WINDOWS[name])
        assert shape[(top + bottom) // 2, (left + right) // 2] > 0.99
        assert shape[top:bottom, left:right].min() > 0.9
        assert shape[min(255, bottom + 40), min(255, right + 40)] < 0.05


def test_descriptions_are_what_the_readouts_see() -> None:
    torch.manual_seed(0)
    model = PartSpectrum(PartSpectrumConfig.compact()).eval()
    model.precision = "fp32"
    seen = torch.from_numpy(model.described(crops(3)))
    with torch.inference_mode():
        expected = model(model.normalise(crops(3))).kinds
    assert torch.allclose(model.kinds(seen), expected, atol=2e-2)
    assert model.described(crops(0)).shape == (0, description_width(model.config))
    with pytest.raises(UsageError, match="uint8 crops"):
        model.examine(crops()[:, :128])
