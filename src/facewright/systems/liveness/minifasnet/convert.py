"""Published checkpoints of MiniFASNet, 2.7_80x80_MiniFASNetV2.pth and 4_0_0_80x80_MiniFASNetV1SE.pth, and graphs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import MiniFASNet, MiniFASNetConfig, MiniFASNetGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"conv2_dw\.conv\.",
    r"conv_3\.model\.0\.conv\.",
    r"conv_6_dw\.conv\.",
    r"prob\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_STAGES = {"conv_23": (0, 0), "conv_34": (1, 0), "conv_45": (2, 0)}
_RUNS = {"conv_3": 0, "conv_4": 1, "conv_5": 2}
_LAYERS = {"conv": "0", "bn": "1", "prelu": "2"}
_PARTS = {"conv": "0", "conv_dw": "1", "project": "2"}
_WEIGHTS = {"fc1": "1", "bn1": "2", "fc2": "4", "bn2": "5"}
_HEADS = {"linear": "project", "bn": "norm", "prob": "classify"}
_ENDS = {
    "conv1": "stem.0",
    "conv2_dw": "stem.1",
    "conv_6_sep": "expand",
    "conv_6_dw": "pool",
}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `MiniFASNet`; KeyError for an unknown key."""
    weighed = {key.partition(".se_module")[0] for key in state if ".se_module." in key}
    return {_name(key, weighed): value for key, value in state.items()}


def _name(key: str, weighed: set[str]) -> str:
    head, _, rest = key.partition(".")
    if head in _HEADS:
        return f"{_HEADS[head]}.{rest}"
    if head in _ENDS:
        layer, _, tensor = rest.partition(".")
        return f"{_ENDS[head]}.{_LAYERS[layer]}.{tensor}"
    if head in _STAGES:
        stage, block = _STAGES[head]
        return f"stages.{stage}.{block}.{_in_block(rest)}"
    match = re.fullmatch(r"model\.(\d+)\.(.+)", rest)
    if match is None:
        raise KeyError(key)
    place = f"stages.{_RUNS[head]}.{int(match[1]) + 1}"
    if match[2].startswith("se_module."):
        _, layer, tensor = match[2].split(".")
        return f"{place}.weights.layers.{_WEIGHTS[layer]}.{tensor}"
    inside = _in_block(match[2])
    return f"{place}.change.{inside}" if f"{head}.model.{match[1]}" in weighed else f"{place}.{inside}"


def _in_block(rest: str) -> str:
    part, layer, tensor = rest.split(".")
    return f"{_PARTS[part]}.{_LAYERS[layer]}.{tensor}"


def import_published(state: Mapping[str, Tensor]) -> MiniFASNet:
    """A network holding a published checkpoint; which one is told by the tensors.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    config = MiniFASNetConfig.v1se() if any(".se_module." in key for key in state) else MiniFASNetConfig.v2()
    model = MiniFASNet(config)
    load_converted(model, convert_published(state), state, "MiniFASNet")
    return model.eval()


is_graph = MiniFASNetGraph.knows
import_onnx = MiniFASNetGraph.from_graph
