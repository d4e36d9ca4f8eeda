"""Losses between logits and labels of segmentation.

Logits are (N, C, H, W), labels (N, H, W) integers with 255 where a pixel does not count; such pixels have no influence
and get no gradient. A batch without counted pixels gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = 255
_SMOOTH = 1e-5


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of the counted pixels (the loss of EasyPortrait and RTNet)."""
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def partial_cross_entropy(logits: Tensor, allowed: Tensor, everything: int) -> Tensor:
    """−log of the probability that a pixel shows one of its allowed classes, averaged over the pixels that know any.

    `allowed` (N, H, W) integers hold classes as bits; pixels equal to `everything` do not count.
    """
    counted = allowed != everything
    bits = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    permitted = (allowed[:, None] >> bits) & 1 > 0
    scores = logits.float().masked_fill(~permitted, float("-inf"))
    surprise = logits.float().logsumexp(1) - scores.logsumexp(1)
    return surprise[counted].sum() / counted.sum().clamp(min=1)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − soft Dice with squared terms, of every class over the whole batch, averaged over all classes.

    2 Σ p t / (Σ p² + Σ t²) for probabilities p and labels t, with 1e-5 added to both sides of the fraction.
    """
    counted = labels != IGNORED
    classes = logits.shape[1]
    targets = F.one_hot(labels.long().where(counted, 0), classes).movedim(-1, 1) * counted[:, None]
    probabilities = logits.float().softmax(1) * counted[:, None]
    over = (0, 2, 3)
    shared = (probabilities * targets).sum(over)
    size = probabilities.square().sum(over) + targets.sum(over)
    return (1 - (2 * shared + _SMOOTH) / (size + _SMOOTH)).mean()


def cross_entropy_dice(logits: Tensor, labels: Tensor, *, share: float = 0.5) -> Tensor:
    """`share` of the Dice loss and the rest of cross entropy; SegFace (section 3.4) takes halves."""
    return (1 - share) * pixel_cross_entropy(logits, labels) + share * dice(logits, labels)


def hard_pixel_cross_entropy(logits: Tensor, labels: Tensor, *, sure: float = 0.7, least: int = 10_000) -> Tensor:
    """Mean cross entropy of the pixels whose own class has a probability under `sure`, at least the `least` worst.

    Online hard example mining (Shrivastava et al., CVPR 2016), as EasyPortrait's BiSeNetV2 uses it.
    """
    losses = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORED, reduction="none")
    losses = losses[labels != IGNORED]
    if not len(losses):
        return logits.sum() * 0.0
    worst = losses.sort(descending=True).values
    hard = int((worst > -torch.tensor(sure).log().to(worst)).sum())
    return worst[: max(hard, min(least, len(worst)))].mean()


def with_auxiliary(main: Tensor, auxiliary: list[Tensor], labels: Tensor, *, weight: float = 0.4) -> Tensor:
    """Cross entropy of the main logits plus `weight` times that of each auxiliary head, enlarged to the labels."""
    total = pixel_cross_entropy(main, labels)
    for logits in auxiliary:
        enlarged = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
        total = total + weight * pixel_cross_entropy(enlarged, labels)
    return total
