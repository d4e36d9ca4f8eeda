"""Adversarial losses against values worked by hand and against autograd on functions with known gradients."""

from __future__ import annotations

import math

import pytest
import torch

from facewright.losses import adversarial as adv


def test_softplus_losses_by_hand():
    real, fake = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    assert float(adv.softplus_generator(fake)) == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2)
    by_hand = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2 + (math.log(2) + math.log1p(math.exp(2))) / 2
    assert float(adv.softplus_discriminator(real, fake)) == pytest.approx(by_hand)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert float(adv.hinge_generator(fake)) == pytest.approx(1.0)
    assert float(adv.hinge_discriminator(real, fake)) == pytest.approx(0.5 * (0.25 + 1.0))


def test_r1_of_a_linear_discriminator_is_its_squared_norm():
    w = torch.randn(12, requires_grad=True)
    images = torch.randn(5, 3, 2, 2, requires_grad=True)
    penalty = adv.r1_penalty(images.flatten(1) @ w, images)
    assert penalty.item() == pytest.approx(w.square().sum().item(), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(w.grad, 2 * w.detach())


def test_path_length_of_a_linear_generator():
    # image = a·w summed over layers: the gradient norm is a·|direction| / √(H·W), the same for every layer
    a = torch.tensor(3.0, requires_grad=True)
    latents = torch.randn(2, 4, 16, requires_grad=True)
    images = a * latents.sum(1).view(2, 1, 4, 4)
    noise = torch.ones(2, 1, 4, 4)
    module = adv.PathLength(decay=1.0)
    penalty = module(images, latents, noise)
    assert float(module.mean) == pytest.approx(3.0, rel=1e-5)
    assert penalty.item() == pytest.approx(0.0, abs=1e-8)
    slow = adv.PathLength(decay=0.5)
    assert slow(images, latents, noise).item() == pytest.approx((3.0 - 1.5) ** 2, rel=1e-5)
    assert float(slow.mean) == pytest.approx(1.5, rel=1e-5)


def test_path_length_trains_the_generator():
    a = torch.tensor(3.0, requires_grad=True)
    latents = torch.randn(2, 4, 16, requires_grad=True)
    penalty = adv.PathLength()(a * latents.sum(1).view(2, 1, 4, 4), latents, torch.ones(2, 1, 4, 4))
    penalty.backward()
    assert a.grad > 0
