"""Published checkpoints of FAN (face-alignment's 2DFAN-4), whose names our modules bear."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import FAN, FANConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"conv2\.downsample\.0\.",
    r"m0\.b2_plus_1\.conv1\.",
    r"top_m_0\.conv1\.",
    r"bn_end0\.",
    r"l0\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `FAN`, which is the same."""
    return dict(state)


def import_published(state: Mapping[str, Tensor]) -> FAN:
    """A network holding a published checkpoint; how many hourglasses it has is told by the tensors.

    Raises WeightsError for any other.
    """
    stacks = sum(re.fullmatch(r"l\d\.weight", key) is not None for key in state)
    model = FAN(FANConfig(width=state["conv_last0.weight"].shape[0], stacks=stacks))
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    load_converted(model, counters | convert_published(state), state, "FAN")
    return model.eval()
