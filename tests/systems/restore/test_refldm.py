"""ReF-LDM: published keys and shapes, CacheKV, guidance, the timestep-scaled identity loss, and its traps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.systems.latents.test_refldm_vqgan import SHAPES, conv, norm, published_shapes
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.nn.diffusion import NoiseSchedule
from facewright.systems.restore.refldm.convert import import_published
from facewright.systems.restore.refldm.network import RefLDM, RefLDMConfig
from facewright.systems.restore.refldm.training import (
    CropIdentity,
    RefLDMTraining,
    dropped,
    noise_loss,
    scaled_identity,
)
from facewright.training.trainer import signed
from facewright.weights.published import recognise_tensors

WIDTHS = (160, 320, 320, 640)


def linear(key: str, c_in: int, c_out: int) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in), f"{key}.bias": (c_out,)}


def res_block(key: str, c_in: int, c_out: int) -> SHAPES:
    found = norm(f"{key}.in_layers.0", c_in) | conv(f"{key}.in_layers.2", c_in, c_out)
    found |= linear(f"{key}.emb_layers.1", 640, c_out)
    found |= norm(f"{key}.out_layers.0", c_out) | conv(f"{key}.out_layers.3", c_out, c_out)
    return found | (conv(f"{key}.skip_connection", c_in, c_out, 1) if c_in != c_out else {})


def attention(key: str, width: int) -> SHAPES:
    found = norm(f"{key}.norm", width)
    for name, out in (("qkv", 3 * width), ("proj_out", width)):
        found |= {f"{key}.{name}.weight": (out, width, 1), f"{key}.{name}.bias": (out,)}
    return found


def published_unet() -> SHAPES:
    """The ADM layout with ReF-LDM's configuration, written out from the sheet's table."""
    found = linear("time_embed.0", 160, 640) | linear("time_embed.2", 640, 640) | conv("input_blocks.0.0", 16, 160)
    taps, channels, number = [160], 160, 1
    for level, width in enumerate(WIDTHS):
        for _ in range(2):
            found |= res_block(f"input_blocks.{number}.0", channels, width)
            found |= attention(f"input_blocks.{number}.1", width) if level else {}
            channels = width
            taps.append(width)
            number += 1
        if level < 3:
            found |= conv(f"input_blocks.{number}.0.op", width, width)
            taps.append(width)
            number += 1
    for name in ("0", "2"):
        found |= res_block(f"middle_block.{name}", 640, 640)
    found |= attention("middle_block.1", 640)
    number = 0
    for level, width in reversed(list(enumerate(WIDTHS))):
        for last in (False, False, True):
            found |= res_block(f"output_blocks.{number}.0", channels + taps.pop(), width)
            found |= attention(f"output_blocks.{number}.1", width) if level else {}
            channels = width
            if last and level:
                found |= conv(f"output_blocks.{number}.2.conv", width, width)
            number += 1
    return found | norm("out.0", 160) | conv("out.2", 160, 8)


def published_file() -> SHAPES:
    """U-Net, its running mean and the auto-encoder."""
    unet = published_unet()
    found = {f"model.diffusion_model.{key}": shape for key, shape in unet.items()}
    found |= {"model_ema.diffusion_model" + key.replace(".", ""): shape for key, shape in unet.items()}
    return found | {f"first_stage_model.{key}": shape for key, shape in published_shapes().items()}


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_file().items()}
    state["betas"] = torch.empty(1000, device="meta")
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == RefLDMConfig()
    assert sum(p.numel() for p in model.unet.parameters()) == 117_759_368
    # U-Net, its mean and the auto-encoder are all the published file has room for
    floats = sum(value.numel() for key, value in state.items() if key != "betas")
    assert 0 < 1_171_354_376 - 4 * floats < 1e6
    assert recognise_tensors(state).systems == ("refldm",)
    del state["model.diffusion_model.out.2.bias"]
    with torch.device("meta"), pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)


def test_the_running_mean_is_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from facewright.systems.restore.refldm.convert import convert_published

    state = {
        "model.diffusion_model.out.2.bias": torch.zeros(8),
        "model_ema.diffusion_modelout2bias": torch.ones(8),
        "model.diffusion_model.out.0.bias": torch.full((160,), 3.0),
    }
    found = convert_published(state)
    assert torch.equal(found["unet.out.2.bias"], torch.ones(8))
    assert torch.equal(found["unet.out.0.bias"], torch.full((160,), 3.0))


# --- the network


@pytest.fixture
def model() -> RefLDM:
    torch.manual_seed(0)
    made = RefLDM(RefLDMConfig.compact()).eval()
    with torch.no_grad():
        made.autoencoder.quantiser.codebook.normal_(std=0.5)
        for parameter in made.unet.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)
    made.precision = "fp32"
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def latents() -> tuple[Tensor, Tensor, Tensor]:
    """Of a noisy and a damaged face, (2, 4, 16, 16), and of three references of each."""
    return drawn(2, 4, 16, 16), drawn(2, 4, 16, 16, seed=1), drawn(2, 3, 4, 16, 16, seed=2)


TIME = torch.tensor([400, 400])


@torch.no_grad()
def test_references_change_what_is_predicted_whatever_their_order(
    model: RefLDM, latents: tuple[Tensor, Tensor, Tensor]
) -> None:
    noisy, given, references = latents
    without = model.predict(noisy, given, TIME)
    cached = model.predict(noisy, given, TIME, model.remember(references))
    turned = model.predict(noisy, given, TIME, model.remember(references.flip(1)))
    assert (cached - without).abs().max() > 1e-3
    assert torch.allclose(cached, turned, atol=1e-5)


@torch.no_grad()
def test_every_face_sees_its_own_references(model: RefLDM, latents: tuple[Tensor, Tensor, Tensor]) -> None:
    noisy, given, references = latents
    both = model.predict(noisy, given, TIME, model.remember(references))
    alone = model.predict(noisy[1:], given[1:], TIME[1:], model.remember(references[1:]))
    assert torch.allclose(both[1:], alone, atol=1e-5)


@torch.no_grad()
def test_caching_once_is_as_good_as_in_every_step(model: RefLDM, latents: tuple[Tensor, Tensor, Tensor]) -> None:
    noisy, given, references = latents
    once = model.remember(references)
    before = [layer.keys.clone() for layer in once]
    first = [model.predict(noisy, given, torch.full((2,), t), once) for t in (900, 500)]
    again = [model.predict(noisy, given, torch.full((2,), t), model.remember(references)) for t in (900, 500)]
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert all(torch.equal(layer.keys, old) for layer, old in zip(once, before))


@torch.no_grad()
def test_a_step_with_four_cached_references_costs_less_than_a_third_of_one_beside_them() -> None:
    """The paper's claim about cost, in multiplications of the published size: against references side by side."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model, time = RefLDM(), torch.zeros(1)
        latent, wide, four = torch.zeros(1, 8, 64, 64), torch.zeros(1, 8, 64, 5 * 64), torch.zeros(1, 4, 8, 64, 64)
    cache = model.remember(four)

    def cost(latent: Tensor, cache: Any = None) -> int:
        with FlopCounterMode(display=False) as counter:
            model.predict(latent, latent, time, cache)
        return int(counter.get_total_flops())

    assert 3 * cost(latent, cache) < cost(wide)
    assert cost(latent) < cost(latent, cache) < 1.5 * cost(latent)


