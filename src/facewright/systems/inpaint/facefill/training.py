"""How FaceFill is trained: the hole against the truth, by pixels, by a parser's features and by an adversary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ....losses.adversarial import hinge_discriminator
from ....losses.face import ParserLoss
from ....losses.reconstruction import charbonnier, edge_loss, feature_matching, masked_mean
from ....nn.discriminator import PatchDiscriminator
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import FaceFill

_RIM = 9  # pixels around a hole that are drawn as well, so that what fills it fits


class FaceFillTraining(Training):
    """Charbonnier and gradient losses in the hole and its rim; features of the embedded parser; hinge loss.

    `features_share` is the share of a batch whose features are compared: the parser costs more than the network.
    From `gan_from` on the adversary takes part. It sees the composite, and is asked about patches that touch a hole.
    """

    def __init__(
        self,
        model: FaceFill,
        *,
        lr: float = 5e-4,
        discriminator_lr: float = 4e-4,
        rest_weight: float = 0.05,
        edge_weight: float = 0.5,
        features_weight: float = 1.0,
        features_share: float = 0.25,
        gan_from: float = 0.4,
        gan_weight: float = 0.02,
        matching_weight: float = 0.3,
        discriminator_width: int = 16,
    ) -> None:
        self.model: FaceFill = model
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.lr, self.discriminator_lr, self.rest_weight = lr, discriminator_lr, rest_weight
        self.edge_weight, self.features_weight, self.features_share = edge_weight, features_weight, features_share
        self.gan_from, self.gan_weight, self.matching_weight = gan_from, gan_weight, matching_weight
        self.features = _parser_loss() if features_weight else None

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "discriminator": self.discriminator}

    def optimisers(self) -> dict[str, Optimizer]:
        return {
            "model": torch.optim.AdamW(self.model.parameters(), self.lr, betas=(0.9, 0.99), weight_decay=1e-4),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), self.discriminator_lr, betas=(0.5, 0.99)
            ),
        }

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        true, hole, real = signed(batch["image"]), batch["hole"].float(), batch["mask"].float()
        drawn = self.model(true, hole).float()
        filled = torch.lerp(true, drawn, hole)
        rim = F.max_pool2d(hole, 2 * _RIM + 1, 1, _RIM) * real
        weights = (rim + self.rest_weight * (1 - rim)) * real
        losses = {
            "pixel": charbonnier(drawn, true, weights),
            "edge": self.edge_weight * edge_loss(drawn, true, rim),
        }
        if self.features is not None:
            some = max(1, round(self.features_share * len(true)))
            losses["features"] = self.features_weight * self.features.to(true.device)(filled[:some], true[:some])
        adversarial = self.gan_weight > 0 and progress >= self.gan_from
        if adversarial:
            losses |= self._adversarial(filled, true, hole)
        update("model", torch.stack(list(losses.values())).sum())
        logs: dict[str, float | Tensor] = {key: value.detach() for key, value in losses.items()}
        if adversarial:
            logs["discriminator"] = self._discriminate(filled.detach(), true, hole, update)
        return logs

    def _adversarial(self, filled: Tensor, true: Tensor, hole: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        logits, fake = self.discriminator(filled)
        with torch.no_grad():
            _, genuine = self.discriminator(true)
        self.discriminator.requires_grad_(True)
        touched = F.adaptive_max_pool2d(hole, logits.shape[-2:])
        return {
            "adversarial": -self.gan_weight * masked_mean(logits.float(), touched),
            "matching": self.matching_weight * feature_matching(fake, genuine),
        }

    def _discriminate(self, filled: Tensor, true: Tensor, hole: Tensor, update: Update) -> Tensor:
        genuine, _ = self.discriminator(true)
        fake, _ = self.discriminator(filled)
        touched = F.adaptive_max_pool2d(hole, genuine.shape[-2:]) > 0
        loss = hinge_discriminator(genuine.float()[touched], fake.float()[touched])
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        true, hole = signed(batch["image"]), batch["hole"].float()
        drawn = self.model(true, hole).float().clamp(-1, 1)
        error = ((drawn - true) * 127.5).square() * hole
        mse = error.sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3))).clamp(min=1)
        return {"psnr_hole": float((10 * torch.log10(255**2 / mse.clamp(min=1e-3))).mean())}

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Up to ten faces: with a hole, filled, true."""
        images, holes = batch["image"][:10].cpu().numpy(), batch["hole"][:10, 0].cpu().numpy()
        holed = np.where(holes[..., None], np.uint8(255), images)
        filled = np.where(holes[..., None], self.model.fill(images, holes), images)
        rows = [holed, filled, images]
        sheet = np.vstack([np.hstack(list(row)) for row in rows])
        return np.asarray(cv2.resize(sheet, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), np.uint8)


def _parser_loss() -> ParserLoss:
    from ...parse.segface.network import SegFace

    return ParserLoss(SegFace.from_pretrained())
