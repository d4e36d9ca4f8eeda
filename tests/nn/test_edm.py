"""Diffusion in σ: worked values, Gaussians with known scores, orders of convergence, and agreement with diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.errors import UsageError
from facewright.nn.diffusion import NoiseSchedule, ddim
from facewright.nn.edm import (
    Preconditioning,
    denoiser,
    dpm_solver,
    euler,
    euler_step,
    karras_sigmas,
    schedule_sigmas,
)

MEAN, SPREAD = 1.5, 0.4


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of pictures whose pixels are drawn from N(MEAN, SPREAD²)."""
    s = sigma.to(x).view(-1, *[1] * (x.dim() - 1))
    return (SPREAD**2 * x + s**2 * MEAN) / (SPREAD**2 + s**2)


def exact(start: Tensor, first: float, last: float) -> Tensor:
    """Where the probability flow of that Gaussian leads from σ `first` to σ `last`."""
    return MEAN + (start - MEAN) * ((SPREAD**2 + last**2) / (SPREAD**2 + first**2)) ** 0.5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sampler", [euler, dpm_solver])
def test_samples_have_the_mean_and_spread_of_the_pictures(sampler: Any) -> None:
    sigmas, noise = karras_sigmas(200, 0.002, 80), drawn(2000)
    noise = (noise - noise.mean()) / noise.std()
    *_, found = sampler(gaussian, MEAN + (SPREAD**2 + 80**2) ** 0.5 * noise, sigmas)
    assert float(found.mean()) == pytest.approx(MEAN, abs=1e-6)
    assert float(found.std()) == pytest.approx(SPREAD, rel=0.05 if sampler is euler else 0.005)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (dpm_solver, 2)])
def test_order_of_convergence(sampler: Any, order: int) -> None:
    """Twice the steps, evenly in ln σ: half the error of Euler, a quarter of DPM-Solver++(2M)."""
    start, first, last = drawn(16), 5.0, 0.1
    errors = []
    for steps in (64, 128, 256):
        sigmas = np.geomspace(first, last, steps + 1).tolist()
        *_, found = sampler(gaussian, start, sigmas)
        errors.append(float((found - exact(start, first, last)).abs().max()))
    for more, fewer in zip(errors, errors[1:]):
        assert np.log2(more / fewer) == pytest.approx(order, abs=0.15)


def test_few_steps_are_worth_more_with_memory() -> None:
    start, sigmas = 80 * drawn(64), karras_sigmas(10)
    wanted = exact(start, 80.0, 0.0)
    errors = [
        float((list(sampler(gaussian, start, sigmas))[-1] - wanted).abs().mean()) for sampler in (euler, dpm_solver)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_karras_sigmas() -> None:
    sigmas = karras_sigmas(3, 1.0, 128.0)
    assert sigmas == pytest.approx([128, (0.5 * 128 ** (1 / 7) + 0.5) ** 7, 1, 0])
    assert karras_sigmas(1, 1.0, 9.0) == pytest.approx([9, 0])
    for wrong in ((0, 1.0, 2.0), (3, 0.0, 2.0), (3, 2.0, 1.0)):
        with pytest.raises(UsageError, match="sigmas"):
            karras_sigmas(*wrong)


def test_the_last_step_arrives_at_what_the_map_shows() -> None:
    x, clean = drawn(4), drawn(4, seed=1)
    assert torch.equal(euler_step(x, clean, 2.0, 0.0), clean)
    assert torch.allclose(euler_step(x, clean, 2.0, 2.0), x)
    assert torch.allclose(euler_step(x, clean, 2.0, 1.0), (x + clean) / 2)


@pytest.mark.parametrize("shape", [Preconditioning(), Preconditioning(0.7), Preconditioning.velocity()])
def test_preconditioning_is_undone_by_its_target(shape: Preconditioning) -> None:
    sigma = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    clean, noise = shape.spread * drawn(3, 4000), drawn(3, 4000, seed=1)
    noisy = clean + sigma[:, None] * noise
    target = shape.target(clean, noisy, sigma)
    assert torch.allclose(shape.denoised(target, noisy, sigma), clean)
    fed, time = shape.fed(noisy, sigma)
    # in and out have unit spread at every σ; that is what the factors are for
    assert torch.allclose(fed.std(1), torch.ones(3, dtype=torch.float64), atol=0.05)
    assert torch.allclose(target.std(1), torch.ones(3, dtype=torch.float64), atol=0.05)
    assert torch.allclose(time, sigma.log() / 4)
    # weighing the picture's error is the answer's own
    off = target + 0.1
    error = (shape.denoised(off, noisy, sigma) - clean).square().mean(1) * shape.weight(sigma)
    assert torch.allclose(error, torch.full((3,), 0.01, dtype=torch.float64))


def test_velocity_is_that_of_the_schedule() -> None:
    """F of v-prediction answers with √ᾱ ε − √(1 − ᾱ) x₀ for ᾱ = 1 / (1 + σ²)."""
    schedule = NoiseSchedule(torch.tensor([0.8, 0.1]))
    clean, noise, time = drawn(2, 5).float(), drawn(2, 5, seed=1).float(), torch.tensor([0, 1])
    sigma = schedule.sigmas()
    target = Preconditioning.velocity().target(clean, clean + sigma[:, None].float() * noise, sigma)
    velocity = schedule.velocity(clean, noise, time)
    assert torch.allclose(target, velocity, atol=1e-5)
    noised = schedule.noised(clean, noise, time)
    assert torch.allclose(schedule.noise_of(noised, velocity, time), noise, atol=1e-5)
    assert torch.allclose(schedule.clean(noised, schedule.noise_of(noised, velocity, time), time), clean, atol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "velocity"])
