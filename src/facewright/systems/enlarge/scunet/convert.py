"""Published checkpoints of SCUNet: scunet_color_real_psnr.pth and scunet_color_real_gan.pth."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import SCUNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"m_head\.0\.",
    r"m_down1\.0\.trans_block\.msa\.",
    r"m_body\.0\.conv_block\.",
    r"m_tail\.0\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_PARTS = (
    ("trans_block.msa.embedding_layer.", "attend.attention.qkv."),
    ("trans_block.msa.linear.", "attend.attention.out."),
    ("trans_block.msa.relative_position_params", "attend.attention.bias"),
    ("trans_block.ln", "attend.norm"),
    ("trans_block.mlp.", "attend.mlp."),
    ("conv1_1.", "split."),
    ("conv1_2.", "join."),
    ("conv_block.", "convolve."),
)


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (bare) as that of `SCUNet`."""
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    key = re.sub(r"^m_(head|tail)\.0\.", r"\1.", key)
    key = re.sub(r"^m_body\.", "body.", key)
    key = re.sub(r"^m_down(\d)\.", lambda m: f"down.{int(m[1]) - 1}.", key)
    key = re.sub(r"^m_up(\d)\.", lambda m: f"up.{3 - int(m[1])}.", key)
    for theirs, ours in _PARTS:
        key = key.replace(theirs, ours)
    return key


def import_published(state: Mapping[str, Tensor]) -> SCUNet:
    """A network holding a published checkpoint; WeightsError for any other."""
    model = SCUNet()
    load_converted(model, convert_published(state), state, "SCUNet")
    return model.eval()
