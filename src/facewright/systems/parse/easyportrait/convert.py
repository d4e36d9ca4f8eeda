"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....errors import WeightsError
from .network import CLASSES, EasyPortrait, EasyPortraitConfig

KEYS = (
    r"decode_head\.conv_seg\.",
    r"(backbone\.layers\.0\.0\.projection|neck\.lateral_convs)\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_BLOCK = {
    "attn.attn.in_proj_": "attention.qkv.",
    "attn.attn.out_proj.": "attention.out.",
    "attn.sr.": "attention.reduce.",
    "attn.norm.": "attention.norm.",
    "ffn.layers.0.": "ffn.expand.",
    "ffn.layers.1.": "ffn.place.",
    "ffn.layers.4.": "ffn.reduce.",
}


_STEM = {f"{i}": f"conv1.{i}" for i in (0, 1, 3, 4, 6)} | {"7": "bn1"}


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = state["state_dict"] if isinstance(state.get("state_dict"), Mapping) else state
    return {key: value for key, value in inner.items() if isinstance(value, Tensor) and "auxiliary_head" not in key}


def published_config(state: Mapping[str, Any]) -> EasyPortraitConfig:
    """The configuration of a checkpoint of mmsegmentation, from its keys and shapes; WeightsError where it is none."""
    tensors = _tensors(state)
    last = tensors.get("decode_head.conv_seg.weight")
    if last is None or len(last) not in CLASSES:
        raise WeightsError("this is not a SegFormer or FPN of EasyPortrait: the classification layer is missing")
    if "neck.lateral_convs.0.conv.weight" in tensors:
        return EasyPortraitConfig(network="fpn_resnet50", classes=len(last))
    if "backbone.layers.0.0.projection.weight" not in tensors:
        raise WeightsError("of EasyPortrait's baselines only SegFormer and FPN can be imported")
    deep = "backbone.layers.2.1.39.norm1.weight" in tensors
    small = len(tensors["backbone.layers.0.0.projection.weight"]) == 32
    return EasyPortraitConfig(
        network="segformer_b0" if small else "segformer_b5" if deep else "segformer_b2", classes=len(last)
    )


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A checkpoint of mmsegmentation as the state dict of `EasyPortrait`; raises KeyError for unknown keys."""
    return {f"net.{_renamed(key)}": value for key, value in _tensors(state).items()}


def _renamed(key: str) -> str:
    part, _, rest = key.partition(".")
    if part == "neck":
        kind, level, _, last = rest.split(".")
        return f"{'laterals' if kind == 'lateral_convs' else 'smooth'}.{level}.{last}"
    if part == "decode_head":
        return _head_key(rest)
    if rest.startswith("layers."):
        return _encoder_key(rest.removeprefix("layers."))
    if rest.startswith("stem."):
        number, last = rest.removeprefix("stem.").split(".", 1)
        return f"backbone.{_STEM[number]}.{last}"
    return f"backbone.{rest}"


def _head_key(rest: str) -> str:
    if rest.startswith("conv_seg."):
        return rest.replace("conv_seg", "out")
    rest = rest.replace(".conv.", ".0.").replace(".bn.", ".1.")
    for theirs, ours in (("convs.", "levels."), ("fusion_conv.", "fuse."), ("scale_heads.", "scales.")):
        if rest.startswith(theirs):
            return ours + rest.removeprefix(theirs)
    raise KeyError(rest)


def _encoder_key(rest: str) -> str:
    stage, part, inner = rest.split(".", 2)
    if part == "0":
        return f"encoder.patches.{stage}.{inner}"
    if part == "2":
        return f"encoder.norms.{stage}.{inner}"
    block, inner = inner.split(".", 1)
    for theirs, ours in _BLOCK.items():
        if inner.startswith(theirs):
            inner = ours + inner.removeprefix(theirs)
            break
    return f"encoder.stages.{stage}.{block}.{inner}"


def import_published(state: Mapping[str, Any]) -> EasyPortrait:
    """A network holding a published SegFormer or FPN; raises WeightsError for incomplete and other checkpoints."""
    model = EasyPortrait(published_config(state))
    try:
        model.load_state_dict(convert_published(state))
    except (RuntimeError, KeyError) as error:
        raise WeightsError(f"this is not a complete checkpoint of EasyPortrait: {error}".replace("\n", " ")) from error
    return model.eval()
