"""Self-supervised losses: closed forms, who gets a gradient, and the mean teacher's formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from facewright.errors import UsageError
from facewright.losses.consistency import MeanTeacher, feature_alignment, latent_alignment, latent_disagreement


def maps(seed: int, channels: int = 4) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, 3, 3, generator=random, dtype=torch.double, requires_grad=True)


def test_alignment_is_the_difference_of_unit_vectors_averaged_over_levels():
    x, y = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 0.5]).view(1, 2, 1, 1)
    assert float(feature_alignment([x], [y])) == pytest.approx(1.0)
    assert float(feature_alignment([x, x], [y, x])) == pytest.approx(0.5)
    diagonal = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    assert float(feature_alignment([x], [diagonal])) == pytest.approx((1 - math.sqrt(0.5) + math.sqrt(0.5)) / 2)


def test_alignment_ignores_how_strong_a_position_is():
    x, y = maps(0).detach(), maps(1).detach()
    strength = 0.1 + torch.rand(2, 1, 3, 3, dtype=torch.double)
    assert float(feature_alignment([x], [strength * x])) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(feature_alignment([x], [y]), feature_alignment([x], [strength * y]))


def test_only_the_student_is_moved():
    x, y = maps(0), maps(1)
    (feature_alignment([x], [y]) + latent_alignment(x, y)).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert y.grad is None


def test_latents_are_compared_by_their_mean_difference():
    assert float(latent_alignment(torch.zeros(2, 3, 4), torch.full((2, 3, 4), -0.5))) == 0.5


def test_views_agree_by_angle_and_both_are_moved():
    a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], requires_grad=True)
    b = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]], requires_grad=True)
    loss = latent_disagreement(a, b)
    assert loss.item() == pytest.approx(0.5)
    assert latent_disagreement(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert latent_disagreement(a, -a).item() == pytest.approx(2)
    loss.backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (a, b))


def test_levels_must_match():
    with pytest.raises(ValueError, match="zip"):
        feature_alignment([maps(0)], [maps(0), maps(1)])


def test_halves_are_compared_in_full_precision():
    a, b = maps(0).detach().bfloat16(), maps(1).detach().bfloat16()
    for loss in (feature_alignment([a], [b]), latent_alignment(a, b), latent_disagreement(a, b)):
        assert loss.dtype == torch.float32
    torch.testing.assert_close(latent_alignment(a, b), (a.float() - b.float()).abs().mean())


def test_teacher_is_the_running_mean_and_never_the_student():
    student = nn.BatchNorm1d(1)
    teacher = MeanTeacher(student, 0.75)
    expected = 1.0
    for value in (5.0, -3.0, 2.0):
        with torch.no_grad():
            student.weight.fill_(value)
            student.num_batches_tracked += 1
        teacher.update(student)
        expected = 0.75 * expected + 0.25 * value
        assert teacher.network.weight.item() == pytest.approx(expected)
    assert int(teacher.network.num_batches_tracked) == 3
    assert student.weight.item() == 2.0
    with pytest.raises(UsageError, match="decay"):
        MeanTeacher(student, 1.0)
