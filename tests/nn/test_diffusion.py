"""Noise schedules and sampling: worked values, and a sampler that finds what it is told."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.diffusion import NoiseSchedule, ddim, guided


def test_linear_schedule_of_latent_diffusion() -> None:
    schedule = NoiseSchedule.linear(0.0015, 0.0155)
    assert schedule.times == 1000
    assert float(schedule.kept[0]) == pytest.approx(1 - 0.0015, abs=1e-6)
    middle = (0.0015**0.5 + (0.0155**0.5 - 0.0015**0.5) / 999) ** 2
    assert float(schedule.kept[1] / schedule.kept[0]) == pytest.approx(1 - middle, abs=1e-6)
    assert float(schedule.kept[999] / schedule.kept[998]) == pytest.approx(1 - 0.0155, abs=1e-6)
    assert (schedule.kept.diff() < 0).all()


def test_noise_goes_in_and_out_again() -> None:
    schedule = NoiseSchedule(torch.tensor([0.81, 0.36]))
    clean, noise, time = torch.full((2, 1, 2, 2), 10.0), torch.ones(2, 1, 2, 2), torch.tensor([0, 1])
    noised = schedule.noised(clean, noise, time)
    assert torch.allclose(noised[0], torch.tensor(9 + 0.19**0.5))
    assert torch.allclose(noised[1], torch.tensor(6 + 0.8))
    assert torch.allclose(schedule.clean(noised, noise, time), clean, atol=1e-5)


def test_times_of_both_spacings() -> None:
    schedule = NoiseSchedule.linear(0.0015, 0.0155)
    assert schedule.spaced(50, "uniform_trailing")[:2] == [999, 979]
    assert schedule.spaced(50, "uniform_trailing")[-1] == 19
    assert schedule.spaced(50, "uniform")[:2] == [981, 961]
    assert schedule.spaced(50, "uniform")[-1] == 1
    assert schedule.spaced(1000, "uniform") == list(range(999, -1, -1))
    for steps in (0, 3):
        with pytest.raises(UsageError, match="do not divide"):
            schedule.spaced(steps, "uniform")
    with pytest.raises(UsageError, match="spacing"):
        schedule.spaced(50, "cosine")  # type: ignore[arg-type]


def test_guidance() -> None:
    a, b = torch.tensor([3.0]), torch.tensor([1.0])
    assert [float(guided(a, b, scale)) for scale in (0, 1, 1.5)] == [1, 3, 4]


def test_a_network_that_knows_the_picture_leads_to_it() -> None:
    """Whatever the start: the noise that separates each map from one picture leads there, but for the last β."""
    schedule = NoiseSchedule.linear(0.0015, 0.0155)
    truth = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)

    def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        kept = schedule.at(time, x)
        return (x - kept.sqrt() * truth) / (1 - kept).sqrt()

    start = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for eta in (0.0, 1.0):
        generator = torch.Generator().manual_seed(1)
        *_, last = ddim(predict, start, schedule, schedule.spaced(50, "uniform"), eta=eta, generator=generator)
        assert (last - truth).abs().max() < 4 * 0.0015**0.5


def test_without_eta_nothing_is_drawn_and_with_it_the_generator_decides() -> None:
    schedule = NoiseSchedule.linear(0.0015, 0.0155)
    start = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    times = schedule.spaced(10, "uniform")

    def ends(eta: float, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        *_, last = ddim(lambda x, t: x * 0.1, start, schedule, times, eta=eta, generator=generator)
        return last

    assert torch.equal(ends(0.0, 1), ends(0.0, 2))
    assert torch.equal(ends(1.0, 1), ends(1.0, 1))
    assert not torch.equal(ends(1.0, 1), ends(1.0, 2))


def test_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this is compared, is not installed")
    schedule = NoiseSchedule.linear(0.0015, 0.0155)
    theirs = diffusers.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    theirs.set_timesteps(50)
    times = schedule.spaced(50, "uniform")
    assert theirs.timesteps.tolist() == times

    def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return 0.8 * x.tanh() + time.view(-1, 1, 1, 1) / 1e4

    start = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    *_, ours = ddim(predict, start, schedule, times)
    x = start
    for time in theirs.timesteps:
        x = theirs.step(predict(x, time[None]), time, x).prev_sample
    assert torch.allclose(ours, x, atol=1e-3, rtol=1e-4)
