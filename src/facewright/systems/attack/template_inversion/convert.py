"""Mappings in the layout of the authors' code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import TemplateInversion, TemplateInversionConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"embed\.weight", r"fc0\.weight", r"fc1\.weight", r"w_avg")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published mapping as that of `TemplateInversion`; KeyError for an unknown key. `w_avg` is never used."""
    found = {}
    for key, value in state.items():
        if key == "w_avg":
            continue
        match = re.fullmatch(r"(embed|fc(\d+))\.(weight|bias)", key)
        if match is None:
            raise KeyError(key)
        layer = "embed" if match[1] == "embed" else f"layers.{match[2]}"
        found[f"mapping.{layer}.{match[3]}"] = value
    return found


def import_published(state: Mapping[str, Tensor]) -> TemplateInversion:
    """A network holding a published mapping; its critic, which is not published, is fresh.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    converted = convert_published(state)
    style, template = state["embed.weight"].shape if "embed.weight" in state else (512, 512)
    wide = state["fc0.weight"].shape[1] if "fc0.weight" in state else style + 8
    layers = len({key for key in state if re.fullmatch(r"fc\d+\.weight", key)})
    model = TemplateInversion(
        TemplateInversionConfig(template_dim=template, style_dim=style, noise_dim=wide - style, layers=max(1, layers))
    )
    critic = {f"critic.{key}": value for key, value in model.critic.state_dict().items()}
    load_converted(model, converted | critic, state, "template inversion")
    return model.eval()
