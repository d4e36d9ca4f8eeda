"""Published checkpoints of DDColor, with their spectral norms divided out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from ....nn.convnext import CONVNEXTS
from ....weights.published import load_converted
from .network import DDColor, DDColorConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"encoder\.arch\.downsample_layers\.0\.0\.",
    r"decoder\.layers\.0\.shuf\.conv\.0\.",
    r"decoder\.color_decoder\.query_feat\.",
    r"refine_net\.0\.0\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_BLOCK = {"dwconv": "block.0", "norm": "block.2", "pwconv1": "block.3", "pwconv2": "block.5"}
_UP = {
    "shuf.conv.0": "shuffle.conv",
    "shuf.conv.1": "shuffle.norm",
    "bn": "norm_skip",
    "conv.0": "conv",
    "conv.2": "norm",
}
_ATTENTION = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
_LAYER = {
    "transformer_cross_attention_layers": ("cross", "norm_cross"),
    "transformer_self_attention_layers": ("own", "norm_own"),
}
_FEED = {"linear1": "expand", "linear2": "reduce", "norm": "norm"}
_COLOURS = "decoder.color_decoder."
_SINGLE = {"query_feat.weight": "queries", "query_embed.weight": "places", "level_embed.weight": "scales"}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (bare, or out of `params`) as that of `DDColor`; KeyError for an unknown key.

    The trunk's own last norm, whose result nobody uses, and the constants of ImageNet are left out.
    """
    converted = {}
    for key, value in without_spectral_norm(state).items():
        if key in ("mean", "std") or key.startswith("encoder.arch.norm."):
            continue
        name = _name(key)
        converted[name] = value.view(-1, 1, 1) if name.endswith("layer_scale") else value
    return converted


def without_spectral_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights divided by the largest singular value their stored vectors stand for, u ᵀ W v; other tensors as is."""
    plain = {}
    for key, value in state.items():
        if key.endswith(("weight_u", "weight_v")):
            continue
        if key.endswith("weight_orig"):
            base = key.removesuffix("_orig")
            sigma = torch.dot(state[f"{base}_u"], value.flatten(1) @ state[f"{base}_v"])
            plain[base] = value / sigma
        else:
            plain[key] = value
    return plain


def _name(key: str) -> str:
    if match := re.fullmatch(r"encoder\.arch\.downsample_layers\.(\d)\.(.+)", key):
        return f"trunk.features.{2 * int(match[1])}.{match[2]}"
    if match := re.fullmatch(r"encoder\.arch\.stages\.(\d)\.(\d+)\.(\w+)(?:\.(\w+))?", key):
        place = f"trunk.features.{2 * int(match[1]) + 1}.{match[2]}"
        return f"{place}.layer_scale" if match[3] == "gamma" else f"{place}.{_BLOCK[match[3]]}.{match[4]}"
    if match := re.fullmatch(r"encoder\.arch\.norm(\d)\.(\w+)", key):
        return f"norms.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"decoder\.layers\.(\d)\.(.+)\.(\w+)", key):
        return f"ups.{match[1]}.{_UP[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"decoder\.last_shuf\.conv\.0\.(\w+)", key):
        return f"full.conv.{match[1]}"
    if match := re.fullmatch(r"refine_net\.0\.0\.(\w+)", key):
        return f"mix.{match[1]}"
    if key.startswith(_COLOURS):
        return f"colours.{_colours_name(key.removeprefix(_COLOURS))}"
    raise KeyError(key)


def _colours_name(key: str) -> str:
    if key in _SINGLE:
        return _SINGLE[key]
    if match := re.fullmatch(r"(transformer_\w+_attention_layers)\.(\d+)\.(?:self_attn|multihead_attn)\.(.+)", key):
        part = _ATTENTION.get(match[3], match[3].replace("out_proj", "out"))
        return f"layers.{match[2]}.{_LAYER[match[1]][0]}.{part}"
    if match := re.fullmatch(r"(transformer_\w+_attention_layers)\.(\d+)\.norm\.(\w+)", key):
        return f"layers.{match[2]}.{_LAYER[match[1]][1]}.{match[3]}"
    if match := re.fullmatch(r"transformer_ffn_layers\.(\d+)\.(\w+)\.(\w+)", key):
        return f"layers.{match[1]}.{_FEED[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"input_proj\.(\d)\.(\w+)", key):
        return f"inputs.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"decoder_norm\.(\w+)", key):
        return f"norm.{match[1]}"
    if match := re.fullmatch(r"color_embed\.layers\.(\d)\.(\w+)", key):
        return f"head.{2 * int(match[1])}.{match[2]}"
    raise KeyError(key)


def import_published(state: Mapping[str, Tensor]) -> DDColor:
    """A network holding a published checkpoint; its trunk is told by the tensors.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    width = state["encoder.arch.downsample_layers.0.0.weight"].shape[0]
    blocks = [sum(f"encoder.arch.stages.{i}.{j}.gamma" in state for j in range(64)) for i in range(4)]
    trunk = next((name for name, shape in CONVNEXTS.items() if shape == (width, tuple(blocks))), None)
    if trunk is None:
        raise KeyError(f"no ConvNeXt has {blocks} blocks of {width} channels")
    queries = state[f"{_COLOURS}query_feat.weight"].shape[0]
    layers = sum(re.fullmatch(r".*transformer_ffn_layers\.\d+\.linear1\.weight", key) is not None for key in state)
    hidden = state[f"{_COLOURS}transformer_ffn_layers.0.linear1.weight"].shape[0]
    wide = state[f"{_COLOURS}input_proj.0.weight"].shape[1]
    config = DDColorConfig(trunk=trunk, width=wide, queries=queries, layers=layers, hidden=hidden)
    model = DDColor(config)
    load_converted(model, convert_published(state), state, "DDColor")
    return model.eval()
