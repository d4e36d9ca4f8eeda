"""StyleGAN2: parity with published code, the modulated convolution, injection and the key maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.nn import stylegan2 as s2

TOLERANCE = 1e-4


def small(**options) -> s2.Generator:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "style_dim": 8,
        "widths": (12, 10, 8),
        "mapping_layers": 2,
        "upsample": "bilinear",
        "equalised": False,
    }
    return s2.Generator(16, **(settings | options))


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


@pytest.mark.shared
@torch.no_grad()
def test_fir_generator_equals_published(parity):
    arrays, state, _ = parity("stylegan2")
    net = s2.Generator(256)
    net.load_state_dict(s2.from_rosinality(state))
    image = net(torch.from_numpy(arrays["in_latent"]))
    assert deviation(image[..., ::3, ::3], arrays["out_image"]) < TOLERANCE
    w1, w2 = torch.from_numpy(arrays["in_w1"]), torch.from_numpy(arrays["in_w2"])
    mixed = s2.truncate(torch.stack([w1] * 5 + [w2] * 9, 1), w2, 0.7)
    assert deviation(net(mixed)[..., ::3, ::3], arrays["out_mixed"]) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_mapping_equals_published(parity):
    arrays, state, _ = parity("stylegan2-mapping")
    net = s2.Mapping(512)
    net.load_state_dict({k.removeprefix("mapping."): v for k, v in s2.from_rosinality(state).items()})
    assert deviation(net(torch.from_numpy(arrays["in_z"])), arrays["out_w"]) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_discriminator_equals_published(parity):
    arrays, state, _ = parity("stylegan2-discriminator")
    net = s2.Discriminator(256)
    net.load_state_dict(s2.discriminator_from_rosinality(state))
    score, features = net.with_features(torch.from_numpy(arrays["in_image"]))
    assert deviation(score, arrays["out_score"]) < TOLERANCE
    assert deviation(features[-1][..., ::3, ::3], arrays["out_feat_convs_6_4px"]) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_clean_generator_with_half_sft_equals_published(parity):
    arrays, state, _ = parity("stylegan2-clean")
    net = s2.Generator(256, upsample="bilinear", equalised=False, injection="sft_half")
    net.load_state_dict(s2.from_basicsr(state))
    latent = net.mapping(torch.from_numpy(arrays["in_z"]))
    assert deviation(latent, arrays["out_latent"]) < TOLERANCE
    conditions = [torch.from_numpy(arrays[f"in_condition_{i}"]) for i in range(8)]
    assert deviation(net(latent, conditions)[..., ::3, ::3], arrays["out_image"]) < TOLERANCE


@pytest.mark.parametrize("upsample", [None, "bilinear", "fir"])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_conv_equals_one_kernel_per_sample(upsample, demodulate):
    torch.manual_seed(1)
    conv = s2.ModulatedConv(6, 4, 3, 5, demodulate=demodulate, upsample=upsample)
    x, style = torch.randn(3, 6, 8, 8), torch.randn(3, 5)
    scale = conv.modulation(style)
    expected = []
    for sample, s in zip(x, scale):
        kernel = conv.weight * conv.weight_scale * s[None, :, None, None]
        if demodulate:
            kernel = kernel * torch.rsqrt(kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if upsample == "fir":
            y = F.conv_transpose2d(sample[None], kernel.transpose(0, 1), stride=2)
            fir = (4 * s2.fir_kernel()).expand(4, 1, 4, 4)
            expected.append(F.conv2d(y, fir, padding=1, groups=4))
        else:
            y = s2.upsample_bilinear(sample[None]) if upsample else sample[None]
            expected.append(F.conv2d(y, kernel, padding=1))
    torch.testing.assert_close(conv(x, style), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_fir_upsampling_keeps_constants_and_follows_ramps():
    x = torch.arange(8.0).expand(1, 2, 8, 8).contiguous()
    up = s2.upsample_fir(x, s2.fir_kernel())
    assert up.shape == (1, 2, 16, 16)
    # doubled samples of a ramp lie at quarter steps on both sides of the original ones
    torch.testing.assert_close(up[0, 0, 8, 2:-2], torch.arange(16.0)[2:-2] / 2 - 0.25)
    flat = s2.upsample_fir(torch.full((1, 2, 8, 8), 3.0), s2.fir_kernel())
    torch.testing.assert_close(flat[..., 1:-1, 1:-1], torch.full((1, 2, 14, 14), 3.0))


def test_width_rule_and_parameter_counts_of_the_published_sizes():
    assert s2.channel_widths(1024)[1024] == 32
    assert s2.num_latents(512) == 16
    for size, multiplier, millions in [(512, 1, 24.86), (512, 2, 30.28), (256, 2, 30.03)]:
        with torch.device("meta"):
            net = s2.Generator(size, channel_multiplier=multiplier, injection="sft_half")
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_folding_the_equalised_scales_keeps_the_function():
    plain, scaled = small(), small(equalised=True)
    for p in scaled.parameters():
        torch.nn.init.normal_(p)
    plain.load_state_dict(s2.fold_equalised(scaled.state_dict()))
    z = torch.randn(2, 8)
    torch.testing.assert_close(plain.mapping(z), scaled.mapping(z), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plain(scaled.mapping(z)), scaled(scaled.mapping(z)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("injection", ["sft_half", "sft_full"])
def test_neutral_sft_changes_nothing_and_shift_acts(injection):
    net = small(injection=injection)
    w = torch.randn(2, 8)
    channels = [5, 4] if injection == "sft_half" else [10, 8]
    neutral = [f((2, c, r, r)) for r, c in zip((8, 16), channels) for f in (torch.ones, torch.zeros)]
    torch.testing.assert_close(net(w, neutral), net(w))
    neutral[1] = neutral[1] + 1
    assert (net(w, neutral) - net(w)).abs().mean() > 1e-3


def test_half_sft_leaves_the_first_half_alone():
    x = torch.randn(1, 6, 4, 4)
    out = s2.sft_half(x, torch.full((1, 3, 4, 4), 2.0), torch.ones(1, 3, 4, 4))
    assert torch.equal(out[:, :3], x[:, :3])
    torch.testing.assert_close(out[:, 3:], 2 * x[:, 3:] + 1)


@pytest.mark.parametrize("injection", ["noise_add", "noise_concat"])
def test_features_in_the_noise_slot(injection):
    net = small(injection=injection)
    for conv in net.convs:
        torch.nn.init.ones_(conv.noise_strength)  # type: ignore[arg-type]
    w = torch.randn(2, 8)
    features = [torch.randn(2, c, r, r) for c, r in zip((12, 10, 8), (4, 8, 16))]
    image = net(w, features)
    assert image.shape == (2, 3, 16, 16)
    changed = [features[0], features[1] + 1, features[2]]
    assert (net(w, changed) - image).abs().mean() > 1e-3


def test_noise_is_fixed_by_default_and_fresh_on_request():
    net = small()
    for conv in net.convs:
        torch.nn.init.ones_(conv.noise_strength)  # type: ignore[arg-type]
    w = torch.randn(1, 8)
    assert torch.equal(net(w), net(w))
    assert torch.equal(small().noises.noise3, net.noises.noise3)  # type: ignore[arg-type]
    net.noise = "random"
    assert not torch.equal(net(w), net(w))


def test_one_style_per_layer_reaches_only_later_layers():
    net = small()
    w = torch.randn(1, 1, 8).repeat(1, 6, 1)
    other = w.clone()
    other[:, 5] += 1
    seen = []
    handle = net.convs[-1].register_forward_hook(lambda *call: seen.append(call[2]))
    assert not torch.equal(net(w), net(other))
    handle.remove()
    assert torch.equal(seen[0], seen[1])


def test_gradients_reach_every_parameter():
    net = small()
    net(net.mapping(torch.randn(4, 8))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_minibatch_stddev_by_hand_and_without_batch():
    x = torch.tensor([0.0, 10.0, 2.0, 10.0]).view(4, 1, 1, 1)
    out = s2.minibatch_stddev(x, group=2)
    torch.testing.assert_close(out[:, 1].flatten(), torch.tensor([1.0, 0.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    assert s2.minibatch_stddev(torch.randn(1, 2, 4, 4)).shape == (1, 3, 4, 4)
    assert s2.minibatch_stddev(torch.randn(6, 2, 4, 4)).shape == (6, 3, 4, 4)


def test_feature_norm_bounds_what_strong_conditions_would_blow_up():
    torch.manual_seed(0)
    w = torch.randn(2, 8)
    strong = [torch.full((2, c, r, r), 50.0) for r, c in ((8, 10), (16, 8)) for _ in range(2)]
    free, bounded = (small(injection="sft_full", feature_norm=on)(w, strong).detach() for on in (False, True))
    calm = small(injection="sft_full", feature_norm=True)(w).detach()
    assert bounded.std() < 3 * calm.std()
    assert free.std() > 20 * calm.std()


def test_pixel_norm_gives_unit_root_mean_square():
    x = torch.randn(2, 5, 3, 3) * 7
    torch.testing.assert_close(s2.pixel_norm(x).square().mean(1), torch.ones(2, 3, 3))  # type: ignore[attr-defined]


def test_mean_latent_is_the_mean_of_mapped_noise():
    net = small()
    z = torch.randn(500, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net.mean_latent(500, seed=3), net.mapping(z).mean(0))


def test_wrong_arguments_are_refused():
    with pytest.raises(UsageError, match="power of two"):
        s2.Generator(48)
    with pytest.raises(UsageError, match="sft_half"):
        small(injection="magic")
    with pytest.raises(UsageError, match="3 scales"):
        small(widths=(4, 4))
    with pytest.raises(WeightsError, match="backbone"):
        s2.from_basicsr({"backbone.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="stem"):
        s2.discriminator_from_rosinality({"stem.weight": torch.zeros(1)})


def test_key_maps_there_and_back_change_nothing():
    state = small(equalised=True, upsample="fir").state_dict()
    for there, back in (
        (s2.to_rosinality, s2.from_rosinality),
        (s2.to_nvidia, s2.from_nvidia),
        (s2.to_basicsr, s2.from_basicsr),
        (lambda s: s2.to_basicsr(s, clean=True), s2.from_basicsr),
    ):
        returned = back(there(state))
        assert set(returned) == set(state)
        assert all(torch.equal(returned[k], v) for k, v in state.items())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "there", "back"),
    [
        ("stylegan2", s2.to_rosinality, s2.from_rosinality),
        ("stylegan2-clean", lambda s: s2.to_basicsr(s, clean=True), s2.from_basicsr),
    ],
)
def test_published_names_and_shapes_are_met_exactly(parity, name, there, back):
    _, state, _ = parity(name)
    returned = there(back(state))
    expected = {k: v for k, v in state.items() if not k.endswith(".kernel")}
    assert set(returned) == set(expected)
    assert all(returned[k].shape == v.shape for k, v in expected.items())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mapping.fc1.weight", (8, 8)),
        ("synthesis.b4.const", (12, 4, 4)),
        ("synthesis.b4.conv1.noise_strength", ()),
        ("synthesis.b4.torgb.affine.weight", (12, 8)),
        ("synthesis.b8.conv0.weight", (10, 12, 3, 3)),
        ("synthesis.b16.conv1.noise_const", (16, 16)),
        ("synthesis.b16.torgb.weight", (3, 8, 1, 1)),
    ],
)
def test_nvidia_names(name, shape):
    published = s2.to_nvidia(small(equalised=True, upsample="fir").state_dict())
    assert tuple(published[name].shape) == shape
    assert len(published) == 2 * 2 + 1 + 5 * 6 + 3 * 4


def test_nvidia_conditional_and_foreign_keys_are_refused():
    with pytest.raises(WeightsError, match="classes"):
        s2.from_nvidia({"mapping.embed.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="backbone"):
        s2.from_nvidia({"backbone": torch.zeros(1)})
    assert s2.from_nvidia({"mapping.w_avg": torch.zeros(1), "synthesis.b4.resample_filter": torch.zeros(1)}) == {}


def nvidia_discriminator(net: s2.Discriminator) -> dict[str, torch.Tensor]:
    """The state of a 16 px discriminator under NVIDIA's names."""
    places = {
        "stem": "b16.fromrgb",
        "blocks.0.conv1": "b16.conv0",
        "blocks.0.conv2": "b16.conv1",
        "blocks.0.skip": "b16.skip",
        "blocks.1.conv1": "b8.conv0",
        "blocks.1.conv2": "b8.conv1",
        "blocks.1.skip": "b8.skip",
        "final_conv": "b4.conv",
        "final_linear": "b4.fc",
        "out": "b4.out",
    }
    return {f"{places[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in net.state_dict().items()}


def test_nvidia_discriminator():
    net = s2.Discriminator(16, widths=(8, 8, 8))
    published = nvidia_discriminator(net)
    returned = s2.discriminator_from_nvidia(published | {"b16.conv1.resample_filter": torch.zeros(4, 4)})
    assert all(torch.equal(returned[k], v) for k, v in net.state_dict().items())
    with pytest.raises(WeightsError, match="mapping"):
        s2.discriminator_from_nvidia(published | {"mapping.fc0.weight": torch.zeros(1)})


def test_unfolding_undoes_folding():
    state = small(equalised=True).state_dict()
    returned = s2.unfold_equalised(s2.fold_equalised(state))
    for key, value in state.items():
        torch.testing.assert_close(returned[key], value)


@pytest.mark.parametrize("upsample", ["fir", "bilinear"])
def test_second_derivatives_of_both_networks(upsample):
    net, judge = small(equalised=True, upsample=upsample), s2.Discriminator(16, widths=(8, 8, 8))
    latent = net.mapping(torch.randn(4, 8))
    image = net(latent)
    (slope,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), latent, create_graph=True)
    slope.square().sum().backward()
    assert all(conv.conv.weight.grad.abs().max() > 0 for conv in net.convs)  # type: ignore[operator, union-attr]
    picture = torch.randn(4, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(judge(picture).sum(), picture, create_graph=True)
    slope.square().sum().backward()
    # behind the last statistics the slope is piecewise constant in the biases
    assert all(p.grad.abs().max() > 0 for k, p in judge.named_parameters() if k.endswith("weight"))
