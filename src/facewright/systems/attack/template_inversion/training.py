"""How template inversion is trained: pixels, identity, and a critic that keeps styles where the generator's own lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ....training.trainer import Batch, Training, Update, signed
from ..embedding import embedding_of
from .network import recut_crop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ...recognise.recogniser import Recogniser
    from ...synthesise.stylegan2.network import StyleGAN2
    from .network import TemplateInversion

CLIP = 0.01
CRITIC_EVERY, ADVERSARIAL_EVERY = 4, 2


def reconstruction_terms(made: Tensor, truth: Tensor, embed: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """`pixel`: mean squared error of pictures (N, 3, S, S) clamped to [−1, 1], counted in [0, 1]. `identity`: that of
    the raw embeddings of their fixed crops."""
    shown = (made.clamp(-1, 1) + 1) / 2
    true = (truth + 1) / 2
    seen = [embed(recut_crop(each)) for each in (shown, true)]
    return {"pixel": F.mse_loss(shown, true), "identity": F.mse_loss(seen[0], seen[1].detach())}


def critic_loss(real: Tensor, made: Tensor) -> Tensor:
    """Wasserstein: the critic gives the generator's own styles low numbers."""
    return (real - made).mean()


class TemplateInversionTraining(Training):
    """Batches have `image` (N, S, S, 3) uint8 RGB at the generator's size and `template` (N, D) of the leaked system.

    `recogniser` is the one whose embedding must agree: the leaked system's own (whitebox) or another (blackbox). Pixels
    and identity weigh 1 and 1 as published; `identity=0` is the arm that shows what identity is worth.
    """

    def __init__(
        self,
        model: TemplateInversion,
        generator: StyleGAN2,
        recogniser: Recogniser,
        *,
        lr: float = 0.1,
        pixel: float = 1.0,
        identity: float = 1.0,
        adversarial: float = 1.0,
    ) -> None:
        self.model: TemplateInversion = model
        self.generator = generator.eval().requires_grad_(False)
        self.embed = embedding_of(recogniser.eval().requires_grad_(False))
        self.lr, self.pixel, self.identity, self.adversarial = lr, pixel, identity, adversarial
        self.count = 0

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        mapping = list(self.model.mapping.parameters())
        return {
            "model": torch.optim.Adam(mapping, self.lr),
            "adversarial": torch.optim.Adam(mapping, self.lr),
            "critic": torch.optim.Adam(self.model.critic.parameters(), self.lr / 100),
        }

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        template = batch["template"].float()
        noise = torch.randn(len(template), self.model.config.noise_dim, device=template.device)
        if self.adversarial:
            self._adversarial_steps(template, noise, update)
        self.count += 1
        made = self.generator.generator(self.model.mapping(template, noise))
        terms = reconstruction_terms(made.float(), signed(batch["image"]), self.embed)
        update("model", self.pixel * terms["pixel"] + self.identity * terms["identity"])
        return {name: value.detach() for name, value in terms.items()}

    def _adversarial_steps(self, template: Tensor, noise: Tensor, update: Update) -> None:
        if self.count % CRITIC_EVERY == 0:
            z = torch.randn(len(template), self.generator.config.style_dim, device=template.device)
            real = self.model.judge(self.generator.generator.mapping(z))
            made = self.model.judge(self.model.mapping(template, noise).detach())
            update("critic", critic_loss(real, made))
            with torch.no_grad():
                for weight in self.model.critic.parameters():
                    weight.clamp_(-CLIP, CLIP)
        if self.count % ADVERSARIAL_EVERY == 0:
            update("adversarial", self.adversarial * self.model.judge(self.model.mapping(template, noise)).mean())

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """The two terms with noise of ones."""
        made = self.generator.generator(self.model(batch["template"].float()).style)
        terms = reconstruction_terms(made.float(), signed(batch["image"]), self.embed)
        return {name: float(value) for name, value in terms.items()}
