"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..recogniser import Recogniser
from .network import Backbone, SFace, SFaceConfig

KEYS = (
    r"(input_layer\.0|conv_1\.conv2d)\.",
    r"(body\.0\.res_layer\.4|dconv_23)\.",
    r"(output_layer|fc1)",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A published backbone of zhongyy/SFace (IR-50, IR-101 or MobileFaceNet) as ours; ValueError for another layout."""
    from ....nn.evolve import from_evolve
    from ....nn.mobilefacenet import from_classic

    plain: dict[str, Tensor] = {k.removeprefix("module."): v for k, v in state.get("state_dict", state).items()}
    if "input_layer.0.weight" in plain:
        converted = from_evolve(plain)
    elif "conv_1.conv2d.weight" in plain:
        converted = from_classic(plain)
    else:
        raise ValueError("neither the IR nor the MobileFaceNet layout of SFace")
    return {f"backbone.{k}": v for k, v in converted.items()}


def import_published(state: Mapping[str, Any]) -> SFace:
    """A network holding a published SFace backbone; which of the three is told by its keys."""
    plain = {k.removeprefix("module."): v for k, v in state.get("state_dict", state).items()}
    if "conv_1.conv2d.weight" in plain:
        backbone: Backbone = "mobilefacenet"
    else:
        backbone = "sface_ir101" if "body.48.res_layer.1.weight" in plain else "sface_ir50"
    converted = convert_published(state)
    dim = next(v.shape[0] for k, v in reversed(converted.items()) if v.dim() == 1)
    model = SFace(SFaceConfig(backbone, int(dim)))
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    model.load_state_dict({k: torch.zeros_like(v) for k, v in counters.items()} | converted)
    return model.eval()


def import_onnx(path: str | Path) -> Recogniser:
    """A network holding an ONNX file of the OpenCV model zoo; see `facewright.systems.recognise.published`."""
    from ..published import import_onnx as read_onnx

    return read_onnx(path)


def is_graph(path: str | Path) -> bool:
    """Whether an ONNX file holds the recogniser of the OpenCV model zoo."""
    from .. import published

    return published.is_graph(path, "sface")
