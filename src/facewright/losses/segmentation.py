"""Losses between logits and labels of segmentation.

Logits are (N, C, H, W), labels (N, H, W) integers with 255 where a pixel does not count; such pixels have no influence
and get no gradient. A batch without counted pixels gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

IGNORED = 255
_SMOOTH = 1e-5


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of the counted pixels (the loss of EasyPortrait and RTNet)."""
    rows, classes = _counted(logits, labels)
    return F.cross_entropy(rows, classes, reduction="sum") / max(1, len(rows))


def partial_cross_entropy(
    logits: Tensor,
    allowed: Tensor,
    expected: Tensor,
    everything: int,
    *,
    doubt: float = 0.2,
    doubts: Mapping[int, float] | None = None,
) -> Tensor:
    """−log of the weighted probability of what a pixel can show, averaged over the pixels of which anything is known.

    `allowed` (N, H, W) integers hold classes as bits; pixels equal to `everything` do not count. `expected` (N, H, W)
    is the class a pixel shows unless something lies before it, 255 where that is not known: other allowed classes then
    weigh `doubt`, so that without evidence for them the expected one is learned, or what `doubts` has for their number.
    """
    counted = allowed != everything
    rows, wanted = logits.movedim(1, -1)[counted].float(), expected[counted].long()
    classes = torch.arange(logits.shape[1], device=logits.device)
    forbidden = (allowed[counted][:, None] >> classes) & 1 == 0
    second = (wanted[:, None] != classes) & (wanted[:, None] != IGNORED)
    weight = rows.new_full((logits.shape[1],), doubt)
    for number, value in (doubts or {}).items():
        weight[number] = value
    weighted = (rows + weight.log() * second).masked_fill(forbidden, float("-inf"))
    surprise = rows.logsumexp(1) - weighted.logsumexp(1)
    return surprise.sum() / max(1, len(rows))


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − soft Dice with squared terms, of every class over the whole batch, averaged over all classes.

    2 Σ p t / (Σ p² + Σ t²) for probabilities p and labels t, with 1e-5 added to both sides of the fraction.
    """
    rows, classes = _counted(logits, labels)
    return _dice(rows.softmax(1), classes)


def _dice(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Of (P, C) probabilities and (P,) labels."""
    own = probabilities.gather(1, classes[:, None])[:, 0]
    shared = own.new_zeros(probabilities.shape[1]).index_add(0, classes, own)
    size = probabilities.square().sum(0) + torch.bincount(classes, minlength=probabilities.shape[1])
    return (1 - (2 * shared + _SMOOTH) / (size + _SMOOTH)).mean()


def _counted(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(P, C) float32 logits and (P,) labels of the counted pixels."""
    counted = labels != IGNORED
    return logits.movedim(1, -1)[counted].float(), labels[counted].long()


def cross_entropy_dice(logits: Tensor, labels: Tensor, *, share: float = 0.5) -> Tensor:
    """`share` of the Dice loss and the rest of cross entropy; SegFace (section 3.4) takes halves."""
    rows, classes = _counted(logits, labels)
    surprise = rows.log_softmax(1)
    entropy = F.nll_loss(surprise, classes, reduction="sum") / max(1, len(rows))
    return (1 - share) * entropy + share * _dice(surprise.exp(), classes)


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
