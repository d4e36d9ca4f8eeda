"""FRGP: parameter budget, start, fidelity, batches, precision, injection modes, priors and the saved form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.nn import stylegan2
from facewright.systems.restore.frgp.network import FRGP, Damping, FRGPConfig, convert_prior, decode_estimate

TINY = FRGPConfig(size=32, channel_multiplier=1, narrow=0.0625, style_dim=16, mapping_layers=2)
TINY_PATCHED = dataclasses.replace(
    FRGPConfig.compact(),
    size=64,
    encoder_widths=(16, 16, 16),
    generator_widths=(16, 16, 16),
    light=(0, 1, 1),
    style_dim=16,
    latent_rank=8,
)


def build(config: FRGPConfig, seed: int = 0) -> FRGP:
    torch.manual_seed(seed)
    return FRGP(config).eval()


def wake(model: FRGP) -> FRGP:
    """As after some training: residual images, noise and conditions that are clearly there."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "to_rgbs" in name and name.endswith("conv.weight"):
                p.normal_(std=0.1)
            elif "noise_strength" in name:
                p.fill_(0.1)
            elif "condition_heads" in name and p.dim() == 4:
                p.normal_(std=0.2)
            elif name.startswith("damping.shares.1"):
                p.normal_(std=0.05)
    return model


def image(config: FRGPConfig, n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, config.size, config.size, generator=torch.Generator().manual_seed(5)) * 2 - 1


def crops(config: FRGPConfig, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, config.size, config.size, 3), dtype=np.uint8)


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_full_size_has_the_counted_parameters():
    with torch.device("meta"):
        model = FRGP()
    expected = {"encoder": 9.61, "decoder": 3.10, "condition_heads": 10.22, "to_latent": 33.56, "generator": 30.28}
    for name, count in expected.items():
        assert millions(getattr(model, name)) == pytest.approx(count, abs=0.006), name
    assert millions(model) == pytest.approx(86.77, abs=0.01)


@pytest.mark.parametrize(
    ("size", "multiplier", "narrow", "style", "generator", "codec"),
    [
        (64, 1, 0.125, 128, 0.53, 0.93),
        (64, 1, 0.25, 256, 2.10, 3.72),
        (128, 1, 0.25, 256, 2.16, 4.27),
        (256, 1, 0.5, 512, 8.72, 19.20),
        (512, 1, 1.0, 512, 24.86, 51.62),
    ],
)
def test_size_presets(size, multiplier, narrow, style, generator, codec):
    config = FRGPConfig(size=size, channel_multiplier=multiplier, narrow=narrow, style_dim=style, pyramid=False)
    with torch.device("meta"):
        model = FRGP(config)
    assert millions(model.generator) == pytest.approx(generator, abs=0.006)
    assert millions(model) - millions(model.generator) == pytest.approx(codec, rel=0.006)


def test_compact_fits_its_budget():
    config = FRGPConfig.compact()
    assert (config.size, config.working_size) == (256, 64)
    with torch.device("meta"):
        assert 5 < millions(FRGP(config)) < 12


def test_compact_starts_as_the_identity():
    config = FRGPConfig.compact()
    pixels = crops(config, 1)
    assert np.array_equal(build(config).restore(pixels), pixels)


def test_full_form_starts_at_the_prior_and_not_at_noise():
    model = build(TINY)
    model.update_mean_latent()
    with torch.no_grad():
        out = model(image(TINY))
        prior = model.generator(model.mean_latent[None])
    spread = prior.std()
    assert (out - prior).abs().mean() < 0.5 * spread


