"""GFPGAN: parity with the published network, key map, fidelity, noise, precision and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.mmrb import MMRB
from facewright.systems.restore.gfpgan.convert import convert_published, import_published
from facewright.systems.restore.gfpgan.network import GFPGAN, GFPGANConfig, ResBlock

TINY = GFPGANConfig(size=32, channel_multiplier=1, narrow=0.0625, style_dim=16, mapping_layers=2)
TOLERANCE = 1e-4


@pytest.fixture
def tiny() -> GFPGAN:
    torch.manual_seed(0)
    model = GFPGAN(TINY).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    return model


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1


def published_form(model: GFPGAN) -> dict[str, torch.Tensor]:
    """The state dict under the published names, written out by hand from BasicSR's layout."""
    parts = {
        "stem": "conv_body_first",
        "downs": "conv_body_down",
        "ups": "conv_body_up",
        "bottleneck": "final_conv",
        "to_latent": "final_linear",
        "to_rgbs": "toRGB",
        "scale_heads": "condition_scale",
        "shift_heads": "condition_shift",
    }
    names = {"noise_strength": "weight", "bias": "bias"}
    out = {}
    for key, value in model.state_dict().items():
        head, _, rest = key.partition(".")
        if head != "generator":
            out[f"{parts[head]}.{rest}"] = value
            continue
        kind, _, rest = rest.partition(".")
        if kind == "constant":
            name = "constant_input.weight"
        elif kind == "noises":
            name = f"noises.{rest}"
        elif kind == "mapping":
            _, index, leaf = rest.split(".")
            name = f"style_mlp.{2 * int(index) + 1}.{leaf}"
        else:
            index, _, leaf = rest.partition(".")
            first, later = ("style_conv1", "style_convs") if kind == "convs" else ("to_rgb1", "to_rgbs")
            where = first if index == "0" else f"{later}.{int(index) - 1}"
            name = f"{where}.{names.get(leaf, leaf.replace('conv.', 'modulated_conv.', 1))}"
            value = value[None] if leaf == "conv.weight" else value
            value = value.view(1, -1, 1, 1) if leaf == "bias" else value
        out[f"stylegan_decoder.{name}"] = value
    return out


@pytest.mark.shared
@torch.inference_mode()
def test_full_size_equals_published(parity):
    arrays, state, notes = parity("gfpgan-v1-clean")
    model = import_published(state)
    assert model.config == GFPGANConfig()
    assert sum(p.numel() for p in model.parameters()) == notes["parameters"]
    restored, pyramid = model(torch.from_numpy(arrays["in_image"]), return_pyramid=True)
    ours = {
        "out_image": restored[..., ::7, ::7],
        "out_rgb_8": pyramid[0],
        "out_rgb_64": pyramid[3],
        "out_rgb_512": pyramid[6][..., ::7, ::7],
    }
    for name, value in ours.items():
        theirs = torch.from_numpy(arrays[name])
        assert (value - theirs).abs().max() < TOLERANCE * theirs.abs().max(), name
    assert float(restored.mean()) == pytest.approx(float(arrays["out_image_mean"]), abs=1e-4)
    assert float(restored.std()) == pytest.approx(float(arrays["out_image_std"]), rel=1e-4)


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in GFPGAN().parameters()) == 86_444_252


def test_published_names_come_back_as_ours(tiny, image):
    state = published_form(tiny)
    assert {"toRGB.2.bias", "stylegan_decoder.style_convs.5.modulated_conv.modulation.bias"} <= state.keys()
    imported = import_published(state)
    assert imported.config == GFPGANConfig(32, 2, 0.0625, 16, 2)  # below 64 px nothing tells the multiplier
    assert set(convert_published(state)) == set(tiny.state_dict())
    torch.testing.assert_close(imported(image), tiny(image))


def test_widths_and_depth_are_read_from_the_tensors():
    torch.manual_seed(0)
    config = GFPGANConfig(size=64, channel_multiplier=1, narrow=0.0625, style_dim=16, mapping_layers=3)
    assert import_published(published_form(GFPGAN(config))).config == config


