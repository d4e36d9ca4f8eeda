"""Checkpoints of DeepfakeBench's EfficientNet-B4 and of SUR-LID trained in it.

The published code keeps its heads in a plain list, so that its checkpoints do not hold them: only the trunk, a teacher,
and a `last_layer` that SUR-LID does not use. So nothing can be told with such a checkpoint, while a plain DeepfakeBench
detector has its one head in `last_layer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import WeightsError
from ....weights.published import load_converted
from .network import SurLid, SurLidConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"(backbone\.)?efficientnet\._conv_stem\.", r"(backbone\.)?efficientnet\._conv_head\.")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `SurLid` with one head; KeyError for an unknown key."""
    found = {}
    for key, value in state.items():
        if key.startswith("teacher."):
            continue
        name = key.removeprefix("backbone.")
        if name.startswith("efficientnet."):
            found["backbone." + name.removeprefix("efficientnet.")] = value
        elif name.startswith("last_layer."):
            found["heads.0." + name.removeprefix("last_layer.")] = value
        else:
            raise KeyError(key)
    return found


def import_published(state: Mapping[str, Tensor]) -> SurLid:
    """A DeepfakeBench detector, its trunk and its one head.

    Raises WeightsError for the checkpoint of a SUR-LID training, which lacks the heads it was trained with, and for an
    incomplete one; KeyError for other checkpoints.
    """
    if any(key.startswith("teacher.") for key in state):
        raise WeightsError(
            "this file is of a SUR-LID training and does not hold its heads, without which it can tell nothing; "
            "train heads on its trunk, or import a DeepfakeBench detector"
        )
    model = SurLid(SurLidConfig(tasks=1, learnt=1))
    load_converted(model, convert_published(state), state, "SUR-LID")
    return model.eval()
