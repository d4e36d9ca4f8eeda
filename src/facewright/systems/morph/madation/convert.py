"""Checkpoints of MADation: `40_backbone.pth`, a whole CLIP with low-rank matrices, and `40_header.pth`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from ....nn.clip import from_openai
from ....weights.published import load_converted
from .network import Madation, MadationConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"visual\.transformer\.resblocks\.0\.attn\.q_proj\.w_lora_A",
    r"visual\.transformer\.resblocks\.0\.attn\.v_proj\.w_lora_B",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_ATTENTION = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.attn\.(q_proj|k_proj|v_proj|proj)\.(.+)")
_LOW_RANK = {"w_lora_A": "a", "w_lora_B": "b"}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict, backbone and header together, as that of `Madation`; KeyError for an unknown key.

    The text tower, which nothing asks, is left out.
    """
    found: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("linear."):
            found["head." + key.removeprefix("linear.")] = value.float()
        elif match := _ATTENTION.fullmatch(key):
            block, projection, tensor = match.groups()
            if tensor in _LOW_RANK:
                found[f"tower.blocks.{block}.qkv.{projection[0]}_{_LOW_RANK[tensor]}"] = value.float()
            elif projection == "proj":
                plain[f"visual.transformer.resblocks.{block}.attn.out_proj.{tensor}"] = value
            else:
                parts.setdefault((block, tensor), {})[projection[0]] = value.float()
        elif key.startswith("visual."):
            plain[key] = value
        elif not key.startswith(_UNUSED):
            raise KeyError(key)
    for (block, tensor), three in parts.items():
        found[f"tower.blocks.{block}.qkv.base.{tensor}"] = torch.cat([three[name] for name in "qkv"])
    return found | {"tower." + key.removeprefix("image."): value for key, value in from_openai(plain).items()}


_UNUSED = (
    *("transformer.", "token_embedding.", "positional_embedding", "text_projection", "ln_final.", "logit_scale"),
    *("input_resolution", "context_length", "vocab_size"),
)


def import_published(state: Mapping[str, Tensor], *, merged: bool = False) -> Madation:
    """A network holding a published checkpoint, backbone and header in one; its shape is told by the tensors.

    `merged`: the file was written in evaluation mode, in which the published layers add the low-rank product to the
    projections and keep the matrices as well. It is taken out again here, or it would count twice.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    converted = convert_published(state)
    config = _config_of(converted)
    if merged:
        _unmerge(converted, config.gamma)
    model = Madation(config)
    load_converted(model, converted, state, "MADation")
    return model.eval()


def _unmerge(state: dict[str, Tensor], gamma: float) -> None:
    for key in [key for key in state if key.endswith("qkv.base.weight")]:
        place = key.removesuffix("base.weight")
        q, k, v = state[key].chunk(3)
        products = [gamma * state[f"{place}{name}_b"] @ state[f"{place}{name}_a"] for name in "qv"]
        state[key] = torch.cat([q - products[0], k, v - products[1]])


def _config_of(state: Mapping[str, Tensor]) -> MadationConfig:
    width, _, patch, _ = state["tower.patch.weight"].shape
    large = width == MadationConfig.vit_l_14().width
    base = MadationConfig.vit_l_14() if large else MadationConfig()
    grid = round((state["tower.positions"].shape[0] - 1) ** 0.5)
    return MadationConfig(
        size=grid * patch,
        patch=patch,
        dim=state["tower.projection"].shape[1],
        width=width,
        layers=len({key.split(".")[2] for key in state if key.startswith("tower.blocks.")}),
        heads=max(1, width // 64),
        rank=state["tower.blocks.0.qkv.q_a"].shape[0],
        alpha=base.alpha,
        dropout=base.dropout,
    )
