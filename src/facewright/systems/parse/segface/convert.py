"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....errors import WeightsError
from ....nn import swin
from .network import _TOKENS, LABELS, SegFace, SegFaceConfig

KEYS = (
    r"face_decoder\.",
    r"linear_fuse\.",
    r"backbone\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_RENAMED = (
    (r"linear_c\.(\d)\.proj", r"project.\1"),
    (r"linear_fuse", "fuse"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "decoder.frequencies"),
    (r"face_decoder\.transformer\.layers\.(\d+)", r"decoder.blocks.\1"),
    (r"face_decoder\.transformer\.final_attn_token_to_image", "decoder.last"),
    (r"face_decoder\.transformer\.norm_final_attn", "decoder.last_norm"),
    (r"face_decoder\.output_upscaling", "decoder.enlarge"),
    (r"face_decoder\.output_hypernetwork_mlps\.layers\.0", "decoder.head.0"),
    (r"face_decoder\.output_hypernetwork_mlps\.layers\.1", "decoder.head.2"),
    (r"face_decoder\.output_hypernetwork_mlps\.layers\.2", "decoder.head.4"),
    (r"\.self_attn\.", ".own."),
    (r"\.cross_attn_token_to_image\.", ".to_map."),
    (r"\.cross_attn_image_to_token\.", ".from_map."),
    (r"\.(q|k|v|out)_proj\.", r".\1."),
    (r"\.mlp\.lin1\.", ".mlp.0."),
    (r"\.mlp\.lin2\.", ".mlp.2."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"(blocks\.\d+)\.norm3\.", r"\1.norms.2."),
    (r"(blocks\.\d+)\.norm4\.", r"\1.norms.3."),
)


_RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def published_config(state: Mapping[str, Any]) -> SegFaceConfig:
    """The configuration of a published checkpoint, from its keys and shapes.

    Size of the crops and warp by landmarks leave no trace in them: 512 px are assumed, and the LaPa variant where there
    are 11 classes. Raises WeightsError where no backbone of the paper is recognised.
    """
    tensors = _tensors(state)
    config = SegFaceConfig() if "face_decoder.neck_token.weight" in tensors else SegFaceConfig.lapa()
    return SegFaceConfig(backbone=_backbone_of(tensors), labels=config.labels, warp=config.warp)


def _backbone_of(tensors: Mapping[str, Tensor]) -> str:
    stem = next((len(tensors[k]) for k in ("backbone.0.0.0.weight", "backbone.0.0.weight") if k in tensors), 0)
    deep = "backbone.0.5.6.norm1.weight" in tensors or "backbone.0.5.9.layer_scale" in tensors
    if "backbone.0.1.0.attn.relative_position_bias_table" in tensors:
        return "swin_b"
    if "backbone.0.1.0.attn.logit_scale" in tensors:
        return "swin_v2_b" if stem == 128 else "swin_v2_s" if deep else "swin_v2_t"
    if "backbone.0.1.0.layer_scale" in tensors:
        return "convnext_b" if stem == 128 else "convnext_s" if deep else "convnext_t"
    if "backbone.4.0.conv3.weight" in tensors:
        return "resnet101"
    if stem in (16, 24):
        return "mobilenet_v3_l" if stem == 16 else "efficientnet_v2_m"
    raise WeightsError("this is not a checkpoint of SegFace: it contains none of the paper's backbones")


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors of a training checkpoint or a bare state dict, without prefixes."""
    for wrapper in ("state_dict_backbone", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A published checkpoint as the state dict of `SegFace` with the configuration `published_config` gives.

    Tokens are put in the order of `classes`. The last norm of a Swin, which nothing uses, is left out.
    """
    tensors = _tensors(state)
    config = published_config(state)
    converted = {f"net.backbone.{k}": v for k, v in _backbone_state(tensors, config.backbone).items()}
    token_of = {name: token for token, name in _TOKENS[config.labels].items()}
    rows = [tensors[f"face_decoder.{token_of[name]}_token.weight"] for name in LABELS[config.labels]]
    converted["net.decoder.tokens"] = torch.cat(rows)
    for key, value in tensors.items():
        if not key.startswith("backbone.") and not key.endswith("_token.weight"):
            converted[f"net.{_renamed(key)}"] = value
    return converted


def _renamed(key: str) -> str:
    for theirs, ours in _RENAMED:
        key = re.sub(theirs, ours, key)
    return key


def _backbone_state(tensors: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    inner = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    if backbone == "resnet101":
        return {f"trunk.{_RESNET_CHILDREN[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in inner.items()}
    if backbone.startswith("swin"):
        return swin.trunk_state({f"features{k[1:]}": v for k, v in inner.items() if k.startswith("0.")})
    if backbone.startswith("convnext"):
        return {f"features{k[1:]}": v for k, v in inner.items()}
    return {f"features.{k}": v for k, v in inner.items()}


def import_published(state: Mapping[str, Any], config: SegFaceConfig | None = None, *, size: int = 0) -> SegFace:
    """A network holding a published checkpoint; `config` overrules what `published_config` assumes, say for Helen.

    `size` is the side of its crops where it is not 512 px, which the tensors cannot tell.

    Raises WeightsError for incomplete and for other checkpoints.
    """
    try:
        converted = convert_published(state)
    except KeyError as error:
        raise WeightsError(f"this checkpoint of SegFace is incomplete: {error.args[0]} is missing") from error
    config = config or published_config(state)
    model = SegFace(dataclasses.replace(config, size=size) if size else config)
    try:
        model.load_state_dict(converted)
    except RuntimeError as error:
        raise WeightsError(f"this is not a complete checkpoint of SegFace: {error}".replace("\n", " ")) from error
    return model.eval()
