"""Attention: against torch's own multi-head attention, and what queries, keys and positions may change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facewright.errors import UsageError
from facewright.nn.attention import SpatialAttention, TransformerLayer


def spatial(heads: int, *, cross: bool = False) -> SpatialAttention:
    torch.manual_seed(0)
    block = SpatialAttention(64, heads, cross=cross)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


def torch_attention(block: SpatialAttention, query: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The same weights in nn.MultiheadAttention, on normalised maps; without the residual."""
    reference = nn.MultiheadAttention(64, block.heads, batch_first=True)
    layers = (block.q, block.k, block.v)
    reference.in_proj_weight = nn.Parameter(torch.cat([layer.weight[:, :, 0, 0] for layer in layers]))
    reference.in_proj_bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    reference.out_proj.weight, reference.out_proj.bias = nn.Parameter(block.out.weight[:, :, 0, 0]), block.out.bias  # type: ignore[assignment]
    q, k = (x.flatten(2).transpose(1, 2) for x in (query, own))
    return reference(q, k, k)[0].transpose(1, 2).reshape(own.shape)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 4])
def test_spatial_attention_is_multi_head_attention_over_positions(heads):
    block = spatial(heads)
    x = torch.randn(2, 64, 5, 7)
    torch.testing.assert_close(block(x), x + torch_attention(block, block.norm(x), block.norm(x)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cross_attention_asks_with_the_guide_and_answers_with_the_map():
    block = spatial(4, cross=True)
    x, guide = torch.randn(2, 2, 64, 4, 4)
    expected = x + torch_attention(block, block.norm_query(guide), block.norm(x))
    torch.testing.assert_close(block(x, guide), expected, rtol=1e-4, atol=1e-4)
    # permuting the answers' positions permutes only the residual: keys and values are a set, the guide asks in order
    order = torch.randperm(16)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(block(shuffled, guide) - shuffled, block(x, guide) - x, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_follow_goes_from_the_map_to_the_guide():
    block = spatial(4, cross=True)
    x, guide = torch.randn(2, 1, 64, 4, 4)
    torch.testing.assert_close(block(x, guide, 0.0), block(x))
    torch.testing.assert_close(block(x, guide, 1.0), block(x, guide))
    steps = [(block(x, guide, f) - block(x, guide)).norm().item() for f in (0.0, 0.5, 0.9, 1.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 0.1


@torch.no_grad()
def test_transformer_layer_is_a_pre_norm_layer_with_positions_in_queries_and_keys():
    torch.manual_seed(0)
    layer = TransformerLayer(32, 4, 64)
    tokens, position = torch.randn(2, 9, 32), torch.randn(9, 32)
    reference = nn.MultiheadAttention(32, 4, batch_first=True)
    reference.in_proj_weight, reference.in_proj_bias = layer.qkv.weight, layer.qkv.bias  # type: ignore[assignment]
    reference.out_proj = layer.out  # type: ignore[assignment]
    normal = layer.norm1(tokens)
    attended = tokens + reference(normal + position, normal + position, normal)[0]
    expected = attended + layer.reduce(nn.functional.gelu(layer.expand(layer.norm2(attended))))
    torch.testing.assert_close(layer(tokens, position), expected, rtol=1e-4, atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(UsageError, match="5 attention heads"):
        SpatialAttention(64, 5)
    with pytest.raises(UsageError, match="5 attention heads"):
        TransformerLayer(64, 5, 64)
