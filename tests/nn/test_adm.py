"""The ADM U-Net: shapes, the published order of heads, and what attention processors see."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.adm import ADMLayout, ADMUNet, Cached, Recording, SelfAttention, plain, sinusoid

LAYOUT = ADMLayout(c_in=4, c_out=2, width=32, multipliers=(1, 2), blocks=1, attention_at=(1,), head_width=16)


@pytest.fixture
def net() -> ADMUNet:
    torch.manual_seed(0)
    made = ADMUNet(LAYOUT).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.05)
    return made


def test_time_is_told_as_cosines_then_sines() -> None:
    found = sinusoid(torch.tensor([0.0, 2.0]), 4)
    assert torch.allclose(found[0], torch.tensor([1.0, 1, 0, 0]))
    angles = torch.tensor([2.0, 2 * 10_000**-0.5])
    assert torch.allclose(found[1], torch.cat([angles.cos(), angles.sin()]))


@torch.no_grad()
def test_shapes_time_and_batch(net: ADMUNet) -> None:
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    found = net(x, torch.tensor([5, 600]))
    assert found.shape == (2, 2, 8, 12)
    assert torch.allclose(found[1:], net(x[1:], torch.tensor([600])), atol=1e-5)
    assert not torch.allclose(found[1:], net(x[1:], torch.tensor([5])), atol=1e-4)
    with pytest.raises(UsageError, match="takes maps"):
        net(x[..., :7], torch.tensor([5, 5]))


@torch.no_grad()
def test_heads_lie_together_in_the_published_order() -> None:
    """Head by head, each with its queries, keys and values: worked out by hand."""
    torch.manual_seed(0)
    layer = SelfAttention(32, 16)
    x = torch.randn(1, 32, 2, 2)
    tokens = layer.norm(x.flatten(2))
    parts = layer.qkv(tokens)[0]
    answers = []
    for head in range(2):
        q, k, v = parts[48 * head : 48 * (head + 1)].split(16)
        answers.append(v @ torch.softmax(k.T @ q / 4, 0))
    wanted = x.flatten(2) + layer.proj_out(torch.cat(answers)[None])
    assert torch.allclose(layer(x, 0, plain), wanted.view_as(x), atol=1e-5)


@torch.no_grad()
def test_a_recording_changes_nothing_and_holds_every_layer(net: ADMUNet) -> None:
    x, time = torch.randn(2, 4, 8, 8), torch.tensor([3, 3])
    recording = Recording()
    assert torch.equal(net(x, time, recording), net(x, time))
    assert [tuple(layer.keys.shape) for layer in recording.layers] == [(2, 4, 16, 16)] * 4


@torch.no_grad()
def test_tokens_of_another_pass_are_seen_beside_the_own(net: ADMUNet) -> None:
    x, time = torch.randn(1, 4, 8, 8), torch.tensor([3])
    itself, other = Recording(), Recording()
    net(x, time, itself)
    net(torch.randn(1, 4, 8, 8), time, other)
    assert torch.allclose(net(x, time, Cached(itself.layers)), net(x, time), atol=1e-5)  # all twice is all once
    assert (net(x, time, Cached(other.layers)) - net(x, time)).abs().max() > 1e-4


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        ADMLayout(4, 2, 24, (1, 2), 1, (1,), 16)


# --- against diffusers, where it is installed

RES = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2"}
RES |= {"out_layers.3": "conv2", "skip_connection": "conv_shortcut"}


def in_diffusers(state: dict[str, torch.Tensor], layout: ADMLayout) -> dict[str, torch.Tensor]:
    """Our parameters under the names of diffusers' `UNet2DModel`."""
    found: dict[str, torch.Tensor] = {}

    def move(ours: str, theirs: str) -> None:
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                found[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]

    def res(ours: str, theirs: str) -> None:
        for a, b in RES.items():
            move(f"{ours}.{a}", f"{theirs}.{b}")

    def attention(ours: str, theirs: str) -> None:
        move(f"{ours}.norm", f"{theirs}.group_norm")
        for kind in ("weight", "bias"):
            joint = state[f"{ours}.qkv.{kind}"].flatten(1) if kind == "weight" else state[f"{ours}.qkv.{kind}"]
            heads = joint.unflatten(0, (-1, 3, layout.head_width))
            for number, name in enumerate(("to_q", "to_k", "to_v")):
                found[f"{theirs}.{name}.{kind}"] = heads[:, number].flatten(0, 1)
            out = state[f"{ours}.proj_out.{kind}"]
            found[f"{theirs}.to_out.0.{kind}"] = out.flatten(1) if kind == "weight" else out

    for a, b in {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }.items():
        move(a, b)
    levels, place = len(layout.multipliers), 1
    for level in range(levels):
        for number in range(layout.blocks):
            res(f"input_blocks.{place}.0", f"down_blocks.{level}.resnets.{number}")
            if level in layout.attention_at:
                attention(f"input_blocks.{place}.1", f"down_blocks.{level}.attentions.{number}")
            place += 1
        move(f"input_blocks.{place}.0.op", f"down_blocks.{level}.downsamplers.0.conv")
        place += level < levels - 1
    for number, ours in enumerate(("middle_block.0", "middle_block.2")):
        res(ours, f"mid_block.resnets.{number}")
    attention("middle_block.1", "mid_block.attentions.0")
    for place in range(levels * (layout.blocks + 1)):
        up, number = divmod(place, layout.blocks + 1)
        res(f"output_blocks.{place}.0", f"up_blocks.{up}.resnets.{number}")
        if levels - 1 - up in layout.attention_at:
            attention(f"output_blocks.{place}.1", f"up_blocks.{up}.attentions.{number}")
        move(f"output_blocks.{place}.2.conv", f"up_blocks.{up}.upsamplers.0.conv")
    return found


@torch.no_grad()
def test_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this is compared, is not installed")
    torch.manual_seed(0)
    layout = ADMLayout(4, 2, 32, (1, 2, 2), 2, (1, 2), 16)
    ours = ADMUNet(layout).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    theirs = diffusers.UNet2DModel(
        in_channels=4,
        out_channels=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 64),
        attention_head_dim=16,
        norm_eps=1e-5,
        downsample_padding=1,
    ).eval()
    theirs.load_state_dict(in_diffusers(ours.state_dict(), layout))
    x, time = torch.randn(2, 4, 16, 16), torch.tensor([7, 801])
    assert torch.allclose(ours(x, time), theirs(x, time).sample, atol=1e-6)
