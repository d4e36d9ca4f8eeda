"""How Hyp-OC is trained: bona fide faces against noise, and random pairs of them drawn together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....nn.hyperbolic import artanh, mobius_add
from ....training.trainer import Batch, Training, Update

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from .network import HypOC

MOMENTUM = 0.8
DEVIATION = 1.0
HEAD_NORM = 3.0
"""Longest gradient of the head; the published code leaves VGG's as it is."""


def pair_confusion(points: Tensor, c: float, *, exact: bool = False) -> Tensor:
    """Distances of the pairs (i, i + N/2) of points (N, D), summed and divided by N: what their faces differ in fades.

    The published code takes the arctangent where the distance has an area tangent; `exact` takes the latter.
    """
    if len(points) % 2:
        raise UsageError(f"pairs are made of an even number of faces, not {len(points)}")
    half = len(points) // 2
    apart = math.sqrt(c) * mobius_add(-points[:half], points[half:], c).norm(dim=-1)
    return (2 / math.sqrt(c) * (artanh(apart) if exact else apart.atan())).sum() / len(points)


class PseudoNegatives:
    """Noise that stands for attacks: around a mean between this batch's and the last one's.

    It is no running mean: what is kept is the last batch's own, and it starts from 0 in every epoch (`reset`).
    """

    def __init__(self, *, momentum: float = MOMENTUM, variance: float = DEVIATION, rectified: bool = False) -> None:
        self.momentum, self.variance, self.rectified = momentum, variance, rectified
        self.last: Tensor | None = None

    def reset(self) -> None:
        """Forget the last batch: an epoch begins."""
        self.last = None

    def draw(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As many negatives as there are features (N, F); no gradient passes them."""
        mean = features.detach().mean(0)
        around = (1 - self.momentum) * mean
        if self.last is not None:
            around = around + self.momentum * self.last
        self.last = mean
        noise = torch.randn(features.shape, generator=generator).to(features.device, features.dtype)
        drawn = around + math.sqrt(self.variance) * noise
        return F.relu(drawn) if self.rectified else drawn


class HypOCTraining(Training):
    """Batches hold `image` (N, S, S, 3) uint8 RGB of live faces alone, N even; validation also has `live` (N,).

    epoch: steps after which pseudo-negatives forget. exact, rectified: as in `pair_confusion` and `PseudoNegatives`;
    the published negatives are not rectified as features are, so that a sign tells them apart. Of VGG only the last
    block and fc6 are trained.
    """

    def __init__(
        self,
        model: HypOC,
        *,
        lr: float = 1e-6,
        weight_decay: float = 1e-6,
        epoch: int = 50,
        exact: bool = False,
        rectified: bool = False,
    ) -> None:
        self.model: HypOC = model
        self.lr, self.weight_decay, self.epoch, self.exact = lr, weight_decay, epoch, exact
        self.negatives = PseudoNegatives(rectified=rectified)
        self.steps = 0
        for block in model.encoder.blocks[:-1]:
            block.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.Adam(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        if self.steps % self.epoch == 0:
            self.negatives.reset()
        self.steps += 1
        features = self.model.encoder(self._input(batch["image"]))
        points, logits = self.model.head(torch.cat([features, self.negatives.draw(features)]))
        count = len(features)
        labels = torch.arange(2, device=logits.device).repeat_interleave(count)
        told = F.cross_entropy(logits.float(), labels)
        near = pair_confusion(points[:count], self.model.config.curvature, exact=self.exact)
        update("model", told + near)
        return {"told": told.detach(), "near": near.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Mean vote for live of live faces, and of attacks where there are some."""
        vote = self.model(self._input(batch["image"])).softmax(1)[:, 0]
        live = batch["live"].bool() if "live" in batch else torch.ones_like(vote, dtype=torch.bool)
        found = {"live": float(vote[live].mean())} if bool(live.any()) else {}
        return found | ({"attack": float(vote[~live].mean())} if bool((~live).any()) else {})

    def _input(self, images: Tensor) -> Tensor:
        record = self.model.preprocess
        mean = torch.tensor(record.mean, device=images.device).view(1, 3, 1, 1)
        return images.permute(0, 3, 1, 2).float() / record.scale - mean