def test_other_checkpoints_are_refused(tiny):
    with pytest.raises(ValueError, match="original form"):
        import_published({"conv_body_first.0.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="backbone"):
        convert_published({"backbone.weight": torch.zeros(1)})
    state = published_form(tiny)
    state.pop("final_linear.bias")
    with pytest.raises(RuntimeError, match=r"to_latent\.bias"):
        import_published(state)


def test_res_block_halves_doubles_and_is_linear_in_its_skip():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8)
    for scale, side in ((0.5, 4), (2, 16)):
        block = ResBlock(4, 6, scale)
        assert block(x).shape == (1, 6, side, side)
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
        torch.testing.assert_close(block(2 * x), 2 * block(x))
    # bilinear halving without antialiasing is the mean of 2×2 pixels
    halved = ResBlock(4, 4, 0.5)._resized(x)
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool2d(x, 2))


def test_mmrb_takes_the_place_of_the_encoders_blocks(tiny, image):
    torch.manual_seed(0)
    model = GFPGAN(dataclasses.replace(TINY, encoder_block="mmrb")).eval()
    assert all(isinstance(down, MMRB) for down in model.downs)
    assert all(isinstance(up, ResBlock) for up in model.ups)
    outside = {key: value.shape for key, value in tiny.state_dict().items() if not key.startswith("downs.")}
    assert outside == {k: v.shape for k, v in model.state_dict().items() if not k.startswith("downs.")}
    x = torch.randn(2, model.downs[0].skip.in_channels, 32, 32)  # type: ignore[arg-type, union-attr]
    with torch.no_grad():
        skipped = model.downs[0].skip(torch.nn.functional.avg_pool2d(x, 2))  # type: ignore[operator]
        change = model.downs[0](x) - skipped
    assert 0 < change.std() < 0.2 * skipped.std()
    model(image).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.downs.parameters())


def test_mmrb_costs_five_percent_of_the_encoder():
    with torch.device("meta"):
        model = GFPGAN(GFPGANConfig(encoder_block="mmrb"))
    assert sum(p.numel() for p in model.parameters()) == 86_739_356
    assert sum(p.numel() for p in model.downs.parameters()) / 5_607_072 == pytest.approx(1.053, abs=0.001)
    with pytest.raises(UsageError, match="residual, mmrb"):
        GFPGAN(dataclasses.replace(TINY, encoder_block="dense"))  # type: ignore[arg-type]


def test_fidelity_fades_the_picture_out_of_the_face(tiny, image):
    with torch.no_grad():
        full, half, prior = (tiny(image, fidelity=f) for f in (1.0, 0.5, 0.0))
        latent = tiny.to_latent(
            torch.nn.functional.leaky_relu(tiny.bottleneck(tiny._encode(image)[-1]), 0.2).flatten(1)
        ).view(2, -1, 16)
        torch.testing.assert_close(prior, tiny.generator(latent))
        torch.testing.assert_close(full, tiny(image))
    assert 0 < (half - prior).abs().mean() < (full - prior).abs().mean()


def test_pyramid_has_an_image_per_size(tiny, image):
    _, pyramid = tiny(image, return_pyramid=True)
    assert [tuple(p.shape) for p in pyramid] == [(2, 3, r, r) for r in (8, 16, 32)]


def test_restore_rounds_and_clips_what_forward_gives(tiny):
    tiny.precision = "fp32"
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = tiny(torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1)
    pixels = ((expected.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    restored = tiny.restore(crops)
    assert restored.dtype == np.uint8
    assert np.abs(restored - pixels).max() <= 0.51
    tiny.precision = "bf16"
    assert np.abs(tiny.restore(crops).astype(int) - restored).mean() < 4


def test_noise_is_drawn_from_the_seed(tiny):
    tiny.precision = "fp32"
    crops = np.full((1, 32, 32, 3), 128, np.uint8)
    trained = tiny.restore(crops)
    one, again, two, none = (tiny.restore(crops, seed=seed) for seed in (1, 1, 2, None))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, trained)
    assert np.array_equal(none, trained)


def test_wrong_input_is_refused(tiny):
    with pytest.raises(UsageError, match=r"\(N, 3, 32, 32\)"):
        tiny(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="outside 0…1"):
        tiny.restore(np.zeros((1, 32, 32, 3), np.uint8), fidelity=1.5)
