from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.stats import gennorm
from skimage import data

from facewright.errors import UsageError, WeightsError
from facewright.metrics.niqe import (
    NiqeModel,
    block_features,
    default_model,
    fit_aggd,
    fit_pristine,
    halved,
    luma_of,
    main,
    mscn,
    niqe,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.0])
def test_aggd_finds_the_shape_and_scales_of_synthetic_samples(shape: float) -> None:
    """Samples whose left and right halves have scales 1 and 2: the two-piece generalised Gaussian itself."""
    rng = np.random.default_rng(0)
    half = np.abs(gennorm.rvs(shape, size=400_000, random_state=rng))
    right = rng.random(half.size) < 2 / 3
    alpha, beta_left, beta_right = fit_aggd(np.where(right, 2 * half, -half)[None])
    assert alpha[0] == pytest.approx(shape, rel=0.03)
    assert beta_left[0] == pytest.approx(1, rel=0.04)
    assert beta_right[0] == pytest.approx(2, rel=0.04)


def test_mscn_by_its_definition() -> None:
    luma = data.camera()[100:140, 100:150].astype(float)
    grid = np.arange(-3, 4)
    window = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    y, x = 17, 23
    patch = luma[y - 3 : y + 4, x - 3 : x + 4]
    mean = (window * patch).sum()
    deviation = np.sqrt((window * (patch - mean) ** 2).sum())
    normalised, found = mscn(luma)
    assert found[y, x] == pytest.approx(deviation, abs=1e-6)
    assert normalised[y, x] == pytest.approx((luma[y, x] - mean) / (deviation + 1), abs=1e-6)


def test_halving_keeps_straight_slopes_and_averages_checkerboards() -> None:
    y, x = np.mgrid[:32, :40].astype(float)
    half = halved(3 * x + 2 * y)
    yy, xx = np.mgrid[:16, :20]
    np.testing.assert_allclose(half[2:-2, 2:-2], (3 * (2 * xx + 0.5) + 2 * (2 * yy + 0.5))[2:-2, 2:-2], atol=1e-9)
    np.testing.assert_allclose(halved((x + y) % 2)[2:-2, 2:-2], 0.5, atol=1e-9)


def test_features_come_per_whole_block() -> None:
    features, sharpness = block_features(luma_of(data.astronaut()[:200, :400], 255))
    assert features.shape == (2 * 4, 36)
    assert sharpness.shape == (8,)
    assert np.isfinite(features).all()
    assert ((features[:, [0, 2, 6, 18]] >= 0.2) & (features[:, [0, 2, 6, 18]] <= 10)).all()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_rises_with_blur_and_with_noise(name: str) -> None:
    picture = getattr(data, name)()
    blurred = [niqe(cv2.GaussianBlur(picture, (0, 0), s)) for s in (0.8, 1.5, 3, 5)]
    rng = np.random.default_rng(0)
    noisy = [niqe(np.clip(picture + rng.normal(0, s, picture.shape), 0, 255).round()) for s in (5, 10, 20, 40)]
    for values in ([niqe(picture), *blurred], [niqe(picture), *noisy]):
        assert values == sorted(values)


def test_distance_by_hand_for_a_model_of_the_picture_itself() -> None:
    picture = data.astronaut()
    features, _ = block_features(luma_of(picture, 255))
    own = NiqeModel(features.mean(0), np.cov(features, rowvar=False))
    assert niqe(picture, own) == pytest.approx(0, abs=1e-6)
    away = NiqeModel(own.mean + 0.1, own.covariance)
    direction = np.full(36, 0.1)
    assert niqe(picture, away) == pytest.approx(
        np.sqrt(direction @ np.linalg.pinv(own.covariance) @ direction), rel=1e-6
    )


def test_value_range_does_not_matter() -> None:
    picture = data.astronaut()
    assert niqe(picture / 255, data_range=1.0) == pytest.approx(niqe(picture), rel=1e-6)


def test_embedded_model_is_a_covariance() -> None:
    model = default_model()
    np.testing.assert_allclose(model.covariance, model.covariance.T, atol=1e-12)
    assert np.linalg.eigvalsh(model.covariance).min() > 0


def test_fit_command_writes_a_model_that_every_layout_of_load_reads(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(("astronaut", "coffee", "chelsea", "immunohistochemistry")):
        picture = getattr(data, name)()
        for j in range(4):
            y, x = rng.integers(0, 60, 2)
            Image.fromarray(picture[y:, x:]).save(folder / f"{i}{j}.png")
    main(["--fit", str(folder), "--out", str(tmp_path / "model.npz")])
    model = NiqeModel.load(tmp_path / "model.npz")
    assert niqe(cv2.GaussianBlur(data.coffee(), (0, 0), 3), model) > niqe(data.coffee(), model)
    savemat(tmp_path / "original.mat", {"mu_prisparam": model.mean[None], "cov_prisparam": model.covariance})
    np.savez(tmp_path / "basicsr.npz", mu_pris_param=model.mean[None], cov_pris_param=model.covariance)
    for file in ("original.mat", "basicsr.npz"):
        loaded = NiqeModel.load(tmp_path / file)
        np.testing.assert_array_equal(loaded.mean, model.mean)
        np.testing.assert_array_equal(loaded.covariance, model.covariance)


def test_unusable_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="96×192"):
        niqe(data.astronaut()[:96, :96])
    with pytest.raises(UsageError, match="texture"):
        niqe(np.full((200, 200, 3), 80))
    with pytest.raises(UsageError, match="sharp blocks"):
        fit_pristine([data.astronaut()[:200, :200]])
    np.savez(tmp_path / "wrong.npz", mean=np.zeros(3), covariance=np.eye(3))
    (tmp_path / "text.npz").write_text("not a model")
    for file in ("wrong.npz", "text.npz", "missing.npz", "missing.mat"):
        with pytest.raises(WeightsError, match="NIQE model"):
            NiqeModel.load(tmp_path / file)
