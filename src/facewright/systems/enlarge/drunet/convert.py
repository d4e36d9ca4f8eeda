"""The published checkpoint of DRUNet for colour pictures, drunet_color.pth."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import DRUNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"m_head\.weight",
    r"m_down1\.0\.res\.0\.",
    r"m_body\.0\.res\.0\.",
    r"m_up1\.1\.res\.0\.",
    r"m_tail\.weight",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (bare) as that of `DRUNet`."""
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    key = key.removeprefix("m_").replace(".res.", ".change.")
    key = re.sub(r"^down(\d)\.", lambda m: f"down.{int(m[1]) - 1}.", key)
    return re.sub(r"^up(\d)\.", lambda m: f"up.{3 - int(m[1])}.", key)


def import_published(state: Mapping[str, Tensor]) -> DRUNet:
    """A network holding the published checkpoint; WeightsError for any other."""
    model = DRUNet()
    load_converted(model, convert_published(state), state, "DRUNet")
    return model.eval()
