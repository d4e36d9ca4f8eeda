"""How FakeLocator is trained: regression of the map, cross-entropy of the branch; and single-sample clustering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update, signed
from ....training.validation import ranked_right
from ...base import system_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import FakeLocator, Located

MapLoss = Literal["l1", "l2", "bce"]
CHANGED = 4.0
"""How much more a fully changed pixel weighs in the regression than an untouched one; most of a map is zero."""


def map_loss(logits: Tensor, truth: Tensor, kind: MapLoss = "l1") -> Tensor:
    """Loss of a map (N, 1, H, W) before its sigmoid against a grey truth in [0, 1] of the same shape.

    `l1` and `l2` are the paper's regressions, each pixel weighted 1 + 4·truth (a choice of this project). `bce` is for
    truths that are masks.
    """
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, truth)
    if kind not in get_args(MapLoss):
        raise UsageError(f"unknown loss {kind!r} of a map; choose from {', '.join(get_args(MapLoss))}")
    error = (logits.sigmoid() - truth).abs()
    return ((1 + CHANGED * truth) * (error if kind == "l1" else error.square())).mean()


def single_sample_clustering(
    features: NDArray[np.floating], known: int, fake: bool, *, dimensions: int = 3, seed: int = 0
) -> NDArray[np.bool_]:
    """(N,) which pictures of an unlabelled set are fake, from one whose label is known.

    `features` (N, D) are the encoder's, pooled. They are reduced to a few dimensions and parted in two by k-means; the
    known picture says which part is which. The answer depends on the whole set, so it is never to be mixed with scores
    of single pictures. The paper reduces by t-SNE; principal components are used here, which give the same every time.
    Raises UsageError for fewer than three pictures.
    """
    values = np.asarray(features, np.float64)
    if len(values) < 3 or not 0 <= known < len(values):
        raise UsageError(f"{len(values)} pictures with number {known} known cannot be parted")
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    reduced = centred @ axes[:dimensions].T
    _, part = kmeans2(reduced, 2, minit="++", seed=seed)
    return np.asarray((part == part[known]) == fake)


class FakeLocatorTraining(Training):
    """Batches have `image` (N, S, S, 3) uint8 RGB, `mask` (N, 1, S, S) uint8 of 255, `kind` (N,) with 0 for real.

    Networks with attention also need `regions` (N, 19, S, S), the parser's soft map of the image. `map_weight` and
    `kind_weight` weigh the two losses; the paper's own weights could not be read. `start_from` names the parser whose
    trunk a network with `trunk="fixed"` reads; its features may be in the batch instead of `image`, as `fixed8` and
    `fixed16` (`data.forgery_crops.FixedCrops`).
    """

    def __init__(
        self,
        model: FakeLocator,
        *,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        loss: MapLoss = "l1",
        map_weight: float = 1.0,
        kind_weight: float = 0.5,
        smoothing: float = 0.0,
        start_from: str = "",
    ) -> None:
        self.model: FakeLocator = model
        if start_from:
            parser: Any = system_class(start_from).from_pretrained()
            model.encoder.adopt(parser.net.backbone)  # type: ignore[operator]
        self.lr, self.weight_decay, self.loss, self.smoothing = lr, weight_decay, loss, smoothing
        self.map_weight, self.kind_weight = map_weight, kind_weight

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        found = self._found(batch)
        kind = self._kind(batch)
        located = map_loss(found.map.float(), batch["mask"].float() / 255, self.loss)
        judged = F.cross_entropy(found.kind.float(), kind, label_smoothing=self.smoothing)
        update("model", self.map_weight * located + self.kind_weight * judged)
        right = (found.kind.argmax(1) == kind).float().mean()
        return {"map": located.detach(), "kind": judged.detach(), "accuracy": right}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """`map` and `kind` losses, and `auc` of the score over the batch's real and other pictures."""
        found = self._found(batch)
        kind = self._kind(batch)
        fake = 1 - found.kind.float().softmax(1)[:, 0]
        return {
            "map": float(map_loss(found.map.float(), batch["mask"].float() / 255, self.loss)),
            "kind": float(F.cross_entropy(found.kind.float(), kind)),
            "auc": ranked_right(fake, kind > 0),
        }

    def _found(self, batch: Batch) -> Located:
        if "fixed8" in batch:
            return self.model.locate(self.model.encoder.learnt([batch["fixed8"], batch["fixed16"]]))  # type: ignore[operator]
        return self.model(signed(batch["image"]), batch.get("regions"))  # type: ignore[no-any-return]

    def _kind(self, batch: Batch) -> Tensor:
        """Kinds as this network tells them apart."""
        return batch["kind"].long().clamp_max(self.model.config.kinds - 1)
