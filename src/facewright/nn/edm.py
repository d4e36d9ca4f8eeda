"""Diffusion as noise σ added to pictures: preconditioned networks, and samplers that solve its equation in few steps.

Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models" (NeurIPS 2022, "EDM").
Here a noisy map is x = picture + σ · noise, unscaled, and a `Denoiser` says the picture that x shows. Networks differ
in what they are fed and answer: `Preconditioning` makes denoisers of those that live in this world (EDM; Stable Video
Diffusion's velocity), `denoiser` of those that were trained at the times of a `nn.diffusion.NoiseSchedule`.

Samplers walk falling σ. `euler_step` is one step, for those who hold several windows of one film; `euler` and
`dpm_solver` walk all of them. They keep nothing between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .diffusion import NoiseSchedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Noisy maps (N, …) and σ (N,) to the pictures they show."""
Prediction = Literal["noise", "velocity"]


# --- what networks are fed and answer


@dataclass(frozen=True, slots=True)
class Preconditioning:
    """How a network F becomes a denoiser: D(x, σ) = c_skip · x + c_out · F(c_in · x, c_noise), EDM's table 1.

    spread: standard deviation of the pictures. sign: of c_out, −1 where F answers with the velocity.
    """

    spread: float = 0.5
    sign: int = 1

    @classmethod
    def velocity(cls) -> Self:
        """For networks of v-prediction on pictures of unit spread, as Stable Video Diffusion's."""
        return cls(1.0, -1)

    def fed(self, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees: c_in · x, and the time c_noise = ln σ / 4 (N,)."""
        return noisy / (_over(sigma, noisy) ** 2 + self.spread**2).sqrt(), sigma.log() / 4

    def denoised(self, answer: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The picture, from the network's answer."""
        s = _over(sigma, noisy)
        total = s**2 + self.spread**2
        return self.spread**2 / total * noisy + self.sign * s * self.spread / total.sqrt() * answer

    def target(self, clean: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The answer that denoises perfectly, of about unit spread whatever σ."""
        s = _over(sigma, noisy)
        total = s**2 + self.spread**2
        return self.sign * (clean - self.spread**2 / total * noisy) * total.sqrt() / (s * self.spread)

    def weight(self, sigma: Tensor) -> Tensor:
        """λ(σ) = (σ² + spread²) / (σ · spread)² of squared errors of the picture: they equal errors of the answer."""
        return (sigma**2 + self.spread**2) / (sigma * self.spread) ** 2


def denoiser(
    predict: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, kind: Prediction = "noise"
) -> Denoiser:
    """The denoiser of a network that predicts noise or velocity in scaled maps √ᾱ · x at times of a schedule.

    σ between two times is given the time between them, by its logarithm; networks take such times as well.
    """
    if kind not in get_args(Prediction):
        raise UsageError(f"prediction {kind!r}: choose one of {', '.join(get_args(Prediction))}")
    known = schedule.sigmas().log().cpu().numpy()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        logs = sigma.double().log().cpu().numpy()
        time = torch.from_numpy(np.interp(logs, known, np.arange(len(known)))).to(x)
        s = _over(sigma, x)
        scaled = x / (s**2 + 1).sqrt()
        answer = predict(scaled, time)
        if kind == "velocity":
            return (scaled - s * answer) / (s**2 + 1).sqrt()
        return x - s * answer

    return denoise


def _over(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.to(like).view(-1, *[1] * (like.dim() - 1))


# --- where samplers stop


def karras_sigmas(steps: int, lowest: float = 0.002, highest: float = 80.0, rho: float = 7.0) -> list[float]:
    """So many falling σ, even in σ^(1/ρ) and so denser near the picture, and 0 at last (EDM, equation 5)."""
    if steps < 1 or not 0 < lowest < highest:
        raise UsageError(f"sigmas need at least one step and 0 < lowest < highest, not {steps}, {lowest}, {highest}")
    ramp = np.linspace(highest ** (1 / rho), lowest ** (1 / rho), steps) ** rho
    return [*map(float, ramp), 0.0]


def schedule_sigmas(schedule: NoiseSchedule, times: list[int]) -> list[float]:
    """σ at the falling times of a schedule, and 0 at last."""
    return [*schedule.sigmas()[times].tolist(), 0.0]


# --- samplers


def euler_step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
    """From σ to the next along the line through x and the picture it shows (EDM, algorithm 1, uncorrected)."""
    return clean + (x - clean) * (following / sigma)


def euler(denoise: Denoiser, start: Tensor, sigmas: list[float]) -> Iterator[Tensor]:
    """The maps after each step, from `start` with noise σ₀; the last is the result. First order; DDIM without noise."""
    x = start
    for sigma, following in zip(sigmas, sigmas[1:]):
        x = euler_step(x, denoise(x, _filled(sigma, x)), sigma, following)
        yield x


def dpm_solver(denoise: Denoiser, start: Tensor, sigmas: list[float]) -> Iterator[Tensor]:
    """As `euler`, of second order by what the step before saw: DPM-Solver++(2M).

    Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models" (2022), algorithm 2.
    The first step, and the one that ends at 0, are of first order.
    """
    x, before, last = start, None, 0.0
    for sigma, following in zip(sigmas, sigmas[1:]):
        clean = denoise(x, _filled(sigma, x))
        seen = clean
        if before is not None and following > 0:
            # the picture half a step on, from this and the one before
            step, former = np.log(sigma / following), np.log(last / sigma)
            seen = clean + (clean - before) * float(step / (2 * former))
        x = euler_step(x, seen, sigma, following)
        before, last = clean, sigma
        yield x


def _filled(sigma: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), sigma, dtype=torch.float64, device=like.device)
