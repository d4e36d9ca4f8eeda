"""CLIP's towers: against torch's own layers, causal text, where a caption ends, both key layouts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facewright.errors import UsageError
from facewright.nn.clip import Block, ImageTower, TextTower, TowerShape, from_openai, from_transformers

SHAPE = TowerShape(32, 2, 4)


@torch.inference_mode()
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_block_equals_torch_attention(causal: bool, activation: str) -> None:
    torch.manual_seed(0)
    block = Block(TowerShape(32, 1, 4, activation)).eval()  # type: ignore[arg-type]
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    attention.load_state_dict({
        "in_proj_weight": block.qkv.weight, "in_proj_bias": block.qkv.bias,
        "out_proj.weight": block.out.weight, "out_proj.bias": block.out.bias,
    })  # fmt: skip
    x = torch.randn(2, 7, 32)
    mask = torch.full((7, 7), -torch.inf).triu(1) if causal else None
    y = block.norm1(x)
    expected = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
    inner = block.expand(block.norm2(expected))
    inner = inner * torch.sigmoid(1.702 * inner) if activation == "quick_gelu" else F.gelu(inner)
    torch.testing.assert_close(block(x, causal=causal), expected + block.reduce(inner), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_image_tower_sees_every_patch_by_its_place() -> None:
    torch.manual_seed(0)
    tower = ImageTower(SHAPE, 8, size=16, patch=4).eval()
    image = torch.randn(1, 3, 16, 16)
    assert tower.tokens(image).shape == (1, 17, 32)
    assert torch.allclose(tower.tokens(image, after=0)[:, 1:], tower.norm_in(
        tower.patch(image).flatten(2).transpose(1, 2) + tower.positions[1:]
    ))  # fmt: skip
    swapped = torch.cat((image[..., 8:], image[..., :8]), 3)
    assert (tower(image) - tower(swapped)).abs().max() > 1e-3
    torch.testing.assert_close(tower(image), tower.norm_out(tower.tokens(image)[:, 0]) @ tower.projection)
    with pytest.raises(UsageError, match=r"\(N, 3, 16, 16\)"):
        tower(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match="do not tile"):
        ImageTower(SHAPE, 8, size=10, patch=4)


@torch.inference_mode()
def test_text_ends_at_its_largest_number() -> None:
    """What comes after the end of a caption changes nothing, what comes before it does."""
    torch.manual_seed(0)
    tower = TextTower(SHAPE, 8, words=50, length=9).eval()
    told = tower(torch.tensor([[1, 4, 49, 0, 0]]))
    assert torch.allclose(tower(torch.tensor([[1, 4, 49, 3, 7]])), told, atol=1e-6)
    assert torch.allclose(tower(torch.tensor([[1, 4, 49]])), told, atol=1e-6)
    assert (tower(torch.tensor([[1, 5, 49, 0, 0]])) - told).abs().max() > 1e-3
    with pytest.raises(UsageError, match="T up to 9"):
        tower(torch.zeros(1, 10, dtype=torch.long))


def test_width_that_heads_do_not_divide() -> None:
    with pytest.raises(UsageError, match="5 attention heads do not divide 32 channels"):
        TowerShape(32, 1, 5)


def test_transformers_layout_is_openais_with_the_projections_split_and_turned() -> None:
    torch.manual_seed(0)
    width = 6
    openai = {
        "visual.transformer.resblocks.0.attn.in_proj_weight": torch.randn(3 * width, width),
        "visual.transformer.resblocks.0.attn.in_proj_bias": torch.randn(3 * width),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": torch.randn(4 * width, width).half(),
        "visual.proj": torch.randn(width, 4),
        "text_projection": torch.randn(5, 4),
        "input_resolution": torch.tensor(224),
    }
    parts: dict[str, torch.Tensor] = {}
    for name in ("weight", "bias"):
        three = openai[f"visual.transformer.resblocks.0.attn.in_proj_{name}"].chunk(3)
        parts |= {f"vision_model.encoder.layers.0.self_attn.{k}_proj.{name}": v for k, v in zip("qkv", three)}
    hf = parts | {
        "vision_model.encoder.layers.0.mlp.fc1.weight": openai["visual.transformer.resblocks.0.mlp.c_fc.weight"],
        "visual_projection.weight": openai["visual.proj"].t(),
        "text_projection.weight": openai["text_projection"].t(),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    ours, theirs = from_openai(openai), from_transformers(hf)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {value.dtype for value in ours.values()} == {torch.float32}
    with pytest.raises(KeyError, match="something"):
        from_openai({"something.else": torch.zeros(1)})