@torch.no_grad()
def test_a_reference_passes_clean_at_time_nothing_in_the_noisy_place(
    model: RefLDM, latents: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    forward = model.unet.forward

    def watched(x: Tensor, time: Tensor, processor: Any) -> Tensor:
        seen.append((x, time))
        return forward(x, time, processor)

    monkeypatch.setattr(model.unet, "forward", watched)
    cache = model.remember(latents[2])
    (x, time), *others = seen
    assert others == []  # all references at once
    assert torch.equal(x[:, :4], latents[2].flatten(0, 1))
    assert not x[:, 4:].any()
    assert not time.any()
    assert [layer.keys.shape[2] for layer in cache] == [3 * n for n in (256, 64, 64, 64, 64, 256, 256)]


@torch.no_grad()
def test_guidance_compares_with_zero_latents_and_keeps_the_damaged_face(
    model: RefLDM, latents: tuple[Tensor, Tensor, Tensor]
) -> None:
    noisy, given, references = latents
    one_step = RefLDM(replace(model.config, steps=1, guidance=3.0)).eval()
    one_step.load_state_dict(model.state_dict())
    last = torch.full((2,), 999)
    with_them = model.predict(noisy, given, last, model.remember(references))
    nothing = model.predict(noisy, given, last, model.remember(torch.zeros_like(references)))
    noise = nothing + 3 * (with_them - nothing)
    schedule = model.schedule
    first = schedule.kept[0]
    wanted = first.sqrt() * schedule.clean(noisy, noise, last) + (1 - first).sqrt() * noise
    assert torch.allclose(one_step.sample(given, references, noisy), wanted, atol=1e-4, rtol=1e-4)
    assert (with_them - nothing).abs().max() > 1e-3


@torch.no_grad()
def test_a_strip_of_references_is_cut_where_they_meet(model: RefLDM) -> None:
    single = RefLDM(replace(model.config, encoding="single")).eval()
    single.load_state_dict(model.state_dict())
    images = drawn(1, 3, 3, 64, 64).clamp(-1, 1)
    strip, alone = model.encode_references(images), single.encode_references(images)
    assert strip.shape == alone.shape == (1, 3, 4, 16, 16)
    assert torch.allclose(alone[0, 1], model.encode(images[:, 1])[0], atol=1e-5)
    # side by side they share statistics and attention: alike, not the same
    similar = torch.nn.functional.cosine_similarity(strip.flatten(2), alone.flatten(2), dim=2)
    assert (similar > 0.8).all()
    assert not torch.allclose(strip, alone, atol=1e-3)
    assert torch.allclose(model.encode_references(images[:, :1]), single.encode_references(images[:, :1]), atol=1e-5)


def test_restoring_is_repeatable_and_depends_on_seed_and_references(model: RefLDM) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    own = [rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8) for n in (1, 2)]
    plain = model.restore(crops)
    assert (plain.shape, plain.dtype) == (crops.shape, np.uint8)
    assert np.array_equal(plain, model.restore(crops, seed=2024))
    assert not np.array_equal(plain, model.restore(crops, seed=1))
    assert not np.array_equal(plain, model.restore_by(crops, own))
    assert np.array_equal(plain[1:], model.restore(crops[1:]))
    with pytest.raises(UsageError, match="fidelity"):
        model.restore(crops, fidelity=0.5)
    with pytest.raises(UsageError, match="2 crops need as many"):
        model.restore_by(crops, own[:1])
    with pytest.raises(UsageError, match="at least one reference"):
        model.restore_by(crops, [own[0], own[0][:0]])


