"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....errors import WeightsError
from .network import CLASSES, Head, RTNet, RTNetConfig, Trunk

KEYS = (
    r"encoder\.(body\.)?conv1\.",
    r"encoder\.(body\.)?layer4\.",
    r"decoder\.(4|decoder\.conv_out)\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_HYBRID = {
    "conv1_a": "reduce_polar.0",
    "bn1_a": "reduce_polar.1",
    "conv1_b": "reduce_cartesian.0",
    "bn1_b": "reduce_cartesian.1",
    "conv_polar.0.1": "polar.1",
    "conv_polar.1": "polar.2",
    "conv_cart.0": "cartesian.0",
    "conv_cart.1": "cartesian.1",
    "conv3": "expand.0",
    "bn3": "expand.1",
    "downsample.0": "shortcut.0",
    "downsample.1": "shortcut.1",
}


_DEEPLAB = {
    "aspp.conv_out.conv": "pyramid_out.0",
    "aspp.conv_out.bn": "pyramid_out.1",
    **{f"aspp.conv{i + 1}.{part}": f"pyramid.{i}.{j}" for i in range(4) for j, part in enumerate(("conv", "bn"))},
    "decoder.conv_low.conv": "low.0",
    "decoder.conv_low.bn": "low.1",
    **{f"decoder.conv_cat.{i}.{part}": f"mix.{i}.{j}" for i in range(2) for j, part in enumerate(("conv", "bn"))},
    "decoder.conv_out": "out",
}


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = state["state_dict"] if isinstance(state.get("state_dict"), Mapping) else state
    tensors = {key.removeprefix("module."): value for key, value in inner.items() if isinstance(value, Tensor)}
    return {key: value for key, value in tensors.items() if "aux" not in key and not key.startswith("encoder.body.fc")}


def published_config(state: Mapping[str, Any]) -> RTNetConfig:
    """The configuration of a published checkpoint, from its keys; WeightsError where it is none."""
    tensors = _tensors(state)
    last = tensors.get("decoder.4.weight", tensors.get("decoder.decoder.conv_out.weight"))
    if last is None or len(last) not in CLASSES:
        raise WeightsError("this is not a checkpoint of RTNet: the classification layer is missing")
    head: Head = "fcn" if "decoder.4.weight" in tensors else "deeplabv3plus"
    deep = "encoder.layer3.6.conv3.weight" in tensors
    trunk: Trunk = "resnet50" if "encoder.body.conv1.weight" in tensors else "rtnet101" if deep else "rtnet50"
    return RTNetConfig(trunk=trunk, head=head, classes=len(last))


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A published checkpoint as the state dict of `RTNet` with the configuration `published_config` gives."""
    return {_renamed(key): value for key, value in _tensors(state).items()}


def _renamed(key: str) -> str:
    part, _, rest = key.partition(".")
    if part == "decoder":
        return f"head.{_with(_DEEPLAB, rest)}"
    if not rest.startswith("layer"):
        return f"trunk.{rest}"
    stage, block, inner = rest.removeprefix("layer").split(".", 2)
    is_plain = stage == "1" and block != "0"
    return f"trunk.stages.{int(stage) - 1}.{block}.{inner if is_plain else _with(_HYBRID, inner)}"


def _with(names: Mapping[str, str], key: str) -> str:
    theirs = next((name for name in names if key.startswith(f"{name}.")), None)
    return key if theirs is None else names[theirs] + key.removeprefix(theirs)


def import_published(state: Mapping[str, Any]) -> RTNet:
    """A network holding a published RTNet or baseline; raises WeightsError for incomplete and other checkpoints."""
    model = RTNet(published_config(state))
    try:
        model.load_state_dict(convert_published(state))
    except RuntimeError as error:
        raise WeightsError(f"this is not a complete checkpoint of RTNet: {error}".replace("\n", " ")) from error
    return model.eval()
