"""The face loss: zero for the same face, larger for another, pulling towards the target, blind to the recogniser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.geometry.resample import crop_face
from facewright.geometry.templates import template_points
from facewright.losses.face import FaceLoss, template_grid
from facewright.systems.recognise.arcface.network import ArcFace, ArcFaceConfig
from facewright.systems.recognise.sface.network import SFace, SFaceConfig

SIZE = 64


@pytest.fixture(scope="module")
def loss() -> FaceLoss:
    torch.manual_seed(0)
    recogniser = ArcFace(ArcFaceConfig("iresnet18", 16))
    for parameter in recogniser.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.dim() > 1 else 1.0, 0.05)
    return FaceLoss(recogniser.eval(), SIZE)


def face(seed: int) -> torch.Tensor:
    """A smooth random picture (1, 3, S, S) in [−1, 1]."""
    rough = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, SIZE, mode="bicubic").tanh()


def test_the_same_face_costs_nothing_and_another_does(loss: FaceLoss) -> None:
    same, other = loss(face(0), face(0)), loss(face(0), face(1))
    assert float(same.identity) == pytest.approx(0, abs=1e-5)
    assert float(same.features) == pytest.approx(0, abs=1e-6)
    assert 0 < float(other.identity) <= 2
    assert float(other.features) > 1e-4


@pytest.mark.parametrize("part", ["identity", "features"])
def test_a_step_down_the_gradient_comes_nearer_to_the_target(loss: FaceLoss, part: str) -> None:
    target = face(0)
    prediction = (target + 0.3 * face(1)).requires_grad_()
    before = getattr(loss(prediction, target), part)
    before.backward()
    assert prediction.grad is not None
    step = 0.05 * prediction.grad / prediction.grad.norm()
    after = getattr(loss(prediction.detach() - step, target), part)
    assert float(after) < float(before)


def test_gradients_reach_the_prediction_only(loss: FaceLoss) -> None:
    prediction, target = face(0).requires_grad_(), face(1).requires_grad_()
    distance = loss(prediction, target)
    (distance.identity + distance.features).backward()
    assert prediction.grad is not None
    assert target.grad is None
    assert all(p.grad is None for p in loss.parameters())


def test_the_loss_is_the_mean_over_the_batch(loss: FaceLoss) -> None:
    pairs = [(face(0), face(1)), (face(2), face(2))]
    together = loss(*(torch.cat(side) for side in zip(*pairs)))
    single = [loss(*pair) for pair in pairs]
    assert float(together.identity) == pytest.approx(float(sum(d.identity for d in single)) / 2, rel=1e-2)
    assert float(together.features) == pytest.approx(float(sum(d.features for d in single)) / 2, rel=1e-2)


def test_identity_is_one_minus_the_cosine_of_the_embeddings(loss: FaceLoss) -> None:
    grid = loss.grid
    crops = [torch.nn.functional.grid_sample(face(k), grid, align_corners=False, padding_mode="border") for k in (0, 1)]
    with torch.no_grad():
        a, b = (loss.network(crop)[0] for crop in crops)
    cosine = float(a @ b / (a.norm() * b.norm()))
    assert float(loss(face(0), face(1)).identity) == pytest.approx(1 - cosine, abs=1e-5)


def test_what_lies_outside_the_recognisers_crop_does_not_matter(loss: FaceLoss) -> None:
    target, changed = face(0), face(0).clone()
    changed[..., :2, :] = 1
    changed[..., :, :2] = -1
    assert float(loss(changed, target).features) == pytest.approx(0, abs=1e-6)


def test_the_grid_cuts_the_recognisers_template() -> None:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    wanted = crop_face(picture, template_points("ffhq", 256), 112, "arcface").image
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    cut = torch.nn.functional.grid_sample(tensor, torch.from_numpy(template_grid(256, 112)), align_corners=False)
    difference = np.abs(cut[0].permute(1, 2, 0).numpy() - wanted)
    assert np.median(difference) < 1.0


def test_the_grid_is_not_half_a_pixel_aside() -> None:
    """A least squares fit leaves the five points off by nothing in the mean."""
    pixels = ((template_grid(256, 112)[0].astype(np.float64) + 1) * 256 - 1) / 2
    origin, across, down = pixels[0, 0], pixels[0, 1] - pixels[0, 0], pixels[1, 0] - pixels[0, 0]
    x, y = template_points("arcface", 112).T[..., None]
    off = origin + x * across + y * down - template_points("ffhq", 256)
    np.testing.assert_allclose(off.mean(0), 0, atol=0.01)
    assert np.abs(off).max() < 4


def test_other_backbones_are_refused() -> None:
    recogniser: Any = SFace(SFaceConfig("mobilefacenet", 16))
    with pytest.raises(UsageError, match="IResNet"):
        FaceLoss(recogniser)
