"""How FaceDetail is trained: mostly regression, with as much of an adversary as its detail needs.

Pixel, gradient and texture-energy losses against the truth (eyes, brows and mouth count more), the estimate of the
damage, and a patch discriminator whose weight grows as the wanted fidelity falls. On whole faces also the features of
the embedded parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.templates import template_points
from ....losses.adversarial import hinge_discriminator
from ....losses.face import ParserLoss
from ....losses.reconstruction import charbonnier, edge_loss, feature_matching, log_mse, masked_mean, whole_cells
from ....nn.discriminator import PatchDiscriminator
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import FaceDetail

_USUAL_ERROR = 0.06  # root mean square in [−1, 1]: a face shrunk to a quarter
_CELL = 16  # px, in which texture energy is compared
_LUMA = (0.299, 0.587, 0.114)
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class FaceDetailTraining(Training):
    """Charbonnier, logarithmic, gradient and texture losses; from `gan_from` on hinge loss and feature matching.

    `region_weight` is what eyes, brows and mouth count more than the rest. `free_fidelity` is the share of samples with
    a random fidelity; at fidelity f the adversarial terms weigh 1 + `freedom` · (1 − f) as much, and the more the
    farther the input is from the truth. `features_weight` is
    for whole faces; without it the parser is not loaded.
    """

    def __init__(
        self,
        model: FaceDetail,
        *,
        lr: float = 5e-4,
        discriminator_lr: float = 4e-4,
        log_weight: float = 0.1,
        edge_weight: float = 0.5,
        energy_weight: float = 0.2,
        estimate_weight: float = 0.1,
        region_weight: float = 2.0,
        features_weight: float = 0.0,
        free_fidelity: float = 0.25,
        freedom: float = 3.0,
        gan_from: float = 0.0,
        gan_weight: float = 0.04,
        matching_weight: float = 0.5,
        discriminator_width: int = 32,
    ) -> None:
        self.model: FaceDetail = model
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.lr, self.discriminator_lr = lr, discriminator_lr
        self.log_weight, self.edge_weight = log_weight, edge_weight
        self.energy_weight, self.estimate_weight = energy_weight, estimate_weight
        self.features_weight = features_weight
        self.free_fidelity, self.freedom = free_fidelity, freedom
        self.gan_from, self.gan_weight, self.matching_weight = gan_from, gan_weight, matching_weight
        self.features = _parser_loss() if features_weight else None
        self.regions = 1 + region_weight * torch.from_numpy(important_regions(model.config.size))

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
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"].float()
        free = torch.rand(len(low)) < self.free_fidelity
        fidelity = torch.where(free, torch.rand(len(low)), torch.ones(len(low))).to(low.device)
        restored, raw = self.model(low, fidelity=fidelity, place=batch["place"], return_aux=True)
        restored = restored.float()
        losses = {
            "pixel": charbonnier(restored, high, mask * self._weights(batch["place"], mask)),
            "log": self.log_weight * log_mse(restored, high, mask),
            "edge": self.edge_weight * edge_loss(restored, high, mask),
            "energy": self.energy_weight * texture_energy_loss(restored, high, mask),
            "estimate": self.estimate_weight * F.l1_loss(raw.float(), batch["damage"]),
        }
        if self.features is not None:
            losses["features"] = self.features_weight * self.features.to(low.device)(restored, high)
        adversarial = self.gan_weight > 0 and progress >= self.gan_from
        if adversarial:
            wanted = (1 + self.freedom * (1 - fidelity)) * _room(low, high, mask)
            losses |= self._adversarial(restored, high, mask, wanted)
        update("model", torch.stack(list(losses.values())).sum())
        logs: dict[str, float | Tensor] = {key: value.detach() for key, value in losses.items()}
        if adversarial:
            logs["discriminator"] = self._discriminate(restored.detach(), high, mask, update)
        return logs

    def _weights(self, place: Tensor, mask: Tensor) -> Tensor:
        """(N, 1, P, P): how much every pixel of the parts counts."""
        height, width = mask.shape[-2:]
        corners = place.long().tolist()
        parts = [self.regions[top : top + height, left : left + width] for top, left in corners]
        return torch.stack(parts)[:, None].to(mask)

    def _adversarial(self, restored: Tensor, high: Tensor, mask: Tensor, weights: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        logits, fake = self.discriminator(restored * mask)
        with torch.no_grad():
            _, real = self.discriminator(high * mask)
        self.discriminator.requires_grad_(True)
        inside = whole_cells(mask, logits.shape[-2:])
        wrong = -(logits.float() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)
        return {
            "adversarial": self.gan_weight * (weights * wrong).mean(),
            "matching": self.matching_weight * feature_matching(fake, real, mask),
        }

    def _discriminate(self, restored: Tensor, high: Tensor, mask: Tensor, update: Update) -> Tensor:
        real, _ = self.discriminator(high * mask)
        fake, _ = self.discriminator(restored * mask)
        inside = whole_cells(mask, real.shape[-2:]) > 0
        loss = hinge_discriminator(real.float()[inside], fake.float()[inside])
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        low, high, mask = signed(batch["lq"]), signed(batch["hq"]), batch["mask"]
        restored, raw = self.model(low, place=batch["place"], return_aux=True)
        restored = restored.float()
        return {
            "psnr": _psnr(restored, high, mask),
            "psnr_input": _psnr(low, high, mask),
            "detail": _energy_share(restored, high, mask),
            "detail_input": _energy_share(low, high, mask),
            "estimate": float(F.l1_loss(raw.float(), batch["damage"])),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        return _sheet(self.model, batch)


def important_regions(size: int) -> NDArray[np.float32]:
    """(size, size), up to 1 at eyes, brows and mouth of a face on the `ffhq` template."""
    left, right, _, mouth_left, mouth_right = template_points("ffhq", size)
    apart = float(np.hypot(*(right - left)))
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    out = np.zeros((size, size), np.float32)
    brows = [eye - (0, 0.3 * apart) for eye in (left, right)]
    for centre, wide, high in (
        (left, 0.26, 0.15), (right, 0.26, 0.15), (brows[0], 0.3, 0.12), (brows[1], 0.3, 0.12),
        ((mouth_left + mouth_right) / 2, 0.42, 0.22),
    ):  # fmt: skip
        x, y = (columns - centre[0]) / (wide * apart), (rows - centre[1]) / (high * apart)
        out = np.maximum(out, np.exp(-0.5 * (x * x + y * y)))
    return out


def laplacian(image: Tensor) -> Tensor:
    """(N, 1, H, W): the Laplacian of the luma of (N, 3, H, W), the border mirrored."""
    weights = image.new_tensor(_LUMA).view(1, 3, 1, 1)
    kernel = image.new_tensor(_LAPLACIAN).view(1, 1, 3, 3)
    return F.conv2d(F.pad((image * weights).sum(1, keepdim=True), (1, 1, 1, 1), mode="reflect"), kernel)


def texture_energy_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L1 between the root mean squares of the Laplacian in cells of 16 px: as much texture as the truth, anywhere."""

    def strength(image: Tensor) -> Tensor:
        return (F.avg_pool2d(laplacian(image).square(), _CELL) + 1e-5).sqrt()

    return masked_mean((strength(prediction) - strength(target)).abs(), whole_cells(mask, _cells(mask)))


