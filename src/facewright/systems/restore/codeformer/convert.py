"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ....nn.vq import from_flat
from ....weights.published import load_converted
from ..restoreformer.convert import published_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

from .network import CodeFormer, CodeFormerConfig

KEYS = (
    r"ft_layers\.",
    r"fuse_convs_dict\.",
    r"quantize\.embedding\.",
    r"generator\.blocks\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_RENAMED = (
    (r"position_emb", "position"),
    (r"feat_emb\.", "embed."),
    (r"idx_pred_layer\.0\.", "norm."),
    (r"idx_pred_layer\.1\.", "classify."),
    (r"ft_layers\.(\d+)\.self_attn\.in_proj_", r"transformer.\1.qkv."),
    (r"ft_layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.\1.out."),
    (r"ft_layers\.(\d+)\.linear1\.", r"transformer.\1.expand."),
    (r"ft_layers\.(\d+)\.linear2\.", r"transformer.\1.reduce."),
    (r"ft_layers\.(\d+)\.", r"transformer.\1."),
    (r"fuse_convs_dict\.(\d+)\.encode_enc\.conv_out\.", r"transforms.\1.join.shortcut."),
    (r"fuse_convs_dict\.(\d+)\.encode_enc\.", r"transforms.\1.join."),
    (r"fuse_convs_dict\.(\d+)\.", r"transforms.\1."),
)


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The published state dict (bare, or in `params_ema`) as that of `CodeFormer` in its full size."""
    tensors = published_tensors(state)
    flat = from_flat(tensors, CodeFormerConfig().layout)
    converted = {}
    for key, value in flat.items():
        name = next((re.sub(f"^{p}", r, key) for p, r in _RENAMED if re.match(p, key)), f"net.{key}")
        converted[name] = value
    return converted


def import_published(state: Mapping[str, Any]) -> CodeFormer:
    """A network holding the published `codeformer.pth`.

    Raises WeightsError for incomplete and for other checkpoints, naming the network they look most like.
    """
    model = CodeFormer()
    load_converted(model, convert_published(state), published_tensors(state), "CodeFormer")
    return model.eval()
