"""GFPGAN: parity with the published network, key map, fidelity, noise, precision and refusals."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.nn.mmrb import MMRB
from facewright.systems.restore.gfpgan.convert import convert_published, import_published
from facewright.systems.restore.gfpgan.network import GFPGAN, GFPGANConfig, ResBlock
from facewright.weights.published import recognise_tensors

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


# --- version 1.0

ORIGINAL = dataclasses.replace(TINY, size=64, form="original")


def original_shapes(
    size: int = 512, narrow: float = 1.0, dim: int = 512, layers: int = 8
) -> dict[str, tuple[int, ...]]:
    """The layout of GFPGANv1.pth, written out from TencentARC/GFPGAN's and BasicSR's layer tables."""
    full = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32}
    wide = {side: int(width * narrow) for side, width in full.items() if side <= size}
    half = {side: width // 2 for side, width in wide.items()}
    sides = sorted(wide)
    found = {"conv_body_first.0.weight": (half[size], 3, 1, 1), "conv_body_first.1.bias": (half[size],)}
    for i, side in enumerate(reversed(sides[1:])):
        a, b, key = half[side], half[side // 2], f"conv_body_down.{i}"
        found |= {
            f"{key}.conv1.0.weight": (a, a, 3, 3),
            f"{key}.conv1.1.bias": (a,),
            f"{key}.skip.1.weight": (b, a, 1, 1),
        }
        found |= {f"{key}.conv2.1.weight": (b, a, 3, 3), f"{key}.conv2.2.bias": (b,)}
    found |= {"final_conv.0.weight": (half[4], half[4], 3, 3), "final_conv.1.bias": (half[4],)}
    latents = 2 * len(sides) * dim
    found |= {"final_linear.weight": (latents, half[4] * 16), "final_linear.bias": (latents,)}
    for i, side in enumerate(sides[1:]):
        a, b, key = half[side // 2], half[side], f"conv_body_up.{i}"
        found |= {
            f"{key}.conv1.0.weight": (a, a, 3, 3),
            f"{key}.conv1.1.bias": (a,),
            f"{key}.skip.weight": (b, a, 1, 1),
        }
        found |= {f"{key}.conv2.weight": (b, a, 3, 3), f"{key}.conv2.activation.bias": (b,)}
        found |= {f"toRGB.{i}.weight": (3, b, 1, 1), f"toRGB.{i}.bias": (3,)}
        for head in ("condition_scale", "condition_shift"):
            for j in (0, 2):
                found |= {f"{head}.{i}.{j}.weight": (b, b, 3, 3), f"{head}.{i}.{j}.bias": (b,)}
    prior: dict[str, tuple[int, ...]] = {"constant_input.weight": (1, wide[4], 4, 4)}
    for i in range(1, layers + 1):
        prior |= {f"style_mlp.{i}.weight": (dim, dim), f"style_mlp.{i}.bias": (dim,)}
    convs = [("style_conv1", wide[4], wide[4])]
    rgbs = [("to_rgb1", wide[4])]
    for i, side in enumerate(sides[1:]):
        convs += [
            (f"style_convs.{2 * i}", wide[side // 2], wide[side]),
            (f"style_convs.{2 * i + 1}", wide[side], wide[side]),
        ]
        rgbs.append((f"to_rgbs.{i}", wide[side]))
    for number, (key, a, b) in enumerate(convs):
        prior |= {f"{key}.modulated_conv.weight": (1, b, a, 3, 3), f"{key}.weight": (1,), f"{key}.activate.bias": (b,)}
        prior |= {f"{key}.modulated_conv.modulation.weight": (a, dim), f"{key}.modulated_conv.modulation.bias": (a,)}
        side = sides[(number + 1) // 2]
        prior[f"noises.noise{number}"] = (1, 1, side, side)
    for key, a in rgbs:
        prior |= {f"{key}.modulated_conv.weight": (1, 3, a, 1, 1), f"{key}.bias": (1, 3, 1, 1)}
        prior |= {f"{key}.modulated_conv.modulation.weight": (a, dim), f"{key}.modulated_conv.modulation.bias": (a,)}
    return found | {f"stylegan_decoder.{key}": shape for key, shape in prior.items()}


def test_layout_of_version_1_fits():
    state = {key: torch.empty(shape, device="meta") for key, shape in original_shapes().items()}
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == GFPGANConfig.original()
    assert set(convert_published(state)) == set(model.state_dict())
    assert recognise_tensors(state).systems == ("gfpgan",)


def small_original() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    shapes = original_shapes(64, 0.0625, 16, 2)
    return {key: torch.randn(shape, generator=random) * 0.7 for key, shape in shapes.items()}


def filtered(x, taps, pad, up=1, down=1):
    """Zeros between the samples, padding, low pass, every second sample: the published up-and-down filter."""
    kernel = torch.outer(taps, taps) / taps.sum() ** 2 * up**2
    if up > 1:
        n, c, h, w = x.shape
        spread = x.new_zeros(n, c, h, up, w, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.reshape(n, c, h * up, w * up)
    x = F.pad(x, (*pad, *pad))
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])[..., ::down, ::down]


def published_original(state, image):
    """Version 1.0 evaluated by its published keys and formulas, one picture at a time."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    root = 2**0.5

    def act(x, bias):
        return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.dim() - 2)), 0.2) * root

    def equal(key, x, **more):
        w = state[key]
        return F.conv2d(x, w / w[0].numel() ** 0.5, **more)

    def styled(key, x, w_, noise, up):
        c = f"stylegan_decoder.{key}.modulated_conv"
        style = F.linear(w_, state[f"{c}.modulation.weight"] / w_.shape[1] ** 0.5, state[f"{c}.modulation.bias"])
        weight = state[f"{c}.weight"][0]
        weight = weight / weight[0].numel() ** 0.5 * style.view(1, -1, 1, 1)
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            x = filtered(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), taps, (1, 1)) * 4
        else:
            x = F.conv2d(x, weight, padding=1)
        x = x + state[f"stylegan_decoder.{key}.weight"] * noise
        return act(x, state[f"stylegan_decoder.{key}.activate.bias"])

    def to_rgb(key, x, w_, skip):
        c = f"stylegan_decoder.{key}.modulated_conv"
        style = F.linear(w_, state[f"{c}.modulation.weight"] / w_.shape[1] ** 0.5, state[f"{c}.modulation.bias"])
        weight = state[f"{c}.weight"][0]
        x = (
            F.conv2d(x, weight / weight.shape[1] ** 0.5 * style.view(1, -1, 1, 1))
            + state[f"stylegan_decoder.{key}.bias"]
        )
        return x if skip is None else x + filtered(skip, taps, (2, 1), up=2)

    levels = sum(key.endswith("skip.1.weight") for key in state)
    x = act(equal("conv_body_first.0.weight", image), state["conv_body_first.1.bias"])
    skips: list[torch.Tensor] = []
    for i in range(levels):
        key = f"conv_body_down.{i}"
        inner = act(equal(f"{key}.conv1.0.weight", x, padding=1), state[f"{key}.conv1.1.bias"])
        inner = equal(f"{key}.conv2.1.weight", filtered(inner, taps, (2, 2)), stride=2)
        inner = act(inner, state[f"{key}.conv2.2.bias"])
        x = (inner + equal(f"{key}.skip.1.weight", filtered(x, taps, (1, 1)), stride=2)) / root
        skips.insert(0, x)
    x = act(equal("final_conv.0.weight", x, padding=1), state["final_conv.1.bias"])
    flat = x.flatten(1)
    latent = F.linear(flat, state["final_linear.weight"] / flat.shape[1] ** 0.5, state["final_linear.bias"])
    latent = latent.view(1, -1, 16)
    conditions = []
    for i in range(levels):
        key, x = f"conv_body_up.{i}", x + skips[i]
        inner = act(equal(f"{key}.conv1.0.weight", x, padding=1), state[f"{key}.conv1.1.bias"])
        double = partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=False)
        inner = act(equal(f"{key}.conv2.weight", double(inner), padding=1), state[f"{key}.conv2.activation.bias"])
        x = (inner + equal(f"{key}.skip.weight", double(x))) / root
        for head in ("condition_scale", "condition_shift"):
            y = equal(f"{head}.{i}.0.weight", x, padding=1, bias=state[f"{head}.{i}.0.bias"])
            y = F.leaky_relu(y, 0.2) * root
            conditions.append(equal(f"{head}.{i}.2.weight", y, padding=1, bias=state[f"{head}.{i}.2.bias"]))
    noise = [state[f"stylegan_decoder.noises.noise{i}"] for i in range(2 * levels + 1)]
    x = styled("style_conv1", state["stylegan_decoder.constant_input.weight"], latent[:, 0], noise[0], up=False)
    out = to_rgb("to_rgb1", x, latent[:, 1], None)
    for i in range(levels):
        x = styled(f"style_convs.{2 * i}", x, latent[:, 2 * i + 1], noise[2 * i + 1], up=True)
        same, changed = x.chunk(2, 1)
        x = torch.cat((same, changed * conditions[2 * i] + conditions[2 * i + 1]), 1)
        x = styled(f"style_convs.{2 * i + 1}", x, latent[:, 2 * i + 2], noise[2 * i + 2], up=False)
        out = to_rgb(f"to_rgbs.{i}", x, latent[:, 2 * i + 3], out)
    return out


@torch.no_grad()
def test_version_1_equals_its_formulas():
    state = small_original()
    model = import_published(state)
    assert model.config == ORIGINAL
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1
    theirs = torch.cat([published_original(state, one[None]) for one in image])
    assert float(theirs.std()) > 0.1
    assert (model(image) - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_version_1_restores_in_either_precision():
    model = import_published(small_original())
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    found = {}
    for precision in ("fp32", "bf16"):
        model.precision = precision
        found[precision] = model.restore(crops).astype(int)
    assert np.abs(found["bf16"] - found["fp32"]).mean() < 4
    with pytest.raises(UsageError, match="residual blocks only"):
        GFPGAN(dataclasses.replace(ORIGINAL, encoder_block="mmrb"))