def _cells(mask: Tensor) -> tuple[int, int]:
    return mask.shape[-2] // _CELL, mask.shape[-1] // _CELL


def _room(low: Tensor, high: Tensor, mask: Tensor) -> Tensor:
    """(N,): the error of each input against a usual one, within limits: room for what an adversary wants.

    In a lightly damaged picture invented texture costs more than all that can be restored.
    """
    error = ((low - high).square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return (error.sqrt() / _USUAL_ERROR).clamp(0.2, 2.5)


def _parser_loss() -> ParserLoss:
    from ...parse.segface.network import SegFace

    return ParserLoss(SegFace.from_pretrained())


def _psnr(a: Tensor, b: Tensor, mask: Tensor) -> float:
    error = ((a.clamp(-1, 1) - b) * 127.5) ** 2 * mask
    mse = error.sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return float((10 * torch.log10(255**2 / mse.detach().clamp(min=1e-3))).mean())


def _energy_share(image: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean over the pictures of the Laplacian's energy against the truth's."""
    seen, true = (((laplacian(x.clamp(-1, 1)) ** 2) * mask).sum((1, 2, 3)) for x in (image, truth))
    return float((seen / true.clamp(min=1e-6)).mean())


def _sheet(model: FaceDetail, batch: Batch) -> NDArray[np.uint8]:
    """Up to six faces: damaged, restored, restored at fidelity 0, true."""
    count = min(6, len(batch["lq"]))
    low, high = batch["lq"][:count].cpu().numpy(), batch["hq"][:count].cpu().numpy()
    rows = [low, model.restore(low), model.restore(low, fidelity=0.0), high]
    sheet = np.vstack([np.hstack(list(row)) for row in rows])
    scale = min(1.0, 2400 / sheet.shape[1])
    return np.asarray(cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
