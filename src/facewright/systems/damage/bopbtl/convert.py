"""The published checkpoint of the scratch detector, FT_Epoch_latest.pt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import BOPBTL, BOPBTLConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"first\.1\.",
    r"down_sample\.0\.1\.",
    r"down_path\.0\.block\.1\.",
    r"up_path\.0\.conv_block\.block\.1\.",
    r"last\.1\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_PLACES = {"1": "0", "2": "1", "5": "3", "6": "4"}
"""Numbers of convolutions and norms in a published block, which counts paddings, to ours."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `BOPBTL`, without the fixed low pass; KeyError for an unknown key."""
    return {_name(key): value for key, value in state.items() if not key.endswith(".filt")}


def _name(key: str) -> str:
    if match := re.fullmatch(r"first\.1\.(\w+)", key):
        return f"stem.0.{match[1]}"
    if match := re.fullmatch(r"last\.1\.(\w+)", key):
        return f"out.{match[1]}"
    if match := re.fullmatch(r"down_sample\.(\d+)\.(\d)\.(\w+)", key):
        return f"halvings.{match[1]}.{_PLACES[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"down_path\.(\d+)\.block\.(\d)\.(\w+)", key):
        return f"downs.{match[1]}.{_PLACES[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"up_path\.(\d+)\.conv_block\.block\.(\d)\.(\w+)", key):
        return f"ups.{match[1]}.block.{_PLACES[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"up_path\.(\d+)\.up\.2\.(\w+)", key):
        return f"ups.{match[1]}.up.{match[2]}"
    raise KeyError(key)


def import_published(state: Mapping[str, Tensor]) -> BOPBTL:
    """A network holding the published checkpoint; its depth and widths are told by the tensors.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    depth = sum(re.fullmatch(r"down_sample\.\d+\.1\.weight", key) is not None for key in state)
    model = BOPBTL(BOPBTLConfig(state["first.1.weight"].shape[0], depth))
    load_converted(model, convert_published(state), state, "the scratch detector")
    return model.eval()
