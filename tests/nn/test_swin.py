"""Swin: sizes and keys as published, windows that see what they should, the second version's attention by hand."""

from __future__ import annotations

import math

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.swin import Swin, SwinSize, WindowAttention, swin, trunk_state

TINY = {version: SwinSize(8, (2, 2, 2, 2), (2, 2, 4, 4), 4, version) for version in (1, 2)}
# torchvision's counts without the classifier and the norm before it
COUNTS = {"swin_b": 86_741_176, "swin_v2_t": 27_581_034, "swin_v2_s": 48_966_906, "swin_v2_b": 86_903_800}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        network = swin(name)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]


def test_torchvision_keys_load() -> None:
    torch.manual_seed(0)
    network = Swin(TINY[2])
    theirs = {k.replace(".attn.position.", ".attn."): v for k, v in network.state_dict().items()}
    extra = {"norm.weight": torch.ones(64), "head.bias": torch.zeros(10)}
    for block in ("features.1.0", "features.1.1"):
        extra[f"{block}.attn.relative_position_index"] = torch.zeros(256)
        extra[f"{block}.attn.relative_coords_table"] = torch.zeros(1, 7, 7, 2)
    assert "features.3.1.attn.cpb_mlp.2.weight" in theirs
    assert "features.2.reduction.weight" in theirs
    Swin(TINY[2]).load_state_dict(trunk_state(theirs | extra))
    first = Swin(TINY[1]).state_dict()
    table = "features.1.0.attn.position.relative_position_bias_table"
    assert tuple(first[table].shape) == (49, 2)
    assert table in trunk_state({table.replace("position.rel", "rel"): first[table]})


@pytest.mark.parametrize("version", [1, 2])
def test_maps_of_any_side(version: int) -> None:
    network = Swin(TINY[version]).eval()
    with torch.inference_mode():
        maps = network(torch.randn(2, 3, 68, 52))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 17, 13), (16, 9, 7), (32, 5, 4), (64, 3, 2)]
    assert all(torch.isfinite(m).all() for m in maps)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("pixel", "rows", "columns"), [((1, 1), (0, 2), (0, 2)), ((3, 9), (2, 6), (6, 10))])
def test_shifted_windows_see_their_neighbours_only(version, pixel, rows, columns) -> None:
    """12×12 in windows of 4, shifted by 2: corners are windows of 2, though rolling puts four of them together."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 4, 2, version)
    x = torch.randn(1, 12, 12, 8, requires_grad=True)
    attention(x)[0, pixel[0], pixel[1]].square().sum().backward()
    seen = x.grad[0].abs().sum(-1) > 1e-8
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[rows[0] : rows[1], columns[0] : columns[1]] = True
    assert torch.equal(seen, expected)


def test_side_of_one_window_is_not_shifted() -> None:
    torch.manual_seed(0)
    shifted, straight = WindowAttention(8, 2, 4, 2, 1), WindowAttention(8, 2, 4, 0, 1)
    straight.load_state_dict(shifted.state_dict())
    x = torch.randn(1, 4, 4, 8)
    torch.testing.assert_close(shifted(x), straight(x))
    assert not torch.allclose(shifted(x.repeat(1, 2, 2, 1)), straight(x.repeat(1, 2, 2, 1)))


@torch.no_grad()
def test_second_version_is_scaled_cosine_attention_with_logarithmic_offsets() -> None:
    """Written out pixel by pixel from sections 3.3 and 3.4 of the paper."""
    torch.manual_seed(0)
    window, heads, width = 3, 2, 8
    attention = WindowAttention(width, heads, window, 0, 2)
    attention.logit_scale[0] = 9.0  # beyond the limit of log 100
    attention.qkv.bias.normal_()
    x = torch.randn(1, window, window, width)
    q, k, v = torch.nn.functional.linear(x.flatten(1, 2)[0], attention.qkv.weight).chunk(3, 1)
    q, v = q + attention.qkv.bias[:width], v + attention.qkv.bias[2 * width :]
    answer = torch.zeros(9, width)
    for head in range(heads):
        part = slice(4 * head, 4 * head + 4)
        logits = torch.zeros(9, 9)
        for i in range(9):
            for j in range(9):
                offset = torch.tensor([i // 3 - j // 3, i % 3 - j % 3]) / (window - 1) * 8
                place = offset.sign() * torch.log2(offset.abs() + 1) / math.log2(8)
                bias = 16 * attention.position.cpb_mlp(place)[head].sigmoid()  # type: ignore[operator]
                cosine = torch.cosine_similarity(q[i, part], k[j, part], 0)
                scale = math.exp(min(attention.logit_scale[head].item(), math.log(100)))
                logits[i, j] = scale * cosine + bias
        answer[:, part] = logits.softmax(1) @ v[:, part]
    torch.testing.assert_close(attention(x)[0].flatten(0, 1), attention.proj(answer), atol=1e-4, rtol=1e-4)


def test_unknown_size_is_refused() -> None:
    with pytest.raises(UsageError, match="swin_b, swin_v2_t"):
        swin("swin_xl")
