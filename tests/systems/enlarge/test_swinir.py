"""SwinIR: published keys, shapes and sizes of three networks, what stays without the groups, sides of any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.enlarge.swinir.convert import import_published
from facewright.systems.enlarge.swinir.network import Group, SwinIR, SwinIRConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]


def both(key: str, *shape: int) -> SHAPES:
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


def ending(key: str, width: int, *, thrice: bool) -> SHAPES:
    if not thrice:
        return both(key, width, width, 3, 3)
    inner = width // 4
    found = both(f"{key}.0", inner, width, 3, 3) | both(f"{key}.2", inner, inner, 1, 1)
    return found | both(f"{key}.4", width, inner, 3, 3)


def block(key: str, width: int, heads: int, windows: int) -> SHAPES:
    """Tables of indices, and for shifted blocks the mask of the training size, are stored along."""
    found: SHAPES = {f"{key}.attn.relative_position_bias_table": (225, heads)}
    found |= {f"{key}.attn.relative_position_index": (64, 64)}
    found |= {f"{key}.attn_mask": (windows, 64, 64)} if windows else {}
    for name, shape in {
        "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
        "mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width),
    }.items():  # fmt: skip
        found |= both(f"{key}.{name}", *shape)
    return found


def published_shapes(
    width: int = 180, groups: int = 6, heads: int = 6, *, thrice: bool = False, scale: int = 4, windows: int = 64
) -> SHAPES:
    """The layout of JingyunLiang/SwinIR, written out from its layer tables."""
    found = both("conv_first", width, 3, 3, 3) | both("patch_embed.norm", width) | both("norm", width)
    for group in range(groups):
        for number in range(6):
            key = f"layers.{group}.residual_group.blocks.{number}"
            found |= block(key, width, heads, windows if number % 2 else 0)
        found |= ending(f"layers.{group}.conv", width, thrice=thrice)
    found |= ending("conv_after_body", width, thrice=thrice)
    if scale == 1:
        return found | both("conv_last", 3, width, 3, 3)
    found |= both("conv_before_upsample.0", 64, width, 3, 3) | both("conv_last", 3, 64, 3, 3)
    return found | both("conv_up1", 64, 64, 3, 3) | both("conv_up2", 64, 64, 3, 3) | both("conv_hr", 64, 64, 3, 3)


FILES = {
    "real-m-gan": (published_shapes(), SwinIRConfig(), 67_129_861),
    "real-m-psnr": (published_shapes(), SwinIRConfig(), 67_129_849),
    "real-l-gan": (published_shapes(240, 9, 8, thrice=True), SwinIRConfig.large(), 142_473_939),
    "denoise-25": (published_shapes(scale=1, windows=256), SwinIRConfig.denoise(), 122_905_743),
}


@pytest.mark.parametrize("name", FILES)
def test_published_layout_fits(name: str) -> None:
    shapes, config, published = FILES[name]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        assert import_published(state).config == config
    assert recognise_tensors(state).systems == ("swinir",)
    eight = [key for key in state if key.endswith("relative_position_index")]  # stored as integers of eight bytes
    size = 4 * sum(value.numel() for value in state.values()) + 4 * sum(state[key].numel() for key in eight)
    assert 0 < published - size < 400 * len(state)
    del state["layers.1.residual_group.blocks.3.mlp.fc2.bias"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['groups\.1\.blocks\.3\.mlp\.3\.bias'\]"):
        import_published(state)


@torch.inference_mode()
def test_groups_are_a_change_that_is_added() -> None:
    """With the last convolution after them at zero, the features are those of the first convolution alone."""
    torch.manual_seed(0)
    model = SwinIR(SwinIRConfig.compact()).eval()
    image = torch.rand(1, 3, 16, 24)
    whole = model(image)
    model.after.weight.zero_()  # type: ignore[operator]
    model.after.bias.zero_()  # type: ignore[operator]
    x = F.leaky_relu(model.narrow(model.first(image - model.mean)), 0.01)
    for up in model.ups:
        x = F.leaky_relu(up(x.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
    expected = model.last(F.leaky_relu(model.paint(x), 0.2)) + model.mean
    torch.testing.assert_close(model(image), expected)
    assert (whole - expected).abs().max() > 1e-3


@torch.inference_mode()
def test_a_group_adds_the_convolved_blocks() -> None:
    torch.manual_seed(0)
    group = Group(SwinIRConfig(width=12, groups=1, depth=2, heads=2, thrice=True)).eval()
    x = torch.randn(1, 12, 16, 16)
    attended = group.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(group(x), x + group.conv(attended))


@pytest.mark.parametrize("config", [SwinIRConfig.compact(), SwinIRConfig(1, 12, 1, 2, 2)], ids=["enlarge", "denoise"])
def test_sides_of_any_length(config: SwinIRConfig) -> None:
    torch.manual_seed(0)
    model = SwinIR(config).eval()
    image = np.random.default_rng(0).integers(0, 256, (21, 35, 3), dtype=np.uint8)
    assert model.enlarge(image).shape == (21 * config.scale, 35 * config.scale, 3)


@torch.inference_mode()
def test_denoiser_that_finds_nothing_changes_nothing() -> None:
    model = SwinIR(SwinIRConfig(1, 12, 1, 2, 2)).eval()
    model.change.weight.zero_()
    model.change.bias.zero_()
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(model.enlarge(image), image)


def test_other_scales_are_refused() -> None:
    with pytest.raises(UsageError, match="choose 1 or 4"):
        SwinIR(SwinIRConfig(scale=3))
