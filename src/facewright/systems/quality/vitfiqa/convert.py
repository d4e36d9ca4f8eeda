"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....errors import WeightsError
from ....nn.face_vit import from_insightface
from ..reasons import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Mapping

from .network import Mode, ViTFIQA, ViTFIQAConfig

KEYS = (
    r"head_qs\.",
    r"patch_embed\.proj\.",
    r"feature\.0\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_PUBLISHED_HEAD = "head_qs."


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published ViT-FIQA state dict (`model.pt`) under this module's names, without a calibration."""
    own = {"qs_token": "quality_token"}
    shared = {key: value for key, value in state.items() if key not in own and not key.startswith(_PUBLISHED_HEAD)}
    converted = {f"vit.{key}": value for key, value in from_insightface(shared).items()}
    for key in state.keys() - shared.keys():
        converted[own.get(key) or key.replace(_PUBLISHED_HEAD, "quality.")] = state[key]
    for key in [k for k in converted if k.endswith(".running_mean")]:
        converted.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return converted | {"reference": torch.zeros(QUANTILES, dtype=torch.int32)}


def published_config(state: Mapping[str, Tensor]) -> ViTFIQAConfig:
    """The configuration a published state dict belongs to; raises WeightsError when it is not a ViT-FIQA."""
    needed = ("patch_embed.proj.weight", "pos_embed", "feature.0.weight", "feature.2.weight", "head_qs.1.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise WeightsError(f"this is not a ViT-FIQA checkpoint: it has no {missing[0]!r}; give its model.pt")
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    with_token = state["feature.0.weight"].shape[1] == state["pos_embed"].shape[1] * dim
    mode: Mode = "crfiqa" if "qs_token" not in state else "full" if with_token else "token"
    return ViTFIQAConfig(
        patch=patch,
        dim=dim,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        embedding=state["feature.2.weight"].shape[0],
        mode=mode,
    )


def import_published(state: Mapping[str, Tensor]) -> ViTFIQA:
    """The network of a published `model.pt`, of any mode; raises WeightsError when it is not a ViT-FIQA."""
    model = ViTFIQA(published_config(state))
    try:
        model.load_state_dict(convert_published(state))
    except RuntimeError as error:
        raise WeightsError(f"this checkpoint does not fit ViT-FIQA: {str(error).splitlines()[-1].strip()}") from error
    return model.eval()
