"""Eigenfaces: found directions are those of the largest variance, and what lies in them comes back unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.systems.latents.eigenfaces.network import Components, Eigenfaces, EigenfacesConfig, planes
from facewright.systems.latents.eigenfaces.training import Covariance, fit

SMALL = EigenfacesConfig(size=16, lightness=6, colour=4, colour_size=4)


def test_lightness_and_differences_are_the_whole_colour() -> None:
    image = torch.rand(2, 3, 1, 1).expand(-1, -1, 16, 16) * 2 - 1
    lightness, colour = planes(image, 4)
    expected = image[:, 0, 0, 0] * 0.299 + image[:, 1, 0, 0] * 0.587 + image[:, 2, 0, 0] * 0.114
    assert torch.allclose(lightness, expected[:, None].expand(-1, 256), atol=1e-6)
    assert torch.allclose(colour[:, 0], image[:, 0, 0, 0] - expected, atol=1e-6)
    assert torch.allclose(colour[:, -1], image[:, 2, 0, 0] - expected, atol=1e-6)


def test_components_are_the_largest_and_as_long_as_their_deviations() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(20_000, 3)) @ np.diag([3.0, 0.1, 1.0]) + [1, 2, 3]).float()
    covariance = Covariance(3)
    for part in rows.split(7_000):
        covariance.add(part)
    components = Components(2, 3)
    covariance.fill(components)
    assert torch.allclose(components.mean, torch.tensor([1.0, 2, 3]), atol=0.1)
    lengths = components.directions.norm(dim=1)
    assert lengths.tolist() == pytest.approx([3, 1], rel=0.03)
    assert abs(float(components.directions[0, 0])) == pytest.approx(3, rel=0.03)
    codes = components.code_of(rows)
    assert codes.std(0).tolist() == pytest.approx([1, 1], rel=0.03)
    assert float(codes.mean(0).abs().max()) < 0.01


def faces(count: int) -> np.ndarray:
    """Pictures that vary in the lightness of their halves and in one colour."""
    rng = np.random.default_rng(1)
    rows = rng.uniform(60, 190, (count, 2, 1, 1)).repeat(8, 1).repeat(16, 2)
    tint = rng.uniform(-20, 20, (count, 1, 1, 1)) * np.array([1.0, 0, -1])
    return np.rint(rows + tint).astype(np.uint8)


def test_what_lies_in_the_components_comes_back() -> None:
    model = fit(iter([faces(300), faces(300)]), SMALL)
    shown = faces(5)
    codes = model.encode(shown)
    assert codes.shape == (5, 10, 1, 1)
    assert np.abs(model.decode(codes).astype(int) - shown).max() <= 2
    other = np.ascontiguousarray(shown.transpose(0, 2, 1, 3))  # halves beside each other were never seen
    assert np.abs(model.decode(model.encode(other)).astype(int) - other).mean() > 5
    assert model.decode(codes[:0]).shape == (0, 16, 16, 3)


def test_codes_lead_to_themselves() -> None:
    model = Eigenfaces(SMALL).eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        first = model(image)
        assert torch.allclose(model(first.image).code[:, :6], first.code[:, :6], atol=1e-4)
