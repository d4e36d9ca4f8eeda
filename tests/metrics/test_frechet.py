from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from skimage import data

from facewright.errors import UsageError
from facewright.metrics import FeatureStatistics, frechet_distance, frechet_from_features, frechet_from_statistics


def features(seed: int, number: int = 400, size: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


def test_equals_the_definition_with_scipy_sqrtm() -> None:
    a, b = features(0), features(1)
    sa, sb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(sa @ sb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sa + sb - 2 * root)
    assert frechet_from_features(a, b) == pytest.approx(expected, rel=1e-8)


def test_closed_form_of_diagonal_gaussians() -> None:
    deviations_a, deviations_b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.0])
    expected = 4.0 + 9.0 + ((deviations_a - deviations_b) ** 2).sum()
    found = frechet_distance([0, 2, 0], np.diag(deviations_a**2), [0, 0, 3], np.diag(deviations_b**2))
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_set_has_no_distance_to_itself_even_when_its_covariance_is_singular() -> None:
    a = features(0, number=5, size=20)
    assert frechet_from_features(a, a) == pytest.approx(0, abs=1e-6)


def test_symmetric_and_unchanged_by_rotation() -> None:
    a, b = features(2), features(3)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    assert frechet_from_features(a, b) == pytest.approx(frechet_from_features(b, a), rel=1e-8)
    assert frechet_from_features(a @ rotation, b @ rotation) == pytest.approx(frechet_from_features(a, b), rel=1e-8)


def test_grows_with_blur_through_an_embedder() -> None:
    picture = data.astronaut()
    crops = np.stack([picture[y : y + 32, x : x + 32] for y in range(0, 480, 24) for x in range(0, 480, 24)])
    projection = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def embed(batch: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(batch / np.float32(255)).permute(0, 3, 1, 2)
        return torch.nn.functional.conv2d(x, projection).abs().mean((2, 3))

    def statistics(sigma: float) -> FeatureStatistics:
        blurred = [cv2.GaussianBlur(c, (0, 0), sigma) if sigma else c for c in crops]
        return FeatureStatistics.embedded(embed, np.array_split(np.stack(blurred), 4))

    clean = statistics(0)
    assert clean.count == len(crops)
    distances = [frechet_from_statistics(clean, statistics(s)) for s in (0, 0.7, 1.5, 3)]
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert all(a < b for a, b in itertools.pairwise(distances))


def test_impossible_sets_are_refused() -> None:
    with pytest.raises(UsageError, match="N ≥ 2"):
        FeatureStatistics.of(np.zeros((1, 4)))
    with pytest.raises(UsageError, match="no pictures"):
        FeatureStatistics.embedded(lambda x: x, [])
    with pytest.raises(UsageError, match="unequal dimensions"):
        frechet_distance([0, 0], np.eye(2), [0], np.eye(1))
