"""Multibatch: the size it claims, the threshold, signatures and their scores, and that its loss separates people."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.losses.pairs import multibatch_loss
from facewright.systems.recognise.multibatch.network import Multibatch, MultibatchConfig, NetworkInNetwork, Signatures

TINY = MultibatchConfig(size=32, dim=8, widths=(16, 16, 16, 16, 16), groups=(1, 1, 1, 1, 1))


def tiny(**changes) -> Multibatch:
    torch.manual_seed(0)
    values = {name: getattr(TINY, name) for name in ("size", "dim", "widths", "groups")}
    return Multibatch(MultibatchConfig(**(values | changes))).eval()


def theta(model: Multibatch) -> float:
    return float(model.threshold.detach())


def crops(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def multiply_adds(model: Multibatch) -> float:
    """Of one picture, counted from the shapes that convolutions and linear layers see."""
    found = []

    def count(module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        found.append(module.weight[0].numel() * output.numel())  # type: ignore[index]

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    side = model.preprocess.size
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    return sum(found)


def test_full_size_stays_within_the_embedded_budget():
    model = Multibatch()
    assert sum(p.numel() for p in model.parameters()) == 517_921
    assert multiply_adds(model) == pytest.approx(47.2e6, rel=0.01)
    assert model.preprocess.size == 112
    assert model.preprocess.crop.template == "arcface"


def test_stages_are_as_described():
    model = Multibatch()
    maps = model.backbone.stem(torch.zeros(1, 3, 112, 112))  # type: ignore[operator]
    shapes = [tuple(maps.shape[1:])]
    for stage in model.backbone.stages:  # type: ignore[union-attr]
        maps = stage(maps)
        shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(32, 56, 56), (32, 28, 28), (64, 14, 14), (96, 7, 7), (128, 3, 3), (192, 3, 3)]
    kernels = [m.kernel_size[0] for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert kernels == [5, *[3, 1, 1] * 5]


def test_threshold_is_positive_and_settable():
    model = tiny()
    assert theta(model) == pytest.approx(1.0)
    for value in (0.01, 3.7, 40.0):
        model.set_threshold(value)
        assert theta(model) == pytest.approx(value, rel=1e-5)
    with torch.no_grad():
        model.theta.fill_(-5.0)
    assert 0 < theta(model) < 0.01
    with pytest.raises(UsageError, match="above 0"):
        model.set_threshold(0.0)


def test_forward_gives_the_threshold_on_request():
    model = tiny()
    x = model.normalise(crops(3))
    found = model(x, with_threshold=True)
    assert isinstance(found, Signatures)
    assert torch.equal(found.vectors, model(x))
    assert torch.equal(found.threshold, model.threshold)


@torch.no_grad()
def test_signatures_are_of_the_picture_or_averaged_with_its_mirror_image():
    model = tiny()
    model.precision = "fp32"
    model.set_threshold(2.5)
    pictures = crops(4)
    x = model.normalise(pictures)
    np.testing.assert_allclose(model.signatures(pictures), model(x).numpy(), rtol=1e-3, atol=1e-4)
    model.mirror = True
    expected = ((model(x) + model(x.flip(3))) / 2).numpy()
    found = model.signatures(pictures)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    unit = model.embed(pictures)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)


def test_scores_are_threshold_minus_squared_distance():
    model = tiny()
    model.set_threshold(2.0)
    a, b = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 3.0]])
    np.testing.assert_allclose(model.scores(a, b), [1.0, -2.0], atol=1e-6)


def test_unit_length_is_kept_everywhere():
    model = tiny(unit_length=True)
    x = model.normalise(crops(3))
    torch.testing.assert_close(model(x).norm(dim=1), torch.ones(3))
    np.testing.assert_allclose(np.linalg.norm(model.signatures(crops(3)), axis=1), 1, atol=1e-5)


def test_training_separates_people_and_moves_the_threshold_between_them():
    """A few steps on four noisy patterns: distances end on both sides of θ with the margin the hinge asks for."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.randn(4, 3, 32, 32, generator=generator)
    labels = torch.arange(4).repeat_interleave(4)
    model = tiny().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(40):
        noise = torch.randn(16, 3, 32, 32, generator=generator)
        out = model(patterns[labels] + 0.5 * noise, with_threshold=True)
        loss = multibatch_loss(out.vectors, labels, out.threshold)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    squared = torch.cdist(out.vectors, out.vectors).square().detach()
    same = labels[:, None] == labels
    off = ~torch.eye(16, dtype=torch.bool)
    assert float(loss.detach()) < 0.05
    assert squared[same & off].max() < theta(model) < squared[~same].min()


def test_theta_travels_with_the_weights(tmp_path):
    model = tiny()
    model.set_threshold(4.25)
    loaded = Multibatch.from_pretrained(model.save_pretrained(tmp_path))
    assert theta(loaded) == pytest.approx(4.25)
    assert "theta" in loaded.state_dict()


def test_another_backbone_can_be_plugged_in():
    with torch.device("meta"):
        model = Multibatch(MultibatchConfig(backbone="iresnet18", dim=64))
    assert model.backbone.fc.out_features == 64  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="mobilefacenet"):
        Multibatch(MultibatchConfig(backbone="resnext"))


def test_widths_and_groups_must_agree():
    with pytest.raises(UsageError, match="5 and 2"):
        NetworkInNetwork(8, (8, 8, 8, 8, 8), (1, 1))


def test_wrong_crops_are_refused():
    with pytest.raises(UsageError, match="32, 32"):
        tiny()(torch.zeros(1, 3, 48, 48))


def test_inverse_softplus_is_exact_for_large_and_small_values():
    model = tiny()
    model.set_threshold(1e-3)
    assert float(model.theta.detach()) == pytest.approx(math.log(math.expm1(1e-3)), rel=1e-5)
