"""Losses over pairs of pictures that are formed inside a batch: same person or not.

Multibatch: Tadmor, Rosenwein, Shalev-Shwartz, Wexler, Shashua, "Learning a Metric Embedding for Face Recognition using
the Multibatch Method" (NIPS 2016, arXiv 1605.07270). Posterior pairs: the constraint loss of Hsu and Kira (arXiv
1511.06321), as used for primates by PFID (arXiv 1907.02642).

Features are (k, D), labels (k,) integers. Same-person and different-person pairs are averaged apart, so the many pairs
of the second kind do not drown the first; a batch without a pair of one kind has no term of that kind. Distances and
divergences are computed in float32 at least, whatever autocast says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def squared_distances(features: Tensor) -> Tensor:
    """(k, k) squared Euclidean distances between all rows of (k, D), at least 0."""
    f = _wide(features)
    with torch.autocast(f.device.type, enabled=False):
        lengths = f.square().sum(1)
        return (lengths[:, None] + lengths[None, :] - 2 * f @ f.T).clamp(min=0)


def pair_hinge(squared: Tensor, same: Tensor, threshold: Tensor, margin: float = 1.0) -> Tensor:
    """max(0, margin − y (θ − D²)), elementwise; y is +1 where `same`, else −1.

    Pairs of one person cost nothing below θ − margin, pairs of two people nothing beyond θ + margin.
    """
    sign = torch.where(same, 1.0, -1.0).to(squared.dtype)
    return F.relu(margin - sign * (threshold.to(squared.dtype) - squared))


def multibatch_loss(
    features: Tensor,
    labels: Tensor,
    threshold: Tensor,
    *,
    margin: float = 1.0,
    same_share: float | None = 0.5,
    outlier_sigma: float | None = None,
) -> Tensor:
    """The hinge averaged over all k² − k ordered pairs of a batch (arXiv 1605.07270): a scalar.

    `threshold` is the scalar θ, trained with the features. `same_share` is the weight of same-person pairs, whatever
    their number; None averages plainly over all pairs, which a large batch makes almost all different-person pairs.
    `outlier_sigma` leaves out the pairs whose hinge lies that many standard deviations above the mean of their kind
    (wrong labels); 4 is a sensible value once training has settled.
    """
    same, different = pair_kinds(labels)
    hinge = pair_hinge(squared_distances(features), same, threshold, margin)
    if outlier_sigma is not None:
        same, different = (_without_outliers(hinge.detach(), kind, outlier_sigma) for kind in (same, different))
    return _weighted(hinge, same, different, same_share)


def disjoint_pairs_loss(
    features: Tensor,
    labels: Tensor,
    threshold: Tensor,
    *,
    margin: float = 1.0,
    same_share: float | None = 0.5,
) -> Tensor:
    """The hinge over the k/2 pairs (0, 1), (2, 3), … of a batch: how siamese networks are trained; a scalar.

    The baseline of `multibatch_loss`: the same expectation from as many pictures, with more variance. Raises UsageError
    for an odd number of rows.
    """
    if len(features) % 2:
        raise UsageError(f"disjoint pairs need an even number of pictures, not {len(features)}")
    f = _wide(features)
    squared = (f[0::2] - f[1::2]).square().sum(1)
    same = labels[0::2] == labels[1::2]
    return _weighted(pair_hinge(squared, same, threshold, margin), same, ~same, same_share)


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """What to watch while a pair loss trains, over all pairs of a batch.

    `active_*`: share of pairs with a hinge above 0. `mean_*`: mean squared distance. `balanced_error`: mean of the two
    error rates when a pair counts as same below `threshold`. NaN where the batch has no such pair.
    """

    active_same: float
    active_different: float
    mean_same: float
    mean_different: float
    threshold: float
    balanced_error: float


@torch.no_grad()
def pair_statistics(features: Tensor, labels: Tensor, threshold: Tensor, *, margin: float = 1.0) -> PairStatistics:
    """The statistics of one batch."""
    same, different = pair_kinds(labels)
    squared = squared_distances(features)
    active = pair_hinge(squared, same, threshold, margin) > 0
    accepted = squared < threshold
    errors = ((~accepted)[same].float().mean() + accepted[different].float().mean()) / 2
    return PairStatistics(
        active_same=float(active[same].float().mean()),
        active_different=float(active[different].float().mean()),
        mean_same=float(squared[same].mean()),
        mean_different=float(squared[different].mean()),
        threshold=float(threshold.detach()),
        balanced_error=float(errors),
    )


def posterior_kl(logits: Tensor, *, detach: bool = True) -> Tensor:
    """(N, N) Kullback–Leibler divergences in nats: entry (i, j) is KL(p_i ‖ p_j) of the softmax posteriors.

    `detach` makes the first argument a constant, so that each direction moves only the posterior it judges.
    """
    log_p = F.log_softmax(_wide(logits), dim=1)
    target = log_p.detach() if detach else log_p
    p = target.exp()
    with torch.autocast(log_p.device.type, enabled=False):
        return (p * target).sum(1, keepdim=True) - p @ log_p.T


def posterior_pair_loss(logits: Tensor, labels: Tensor, *, margin: float = 2.0, detach: bool = True) -> Tensor:
    """Posteriors of one individual alike, those of two at least `margin` nats apart (arXiv 1511.06321); a scalar.

    Over all pairs of (N, C) logits: the mean of KL(p‖q) + KL(q‖p) for one individual, plus the mean of
    max(0, m − KL(p‖q)) + max(0, m − KL(q‖p)) for two. m is `margin`, or log C where that is less: smooth posteriors
    over few classes cannot be further apart.
    """
    same, different = pair_kinds(labels)
    divergence = posterior_kl(logits, detach=detach)
    reachable = min(margin, math.log(logits.shape[1]))
    # twice: a pair counts in both directions, and the mean is over unordered pairs
    return 2 * (_mean(divergence, same) + _mean(F.relu(reachable - divergence), different))


def contrastive_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean D² of same-person pairs plus mean max(0, margin − D²) of the others, over all pairs; a scalar."""
    same, different = pair_kinds(labels)
    squared = squared_distances(embeddings)
    return _mean(squared, same) + _mean(F.relu(margin - squared), different)


def pair_kinds(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Two (k, k) masks without the diagonal: pairs of one person, pairs of two."""
    equal = labels[:, None] == labels[None, :]
    diagonal = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return equal & ~diagonal, ~equal


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _mean(values: Tensor, kind: Tensor) -> Tensor:
    return (values * kind).sum() / kind.sum().clamp(min=1)


def _weighted(hinge: Tensor, same: Tensor, different: Tensor, same_share: float | None) -> Tensor:
    if same_share is None:
        return _mean(hinge, same | different)
    return same_share * _mean(hinge, same) + (1 - same_share) * _mean(hinge, different)


def _without_outliers(hinge: Tensor, kind: Tensor, sigma: float) -> Tensor:
    chosen = hinge[kind]
    if len(chosen) < 2:
        return kind
    return kind & (hinge <= chosen.mean() + sigma * chosen.std())
