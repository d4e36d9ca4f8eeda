"""The published checkpoint of ParseNet (facexlib's parsing_parsenet.pth)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import ParseNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"encoder\.0\.conv2d\.",
    r"body\.0\.conv1\.conv2d\.",
    r"decoder\.0\.shortcut_func\.conv2d\.",
    r"out_mask_conv\.conv2d\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict as that of `ParseNet`; the layer that draws the face again is left out."""
    return {_renamed(key): value for key, value in state.items() if not key.startswith("out_img_conv.")}


def _renamed(key: str) -> str:
    key = re.sub(r"^out_mask_conv\.", "classify.", key)
    return "net." + key.replace("shortcut_func.", "skip.").replace(".conv2d.", ".conv.").replace(
        ".norm.norm.", ".norm."
    )


def import_published(state: Mapping[str, Tensor]) -> ParseNet:
    """A network holding the published checkpoint; WeightsError for any other."""
    model = ParseNet()
    load_converted(model, convert_published(state), state, "ParseNet")
    return model.eval()
