"""Adaptive augmentation: nothing at p = 0, exact, differentiable changes, and a probability that follows its sign."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.training import augment as au
from facewright.training.augment import AdaptiveAugment

ALWAYS = torch.tensor(1.0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_nothing_happens_at_probability_zero():
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    assert AdaptiveAugment()(x) is x
    for change in (au.moved, au.recoloured):
        torch.testing.assert_close(change(x, torch.tensor(0.0)), x)


def test_shift_and_mirror_move_pixels_without_changing_them():
    x = torch.arange(16.0 * 16).view(1, 1, 16, 16).expand(64, 1, 16, 16)
    moved = au.moved(x, ALWAYS)
    inner = moved[:, 0, 8, 7:9]
    mirrored = inner[:, 0] > inner[:, 1]
    assert 16 < int(mirrored.sum()) < 48
    shifts = []
    for picture in moved[~mirrored, 0]:
        row, column = divmod(int(picture[8, 8]), 16)
        shifts += [(row - 8, column - 8)]
        expected = x[0, 0].roll((8 - row, 8 - column), (0, 1))
        assert torch.equal(picture[2:-2, 2:-2], expected[2:-2, 2:-2])
    assert {abs(s) for pair in shifts for s in pair} == {0, 1, 2}


def test_border_is_reflected():
    pick = au._picks(torch.tensor([-2, 2]), torch.tensor([False, False]), 6).argmax(2)
    assert pick.tolist() == [[2, 1, 0, 1, 2, 3], [2, 3, 4, 5, 4, 3]]


def test_colour_changes_keep_structure():
    x = torch.rand(32, 3, 8, 8) * 2 - 1
    out = au.recoloured(x, ALWAYS)
    grey, changed = x.mean(1).flatten(1), out.mean(1).flatten(1)
    # the mean of the channels passes brightness and contrast only: an affine map with positive slope per picture
    slope = (changed - changed.mean(1, True)).norm(dim=1) / (grey - grey.mean(1, True)).norm(dim=1)
    torch.testing.assert_close(
        changed - changed.mean(1, True), slope[:, None] * (grey - grey.mean(1, True)), atol=1e-5, rtol=1e-4
    )
    assert float(slope.log2().std()) == pytest.approx(au.CONTRAST, rel=0.4)


def test_cutout_removes_up_to_a_quarter():
    kept = au._cutout(torch.ones(200, 3, 32, 32), ALWAYS)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    removed = 1 - kept.mean((1, 2, 3))
    assert removed.max() == pytest.approx(0.25, abs=0.02)
    assert removed.min() > 0.05


def test_share_of_changed_pictures_is_p():
    x = torch.rand(1, 3, 16, 16).expand(2000, 3, 16, 16)
    brighter = (au.recoloured(x[..., :1, :1], torch.tensor(0.3)) != x[..., :1, :1]).any(1).float().mean()
    assert float(brighter) == pytest.approx(1 - 0.7**3, abs=0.03)


def test_first_and_second_derivatives_exist():
    augment = AdaptiveAugment(p=0.8)
    x = (torch.rand(3, 3, 8, 8, dtype=torch.float32) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(augment(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_gradient_is_that_of_the_same_draw():
    augment = AdaptiveAugment(p=0.8)
    x, direction = torch.rand(4, 3, 8, 8).requires_grad_(), torch.randn(4, 3, 8, 8)

    def drawn(images: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return augment(images)

    (gradient,) = torch.autograd.grad(drawn(x).sum(), x)
    change = (drawn(x + direction) - drawn(x)).sum()
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("logit", "wanted"), [(3.0, 0.16), (-3.0, 0.0)])
def test_probability_follows_how_sure_the_discriminator_is(logit, wanted):
    augment = AdaptiveAugment(images=100, interval=2)
    for _ in range(4):
        p = augment.adapt(torch.full((4, 1), logit))
    assert p == pytest.approx(wanted)
    assert float(augment.p) == p


def test_probability_waits_for_its_interval_and_stops_at_the_limit():
    augment = AdaptiveAugment(images=10, interval=3, limit=0.5)
    assert [round(augment.adapt(torch.ones(1)), 3) for _ in range(7)] == [0, 0, 0.3, 0.3, 0.3, 0.5, 0.5]
    # half of the logits positive: the mean sign is 0, below the target
    for _ in range(3):
        augment.adapt(torch.tensor([1.0, -1.0]))
    assert float(augment.p) == 0.0


def test_state_travels_with_the_module():
    augment = AdaptiveAugment(images=100)
    for _ in range(5):
        augment.adapt(torch.ones(4))
    copy = AdaptiveAugment(images=100)
    copy.load_state_dict(augment.state_dict())
    rest = [[a.adapt(torch.ones(4)) for _ in range(4)] for a in (augment, copy)]
    assert rest[0] == rest[1]
    assert rest[0][-1] == pytest.approx(0.32)


def test_impossible_settings_are_refused():
    for wrong in ({"p": 0.9, "limit": 0.5}, {"images": 0}, {"interval": 0}):
        with pytest.raises(UsageError, match="augmentation needs"):
            AdaptiveAugment(**wrong)
