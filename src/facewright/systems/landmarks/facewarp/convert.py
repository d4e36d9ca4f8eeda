"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

from .network import FaceWarp

KEYS = (
    r"Transformer\.Transformer_block\.",
    r"Transformer\.landmark_query",
    r"out_layer\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_RENAMED = (
    (r"Transformer\.structure_encoding", "relation.structure"),
    (r"Transformer\.landmark_query", "relation.query"),
    (r"Transformer\.Transformer_block\.(.+)", r"relation.\1"),
    (r"out_layer\.(.+)", r"place.\1"),
    (r"backbone\.(.+)", r"backbone.\1"),
)


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The published landmarker's state dict as ours (for `FaceWarpConfig()`), without the mean shape.

    Accepts the bare dictionary of SLPT's pretraining or the adapted one wrapped in "warpA2B", with or without "module."
    prefixes. The published `feature_norm` is unused and dropped.
    """
    published: Mapping[str, Tensor] = state.get("warpA2B", state)
    converted = {}
    for key, value in published.items():
        name = key.removeprefix("module.")
        if name == "feature_extractor.weight":
            converted["extract.weight"] = value.flatten(1)
        for pattern, ours in _RENAMED:
            if re.fullmatch(pattern, name):
                converted[re.sub(pattern, ours, name)] = value
    return converted


def import_published(state: Mapping[str, Any]) -> FaceWarp:
    """A network holding a published checkpoint.

    The published mean shape is a file beside the checkpoint, not part of it; ours takes its place, and the first stage,
    which looks at an eighth of the crop around each point, is not sensitive to the difference.
    """
    model = FaceWarp()
    model.load_state_dict(convert_published(state))
    return model.eval()
