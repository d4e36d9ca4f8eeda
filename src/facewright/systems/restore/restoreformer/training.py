"""How RestoreFormer is trained: first its dictionary on good faces, then the restorer that asks it.

Both stages minimise L1 + perceptual + codebook loss, and from `gan_from` on an adversarial loss whose weight keeps its
pull on the last layer at `gan_weight` of the others' (arXiv 2308.07228, sections 3.2 and 3.3, and the published code).
The perceptual term is LPIPS-VGG where its weight files are (`perceptual: lpips`); otherwise, as they are not ours to
ship, the gradient of the image. The discriminator is this project's patch discriminator. The paper's identity term and
its discriminators of eyes and mouth, which need networks of others, are not part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....losses.adversarial import hinge_discriminator, hinge_generator
from ....losses.reconstruction import edge_loss, l1, whole_cells
from ....losses.vq import adaptive_weight, perplexity
from ....metrics.lpips import LPIPS
from ....nn.discriminator import PatchDiscriminator
from ....training.trainer import Batch, Training, Update, signed
from .network import RestoreFormer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.optim import Optimizer

Perceptual = Literal["edges", "lpips"]

_BETAS = (0.5, 0.9)


class _CodebookTraining(Training):
    """What both stages share; a stage says which picture goes in (`source`) and whether its codes are watched."""

    model: RestoreFormer
    source: str

    def __init__(
        self,
        model: RestoreFormer,
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

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        given, wanted, mask = signed(batch[self.source]), signed(batch["hq"]), batch["mask"].float()
        restored, aux = self.model(given, return_aux=True)
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
        weight = adaptive_weight(reconstruction, loss, self.model.last_weight, strength=self.gan_weight)
        return weight * loss

    def _discriminate(self, restored: Tensor, wanted: Tensor, mask: Tensor, update: Update) -> Tensor:
        fake, _ = self.discriminator(restored * mask)
        real, _ = self.discriminator(wanted * mask)
        loss = hinge_discriminator(_valid(real, mask), _valid(fake, mask))
        update("discriminator", loss)
        return loss.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        given, wanted, mask = signed(batch[self.source]), signed(batch["hq"]), batch["mask"].float()
        restored, aux = self.model(given, return_aux=True)
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


class DictionaryTraining(_CodebookTraining):
    """Stage one: a network without cross-attention reconstructs good faces and learns the codebook."""

    source = "hq"

    def __init__(self, model: RestoreFormer, **options: float) -> None:
        if model.config.cross_at:
            raise UsageError("a dictionary is trained without cross-attention: set cross_at to () in the configuration")
        super().__init__(model, **options)  # type: ignore[arg-type]


class RestorationTraining(_CodebookTraining):
    """Stage two: starts from the dictionary in folder or file `dictionary`; attention of the decoder learns faster."""

    source = "lq"

    def __init__(
        self, model: RestoreFormer, *, dictionary: str | Path, attention_lr: float = 10.0, **options: float
    ) -> None:
        if not model.config.cross_at:
            raise UsageError("a restorer asks its dictionary: name sides in cross_at of the configuration")
        super().__init__(model, **options)  # type: ignore[arg-type]
        model.load_dictionary(RestoreFormer.from_pretrained(dictionary))
        self.attention_lr = attention_lr

    def groups(self) -> list[dict[str, object]]:
        asking: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                (asking if "decoder" in name and ".attention" in name else others).append(parameter)
        return [{"params": others}, {"params": asking, "lr": self.attention_lr * self.lr}]


def _valid(logits: Tensor, mask: Tensor) -> Tensor:
    """The logits of patches that lie in the photo."""
    return logits[whole_cells(mask, logits.shape[-2:]) > 0]
