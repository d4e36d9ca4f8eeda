"""Checkpoints of the published IADG code; how many base styles they hold is told by their tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import IADG, IADGConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"FeatExtractor\.inc\.conv\.", r"DepthEstmator\.conv_block1\.conv\.", r"Classifier\.fc\.")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_DYNAMIC = {"conv_k": "rescale", "conv_kernel": "kernel", "conv_static": "static", "fuse": "fuse"}
_STYLES = {
    "proto_mean_pos": "live_mean",
    "proto_std_pos": "live_std",
    "proto_mean_neg": "attack_mean",
    "proto_std_neg": "attack_std",
}
_RULES: tuple[tuple[str, str], ...] = (
    (r"FeatExtractor\.inc\.conv\.", "features.stem.0."),
    (r"Classifier\.fc\.", "classify.last."),
    (r"DepthEstmator\.conv_block3\.conv\.", "depth.last."),
    (r"Shader\.conv_final\.", "shader.last."),
)


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `IADG`, without a layer that was made and never used; KeyError else."""
    found = {}
    for key, value in state.items():
        if name := _name(key):
            found[name] = value
    return found


def _name(key: str) -> str:
    for pattern, ours in _RULES:
        if match := re.match(pattern, key):
            return ours + key[match.end() :]
    if match := re.fullmatch(r"FeatExtractor\.down(\d)\.conv_block(\d)_gate\.conv\.(.+)", key):
        stage, block, rest = int(match[1]) - 1, int(match[2]) - 1, match[3]
        if block != 1:
            return f"features.stages.{stage}.{block}.0.{rest}"
        layer, _, tensor = rest.partition(".")
        return "" if layer == "conv" else f"features.stages.{stage}.1.0.{_DYNAMIC[layer]}.{tensor}"
    if match := re.fullmatch(r"(Classifier|DepthEstmator)\.conv_block(\d)\.conv\.(.+)", key):
        head = {"Classifier": "classify", "DepthEstmator": "depth"}[match[1]]
        return f"{head}.convolutions.{int(match[2]) - 1}.0.{match[3]}"
    if match := re.fullmatch(r"Shader\.CSA_layers\.(\d)\.CSA_norm\.(.+)", key):
        return f"shader.assemblies.{match[1]}.{_STYLES[match[2]]}"
    raise KeyError(key)


def import_published(state: Mapping[str, Tensor]) -> IADG:
    """A network holding a published checkpoint.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    converted = convert_published(state)
    styles = converted.get("shader.assemblies.0.live_mean")
    model = IADG(
        IADGConfig(width=converted["features.stem.0.weight"].shape[0], styles=0 if styles is None else len(styles))
    )
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    load_converted(model, counters | converted, state, "IADG")
    return model.eval()
