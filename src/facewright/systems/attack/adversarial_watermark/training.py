"""How HiDDeN is trained: the picture stays, the message can be read, and no critic sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from ....training.trainer import Batch, Training, Update, signed
from .network import jpeg_masked, quantised

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import Hidden

Noise = Literal["identity", "jpeg", "quantise"]
IMAGE, MESSAGE, ADVERSARIAL = 0.7, 1.0, 1e-3
"""Weights of the three losses."""


class HiddenTraining(Training):
    """Batches have `image` (N, H, W, 3) uint8 RGB. Messages are drawn, and one kind of `noise` for every step."""

    def __init__(self, model: Hidden, *, lr: float = 1e-3, noise: Sequence[Noise] = ("identity",)) -> None:
        self.model: Hidden = model
        self.lr, self.noise = lr, tuple(noise)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        hiding = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        return {
            "model": torch.optim.Adam(hiding, self.lr),
            "critic": torch.optim.Adam(self.model.discriminator.parameters(), self.lr),
        }

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        image = signed(batch["image"])
        message = torch.randint(0, 2, (len(image), self.model.config.bits), device=image.device).float()
        marked = self.model.encoder(image, message).float()
        critic = self.model.discriminator
        update("critic", critic_loss(critic(image).float(), critic(marked.detach()).float()))
        noise = self.noise[int(torch.randint(len(self.noise), ()))]
        read = self.model.decoder(altered(marked, noise)).float()
        terms = hiding_terms(image, marked, message, read, critic(marked).float())
        update("model", IMAGE * terms["image"] + MESSAGE * terms["message"] + ADVERSARIAL * terms["adversarial"])
        right = (read.round().clamp(0, 1) == message).float().mean()
        return {name: value.detach() for name, value in terms.items()} | {"bits": right}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of bits read right, and PSNR of marked pictures, both after rounding to 8 bits."""
        image = signed(batch["image"])
        generator = torch.Generator().manual_seed(0)
        message = torch.randint(0, 2, (len(image), self.model.config.bits), generator=generator).to(image)
        marked = ((self.model.encoder(image, message).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        right = (self.model.decoder(marked).round().clamp(0, 1) == message).float().mean()
        error = F.mse_loss(marked, image) / 4
        return {"bits": float(right), "psnr": float(-10 * error.clamp_min(1e-10).log10())}


def hiding_terms(image: Tensor, marked: Tensor, message: Tensor, read: Tensor, critic: Tensor) -> dict[str, Tensor]:
    """The three losses of encoder and decoder: of the picture, of the bits, of the critic taking it for unmarked."""
    return {
        "image": F.mse_loss(marked, image),
        "message": F.mse_loss(read, message),
        "adversarial": F.binary_cross_entropy_with_logits(critic, torch.ones_like(critic)),
    }


def critic_loss(unmarked: Tensor, marked: Tensor) -> Tensor:
    """The critic's own: unmarked pictures are 1, marked ones 0."""
    real = F.binary_cross_entropy_with_logits(unmarked, torch.ones_like(unmarked))
    return real + F.binary_cross_entropy_with_logits(marked, torch.zeros_like(marked))


def altered(marked: Tensor, noise: Noise) -> Tensor:
    """What happens to a marked picture before it is read."""
    if noise == "jpeg":
        return jpeg_masked(marked)
    return quantised(marked) if noise == "quantise" else marked
