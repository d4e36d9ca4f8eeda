"""How template inversion is trained: pixels, identity, and a critic that keeps styles where the generator's own lie."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ....training.trainer import Batch, Training, Update, signed
from ..embedding import embedding_of
from .network import recut_crop
from .prior import prior_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ...latents.eigenfaces.network import Eigenfaces
    from ...recognise.recogniser import Recogniser
    from ...synthesise.stylegan2.network import StyleGAN2
    from .network import TemplateInversion

CLIP = 0.01
CRITIC_EVERY, ADVERSARIAL_EVERY = 4, 2


def reconstruction_terms(
    made: Tensor, truth: Tensor, embed: Callable[[Tensor], Tensor], cut: Callable[[Tensor], Tensor] = recut_crop
) -> dict[str, Tensor]:
    """`pixel`: as `pixel_term` of pictures (N, 3, S, S). `identity`: mean squared error of the raw embeddings of their
    fixed crops, as `cut` makes them."""
    seen = [embed(cut((each + 1) / 2)) for each in (made.clamp(-1, 1), truth)]
    return {"pixel": pixel_term(made, truth), "identity": F.mse_loss(seen[0], seen[1].detach())}


def pixel_term(made: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of pictures (N, 3, S, S) clamped to [−1, 1], counted in [0, 1]."""
    return F.mse_loss(made.clamp(-1, 1) / 2, truth / 2)


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
        generator: StyleGAN2 | Eigenfaces,
        recogniser: Recogniser,
        *,
        lr: float = 0.1,
        pixel: float = 1.0,
        identity: float = 1.0,
        adversarial: float = 1.0,
    ) -> None:
        self.model: TemplateInversion = model
        self.prior = prior_of(generator.eval().requires_grad_(False))
        self.embed = embedding_of(recogniser.eval().requires_grad_(False))
        self.cut = partial(recut_crop, spec=recogniser.preprocess.crop, source=self.prior.template)
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
        made = self.prior.draw(self.model.mapping(template, noise))
        if not self.identity:
            pixel = pixel_term(made.float(), signed(batch["image"]))
            update("model", self.pixel * pixel)
            return {"pixel": pixel.detach()}
        terms = self._terms(made, batch["image"])
        update("model", self.pixel * terms["pixel"] + self.identity * terms["identity"])
        return {name: value.detach() for name, value in terms.items()}

    def _adversarial_steps(self, template: Tensor, noise: Tensor, update: Update) -> None:
        if self.count % CRITIC_EVERY == 0:
            real = self.model.judge(self.prior.real(len(template), template.device))
            made = self.model.judge(self.model.mapping(template, noise).detach())
            update("critic", critic_loss(real, made))
            with torch.no_grad():
                for weight in self.model.critic.parameters():
                    weight.clamp_(-CLIP, CLIP)
        if self.count % ADVERSARIAL_EVERY == 0:
            update("adversarial", self.adversarial * self.model.judge(self.model.mapping(template, noise)).mean())

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """The two terms with noise of ones."""
        terms = self._terms(self.prior.draw(self.model(batch["template"].float()).style), batch["image"])
        return {name: float(value) for name, value in terms.items()}

    def _terms(self, made: Tensor, image: Tensor) -> dict[str, Tensor]:
        return reconstruction_terms(made.float(), signed(image), self.embed, self.cut)


def regress(
    model: TemplateInversion,
    templates: NDArray[np.float32],
    styles: NDArray[np.float32],
    *,
    steps: int = 1500,
    batch: int = 64,
    lr: float = 0.1,
    seed: int = 0,
) -> None:
    """Bring the mapping near the styles (N, S) of pictures whose templates (N, D) are known, without drawing any.

    It is the half that GaFaR (Otroshi Shahreza and Marcel, ICCV 2023) adds: whoever can draw faces and has the leaked
    system has as many such pairs as they like. Where photos are few it is what the mapping learns most from.
    """
    device = model.device
    given, wanted = (torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in (templates, styles))
    optimiser = torch.optim.Adam(model.mapping.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(steps):
            rows = torch.randint(len(given), (batch,)).to(device)
            noise = torch.randn(batch, model.config.noise_dim).to(device)
            loss = F.mse_loss(model.mapping(given[rows], noise), wanted[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def fit(
    training: TemplateInversionTraining,
    images: NDArray[np.uint8],
    templates: NDArray[np.float32],
    *,
    steps: int,
    batch: int = 16,
    seed: int = 0,
    log: Callable[[int, int | None], None] | None = None,
) -> TemplateInversion:
    """Train a mapping on pictures (N, S, S, 3) uint8 RGB, as the generator places faces, and their templates (N, D).

    For audits, without checkpoints: a cosine from the learning rates to zero. The random state of the process is left
    as it was.
    """
    optimisers = training.optimisers()
    rates = {name: optimiser.param_groups[0]["lr"] for name, optimiser in optimisers.items()}
    rng = np.random.default_rng(seed)

    def update(name: str, loss: Tensor) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimisers[name].step()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        training.model.train()
        for step in range(steps):
            for name, optimiser in optimisers.items():
                optimiser.param_groups[0]["lr"] = rates[name] * 0.5 * (1 + np.cos(np.pi * step / steps))
            rows = rng.integers(len(images), size=batch)
            chosen = {"image": torch.from_numpy(images[rows]), "template": torch.from_numpy(templates[rows])}
            given = {key: value.to(training.model.device) for key, value in chosen.items()}
            with training.model.picture_autocast():
                training.step(given, update, step / steps)
            if log is not None:
                log(step + 1, steps)
    return training.model.eval()