def test_a_network_of_a_schedule_denoises(kind: Any) -> None:
    """Of the Gaussian, whatever it predicts; and Euler then walks as DDIM does."""
    schedule = NoiseSchedule.linear(0.00085, 0.012)

    def noise(x: Tensor, time: Tensor) -> Tensor:
        """In scaled maps, at whole times."""
        kept = schedule.kept.double()[time.round().long()].view(-1, 1)
        s = ((1 - kept) / kept).sqrt()
        return (x / kept.sqrt() - gaussian(x / kept.sqrt(), s.flatten())) / s

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        kept = schedule.kept.double()[time.round().long()].view(-1, 1)
        found = noise(x, time)
        clean = (x - (1 - kept).sqrt() * found) / kept.sqrt()
        return kept.sqrt() * found - (1 - kept).sqrt() * clean

    times = schedule.spaced(20, "uniform_trailing")
    sigmas = schedule_sigmas(schedule, times)
    denoise = denoiser(noise if kind == "noise" else velocity, schedule, kind)
    x = sigmas[0] * drawn(2, 6)
    at = torch.full((2,), sigmas[3], dtype=torch.float64)
    assert torch.allclose(denoise(x, at), gaussian(x, at), atol=1e-4)
    walked = list(euler(denoise, x, sigmas))
    scaled = x * schedule.kept.double()[times[0]].sqrt()
    by_ddim = list(ddim(noise, scaled, schedule, times))
    for number in (0, 10, 18):  # the last step of DDIM ends at time 0, not at 0 noise
        kept = schedule.kept.double()[times[number + 1]]
        assert torch.allclose(walked[number] * kept.sqrt(), by_ddim[number], atol=1e-3)


def test_a_sigma_between_two_times_gets_the_time_between() -> None:
    schedule = NoiseSchedule.linear(0.00085, 0.012)
    seen = []

    def predict(x: Tensor, time: Tensor) -> Tensor:
        seen.append(float(time[0]))
        return x * 0

    sigmas = schedule.sigmas()
    between = (sigmas[400] * sigmas[401]).sqrt()
    for sigma in (sigmas[400], between, sigmas[0] / 9, sigmas[-1] * 9):
        denoiser(predict, schedule)(torch.zeros(1, 1, dtype=torch.float64), sigma[None])
    assert seen == pytest.approx([400, 400.5, 0, 999], abs=1e-3)
    with pytest.raises(UsageError, match="prediction"):
        denoiser(predict, schedule, "score")  # type: ignore[arg-type]


def curved(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser without a closed form."""
    return (x.tanh() + 0.1 * x) / (1 + sigma.to(x).view(-1, 1, 1, 1) ** 2)


def theirs(scheduler: Any, start: Tensor, shape: Preconditioning) -> Tensor:
    """What a scheduler of diffusers makes of the network whose denoiser is `curved`."""
    x = start * scheduler.init_noise_sigma / scheduler.sigmas[0]
    for number, time in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[number].double()[None]
        noisy = x.double()
        answer = shape.target(curved(noisy, sigma), noisy, sigma)
        scheduler.scale_model_input(x, time)
        x = scheduler.step(answer.float(), time, x).prev_sample
    return x


@pytest.mark.parametrize("steps", [5, 25])
def test_agrees_with_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this is compared, is not installed")
    start = 700 * drawn(1, 2, 4, 4)
    sigmas = karras_sigmas(steps, 0.002, 700)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        use_karras_sigmas=True,
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas, rel=1e-4)
    # what the network is told: ln σ / 4
    assert scheduler.timesteps.tolist() == pytest.approx([np.log(s) / 4 for s in sigmas[:-1]], abs=1e-4)
    *_, own = euler(curved, start, sigmas)
    shape = Preconditioning.velocity()
    scheduler.sigmas = torch.tensor(sigmas)
    assert torch.allclose(theirs(scheduler, start.float(), shape).double(), own, atol=1e-3, rtol=1e-3)
    solver = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, final_sigmas_type="zero", lower_order_final=True
    )
    solver.set_timesteps(steps)
    sigmas = karras_sigmas(steps)
    assert solver.sigmas.tolist() == pytest.approx(sigmas, rel=1e-4)
    start = 80 * drawn(1, 2, 4, 4)
    *_, own = dpm_solver(curved, start, sigmas)
    found = start.float()
    for number, time in enumerate(solver.timesteps):
        sigma, noisy = torch.tensor([sigmas[number]], dtype=torch.float64), found.double()
        answer = Preconditioning().target(curved(noisy, sigma), noisy, sigma)
        found = solver.step(answer.float(), time, found).prev_sample
    assert torch.allclose(found.double(), own, atol=1e-3, rtol=1e-3)
