"""CLIP as a system: published files of three layouts, features of pictures, captions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import WeightsError
from facewright.systems.features.clip.convert import import_published
from facewright.systems.features.clip.network import CLIP, CLIPConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
BYTES_L14 = 932_768_134


def linear(key: str, c_out: int, c_in: int) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in), f"{key}.bias": (c_out,)}


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def openai_block(key: str, width: int) -> SHAPES:
    found = {f"{key}.attn.in_proj_weight": (3 * width, width), f"{key}.attn.in_proj_bias": (3 * width,)}
    found |= linear(f"{key}.attn.out_proj", width, width) | norm(f"{key}.ln_1", width) | norm(f"{key}.ln_2", width)
    return found | linear(f"{key}.mlp.c_fc", 4 * width, width) | linear(f"{key}.mlp.c_proj", width, 4 * width)


def openai_shapes(
    width: int = 1024, layers: int = 24, patch: int = 14, dim: int = 768, text_width: int = 768
) -> SHAPES:
    """ViT-L/14 as openai/CLIP writes it, the three numbers its archive carries included."""
    found: SHAPES = {
        "visual.conv1.weight": (width, 3, patch, patch), "visual.class_embedding": (width,),
        "visual.positional_embedding": ((224 // patch) ** 2 + 1, width), "visual.proj": (width, dim),
        "token_embedding.weight": (49_408, text_width), "positional_embedding": (77, text_width),
        "text_projection": (text_width, dim),
        "logit_scale": (), "input_resolution": (), "context_length": (), "vocab_size": (),
    }  # fmt: skip
    found |= norm("visual.ln_pre", width) | norm("visual.ln_post", width) | norm("ln_final", text_width)
    for number in range(layers):
        found |= openai_block(f"visual.transformer.resblocks.{number}", width)
    for number in range(12):
        found |= openai_block(f"transformer.resblocks.{number}", text_width)
    return found


def hf_tower(key: str, width: int, layers: int) -> SHAPES:
    found: SHAPES = {}
    for number in range(layers):
        block = f"{key}.encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{block}.self_attn.{name}", width, width)
        found |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
        found |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    return found


def transformers_shapes() -> SHAPES:
    """ViT-B/16 as transformers writes it."""
    found: SHAPES = {
        "vision_model.embeddings.class_embedding": (768,),
        "vision_model.embeddings.patch_embedding.weight": (768, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": (197, 768),
        "vision_model.embeddings.position_ids": (1, 197),
        "text_model.embeddings.token_embedding.weight": (49_408, 512),
        "text_model.embeddings.position_embedding.weight": (77, 512),
        "text_model.embeddings.position_ids": (1, 77),
        "visual_projection.weight": (512, 768), "text_projection.weight": (512, 512), "logit_scale": (),
    }  # fmt: skip
    found |= norm("vision_model.pre_layrnorm", 768) | norm("vision_model.post_layernorm", 768)
    found |= norm("text_model.final_layer_norm", 512)
    return found | hf_tower("vision_model", 768, 12) | hf_tower("text_model", 512, 12)


@pytest.mark.parametrize(
    ("shapes", "config"),
    [(openai_shapes, CLIPConfig()), (transformers_shapes, CLIPConfig.vit_b_16())],
    ids=["openai", "transformers"],
)
def test_published_layouts_fit(shapes, config: CLIPConfig) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes().items()}
    with torch.device("meta"):
        assert import_published(state).config == config
    assert recognise_tensors(state).systems == ("clip",)
    state.pop("logit_scale")
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['scale'\]"):
        import_published(state)


def test_size_of_the_published_archive() -> None:
    """openai's archives hold the towers' matrices in half precision, and layer norms and other vectors in full."""
    numbers = sum(int(np.prod(shape)) for shape in openai_shapes().values())
    assert 2 * numbers < BYTES_L14 < 2.2 * numbers


def tiny() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CLIPConfig.compact()).eval()


def test_what_laions_weights_want_can_be_said() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in transformers_shapes().items()}
    with torch.device("meta"):
        assert import_published(state, activation="gelu").config.activation == "gelu"


@torch.inference_mode()
def test_features_and_fit() -> None:
    model = tiny()
    model.precision = "fp32"
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    features = model.features(pictures)
    assert features.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(model.features(pictures[1:2])[0], features[1], atol=1e-5)
    captions = torch.tensor([[1, 5, 9, 99, 0], [1, 7, 99, 0, 0]])
    fit = model(model.normalise(pictures), captions)
    told = F.normalize(model.text(captions), dim=1).numpy()
    np.testing.assert_allclose(fit, np.exp(model.scale.item()) * features @ told.T, atol=1e-4)
    assert model.features(pictures[:0]).shape == (0, 16)
