"""How SVFR is trained: to denoise films under mixed tasks, alike for one film whatever was done to it, and with faces.

L = L_noise + 0.01 · L_ULR + 0.1 · L_prior (paper, section 3). Unified latent regularisation (ULR) pulls together what
the U-Net's middle makes of one film under two damages and pushes other films away (InfoNCE); the facial prior asks the
same features for 68 landmarks, by the Wing loss of Feng et al. (CVPR 2018). Its head is thrown away afterwards. The
training code is not public: noise levels are those of Stable Video Diffusion, temperature, Wing's constants and the
optimiser are choices of this project.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....nn.edm import Preconditioning
from ....nn.kl import SCALE
from ....nn.svd import films_of
from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from .network import SVFR

LANDMARKS = 68
_LOG_MEAN, _LOG_SPREAD = 0.7, 1.6
_CONDITIONING = Preconditioning.velocity()


def latent_regularisation(features: Tensor, others: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE of films' features (N, C) with those of the same films otherwise damaged: row i belongs to row i.

    −log exp(cos(fᵢ, gᵢ)/τ) / Σⱼ exp(cos(fᵢ, gⱼ)/τ), averaged.
    """
    similar = F.normalize(features.float()) @ F.normalize(others.float()).T / temperature
    return F.cross_entropy(similar, torch.arange(len(similar), device=similar.device))


def wing(off: Tensor, width: float = 10.0, curvature: float = 2.0) -> Tensor:
    """Wing loss of distances, elementwise: w · ln(1 + |x|/ε) below w, |x| less a constant beyond, where both meet."""
    size = off.abs()
    constant = width - width * math.log(1 + width / curvature)
    return torch.where(size < width, width * torch.log1p(size / curvature), size - constant)


class LandmarkHead(nn.Module):
    """Features of the U-Net's middle (N, C, h, w) to landmarks (N, 68, 2), 0 to 1 of the crop: five linear layers."""

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        widths = [channels, hidden, hidden, hidden, hidden]
        layers: list[nn.Module] = []
        for c_in, c_out in zip(widths, widths[1:]):
            layers += [nn.Linear(c_in, c_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 2 * LANDMARKS))

    def forward(self, features: Tensor) -> Tensor:
        points: Tensor = self.layers(features.float().mean((2, 3)))
        return points.view(-1, LANDMARKS, 2)


class SVFRTraining(Training):
    """Noise loss, unified latent regularisation and facial prior, by AdamW.

    A batch has `lq` and `hq` (N, T, S, S, 3) uint8 RGB, frames prepared for their `tasks` (N, 3); if it regularises,
    `other` (N, T, S, S, 3) with `other_tasks`, the same films otherwise damaged; if it has a prior, `landmarks` (N, T,
    68, 2), 0 to 1 of the crop. A weight of 0 leaves a term and its part of the batch out. A random frame is the
    reference of a film, a share `drop` of the films has none.
    """

    def __init__(
        self,
        model: SVFR,
        *,
        lr: float = 1e-5,
        regularisation: float = 0.01,
        prior: float = 0.1,
        temperature: float = 0.07,
        drop: float = 0.5,
    ) -> None:
        self.model: SVFR = model
        widest = model.unet.widths[-1]
        self.head = LandmarkHead(widest)
        self.lr, self.regularisation, self.prior = lr, regularisation, prior
        self.temperature, self.drop = temperature, drop

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "head": self.head}

    def optimisers(self) -> dict[str, Optimizer]:
        learnt = [value for value in self.model.parameters() if value.requires_grad]
        return {"model": torch.optim.AdamW([*learnt, *self.head.parameters()], self.lr)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        losses = self.losses(batch)
        update("model", torch.stack(list(losses.values())).sum())
        return {key: value.detach() for key, value in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of one batch; noise levels, noise and references are drawn by torch's generator."""
        model = self.model
        truth = _films(batch["hq"])
        clean = SCALE * self._latents(truth)
        sigma = (_LOG_MEAN + _LOG_SPREAD * torch.randn(len(clean), device=clean.device)).exp()
        noisy = clean + sigma.view(-1, 1, 1, 1, 1) * torch.randn_like(clean)
        reference, tokens = self._references(truth)

        def asked(films: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
            given = self._latents(_films(films))
            found = model.predict(noisy, given, reference, tokens, sigma, tasks.float())
            return found.answer.float(), found.middle

        answer, middle = asked(batch["lq"], batch["tasks"])
        # weighing errors of the picture by EDM's λ(σ) is the plain error of the answer
        found = {"noise": F.mse_loss(answer, _CONDITIONING.target(clean, noisy, sigma))}
        if self.regularisation:
            _, other = asked(batch["other"], batch["other_tasks"])
            features, others = (value.float().mean((1, 3, 4)) for value in (middle, other))
            found["regularisation"] = self.regularisation * latent_regularisation(features, others, self.temperature)
        if self.prior:
            side = batch["hq"].shape[2]
            points = self.head(middle.flatten(0, 1))
            found["prior"] = self.prior * wing(side * (points - batch["landmarks"].flatten(0, 1).float())).mean()
        return found

    def _latents(self, films: Tensor) -> Tensor:
        """Films (N, T, 3, S, S) to unscaled latents."""
        return films_of(self.model.encode(films.flatten(0, 1)), films.shape[1])

    def _references(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled latents (N, T, 4, h, w) and tokens (N, T, 49, D) of a frame of each film, or of nobody."""
        count, frames = films.shape[:2]
        which = torch.randint(frames, (count,), device=films.device)
        pictures = films[torch.arange(count, device=films.device), which]
        kept = (torch.rand(count, device=films.device) >= self.drop).float()
        latent = kept.view(-1, 1, 1, 1) * self.model.encode(pictures)
        tokens = kept.view(-1, 1, 1) * self.model.tokens_of(pictures)
        return tuple(value[:, None].expand(-1, frames, *value.shape[1:]) for value in (latent, tokens))  # type: ignore[return-value]

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {key: float(value) for key, value in self.losses(batch).items()}


def _films(frames: Tensor) -> Tensor:
    """(N, T, S, S, 3) uint8 to (N, T, 3, S, S) in [−1, 1]."""
    return films_of(signed(frames.flatten(0, 1)), frames.shape[1])
