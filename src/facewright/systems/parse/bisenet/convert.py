"""Published weights of BiSeNet on faces: 79999_iter.pth (also parsing_bisenet.pth), and ONNX files such as yakhyo's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import BiSeNet, BiSeNetGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"cp\.resnet\.",
    r"cp\.arm16\.",
    r"ffm\.convblk\.",
    r"conv_out\.conv_out\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict as that of `BiSeNet`."""
    return {f"net.{key}": value for key, value in state.items()}


def import_published(state: Mapping[str, Tensor]) -> BiSeNet:
    """A network holding the published checkpoint; WeightsError for any other."""
    model = BiSeNet()
    load_converted(model, convert_published(state), state, "BiSeNet")
    return model.eval()


is_graph = BiSeNetGraph.knows
import_onnx = BiSeNetGraph.from_graph
