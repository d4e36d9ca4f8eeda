"""Heads that teach a recogniser to tell identities apart: softmax with a margin, and SFace.

A head holds one centre per identity and sees embeddings and centres by their angle θ alone: cos θ_j is the cosine
between the embedding and centre j, y is the true identity. Called with embeddings (N, D), of any length, and labels
(N,) of type int64, it returns the scalar loss, averaged over the batch; rows labelled −1 have no known identity and do
not count. `logits` gives the scaled cosines (N, C) with their margins. All of it is computed in float32, also under
autocast, because half precision cannot tell small angles apart.

Two options work with every head. `filter_above` zeroes the cosines of other identities above that value, which in
collections gathered from the web are mostly the same person under a second label. `sample_rate` below 1 is Partial FC
(An et al., CVPR 2022, section 3): each training step sees the identities of the batch and a random choice of others,
together that share of all. There is no version of it that spreads the centres over several processes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

_EPS = 1e-7  # keeps the derivative of arccos finite
_INIT_STD = 0.01


class MarginHead(nn.Module):
    """Base of all heads, and what they share: centres, cosines, filtering and sampling of identities.

    A subclass overrides `margin`, which changes the cosines before they are scaled, or `loss`, or `observe`, which
    updates running statistics and is called once per training step, before the margin. Raises UsageError for a
    `sample_rate` outside (0, 1].
    """

    def __init__(
        self,
        classes: int,
        dim: int = 512,
        *,
        scale: float = 64.0,
        filter_above: float | None = None,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise UsageError(f"sample_rate is a share of the identities, above 0 and at most 1, not {sample_rate}")
        self.scale = scale
        self.filter_above = filter_above
        self.sample_rate = sample_rate
        self.weight = nn.Parameter(torch.empty(classes, dim))
        nn.init.normal_(self.weight, std=_INIT_STD)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        known = labels >= 0
        embeddings, labels = embeddings[known].float(), labels[known]
        if not len(labels):
            return embeddings.sum() * 0
        centres: Tensor = self.weight
        if self.training and self.sample_rate < 1:
            chosen, labels = sample_classes(labels, len(centres), self.sample_rate)
            centres = centres[chosen]
        cosine = self._cosine(embeddings, centres, labels)
        lengths = embeddings.norm(dim=1, keepdim=True)
        if self.training:
            self.observe(cosine.detach(), lengths.detach(), labels)
        return self.loss(self.margin(cosine, lengths, labels), lengths, labels)

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(N, C) scaled cosines with margins, of all identities; changes no running statistic."""
        cosine = self._cosine(embeddings, self.weight, labels)
        return self.scale * self.margin(cosine, embeddings.float().norm(dim=1, keepdim=True), labels)

    def margin(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """(N, C) cosines to cosines with margins; `lengths` (N, 1) are those of the embeddings."""
        return cosine

    def observe(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> None:
        """Update running statistics from a training batch; nothing here carries a gradient."""

    def loss(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the scaled cosines."""
        return F.cross_entropy(self.scale * cosine, labels)

    def _cosine(self, embeddings: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings.float()), F.normalize(centres.float())).clamp(-1, 1)
        if self.filter_above is None:
            return cosine
        return cosine * ((cosine <= self.filter_above) | target_mask(cosine, labels))


def sample_classes(labels: Tensor, classes: int, rate: float) -> tuple[Tensor, Tensor]:
    """The identities a Partial FC step sees, and the labels counted within them.

    `labels` (N,) are all 0 or more. Returns sorted identities (K,), with K = int(rate · classes) or as many as the
    batch has, if those are more, and labels (N,) that index them. Draws from torch's random state.
    """
    present: Tensor = torch.unique(labels)
    wanted = int(rate * classes)
    if len(present) < wanted:
        order = torch.rand(classes, device=labels.device)
        order[present] = 2.0
        present = order.topk(wanted).indices.sort().values
    return present, torch.searchsorted(present, labels)


def target_mask(cosine: Tensor, labels: Tensor) -> Tensor:
    """(N, C) true at each row's own identity; rows labelled −1 are all false."""
    mask = torch.zeros_like(cosine, dtype=torch.bool)
    return mask.scatter_(1, labels.clamp(min=0)[:, None], (labels >= 0)[:, None])


def own_cosine(cosine: Tensor, labels: Tensor) -> Tensor:
    """(N, 1) cosine of each row with its own identity; of no meaning in rows labelled −1."""
    return cosine.gather(1, labels.clamp(min=0)[:, None])


def turned(cosine: Tensor, angle: float | Tensor) -> Tensor:
    """cos(θ + angle) from cos θ, by the addition theorem and so with a finite derivative everywhere."""
    c = cosine.clamp(-1 + _EPS, 1 - _EPS)
    cos, sin = (math.cos(angle), math.sin(angle)) if isinstance(angle, float) else (angle.cos(), angle.sin())
    return c * cos - (1 - c * c).sqrt() * sin


def falling(cosine: Tensor, angle: float) -> Tensor:
    """cos(θ + angle), continued by cos θ − angle · sin(angle) beyond π, where it would rise again."""
    return torch.where(cosine > -math.cos(angle), turned(cosine, angle), cosine - angle * math.sin(angle))


class NormalisedSoftmax(MarginHead):
    """Softmax over cosines without a margin (Wang et al. 2017, NormFace)."""


class CosFace(MarginHead):
    """cos θ_y − m (Wang et al., CVPR 2018, equation 4); the paper's m is 0.35, insightface's 0.4."""

    def __init__(self, classes: int, dim: int = 512, *, m: float = 0.4, **options: float) -> None:
        super().__init__(classes, dim, **options)
        self.m = m

    def margin(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return cosine - self.m * target_mask(cosine, labels)


class ArcFace(MarginHead):
    """cos(θ_y + m) (Deng et al., CVPR 2019, equation 3), falling on beyond θ_y + m = π.

    insightface's code changes the value of the logit but lets the gradient pass as if there were no margin, and does
    not keep the logit from rising beyond π. `straight_through=True` does the same.
    """

    def __init__(
        self, classes: int, dim: int = 512, *, m: float = 0.5, straight_through: bool = False, **options: float
    ) -> None:
        super().__init__(classes, dim, **options)
        self.m = m
        self.straight_through = straight_through

    def margin(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        mask = target_mask(cosine, labels)
        if not self.straight_through:
            return torch.where(mask, falling(own_cosine(cosine, labels), self.m), cosine)
        moved = torch.where(mask, turned(own_cosine(cosine, labels), self.m), cosine)
        return cosine + (moved - cosine).detach()


class AdaFace(MarginHead):
    """A margin that shifts from angular to additive with the embedding's length (Kim et al., CVPR 2022, section 3.3).

    The length stands for the quality of the picture and is compared with its running mean and deviation over training
    batches. With the shortest embeddings the head is ArcFace, with those of mean length CosFace, with the longest it
    takes 2m off cos(θ_y − m). 1 / `h` deviations are the end of the scale, `momentum` says how fast the statistics
    follow. Cosines stay within ±(1 − 0.001). Lengths carry no gradient.
    """

    mean: Tensor
    std: Tensor
    EPS = 1e-3
    LONGEST = 100.0

    def __init__(
        self,
        classes: int,
        dim: int = 512,
        *,
        m: float = 0.4,
        h: float = 0.333,
        momentum: float = 0.01,
        **options: float,
    ) -> None:
        super().__init__(classes, dim, **options)
        self.m, self.h, self.momentum = m, h, momentum
        _spread(self.weight)
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def observe(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> None:
        lengths = lengths.clamp(self.EPS, self.LONGEST)
        self.mean.lerp_(lengths.mean(), self.momentum)
        if len(lengths) > 1:
            self.std.lerp_(lengths.std(), self.momentum)

    def quality(self, lengths: Tensor) -> Tensor:
        """Lengths to how far they are above the usual, in [−1, 1]."""
        lengths = lengths.detach().clamp(self.EPS, self.LONGEST)
        return (self.h * (lengths - self.mean) / (self.std + self.EPS)).clamp(-1, 1)

    def margin(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        cosine = cosine.clamp(-1 + self.EPS, 1 - self.EPS)
        quality = self.quality(lengths)
        angle = (own_cosine(cosine, labels).acos() - self.m * quality).clamp(self.EPS, math.pi - self.EPS)
        return torch.where(target_mask(cosine, labels), angle.cos() - self.m * (1 + quality), cosine)


class MagFace(MarginHead):
    """An angular margin that grows with the embedding's length, and a pull on the length (Meng et al., CVPR 2021).

    Equations 3 to 5 with the published choices: the length a, clamped to `lengths`, gives the margin by a straight line
    between `margins`; where cos θ_y is not positive there is none. `pull` times the mean of a / a_max² + 1 / a rewards
    long embeddings, so that easy faces grow and the length tells quality.
    """

    def __init__(
        self,
        classes: int,
        dim: int = 512,
        *,
        lengths: tuple[float, float] = (10.0, 110.0),
        margins: tuple[float, float] = (0.45, 0.8),
        pull: float = 35.0,
        **options: float,
    ) -> None:
        super().__init__(classes, dim, **options)
        self.lengths, self.margins, self.pull = lengths, margins, pull
        _spread(self.weight)

    def margin(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        (shortest, longest), (least, most) = self.lengths, self.margins
        share = (lengths.clamp(shortest, longest) - shortest) / (longest - shortest)
        own = own_cosine(cosine, labels)
        moved = torch.where(own > 0, turned(own, least + (most - least) * share), own)
        return torch.where(target_mask(cosine, labels), moved, cosine)

    def loss(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        return super().loss(cosine, lengths, labels) + self.pull * self.length_penalty(lengths)

    def length_penalty(self, lengths: Tensor) -> Tensor:
        """Mean of a / a_max² + 1 / a over (N, 1) lengths."""
        a = lengths.clamp(*self.lengths)
        return (a / self.lengths[1] ** 2 + 1 / a).mean()


class CurricularFace(MarginHead):
    """ArcFace whose hard negatives count the more, the further training is (Huang et al., CVPR 2020, equations 4 to 7).

    A negative is hard if cos θ_j > cos(θ_y + m); its cosine is then multiplied by t + cos θ_j, where t is the running
    mean of cos θ_y and starts at 0.
    """

    t: Tensor

    def __init__(
        self, classes: int, dim: int = 512, *, m: float = 0.5, momentum: float = 0.01, **options: float
    ) -> None:
        super().__init__(classes, dim, **options)
        self.m, self.momentum = m, momentum
        self.register_buffer("t", torch.tensor(0.0))

    def observe(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.t.lerp_(own_cosine(cosine, labels).mean(), self.momentum)

    def margin(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        own = falling(own_cosine(cosine, labels), self.m)
        others = torch.where(cosine > own, cosine * (self.t + cosine), cosine)
        return torch.where(target_mask(cosine, labels), own, others)


class SFace(MarginHead):
    """Pull and push in the angle, each switched by a sigmoid, without softmax (Zhong et al., TIP 2021, section III).

    The gradient of the loss by cos θ_y is −scale · σ(k(θ_y − a)), that by cos θ_j is scale · σ(k(b − θ_j)), divided by
    N: an embedding is pulled only while it is further than `a` from its own centre, and pushed only off centres nearer
    than `b`, angles in radians. Published pairs (a, b): 0.87, 1.20 for CASIA-WebFace, 0.88, 1.25 for VGGFace2,
    0.90, 1.20 for MS1MV2. The loss may be negative; its value says little about progress.
    """

    def __init__(
        self,
        classes: int,
        dim: int = 512,
        *,
        k: float = 80.0,
        a: float = 0.87,
        b: float = 1.2,
        **options: float,
    ) -> None:
        super().__init__(classes, dim, **options)
        self.k, self.a, self.b = k, a, b
        nn.init.normal_(self.weight, std=2 * math.sqrt(2 / classes))

    def loss(self, cosine: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        pull, push = self.terms(cosine, labels)
        return pull + push

    def terms(self, cosine: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of the loss, towards the own centre and away from the others."""
        angle = cosine.detach().clamp(-1 + _EPS, 1 - _EPS).acos()
        pull = torch.sigmoid(self.k * (own_cosine(angle, labels) - self.a)) * own_cosine(cosine, labels)
        push = torch.sigmoid(self.k * (self.b - angle)) * cosine
        push = push.masked_fill(target_mask(cosine, labels), 0)
        return -self.scale * pull.mean(), self.scale * push.sum(1).mean()


@torch.no_grad()
def _spread(weight: Tensor) -> None:
    """Centres of length 1, as AdaFace and MagFace start them."""
    weight.uniform_(-1, 1).copy_(F.normalize(weight))
