"""How FP-Age is trained: a distribution over ages, and where the parser is not frozen, parsing beside it.

Training was not published. The form of the output, a softmax over years and its mean, is that of deep label
distribution learning (Gao et al., IJCAI 2018), whose loss this is: the distance to a normal distribution around the
true age, and that of the mean to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....losses.segmentation import pixel_cross_entropy
from ....nn.sampling import sample
from ....training.trainer import Batch, Training, Update, signed
from ....training.warm_start import copy_backbone
from ...recognise.distilledface.stages import begin_as_recogniser
from .network import MobileNetParser, RecogniserParser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from .network import FPAge

SIGMA = 2.0  # years around the true age


def age_distribution(ages: Tensor, count: int, sigma: float = SIGMA) -> Tensor:
    """(N,) ages in years to normal distributions over the years 0 … count − 1, (N, count)."""
    years = torch.arange(count, device=ages.device)
    return (-((years - ages.float()[:, None]) ** 2) / (2 * sigma**2)).softmax(1)


def age_loss(logits: Tensor, ages: Tensor, *, sigma: float = SIGMA, mean_weight: float = 1.0) -> Tensor:
    """Kullback-Leibler distance from the normal distributions of ages (N,) to those of logits (N, A), in nats, plus
    `mean_weight` times the mean distance of their means to the ages, in years. Ages beyond the last are clipped.
    """
    count = logits.shape[1]
    true = ages.float().clamp(0, count - 1)
    wanted, found = age_distribution(true, count, sigma), logits.float().log_softmax(1)
    distance = F.kl_div(found, wanted, reduction="batchmean")
    mean = found.exp() @ torch.arange(count, device=logits.device, dtype=torch.float32)
    return distance + mean_weight * (mean - true).abs().mean()


def pixels_of(model: FPAge, images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 RGB as the network takes them."""
    pixels = signed(images)
    return pixels.flip(1) if model.preprocess.colour == "BGR" else pixels


def begun(parser: nn.Module) -> nn.ModuleList:
    """Fill the backbone of a small parser with that of an embedded system; returns what of it does not learn."""
    if isinstance(parser, RecogniserParser):
        begin_as_recogniser(parser.stages, [parser.deeper])
        return nn.ModuleList([parser.stages])
    if isinstance(parser, MobileNetParser):
        copy_backbone(parser, "segface")
    return nn.ModuleList()


class FPAgeTraining(Training):
    """AdamW on all that is not frozen.

    Batches hold `image` (N, S, S, 3) uint8 RGB as the network takes it, `age` (N,) in years, and for a parser that is
    not frozen `labels` (N, S, S) uint8 of its classes, 255 where a pixel does not count. `parsing_weight` is that of
    the parser's cross entropy. With `begin` the backbone of a small parser begins as that of the embedded recogniser
    or parser; the first stages of the recogniser stay as they are. What these make of the pictures may be given as
    `maps` instead of `image`, with labels of their size (`data.ages.AgeMaps`).
    """

    def __init__(
        self,
        model: FPAge,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        mean_weight: float = 1.0,
        parsing_weight: float = 1.0,
        begin: bool = True,
    ) -> None:
        self.model: FPAge = model
        self.lr, self.weight_decay = lr, weight_decay
        self.mean_weight, self.parsing_weight = mean_weight, parsing_weight
        self.frozen = begun(model.parser) if begin else nn.ModuleList()

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        self.frozen.eval()  # norms, too, must not follow the batch
        logits, parsing = self._outputs(batch)
        age = age_loss(logits, batch["age"], mean_weight=self.mean_weight)
        logs = {"age": age.detach(), "mae": self._errors(logits, batch).mean()}
        loss = age
        if not self.model.config.frozen:
            parts = pixel_cross_entropy(parsing, self.labels_in_view(batch["labels"], parsing))
            loss = loss + self.parsing_weight * parts
            logs["parsing"] = parts.detach()
        update("model", loss)
        return logs

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Mean absolute error in years, the share of errors up to 5 years, and the parser's agreement with labels."""
        logits, parsing = self._outputs(batch)
        errors = self._errors(logits, batch)
        found = {"mae": float(errors.mean()), "cs5": float((errors <= 5).float().mean())}
        if "labels" in batch:
            labels = self.labels_in_view(batch["labels"], parsing)
            found["parsed"] = float((parsing.argmax(1) == labels)[labels != 255].float().mean())
        return found

    def labels_in_view(self, labels: Tensor, parsing: Tensor) -> Tensor:
        """Labels (N, S, S) of crops as the parser sees them, (N, h, w) like its logits (N, C, h, w)."""
        if not self.model.config.crop or not self.model.config.polar:
            return F.interpolate(labels[:, None].float(), size=parsing.shape[2:], mode="nearest-exact")[:, 0].long()
        grid = self.model.grid(labels[:, None].float(), parsing.shape[3])
        known = sample(labels[:, None].float() + 1, grid, align_corners=True, mode="nearest")[:, 0].long()
        return torch.where(known == 0, 255, known - 1)  # outside of the crop

    def _outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if "maps" in batch:
            low, high, parsing = cast("RecogniserParser", self.model.parser).read(batch["maps"])
            return self.model.age_net(low, high, parsing), parsing
        logits, parsing = self.model(pixels_of(self.model, batch["image"]), return_aux=True)
        return logits, parsing

    def _errors(self, logits: Tensor, batch: Batch) -> Tensor:
        """(N,) years between the estimated and the true age."""
        return (self.model.expected(logits) - batch["age"].float()).abs().detach()
