"""The Poincaré ball: inverses, laws, the flat limit, and parity with Hyperbolic Image Embeddings' maths."""

from __future__ import annotations

import pytest
import torch

from facewright.nn import hyperbolic as ball


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=generator) * 0.3, torch.randn(5, 4, generator=generator) * 0.3


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_laws(points: tuple[torch.Tensor, torch.Tensor], c: float) -> None:
    x, y = points
    torch.testing.assert_close(ball.logmap0(ball.expmap0(x, c), c), x, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ball.mobius_add(-x, ball.mobius_add(x, y, c), c), y, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ball.distance(x, y, c), ball.distance(y, x, c))
    torch.testing.assert_close(ball.distance_matrix(x, y, c).diagonal(), ball.distance(x, y, c))
    torch.testing.assert_close(ball.expmap(torch.zeros_like(x), x, c), ball.expmap0(x, c), rtol=1e-4, atol=1e-5)


def test_distance_of_two_points_on_a_line() -> None:
    x, y = torch.tensor([0.2, 0.0]), torch.tensor([-0.3, 0.0])
    wanted = 2 * (torch.atanh(torch.tensor(0.2)) + torch.atanh(torch.tensor(0.3)))
    assert float(ball.distance(x, y, 1.0)) == pytest.approx(float(wanted), abs=1e-4)


def test_points_stay_inside_with_finite_gradients() -> None:
    far = (1e4 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    to_ball, logits = ball.ToBall(8, 0.1, 2.0), ball.HyperbolicLogits(8, 2, 0.1)
    found = to_ball(far)
    assert float(found.norm(dim=-1).max()) < 1.771  # what a clip of 2 leaves at c = 0.1
    assert float(ball.project(far, 0.1).norm(dim=-1).max()) == pytest.approx(3.159, abs=1e-3)
    logits(found).square().sum().backward()
    assert far.grad is not None
    assert bool(torch.isfinite(far.grad).all())


def test_gradients_are_those_of_the_metric() -> None:
    to_ball = ball.ToBall(2, 1.0, 2.0)
    x = torch.tensor([[0.3, 0.1]], requires_grad=True)
    point = to_ball(x)
    point.sum().backward()
    assert x.grad is not None
    plain = torch.autograd.functional.jacobian(lambda v: ball.project(ball.expmap0(v, 1.0), 1.0).sum(), x.detach())
    factor = (1 - point.detach().square().sum()) ** 2 / 4
    torch.testing.assert_close(x.grad, factor * plain, rtol=1e-3, atol=1e-4)


def test_logits_become_euclidean_as_the_ball_grows(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    flat = ball.HyperbolicLogits(4, 3, 1e-6)
    wanted = 4 * ((points[0][:, None] - flat.offsets) * flat.normals).sum(-1)
    torch.testing.assert_close(flat(points[0]), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.shared
@pytest.mark.parametrize(("c", "scale"), [(0.1, 1.0), (1.0, 0.3)])
def test_equals_published(parity, c: float, scale: float) -> None:
    arrays, _, _ = parity("hypoc-head")
    raw_x, raw_y = (torch.from_numpy(arrays[f"in_points_{name}"]) for name in "xy")
    x, y = ball.project(raw_x * scale, c), ball.project(raw_y * scale, c)
    found = {
        "project": x,
        "mobius_add": ball.mobius_add(x, y, c),
        "dist": ball.distance(x, y, c),
        "expmap0": ball.expmap0(raw_y, c),
        "logmap0": ball.logmap0(y, c),
        "expmap": ball.expmap(x[:4], 0.3 * raw_y[:4], c),
        "dist_matrix": ball.distance_matrix(x[:5], y, c),
    }
    for name, value in found.items():
        published = torch.from_numpy(arrays[f"out_{name}_c{c}"])
        assert (value - published).abs().max() < 1e-4 * published.abs().max(), name
