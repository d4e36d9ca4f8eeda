"""Published checkpoints of GPEN: the authors' generators, and ONNX files made of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....nn.stylegan2 import channel_widths, from_rosinality
from ....weights.published import load_converted
from .network import GPEN, GPENConfig, GPENGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"ecd0\.0\.0\.",
    r"ecd5\.0\.1\.",
    r"final_linear\.0\.",
    r"generator\.to_rgb1\.conv\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_PRIOR = "generator."


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `GPEN`, without the generator's own noise, which features replace.

    KeyError for an unknown key outside the generator, WeightsError inside.
    """
    prior = {key.removeprefix(_PRIOR): value for key, value in state.items() if key.startswith(_PRIOR)}
    converted = {f"generator.{key}": value for key, value in from_rosinality(prior).items()}
    for key, value in state.items():
        if not key.startswith(_PRIOR) and not key.endswith(".kernel"):
            converted[_name(key)] = value
    return converted


def _name(key: str) -> str:
    if match := re.fullmatch(r"ecd(\d+)\.0\.\d\.(weight|bias)", key):
        number = int(match[1])
        return f"downs.{number - 1}.{match[2]}" if number else f"stem.{match[2]}"
    if match := re.fullmatch(r"final_linear\.0\.(weight|bias)", key):
        return f"to_style.{match[1]}"
    raise KeyError(key)


def import_published(state: Mapping[str, Tensor]) -> GPEN:
    """A network holding a published generator; its size and widths are told by the tensors.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    model = GPEN(_config_of(state))
    noise = {key: value for key, value in model.state_dict().items() if ".noises." in key}
    load_converted(model, convert_published(state) | noise, state, "GPEN")
    return model.eval()


def _config_of(state: Mapping[str, Tensor]) -> GPENConfig:
    levels = sum(re.fullmatch(r"ecd\d+\.0\.\d\.weight", key) is not None for key in state)
    size = 2 ** (levels + 1)
    narrow = state["generator.input.input"].shape[1] / channel_widths(8)[4]
    full = channel_widths(size, 1, narrow)[size]
    multiplier = state["ecd0.0.0.weight"].shape[0] / full if size >= 64 else GPENConfig().channel_multiplier
    layers = sum(re.fullmatch(r"generator\.style\.\d+\.weight", key) is not None for key in state)
    return GPENConfig(size, multiplier, narrow, state["final_linear.0.bias"].shape[0], layers)


is_graph = GPENGraph.knows
import_onnx = GPENGraph.from_graph