@pytest.mark.parametrize(
    "config",
    [TINY, TINY_PATCHED, dataclasses.replace(TINY_PATCHED, feature_norm=True)],
    ids=["full", "patched", "normalised"],
)
def test_gradients_reach_every_trained_parameter(config):
    model = build(config)
    out, aux = model(image(config), return_aux=True)
    loss = (out - 0.3).square().mean() + sum((p - 0.3).square().mean() for p in aux["rgb_pyramid"])
    if "degradation" in aux:
        loss = loss + (aux["degradation"] - 1).square().mean()
    loss.backward()
    silent = [k for k, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []


@pytest.mark.parametrize("config", [TINY, TINY_PATCHED], ids=["full", "patched"])
def test_fidelity_zero_is_the_prior_of_the_latent_alone(config):
    model = wake(build(config))
    with torch.no_grad():
        out, aux = model(image(config), fidelity=0.0, return_aux=True)
        prior = model._shuffle(model.generator(aux["latent"]))
    torch.testing.assert_close(out, prior)
    with torch.no_grad():
        assert (model(image(config)) - out).abs().mean() > 1e-2


def test_fidelity_one_is_the_trained_behaviour_and_images_may_differ():
    model = wake(build(TINY_PATCHED))
    x = image(TINY_PATCHED)
    with torch.no_grad():
        mixed = model(x, fidelity=torch.tensor([1.0, 0.25]))
        torch.testing.assert_close(mixed[:1], model(x)[:1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed[1:], model(x, fidelity=0.25)[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("injection", ["sft_half", "sft_full", "noise_add", "noise_concat"])
@pytest.mark.parametrize("latent", ["w_plus", "w", "z"])
def test_every_injection_and_latent_depends_on_the_picture(injection, latent):
    config = dataclasses.replace(TINY, injection=injection, latent=latent)
    model = wake(build(config))
    with torch.no_grad():
        out = model(image(config))
    assert out.shape == (2, 3, 32, 32)
    assert (out[0] - out[1]).abs().mean() > 1e-3


def test_pyramid_grows_to_the_full_size():
    for config, sides in ((TINY, [8, 16, 32]), (TINY_PATCHED, [32, 64])):
        _, aux = build(config)(image(config), return_aux=True)
        assert [p.shape[-1] for p in aux["rgb_pyramid"]] == sides
        assert all(p.shape[1] == 3 for p in aux["rgb_pyramid"])


def test_batch_equals_single():
    model = wake(build(TINY_PATCHED))
    model.precision = "fp32"
    pixels = crops(TINY_PATCHED)
    together = model.restore(pixels).astype(int)
    one_by_one = np.concatenate([model.restore(p[None]) for p in pixels]).astype(int)
    assert abs(together - one_by_one).max() <= 1


def test_same_seed_gives_the_same_bytes():
    pixels = crops(TINY_PATCHED)
    first, second = (wake(build(TINY_PATCHED, seed=7)).restore(pixels).tobytes() for _ in range(2))
    assert first == second
    assert wake(build(TINY_PATCHED, seed=8)).restore(pixels).tobytes() != first


def test_bfloat16_is_finite_and_close():
    model = wake(build(TINY_PATCHED))
    pixels = crops(TINY_PATCHED)
    results = {}
    for precision in ("fp32", "bf16"):
        model.precision = precision
        results[precision] = model.restore(pixels).astype(float)
    error = np.square(results["fp32"] - results["bf16"]).mean()
    assert 0 < error < 255**2 / 10**4


def test_estimate_comes_with_the_restoration_and_alone():
    model = wake(build(TINY_PATCHED))
    pixels = crops(TINY_PATCHED)
    restored, estimates = model.restore_with_estimate(pixels)
    assert np.array_equal(restored, model.restore(pixels))
    assert estimates == model.assess(pixels)
    assert len(estimates) == 3


def test_estimates_are_decoded_to_natural_units():
    raw = torch.tensor([[np.log1p(3.0), 2.0, 0.4, 0.8, 0.6, 0.9], [-1.0, -1.0, -1.0, 5.0, -1.0, 2.0]])
    first, clipped = decode_estimate(raw)
    assert dataclasses.astuple(first) == pytest.approx((3.0, 4.0, 10.0, 60.0, 30.0, 0.9), rel=1e-5)
    assert dataclasses.astuple(clipped) == (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("config", [TINY, TINY_PATCHED], ids=["full", "patched"])
def test_saved_and_loaded_network_restores_the_same(config, tmp_path):
    model = wake(build(config))
    model.save_pretrained(tmp_path)
    again = FRGP.from_pretrained(tmp_path)
    assert again.config == config
    pixels = crops(config)
    assert np.array_equal(again.restore(pixels), model.restore(pixels))


def test_wrong_input_is_refused():
    model = build(TINY)
    with pytest.raises(UsageError, match=r"\(N, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="fidelity"):
        model.restore(crops(TINY), fidelity=1.5)
    with pytest.raises(UsageError, match="quality"):
        model.assess(crops(TINY))
    with pytest.raises(UsageError, match="patch"):
        FRGP(dataclasses.replace(TINY, patch=3))
    with pytest.raises(UsageError, match="injection"):
        FRGP(dataclasses.replace(TINY, injection="none"))


def published(prior: stylegan2.Generator) -> dict[str, torch.Tensor]:
    """The generator's weights under rosinality's names, written out here independently of the key map."""
    state = {"style.0.kernel": torch.zeros(4, 4)}
    for key, value in prior.state_dict().items():
        parts = key.split(".")
        if parts[0] == "mapping":
            state[f"style.{int(parts[2]) + 1}.{parts[3]}"] = value
        elif key == "constant":
            state["input.input"] = value
        elif parts[0] == "noises":
            state[key.replace("noises.noise", "noises.noise_")] = value
        else:
            single, several = {"convs": ("conv1", "convs"), "to_rgbs": ("to_rgb1", "to_rgbs")}[parts[0]]
            head = single if parts[1] == "0" else f"{several}.{int(parts[1]) - 1}"
            rest = ".".join(parts[2:])
            if parts[0] == "convs":
                rest = {"noise_strength": "noise.weight", "bias": "activate.bias"}.get(rest, rest)
            elif rest == "bias":
                value = value.view(1, -1, 1, 1)
            state[f"{head}.{rest}"] = value[None] if rest == "conv.weight" else value
    return state


def test_published_prior_becomes_the_generator():
    config = dataclasses.replace(TINY, narrow=0.0625)
    prior = stylegan2.Generator(
        32, style_dim=16, channel_multiplier=1, narrow=0.0625, mapping_layers=2, upsample="bilinear", equalised=True
    )
    for p in prior.parameters():
        torch.nn.init.normal_(p)
    model = build(config)
    model.load_prior({"g_ema": published(prior)})  # type: ignore[dict-item]
    w = torch.randn(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.generator(w), prior(w), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.mean_latent, prior.mean_latent(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("equalised", [True, False])
def test_prior_of_this_package_becomes_the_generator(equalised):
    options: dict[str, Any] = {"style_dim": 16, "channel_multiplier": 1, "narrow": 0.0625, "mapping_layers": 2}
    torch.manual_seed(3)
    prior = stylegan2.Generator(32, upsample="bilinear", equalised=equalised, **options)
    model = build(TINY)
    model.adopt_prior(prior)
    w = torch.randn(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.generator(w), prior(w), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.mean_latent, prior.mean_latent(), rtol=1e-4, atol=1e-5)
    other = build(TINY, seed=1)
    other.load_prior({f"generator.{key}": value for key, value in prior.state_dict().items()})
    assert torch.equal(other.generator.constant, model.generator.constant)
    with pytest.raises(WeightsError, match="width"):
        model.adopt_prior(stylegan2.Generator(32, **(options | {"narrow": 0.125})))


def test_codec_alone_sees_what_the_network_sees():
    model = build(TINY)
    with torch.no_grad():
        _, aux = model(image(TINY), return_aux=True)
        taps, features, latent = model.encode(image(TINY))
    assert [t.shape[-1] for t in taps] == [32, 16, 8, 4]
    assert torch.equal(latent, aux["latent"])
    assert all(torch.equal(a, b) for a, b in zip(features, aux["features"], strict=True))
    with pytest.raises(UsageError, match=r"\(N, 3, 32, 32\)"):
        model.encode(torch.zeros(1, 3, 64, 64))


def test_priors_that_do_not_fit_are_refused():
    model = build(TINY)
    other = stylegan2.Generator(32, style_dim=16, channel_multiplier=1, narrow=0.125, mapping_layers=2)
    with pytest.raises(WeightsError, match="width"):
        model.load_prior(published(other))
    with pytest.raises(WeightsError, match="not a StyleGAN2"):
        convert_prior({"conv.weight": torch.zeros(1)})


@pytest.mark.shared
def test_published_clean_prior_converts_unchanged(parity):
    _, state, _ = parity("stylegan2-clean")
    whole_gfpgan = {f"stylegan_decoder.{k}": v for k, v in state.items()} | {"final_conv.bias": torch.zeros(1)}
    model = build(FRGPConfig(size=256, encoder_widths=(8,) * 7, latent_rank=8))
    model.load_prior({"params_ema": whole_gfpgan})  # type: ignore[dict-item]
    assert torch.equal(model.generator.constant, state["constant_input.weight"])
    assert torch.equal(model.generator.convs[5].conv.weight, state["style_convs.4.modulated_conv.weight"][0])  # type: ignore[arg-type, union-attr]
    assert model.mean_latent.abs().max() > 0


def test_fresh_damping_takes_nothing_out_and_learns_at_once() -> None:
    plain = build(dataclasses.replace(FRGPConfig.compact(), damping=False))
    damped = build(FRGPConfig.compact())
    missing, unexpected = damped.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("damping.") for name in missing)
    picture = image(FRGPConfig.compact(), 1)
    with torch.inference_mode():
        torch.testing.assert_close(damped(picture), plain(picture), atol=1e-3, rtol=0)  # an eighth of a grey level
    damped(picture).square().mean().backward()
    assert damped.damping.shares[1].weight.grad.abs().max() > 0  # type: ignore[operator]


def test_damping_takes_out_the_named_frequencies() -> None:
    damping = Damping(8, 4)
    picture, features = torch.rand(2, 3, 16, 24) * 2 - 1, torch.rand(2, 8, 4, 6)
    damping.shares[1].weight.data.zero_()  # type: ignore[operator]
    bands = damping.shares[1].bias.data.view(3, 16)  # type: ignore[operator]
    bands[:, 1:] = 20.0  # everything but the mean of each patch
    left = picture - damping(picture, features)
    means = torch.nn.functional.avg_pool2d(picture, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(left, means, atol=1e-5, rtol=0)
    bands[0, 0] = 20.0  # the mean of the reds, too
    left = picture - damping(picture, features)
    assert left[:, 0].abs().max() < 1e-5
    torch.testing.assert_close(left[:, 1:], means[:, 1:], atol=1e-5, rtol=0)


def test_damping_needs_patches_and_an_input_that_is_kept() -> None:
    for change in ({"patch": 1, "size": 64}, {"residual": False}):
        with pytest.raises(UsageError, match="damping"):
            FRGP(dataclasses.replace(FRGPConfig.compact(), **change))
