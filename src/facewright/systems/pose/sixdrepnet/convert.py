"""Published checkpoints of 6DRepNet, in the form for use or in the one for training, whose branches are joined."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ....weights.published import load_converted
from .network import SixDRepNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"layer0\.rbr_",
    r"layer1\.0\.rbr_",
    r"layer4\.0\.rbr_",
    r"linear_reg\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_NORM_EPS = 1e-5


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `SixDRepNet`; KeyError for an unknown key."""
    converted = {}
    for key, value in joined(state).items():
        if match := re.fullmatch(r"layer0\.(weight|bias)", key):
            converted[f"stem.{match[1]}"] = value
        elif match := re.fullmatch(r"layer(\d)\.(\d+)\.(weight|bias)", key):
            converted[f"stages.{int(match[1]) - 1}.{match[2]}.{match[3]}"] = value
        elif match := re.fullmatch(r"linear_reg\.(weight|bias)", key):
            converted[f"head.{match[1]}"] = value
        else:
            raise KeyError(key)
    return converted


def joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which every RepVGG block is one convolution, `<block>.weight` and `.bias`."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        block, _, rest = key.partition(".rbr_")
        if not rest:
            out[key] = value
        elif rest.startswith("reparam."):
            out[f"{block}.{rest.removeprefix('reparam.')}"] = value
        elif f"{block}.weight" not in out:
            out[f"{block}.weight"], out[f"{block}.bias"] = _one_convolution(state, f"{block}.rbr_")
    return out


def _one_convolution(state: Mapping[str, Tensor], block: str) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the sum of a 3×3 and a 1×1 convolution and of the input itself, each behind a batch norm."""
    wide, narrow = state[f"{block}dense.conv.weight"], state[f"{block}1x1.conv.weight"]
    kernel, bias = _with_norm(wide, state, f"{block}dense.bn.")
    small, shift = _with_norm(narrow, state, f"{block}1x1.bn.")
    kernel, bias = kernel + F.pad(small, (1, 1, 1, 1)), bias + shift
    if f"{block}identity.weight" in state:
        same = torch.zeros_like(wide)
        channels = torch.arange(len(same), device=same.device)
        same[channels, channels % same.shape[1], 1, 1] = 1
        unchanged, shift = _with_norm(same, state, f"{block}identity.")
        kernel, bias = kernel + unchanged, bias + shift
    return kernel, bias


def _with_norm(kernel: Tensor, state: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    gain = state[f"{norm}weight"] / (state[f"{norm}running_var"] + _NORM_EPS).sqrt()
    return kernel * gain.view(-1, 1, 1, 1), state[f"{norm}bias"] - state[f"{norm}running_mean"] * gain


def import_published(state: Mapping[str, Tensor]) -> SixDRepNet:
    """A network holding a published checkpoint on RepVGG-B1g2; WeightsError for any other."""
    model = SixDRepNet()
    load_converted(model, convert_published(state), state, "6DRepNet")
    return model.eval()
