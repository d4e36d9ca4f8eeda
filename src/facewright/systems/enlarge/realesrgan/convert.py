"""Published checkpoints of Real-ESRGAN: x4plus, x2plus, general-x4v3 and others of the two forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import RealESRGAN, RealESRGANConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"(conv_first|body\.0)\.", r"(body\.0\.rdb1\.conv1|body\.2)\.", r"(conv_last|body\.\d+\.bias)")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def published_config(state: Mapping[str, Tensor]) -> RealESRGANConfig:
    """The configuration of a checkpoint, from its keys and shapes; KeyError where it is none."""
    if "conv_first.weight" in state:
        width, c_in = state["conv_first.weight"].shape[:2]
        depth = len({key.split(".")[1] for key in state if key.startswith("body.")})
        return RealESRGANConfig("dense", 2 if c_in == 12 else 4, int(width), depth)
    convolutions = [key for key, value in state.items() if key.startswith("body.") and value.dim() == 4]
    last = state[convolutions[-1]]
    scale = int((len(last) // 3) ** 0.5)
    return RealESRGANConfig("plain", scale, len(state["body.0.weight"]), len(convolutions) - 2)


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (`params_ema` or `params`) as that of `RealESRGAN`."""
    return {f"net.{key}": value for key, value in state.items()}


def import_published(state: Mapping[str, Tensor]) -> RealESRGAN:
    """A network holding a published checkpoint, of either form and scale; WeightsError for any other."""
    model = RealESRGAN(published_config(state))
    load_converted(model, convert_published(state), state, "Real-ESRGAN")
    return model.eval()
