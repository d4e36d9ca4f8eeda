"""Published checkpoints of SwinIR: its real-world x4 networks, M and L, and its colour denoisers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import SwinIR, SwinIRConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"conv_first\.",
    r"patch_embed\.norm\.",
    r"layers\.0\.residual_group\.blocks\.0\.attn\.",
    r"conv_after_body\.",
    r"conv_last\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_FIXED = (".attn_mask", ".relative_position_index")
_PARTS = (
    (r"^conv_first\.", "first."),
    (r"^patch_embed\.norm\.", "norm_first."),
    (r"^layers\.(\d+)\.residual_group\.", r"groups.\1."),
    (r"^layers\.(\d+)\.conv\.", r"groups.\1.conv."),
    (r"\.attn\.relative_position_bias_table$", ".attn.position.relative_position_bias_table"),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm\.", "norm_last."),
    (r"^conv_after_body\.", "after."),
    (r"^conv_before_upsample\.0\.", "narrow."),
    (r"^conv_up1\.", "ups.0."),
    (r"^conv_up2\.", "ups.1."),
    (r"^conv_hr\.", "paint."),
)


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (out of `params_ema` or `params`) as that of `SwinIR`; index tables are left out."""
    last = "last." if "conv_hr.weight" in state else "change."
    parts = (*_PARTS, (r"^conv_last\.", last))
    return {_renamed(key, parts): value for key, value in state.items() if not key.endswith(_FIXED)}


def _renamed(key: str, parts: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in parts:
        key = re.sub(theirs, ours, key)
    return key


def import_published(state: Mapping[str, Tensor]) -> SwinIR:
    """A network holding a published checkpoint, whose shape its tensors tell; WeightsError for any other."""
    blocks = "layers.0.residual_group.blocks."
    config = SwinIRConfig(
        scale=4 if "conv_hr.weight" in state else 1,
        width=state["conv_first.weight"].shape[0],
        groups=len({key.split(".")[1] for key in state if key.startswith("layers.")}),
        depth=len({key.split(".")[4] for key in state if key.startswith(blocks)}),
        heads=state[f"{blocks}0.attn.relative_position_bias_table"].shape[1],
        thrice="conv_after_body.0.weight" in state,
    )
    model = SwinIR(config)
    load_converted(model, convert_published(state), state, "SwinIR")
    return model.eval()
