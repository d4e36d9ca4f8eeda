"""FaceFill: the likeliest face given what a hole leaves, fitted to faces that differ in known ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.errors import UsageError
from facewright.systems.inpaint.facefill.fitting import fit
from facewright.systems.inpaint.facefill.network import FaceFill, FaceFillConfig

SIDE = 16
TINY = FaceFillConfig(size=SIDE, directions=3, caution=1.0)


def faces(count: int = 60, seed: int = 0, noise: float = 2.0) -> np.ndarray:
    """Faces that differ in brightness and in a slope from top to bottom, whichever side is left."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(-1, 1, SIDE)[:, None, None]
    bright, slope = (rng.normal(0, 25, (count, 1, 1, 1)) for _ in range(2))
    values = 128 + bright + slope * rows + rng.normal(0, noise, (count, SIDE, SIDE, 3))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def holes(count: int) -> np.ndarray:
    found = np.zeros((count, SIDE, SIDE), bool)
    found[:, 8:, :] = True
    return found


@pytest.fixture(scope="module")
def model() -> FaceFill:
    return fit(faces(), TINY)


def test_sizes() -> None:
    with torch.device("meta"):
        full, compact = FaceFill(), FaceFill(FaceFillConfig.compact())
    assert sum(p.numel() for p in full.parameters()) == 513 * 3 * 128**2 + 1
    assert sum(p.numel() for p in compact.parameters()) == 121 * 3 * 64**2 + 1


def test_half_of_a_face_says_what_the_other_is_like(model: FaceFill) -> None:
    unseen = faces(20, seed=1)
    filled = model.fill(unseen, holes(20))
    inside = holes(20)
    error = np.abs(filled.astype(float) - unseen)[inside].mean()
    mean = np.abs(unseen.astype(float) - faces().mean((0, 1, 2)))[inside].mean()
    assert error < 5
    assert error < 0.2 * mean


@torch.no_grad()
def test_what_the_hole_hides_has_no_influence(model: FaceFill) -> None:
    image = model.normalise(faces(2, seed=2))
    hole = torch.from_numpy(holes(2))[:, None].float()
    spoiled = torch.where(hole > 0, torch.full_like(image, 1e6), image)
    assert torch.equal(model(image, hole), model(spoiled, hole))
    assert not torch.allclose(model(image, hole), model(image), atol=1e-3)


@torch.no_grad()
def test_where_all_is_lost_it_is_the_mean_face(model: FaceFill) -> None:
    image = model.normalise(faces(1))
    assert torch.allclose(model(image, torch.ones(1, 1, SIDE, SIDE))[0], model.mean, atol=1e-6)


@torch.no_grad()
def test_the_weights_are_the_mode_of_the_posterior(model: FaceFill) -> None:
    image, hole = model.normalise(faces(1, seed=3)), torch.from_numpy(holes(1))[:, None].float()

    def cost(weights: Tensor) -> Tensor:
        drawn = model.mean + (weights @ model.directions.flatten(1)).view(1, 3, SIDE, SIDE)
        error = ((image - drawn) / model.log_noise.exp()).square() * (1 - hole)
        return error.sum() + weights.square().sum()

    best = model.weights(image, hole)
    least = cost(best)
    for number in range(3):
        for step in (-1e-2, 1e-2):
            moved = best.clone()
            moved[0, number] += step
            assert cost(moved) > least


@torch.no_grad()
def test_caution_stays_nearer_to_the_mean() -> None:
    image, hole = faces(1, seed=4), holes(1)
    sizes = []
    for caution in (1.0, 1e4):
        careful = fit(faces(), FaceFillConfig(SIDE, 3, caution))
        sizes.append(float(careful.weights(careful.normalise(image), torch.from_numpy(hole)[:, None].float()).norm()))
    assert sizes[1] < 0.8 * sizes[0]


def test_the_fit_finds_directions_noise_and_mean(model: FaceFill) -> None:
    assert torch.allclose(model.log_noise.exp().mean() * 127.5, torch.tensor(2.0), atol=0.3)
    directions = model.directions.detach().flatten(1)
    lengths = directions.norm(dim=1)
    assert (lengths[:-1] >= lengths[1:]).all()
    unit = directions / lengths[:, None]
    assert torch.allclose(unit @ unit.T, torch.eye(3), atol=1e-4)
    # brightness and slope, and then hardly anything
    assert lengths[2] < 0.1 * lengths[1]
    assert torch.allclose(model.mean, fit(faces()[:, :, ::-1], TINY).mean, atol=1e-6)


def test_what_does_not_fit_is_refused(model: FaceFill) -> None:
    with pytest.raises(UsageError, match="takes images"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match="one hole"):
        model(torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 1, 8, 8))
    with pytest.raises(UsageError, match="too few"):
        fit(faces(5), TINY)
    with pytest.raises(UsageError, match="of 16 px, not of 8"):
        fit(np.zeros((9, 8, 8, 3), np.uint8), TINY)
    with pytest.raises(UsageError, match="cannot differ in 0"):
        FaceFillConfig(directions=0)
    with pytest.raises(UsageError, match="caution 0"):
        FaceFillConfig(caution=0.0)
