"""The parser's maps as a perceptual loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from facewright.losses.face import ParserLoss
from facewright.systems.parse.segface.network import SegFace


@pytest.fixture(scope="module")
def loss() -> ParserLoss:
    torch.manual_seed(0)
    return ParserLoss(SegFace(SegFace.preset("compact")))


def waves(side: int, seed: int = 0) -> torch.Tensor:
    small = torch.randn(1, 3, side // 16, side // 16, generator=torch.Generator().manual_seed(seed))
    return interpolate(small, size=side, mode="bicubic").clamp(-1, 1)


def test_equal_pictures_are_at_no_distance_and_worse_ones_farther(loss: ParserLoss) -> None:
    truth = waves(256)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    near, far = (float(loss(truth + s * noise, truth)) for s in (0.05, 0.4))
    assert float(loss(truth, truth)) == 0
    assert 0 < near < far < 4


def test_larger_pictures_are_averaged_down(loss: ParserLoss) -> None:
    a, b = waves(256), waves(256, 1)
    big = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (a, b))
    assert float(loss(*big)) == pytest.approx(float(loss(a, b)), rel=1e-4)


def test_gradients_reach_the_prediction_alone(loss: ParserLoss) -> None:
    prediction, target = waves(256).requires_grad_(), waves(256, 1).requires_grad_()
    loss(prediction, target).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None for p in loss.parameters())
