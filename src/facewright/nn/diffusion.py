"""Noise schedules of diffusion models, and deterministic sampling by few steps.

Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (NeurIPS 2020); Song, Meng, Ermon, "Denoising Diffusion
Implicit Models" (ICLR 2021); Ho, Salimans, "Classifier-Free Diffusion Guidance" (2022). Networks predict the noise, or
its velocity (Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022, appendix D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

import torch
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Spacing = Literal["uniform", "uniform_trailing", "uniform_leading"]


@dataclass(frozen=True, slots=True, eq=False)
class NoiseSchedule:
    """How much of a picture is left at every time: `kept` (T,), ᾱ of the papers, falling from nearly 1."""

    kept: Tensor

    @classmethod
    def linear(cls, first: float, last: float, times: int = 1000) -> Self:
        """β whose square roots grow linearly from that of `first` to that of `last`, as in latent diffusion."""
        betas = torch.linspace(first**0.5, last**0.5, times, dtype=torch.float64).square()
        return cls(torch.cumprod(1 - betas, 0).float())

    @property
    def times(self) -> int:
        return len(self.kept)

    def at(self, time: Tensor, like: Tensor) -> Tensor:
        """ᾱ of times (N,), broadcast over the dimensions of `like`."""
        return self.kept.to(like.device)[time].view(-1, *[1] * (like.dim() - 1))

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """√ᾱ · clean + √(1 − ᾱ) · noise."""
        kept = self.at(time, clean)
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def clean(self, noised: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What is left when the noise is taken out again."""
        kept = self.at(time, noised)
        return (noised - (1 - kept).sqrt() * noise) / kept.sqrt()

    def velocity(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """√ᾱ · noise − √(1 − ᾱ) · clean: what networks of v-prediction are trained to say."""
        kept = self.at(time, clean)
        return kept.sqrt() * noise - (1 - kept).sqrt() * clean

    def noise_of(self, noised: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
        """The noise in a map whose velocity is known."""
        kept = self.at(time, noised)
        return kept.sqrt() * velocity + (1 - kept).sqrt() * noised

    def sigmas(self) -> Tensor:
        """√((1 − ᾱ) / ᾱ) of every time (T,), float64: the noise to one part of picture, as `nn.edm` counts it."""
        kept = self.kept.double()
        return ((1 - kept) / kept).sqrt()

    def spaced(self, steps: int, spacing: Spacing) -> list[int]:
        """Times of so many steps, falling: "uniform" ends at 1 and starts below T − 1, "uniform_trailing" starts there.

        "uniform_leading" ends at 0, where the last step has nothing left to do.

        Raises UsageError for a number of steps that does not divide T.
        """
        if spacing not in get_args(Spacing):
            raise UsageError(f"spacing {spacing!r}: choose one of {', '.join(get_args(Spacing))}")
        if steps < 1 or self.times % steps:
            raise UsageError(f"{steps} steps do not divide the {self.times} times of the schedule")
        stride = self.times // steps
        first = {"uniform": min(1, stride - 1), "uniform_trailing": stride - 1, "uniform_leading": 0}[spacing]
        return list(range(first, self.times, stride))[::-1]


def guided(with_condition: Tensor, without: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: beyond what the condition changes by `scale`, 1 for the condition alone."""
    return without + scale * (with_condition - without)


def ddim(
    predict: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    schedule: NoiseSchedule,
    times: list[int],
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """The maps after each of the falling `times`, from noise `start` (N, …); the last is the result.

    `predict` gives the noise in maps at times (N,). `eta` 0 draws no noise on the way, 1 as much as DDPM. The last step
    ends at time 0 of the schedule, as published samplers do, not at a picture without any noise.
    """
    x = start
    for time, following in zip(times, [*times[1:], 0]):
        at = torch.full((len(x),), time, device=x.device)
        noise = predict(x, at)
        kept, left = (schedule.kept[t].to(x) for t in (time, following))
        drawn = eta * ((1 - left) / (1 - kept) * (1 - kept / left)).clamp(min=0).sqrt()
        x = left.sqrt() * schedule.clean(x, noise, at) + (1 - left - drawn**2).clamp(min=0).sqrt() * noise
        if eta:
            x = x + drawn * torch.randn(x.shape, generator=generator).to(x)
        yield x
