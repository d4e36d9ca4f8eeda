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
