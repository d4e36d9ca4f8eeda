from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facewright.losses.segmentation import (
    cross_entropy_dice,
    dice,
    hard_pixel_cross_entropy,
    partial_cross_entropy,
    pixel_cross_entropy,
    with_auxiliary,
)

LOSSES = [pixel_cross_entropy, dice, cross_entropy_dice, hard_pixel_cross_entropy]


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(2, 4, 6, 5, requires_grad=True), torch.randint(0, 4, (2, 6, 5)).byte()


def test_cross_entropy_is_torchs_mean() -> None:
    logits, labels = example()
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), F.cross_entropy(logits, labels.long()))
    assert float(pixel_cross_entropy(torch.zeros(1, 19, 4, 4), torch.zeros(1, 4, 4).long())) == pytest.approx(
        math.log(19)
    )


def test_dice_written_out() -> None:
    """Two pixels, two classes, p = (0.8, 0.2) and (0.4, 0.6), labels 0 and 1; denominators have squares."""
    p = torch.tensor([[0.8, 0.4], [0.2, 0.6]])
    loss = dice(p.log()[None, :, None], torch.tensor([[[0, 1]]]))
    first = 2 * 0.8 / (0.64 + 0.16 + 1)
    second = 2 * 0.6 / (0.04 + 0.36 + 1)
    assert float(loss) == pytest.approx(1 - (first + second) / 2, abs=1e-4)


def test_dice_is_over_the_batch_and_perfect_at_zero() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[1, :2] = 1  # the first picture has no pixel of class 1
    logits = F.one_hot(labels, 2).movedim(-1, 1) * 60.0
    assert float(dice(logits, labels)) == pytest.approx(0, abs=1e-5)
    wrong = logits.flip(1)
    assert float(dice(wrong, labels)) == pytest.approx(1, abs=1e-4)


def test_shares_add_up() -> None:
    logits, labels = example()
    halves = cross_entropy_dice(logits, labels)
    torch.testing.assert_close(halves, (pixel_cross_entropy(logits, labels) + dice(logits, labels)) / 2)
    torch.testing.assert_close(cross_entropy_dice(logits, labels, share=1.0), dice(logits, labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_have_no_influence_and_no_gradient(loss) -> None:
    logits, labels = example()
    labels[:, :3] = 255
    value = loss(logits, labels)
    value.backward()
    assert logits.grad[:, :, :3].abs().max() == 0
    assert logits.grad[:, :, 3:].abs().min() > 0
    other = logits.detach().clone()
    other[:, :, :3] += 5
    torch.testing.assert_close(loss(other, labels), value.detach())
    torch.testing.assert_close(loss(logits.detach()[:, :, 3:], labels[:, 3:]), value.detach())


@pytest.mark.parametrize("loss", [pixel_cross_entropy, hard_pixel_cross_entropy])
def test_nothing_to_count_is_zero(loss) -> None:
    logits, labels = example()
    value = loss(logits, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_slopes(loss) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 3, 3, requires_grad=True)
    labels = torch.randint(0, 3, (1, 3, 3))
    value = loss(logits, labels)
    value.backward()
    index, step = (0, 1, 2, 0), 1e-2
    moved = logits.detach().clone()
    moved[index] += step
    back = logits.detach().clone()
    back[index] -= step
    slope = (loss(moved, labels) - loss(back, labels)) / (2 * step)
    assert float(logits.grad[index]) == pytest.approx(float(slope), abs=1e-3)


def test_hard_pixels_are_the_unsure_ones_but_at_least_some() -> None:
    p = torch.tensor([0.99, 0.9, 0.6, 0.1])
    logits = torch.stack([p, 1 - p]).log()[None, :, None]
    labels = torch.zeros(1, 1, 4).long()
    expected = -(p[2:].log()).mean()
    torch.testing.assert_close(hard_pixel_cross_entropy(logits, labels, least=1), expected)
    torch.testing.assert_close(hard_pixel_cross_entropy(logits, labels, least=3), -p[1:].log().mean())
    torch.testing.assert_close(hard_pixel_cross_entropy(logits, labels), pixel_cross_entropy(logits, labels))


def test_auxiliary_heads_are_enlarged_and_weighed() -> None:
    logits, labels = example()
    small = nn.functional.avg_pool2d(logits.detach(), 2)
    enlarged = F.interpolate(small, size=(6, 5), mode="bilinear", align_corners=False)
    expected = pixel_cross_entropy(logits, labels) + 0.4 * pixel_cross_entropy(enlarged, labels)
    torch.testing.assert_close(with_auxiliary(logits, [small], labels), expected)
    torch.testing.assert_close(with_auxiliary(logits, [], labels), pixel_cross_entropy(logits, labels))


def test_partial_labels_count_the_probability_of_all_allowed_classes() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).log_softmax(0).view(1, 3, 1, 1).repeat(1, 1, 1, 3).requires_grad_()
    everything = 0b111
    allowed, nothing = torch.tensor([[[0b110, everything, 0b001]]]), torch.full((1, 1, 3), 255)
    p = logits.detach()[0, :, 0, 0].exp()
    loss = partial_cross_entropy(logits, allowed, nothing, everything)
    torch.testing.assert_close(loss, -(torch.log(p[1] + p[2]) + torch.log(p[0])) / 2)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 1] == 0).all()  # a pixel that can be anything teaches nothing
    assert logits.grad[0, 0, 0, 0] > 0 > logits.grad[0, 1, 0, 0]
    assert partial_cross_entropy(logits, torch.full((1, 1, 3), everything), nothing, everything) == 0


def test_the_expected_class_counts_more_than_its_alternatives() -> None:
    logits = torch.tensor([0.5, 1.0, 2.0]).log_softmax(0).view(1, 3, 1, 1).requires_grad_()
    p = logits.detach().flatten().exp()
    loss = partial_cross_entropy(logits, torch.tensor([[[0b011]]]), torch.tensor([[[0]]]), 0b111, doubt=0.2)
    torch.testing.assert_close(loss, -torch.log(p[0] + 0.2 * p[1]))


def test_single_classes_can_be_doubted_less() -> None:
    logits = torch.tensor([0.5, 1.0, 2.0]).log_softmax(0).view(1, 3, 1, 1)
    p = logits.flatten().exp()
    allowed, expected = torch.tensor([[[0b111]]]), torch.tensor([[[0]]])
    loss = partial_cross_entropy(logits, allowed, expected, 0b1111, doubt=0.2, doubts={2: 0.7, 0: 0.1})
    torch.testing.assert_close(loss, -torch.log(p[0] + 0.2 * p[1] + 0.7 * p[2]))