def test_configuration_of_the_paper() -> None:
    with torch.device("meta"):
        paper = RefLDM(RefLDMConfig.paper())
    times = paper.schedule.spaced(paper.config.steps, paper.config.spacing)
    assert (len(times), times[0], times[-1]) == (100, 991, 1)
    with pytest.raises(UsageError, match="encoding"):
        RefLDM(replace(RefLDMConfig.compact(), encoding="both"))  # type: ignore[arg-type]


# --- the losses


class Mean(nn.Module):
    """An embedding that can be worked out: the mean of each colour."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def recogniser(side: int = 4) -> Any:
    return SimpleNamespace(backbone=Mean(), preprocess=SimpleNamespace(size=side))


def test_the_recogniser_sees_the_inner_seven_eighths_averaged() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., :2, :] = image[..., -2:, :] = 9.0  # the sixteenth that is cut off
    image[..., 2:9, 2:9] = 1.0  # the first quarter of the rest
    crop = CropIdentity(recogniser()).crop(image)
    wanted = torch.zeros(4, 4)
    wanted[0, 0] = 1
    assert torch.equal(crop[0, 0], wanted)


def test_identity_of_known_colours() -> None:
    identity = CropIdentity(recogniser())
    red, green = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    red[:, 0], green[:, 1] = 1, 1
    both = torch.cat([red, red])
    assert torch.allclose(identity(both, torch.cat([red, green])), torch.tensor([0.0, 1.0]), atol=1e-6)
    moved = red.clone().requires_grad_()
    identity(moved, green).sum().backward()
    assert moved.grad is not None
    assert moved.grad.any()


def test_identity_counts_by_how_much_of_the_face_is_left() -> None:
    schedule = NoiseSchedule(torch.tensor([0.81, 0.25, 0.01]))
    distance = torch.tensor([1.0, 0.5, 2.0])
    wanted = (0.9 * 1 + 0.5 * 0.5 + 0.1 * 2) / 3
    assert float(scaled_identity(distance, torch.tensor([0, 1, 2]), schedule)) == pytest.approx(wanted)


def test_both_noise_losses() -> None:
    noise, predicted = torch.zeros(2, 2), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert float(noise_loss(predicted, noise, "l2")) == pytest.approx(10 / 4)
    assert float(noise_loss(predicted, noise, "l1")) == pytest.approx(1)
    with pytest.raises(UsageError, match="noise loss"):
        noise_loss(predicted, noise, "huber")  # type: ignore[arg-type]


def test_references_of_a_face_are_dropped_together_and_apart_from_the_face() -> None:
    torch.manual_seed(0)
    given, references = dropped(torch.ones(2000, 1, 2, 2), torch.ones(2000, 3, 1, 2, 2), 0.1)
    kept, seen = given.flatten(1).mean(1), references.flatten(1).mean(1)
    assert set(kept.tolist()) == set(seen.tolist()) == {0.0, 1.0}
    for share in (1 - kept.mean(), 1 - seen.mean()):
        assert 0.08 < float(share) < 0.12
    assert 0.005 < float(((kept == 0) & (seen == 0)).float().mean()) < 0.02


@pytest.fixture
def batch() -> dict[str, Tensor]:
    rng = np.random.default_rng(1)
    shapes = {"lq": (2, 64, 64, 3), "hq": (2, 64, 64, 3), "references": (2, 2, 64, 64, 3)}
    return {key: torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)) for key, shape in shapes.items()}


def test_a_step_learns_through_the_cache_and_leaves_the_autoencoder(model: RefLDM, batch: dict[str, Tensor]) -> None:
    training = RefLDMTraining(model.train(), recogniser=recogniser(8), drop=0.0)
    frozen = {k: v.clone() for k, v in model.autoencoder.state_dict().items()}
    optimiser = training.optimisers()["model"]
    torch.manual_seed(0)
    losses = training.losses(batch)
    assert set(losses) == {"noise", "identity"}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.unet.parameters())
    optimiser.step()
    assert all(torch.equal(v, frozen[k]) for k, v in model.autoencoder.state_dict().items())
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_a_step_is_shown_the_damaged_face_and_never_the_truth(
    model: RefLDM, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = RefLDMTraining(model, recogniser=recogniser(8), drop=0.0, identity_weight=0.0)
    shown: list[Tensor] = []
    predict = model.predict

    def watched(noisy: Tensor, given: Tensor, *rest: Any) -> Tensor:
        shown.append(given)
        return predict(noisy, given, *rest)

    monkeypatch.setattr(model, "predict", watched)
    with torch.no_grad():
        training.losses(batch)
        damaged, true = (model.encode(signed(batch[key])) for key in ("lq", "hq"))
    torch.testing.assert_close(shown[0], damaged)
    assert not torch.allclose(shown[0], true, atol=0.1)


def test_gradients_reach_the_pass_of_the_references(model: RefLDM, latents: tuple[Tensor, Tensor, Tensor]) -> None:
    noisy, given, references = latents
    references.requires_grad_()
    model.predict(noisy, given, TIME, model.remember(references)).square().mean().backward()
    assert references.grad is not None
    assert (references.grad.abs().flatten(2).sum(2) > 0).all()


def test_sheet(model: RefLDM, batch: dict[str, Tensor]) -> None:
    training = RefLDMTraining(model, recogniser=recogniser(8))
    assert training.sample(batch).shape == (3 * 64, 2 * 64, 3)
