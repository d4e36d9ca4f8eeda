"""How StyleGAN2 is trained here: the paper's losses and regularisers, adaptive augmentation, on photos with holes.

Non-saturating loss, lazy R1 and lazy path-length regularisation, style mixing, Adam at 2·10⁻³ (arXiv 1912.04958,
section 3.2 and appendix B); adaptive augmentation (arXiv 2006.06676). The average of the weights is the trainer's.

Many crops of the photo collections are not filled to the corners. Real pictures are masked where the photo ends, and
generated ones by the same masks, before the discriminator sees either: what it compares is then distributed alike
exactly when the whole pictures are (Bora et al., "AmbientGAN", ICLR 2018), and the generator paints complete faces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....losses.adversarial import PathLength, r1_penalty, softplus_discriminator, softplus_generator
from ....losses.reconstruction import whole_cells
from ....nn.stylegan2 import Discriminator
from ....training.augment import AdaptiveAugment
from ....training.lazy import StepCount
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import StyleGAN2

_SHEET_COLUMNS, _SHEET_ROWS = 8, 3


class StyleGAN2Training(Training):
    """Adversarial training of the prior on pictures `hq` (N, S', S', 3) uint8 RGB with `mask` (N, 1, S', S').

    Pictures larger than the generator's are reduced by area. `r1_gamma` and `path_weight` weigh the regularisers,
    which act every `r1_every` and `path_every` steps (0: never); the path length is taken on a `path_shrink`-th of the
    batch. `mixing` is the share of pictures made from two styles. `ada_target` and `ada_images` steer the augmentation
    (0 images: none). One process only: second derivatives do not pass torch's distributed wrapper.
    """

    def __init__(
        self,
        model: StyleGAN2,
        *,
        lr: float = 2e-3,
        r1_gamma: float = 1.0,
        r1_every: int = 16,
        path_weight: float = 2.0,
        path_every: int = 8,
        path_shrink: int = 2,
        mixing: float = 0.9,
        ada_target: float = 0.6,
        ada_images: int = 200_000,
    ) -> None:
        if min(r1_every, path_every, ada_images) < 0 or path_shrink < 1 or not 0 <= mixing <= 1:
            raise UsageError("intervals and ada_images must not be negative, path_shrink at least 1, mixing in 0…1")
        c = model.config
        self.model: StyleGAN2 = model
        self.discriminator = Discriminator(
            c.size, channel_multiplier=c.channel_multiplier, narrow=c.narrow, widths=c.widths
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.path = PathLength()
        self.augment = AdaptiveAugment(target=ada_target, images=ada_images) if ada_images else nn.Identity()
        self.count = StepCount()
        self.lr, self.mixing = lr, mixing
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.path_weight, self.path_every, self.path_shrink = path_weight, path_every, path_shrink

    def modules(self) -> dict[str, nn.Module]:
        return {
            "model": self.model,
            "discriminator": self.discriminator,
            "path": self.path,
            "augment": self.augment,
            "count": self.count,
        }

    def optimisers(self) -> dict[str, Optimizer]:
        return {
            "model": self._adam(self.model, self.path_every),
            "discriminator": self._adam(self.discriminator, self.r1_every),
        }

    def _adam(self, network: nn.Module, every: int) -> Optimizer:
        """Adam whose rates allow for the extra step that a lazy regulariser makes (StyleGAN2, appendix B)."""
        share = every / (every + 1) if every else 1.0
        return torch.optim.Adam(network.parameters(), self.lr * share, betas=(0.0, 0.99**share), eps=1e-8)

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        real, mask = self._real(batch)
        fake = self.model.generator(self.styles(len(real))) * mask
        logs = self._discriminate(real, fake.detach(), update)
        if self.count.due(self.r1_every):
            logs["r1"] = self._penalise(real, update)
        self.discriminator.requires_grad_(False)
        loss = softplus_generator(self.discriminator(self.augment(fake)).float())
        update("model", loss)
        self.discriminator.requires_grad_(True)
        logs["g"] = loss.detach()
        if self.count.due(self.path_every):
            logs["path"] = self._straighten(max(1, len(real) // self.path_shrink), update)
        self.count.steps += 1
        return logs

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Masked pictures (N, 3, S, S) in [−1, 1] and masks (N, 1, S, S) at the generator's size."""
        side = (self.model.config.size,) * 2
        mask = whole_cells(batch["mask"], side)
        return F.interpolate(signed(batch["hq"]), side, mode="area") * mask, mask

    def styles(self, count: int) -> Tensor:
        """w⁺ (N, num_latents, D); in a share `mixing` of the rows the styles change at a random layer."""
        layers = self.model.generator.num_latents
        z = torch.randn(2, count, self.model.config.style_dim, device=self.model.device)
        first, second = self.model.generator.mapping(z.flatten(0, 1)).unflatten(0, (2, count))
        crossover = torch.randint(1, layers, (count,), device=z.device)
        crossover[torch.rand(count, device=z.device) >= self.mixing] = layers
        before = torch.arange(layers, device=z.device) < crossover[:, None]
        mixed: Tensor = torch.where(before[..., None], first[:, None], second[:, None])
        return mixed

    def _discriminate(self, real: Tensor, fake: Tensor, update: Update) -> dict[str, float | Tensor]:
        on_real = self.discriminator(self.augment(real)).float()
        on_fake = self.discriminator(self.augment(fake)).float()
        loss = softplus_discriminator(on_real, on_fake)
        update("discriminator", loss)
        logs: dict[str, float | Tensor] = {"d": loss.detach(), "sign": on_real.detach().sign().mean()}
        if isinstance(self.augment, AdaptiveAugment):
            logs["p"] = self.augment.adapt(on_real.detach())
        return logs

    def _penalise(self, real: Tensor, update: Update) -> Tensor:
        """R1 in float32, weighted for all the steps it stands for."""
        with torch.autocast(real.device.type, enabled=False):
            images = real.detach().requires_grad_()
            penalty = r1_penalty(self.discriminator(self.augment(images)), images)
            update("discriminator", self.r1_gamma / 2 * self.r1_every * penalty)
        return penalty.detach()

    def _straighten(self, count: int, update: Update) -> Tensor:
        """Path length in float32, weighted for all the steps it stands for."""
        with torch.autocast(self.model.device.type, enabled=False):
            latents = self.styles(count)
            penalty: Tensor = self.path(self.model.generator(latents), latents)
            update("model", self.path_weight * self.path_every * penalty)
        return penalty.detach()

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Mean logits of unseen real and of generated pictures: they drift apart when the discriminator overfits."""
        real, mask = self._real(batch)
        fake = self.model(torch.randn(len(real), self.model.config.style_dim, device=real.device)) * mask
        return {
            "logit_real": float(self.discriminator(real).float().mean()),
            "logit_fake": float(self.discriminator(fake).float().mean()),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """The same people at truncation 1, 0.7 and 0.4."""
        rows = [self.model.sample(_SHEET_COLUMNS, truncation=t) for t in np.linspace(1, 0.4, _SHEET_ROWS)]
        sheet = np.vstack([np.hstack(list(row)) for row in rows])
        return np.asarray(cv2.resize(sheet, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), np.uint8)
