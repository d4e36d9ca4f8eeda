"""How restorers with a codebook are trained: what the stages of RestoreFormer and of CodeFormer share.

L1 + perceptual + codebook loss, and from `gan_from` on an adversarial loss whose weight keeps its pull on the last
layer at `gan_weight` of the others'. The perceptual term is LPIPS-VGG where its weight files are (`perceptual: lpips`);
otherwise, as they are not ours to ship, the gradient of the image. The discriminator is this project's patch
discriminator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...losses.adversarial import hinge_discriminator, hinge_generator
from ...losses.reconstruction import edge_loss, l1, whole_cells
from ...losses.vq import adaptive_weight, perplexity
from ...metrics.lpips import LPIPS
from ...nn.discriminator import PatchDiscriminator
from ...training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

Perceptual = Literal["edges", "lpips"]

_BETAS = (0.5, 0.9)


class CodebookTraining(Training):
    """What the stages share; a stage says which picture goes in (`source`) and how it is restored (`restored`)."""

    model: Any
    source: str

    def __init__(
        self,
        model: Any,
        *,
        lr: float = 7.2e-5,
        code_weight: float = 1.0,
        perceptual: Perceptual = "edges",
        gan_from: float = 1.0,
        gan_weight: float = 0.8,
        discriminator_width: int = 64,
    ) -> None:
        if perceptual not in ("edges", "lpips"):
            raise UsageError(f"perceptual {perceptual!r}: choose edges or lpips")
        self.model = model
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.judge = LPIPS.from_files("vgg") if perceptual == "lpips" else None
        self.lr, self.code_weight = lr, code_weight
        self.gan_from, self.gan_weight = gan_from, gan_weight

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "discriminator": self.discriminator}

    def optimisers(self) -> dict[str, Optimizer]:
        return {
            "model": torch.optim.Adam(self.groups(), self.lr, betas=_BETAS),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), self.lr, betas=_BETAS),
        }

    def groups(self) -> list[dict[str, object]]:
        """Parameter groups of the network."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    @property
    def last_weight(self) -> Tensor:
        """The weight in which the losses are balanced: that of the last convolution that learns."""
        weight: Tensor = self.model.last_weight
        return weight

    def restored(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The restored pictures, and with them `code_loss` and the numbers of the `codes`."""
        found: tuple[Tensor, dict[str, Tensor]] = self.model(signed(batch[self.source]), return_aux=True)
        return found

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        wanted, mask = signed(batch["hq"]), batch["mask"].float()
        restored, aux = self.restored(batch)
        reconstruction = l1(restored, wanted, mask) + self._perceived(restored, wanted, mask)
        losses = {"reconstruction": reconstruction, "code": self.code_weight * aux["code_loss"]}
        adversarial = progress >= self.gan_from
        if adversarial:
            losses["gan"] = self._adversarial(restored, reconstruction, mask)
        update("model", torch.stack(list(losses.values())).sum())
        logs: dict[str, float | Tensor] = {k: v.detach() for k, v in losses.items()}
        logs["perplexity"] = perplexity(aux["codes"], self.model.config.codes)
        if adversarial:
            logs["d"] = self._discriminate(restored.detach(), wanted, mask, update)
        return logs

    def _perceived(self, restored: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
        if self.judge is None:
            return edge_loss(restored, wanted, mask)
        judge = self.judge.to(restored.device)
        return judge(restored * mask, wanted * mask).mean()  # type: ignore[no-any-return]

    def _adversarial(self, restored: Tensor, reconstruction: Tensor, mask: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        logits, _ = self.discriminator(restored * mask)
        self.discriminator.requires_grad_(True)
        loss = hinge_generator(_valid(logits, mask))
        weight = adaptive_weight(reconstruction, loss, self.last_weight, strength=self.gan_weight)
        return weight * loss

    def _discriminate(self, restored: Tensor, wanted: Tensor, mask: Tensor, update: Update) -> Tensor:
        fake, _ = self.discriminator(restored * mask)
        real, _ = self.discriminator(wanted * mask)
        loss = hinge_discriminator(_valid(real, mask), _valid(fake, mask))
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        wanted, mask = signed(batch["hq"]), batch["mask"].float()
        restored, aux = self.restored(batch)
        return {
            "l1": float(l1(restored.float(), wanted, mask)),
            "edges": float(edge_loss(restored.float(), wanted, mask)),
            "code": float(aux["code_loss"]),
            "perplexity": float(perplexity(aux["codes"], self.model.config.codes)),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        given, wanted = (batch[key][:8].cpu().numpy() for key in (self.source, "hq"))
        rows = [given, self.model.restore(given), wanted]
        sheet = np.vstack([np.hstack(list(row)) for row in rows])
        return np.asarray(cv2.resize(sheet, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), np.uint8)


def _valid(logits: Tensor, mask: Tensor) -> Tensor:
    """The logits of patches that lie in the photo."""
    return logits[whole_cells(mask, logits.shape[-2:]) > 0]
