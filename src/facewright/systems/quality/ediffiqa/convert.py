"""Published checkpoints of eDifFIQA: the authors', and ONNX files such as OpenCV's."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ....nn.iresnet import IRESNET_BLOCKS
from ....weights.published import load_converted
from .network import EDifFIQA, EDifFIQAConfig, EDifFIQAGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .network import Backbone

KEYS = (
    r"base_model\.",
    r"mlp\.l1\.",
    r"mlp\.l2\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_HEAD = {"mlp.l1": "head.0", "mlp.l2": "head.2"}
_STAGES = ("conv1", "conv2_dw", "conv_23", "conv_3", "conv_34", "conv_4", "conv_45", "conv_5")
_MOBILE = {name: f"body.{i}" for i, name in enumerate(_STAGES)} | {
    "conv_6_sep": "expand",
    "conv_6_dw": "pool",
    "linear": "project",
    "bn": "norm",
}
_PARTS = {"conv": "0", "conv_dw": "1", "project": "2"}
_LAYERS = {"conv": "0", "bn": "1", "prelu": "2"}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `EDifFIQA`; KeyError for an unknown key."""
    mobile = any(key.startswith("base_model.conv2_dw.") for key in state)
    converted = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        if module in _HEAD:
            converted[f"{_HEAD[module]}.{tensor}"] = value
        elif key.startswith("base_model."):
            name = key.removeprefix("base_model.")
            converted[f"backbone.{_mobile_name(name) if mobile else name}"] = value
        else:
            raise KeyError(key)
    return converted


def _mobile_name(key: str) -> str:
    stage, *rest = re.sub(r"\.model\.(\d+)\.", r".\1.", key).split(".")
    if stage in ("linear", "bn"):
        return f"{_MOBILE[stage]}.{rest[0]}"
    number = [rest.pop(0)] if rest[0].isdigit() else []
    part = [_PARTS[rest.pop(0)]] if len(rest) == 3 else []
    return ".".join([_MOBILE[stage], *number, *part, _LAYERS[rest[0]], rest[1]])


def import_published(state: Mapping[str, Tensor]) -> EDifFIQA:
    """A network holding a published checkpoint; its backbone is told by the tensors.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    hidden, dim = state["mlp.l1.weight"].shape
    model = EDifFIQA(EDifFIQAConfig(_backbone(state), dim, hidden))
    load_converted(model, convert_published(state), state, "eDifFIQA")
    return model.eval()


def _backbone(state: Mapping[str, Tensor]) -> Backbone:
    if "base_model.conv2_dw.conv.weight" in state:
        return "mobilefacenet"
    pattern = re.compile(r"base_model\.layer(\d)\.\d+\.conv1\.weight")
    found = Counter(match[1] for key in state if (match := pattern.fullmatch(key)))
    blocks = tuple(found[str(stage)] for stage in range(1, 5))
    names: dict[tuple[int, ...], Backbone] = {
        IRESNET_BLOCKS["iresnet18"]: "iresnet18",
        IRESNET_BLOCKS["iresnet50"]: "iresnet50",
        IRESNET_BLOCKS["iresnet100"]: "iresnet100",
    }
    return names[blocks]


is_graph = EDifFIQAGraph.knows
import_onnx = EDifFIQAGraph.from_graph
