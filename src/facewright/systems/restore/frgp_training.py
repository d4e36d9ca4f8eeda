"""How FRGP's compact weights are trained: reconstruction and the eyes of a recogniser, then a light adversarial finish.

The paper's own training text is not available; terms and weights here follow what GFPGAN and GPEN publish, scaled to a
network that starts from its input (see `Config.residual`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from ...losses.adversarial import hinge_discriminator, hinge_generator
from ...losses.face import FaceLoss
from ...losses.reconstruction import charbonnier, edge_loss, feature_matching, whole_cells
from ...nn.discriminator import PatchDiscriminator
from ...training.growing import grow
from ...training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .frgp import FRGP


class FRGPTraining(Training):
    """Masked Charbonnier and gradient losses, face losses, degradation estimate, from `gan_from` on a discriminator.

    The face losses (identity, features) are those of the embedded recogniser; without weights for them it is not
    loaded. `grow_from` names weights of the same network without light blocks to begin with.

    `free_fidelity` is the share of samples restored at a random fidelity, so that the dial means something between its
    ends. `gan_weight` and `feature_weight` weigh the adversarial and the feature-matching term.
    """

    def __init__(
        self,
        model: FRGP,
        *,
        lr: float = 4e-4,
        style_lr: float = 0.2,
        discriminator_lr: float = 4e-4,
        edge_weight: float = 1.0,
        estimate_weight: float = 0.1,
        identity_weight: float = 0.0,
        features_weight: float = 0.0,
        grow_from: str = "",
        free_fidelity: float = 0.08,
        gan_from: float = 1.0,
        gan_weight: float = 0.02,
        feature_weight: float = 0.2,
        discriminator_width: int = 48,
    ) -> None:
        self.model: FRGP = model
        if grow_from:
            grow(model, grow_from, new=".light.")
        self.identity_weight, self.features_weight = identity_weight, features_weight
        self.face = _face_loss(model.config.size) if identity_weight or features_weight else None
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.lr, self.style_lr, self.discriminator_lr = lr, style_lr, discriminator_lr
        self.edge_weight, self.estimate_weight, self.free_fidelity = edge_weight, estimate_weight, free_fidelity
        self.gan_from, self.gan_weight, self.feature_weight = gan_from, gan_weight, feature_weight

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "discriminator": self.discriminator}

    def optimisers(self) -> dict[str, Optimizer]:
        return {
            "model": torch.optim.AdamW(self._groups(), self.lr, betas=(0.9, 0.999), weight_decay=1e-4),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), self.discriminator_lr, betas=(0.0, 0.99)
            ),
        }

    def _groups(self) -> list[dict[str, Any]]:
        """Styles multiply whole feature maps: what makes them learns more slowly, as StyleGAN2's mapping does."""
        styles: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            (styles if "modulation" in name or name.startswith("to_latent") else others).append(parameter)
        return [{"params": others}, {"params": styles, "lr": self.style_lr * self.lr}]

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"].float()
        count = len(low)
        free = torch.rand(count) < self.free_fidelity
        fidelity = torch.where(free, torch.rand(count), torch.ones(count)).to(low.device)
        restored, aux = self.model(low, fidelity=fidelity, return_aux=True)
        losses = {
            "l1": charbonnier(restored, high, mask),
            "edge": self.edge_weight * edge_loss(restored, high, mask),
            "estimate": self.estimate_weight * l1_loss(aux["degradation"].float(), batch["degradation"]),
        }
        if self.face is not None:
            losses |= self._face_terms(restored, high, mask)
        adversarial = progress >= self.gan_from
        if adversarial:
            losses |= self._adversarial(restored, high, mask)
        update("model", torch.stack(list(losses.values())).sum())
        logs: dict[str, float | Tensor] = {k: v.detach() for k, v in losses.items()}
        if adversarial:
            logs["d"] = self._discriminate(restored.detach(), high, mask, update)
        return logs

    def _face_terms(self, restored: Tensor, high: Tensor, mask: Tensor) -> dict[str, Tensor]:
        assert self.face is not None
        distance = self.face(torch.where(mask > 0, restored, high), high)
        return {
            "identity": self.identity_weight * distance.identity,
            "perceptual": self.features_weight * distance.features,
        }

    def _adversarial(self, restored: Tensor, high: Tensor, mask: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        logits, features = self.discriminator(restored * mask)
        with torch.no_grad():
            _, wanted = self.discriminator(high * mask)
        self.discriminator.requires_grad_(True)
        return {
            "gan": self.gan_weight * hinge_generator(_valid(logits, mask)),
            "features": self.feature_weight * feature_matching(features, wanted, mask),
        }

    def _discriminate(self, restored: Tensor, high: Tensor, mask: Tensor, update: Update) -> Tensor:
        fake, _ = self.discriminator(restored * mask)
        real, _ = self.discriminator(high * mask)
        loss = hinge_discriminator(_valid(real, mask), _valid(fake, mask))
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"]
        restored, aux = self.model(low, return_aux=True)
        clean, _ = self.model(high, return_aux=True)
        estimate = (aux["degradation"].float() - batch["degradation"]).abs().mean(0)
        found: dict[str, float] = {}
        if self.face is not None:
            after, before = self.face(restored.clamp(-1, 1), high), self.face(low, high)
            found = {"identity": 1 - float(after.identity), "identity_input": 1 - float(before.identity)}
            found |= {"features": float(after.features), "features_input": float(before.features)}
        return found | {
            "psnr": _psnr(restored, high, mask),
            "psnr_input": _psnr(low, high, mask),
            "psnr_clean": _psnr(clean, high, mask),
            "estimate_psnr": 50 * float(estimate[4]),
            "estimate_ssim": float(estimate[5]),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        count = min(8, len(batch["lq"]))
        low, high = batch["lq"][:count].cpu().numpy(), batch["hq"][:count].cpu().numpy()
        rows = [low, self.model.restore(low), self.model.restore(low, fidelity=0.5), high]
        sheet = np.vstack([np.hstack(list(row)) for row in rows])
        return np.asarray(cv2.resize(sheet, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), np.uint8)


def _face_loss(size: int) -> FaceLoss:
    from ..recognise.sface import SFace

    return FaceLoss(SFace.from_pretrained(), size)


def _valid(logits: Tensor, mask: Tensor) -> Tensor:
    """The logits of patches that lie in the photo."""
    return logits[whole_cells(mask, logits.shape[-2:]) > 0]


def _psnr(a: Tensor, b: Tensor, mask: Tensor) -> float:
    error = ((a.float().clamp(-1, 1) - b) * 127.5) ** 2 * mask
    mse = error.sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return float((10 * torch.log10(255**2 / mse.clamp(min=1e-3))).mean())
