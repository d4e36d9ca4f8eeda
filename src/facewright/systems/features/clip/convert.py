"""Published checkpoints of CLIP: openai's archives, open_clip's and transformers' files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....nn.clip import Activation, from_openai, from_transformers
from ....weights.published import load_converted
from .network import CLIP, CLIPConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"(visual\.class_embedding|vision_model\.embeddings\.class_embedding)",
    r"(visual\.transformer\.resblocks|vision_model\.encoder\.layers)\.0\.",
    r"(token_embedding|text_model\.embeddings\.token_embedding)\.",
    r"logit_scale",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict, of either layout, as that of `CLIP`; KeyError for an unknown key."""
    return from_transformers(state) if any(key.startswith("vision_model.") for key in state) else from_openai(state)


def import_published(state: Mapping[str, Tensor], activation: Activation = "quick_gelu") -> CLIP:
    """A network holding a published checkpoint with two transformers; its shape is told by the tensors.

    `activation` is what they cannot tell: LAION's weights want "gelu". Raises WeightsError for incomplete and KeyError
    for other checkpoints.
    """
    converted = convert_published(state)
    model = CLIP(_config_of(converted, activation))
    load_converted(model, converted, state, "CLIP")
    return model.eval()


def _config_of(state: Mapping[str, Tensor], activation: Activation) -> CLIPConfig:
    width, _, patch, _ = state["image.patch.weight"].shape
    grid = round((state["image.positions"].shape[0] - 1) ** 0.5)
    words, text_width = state["text.embedding.weight"].shape
    return CLIPConfig(
        size=grid * patch,
        patch=patch,
        dim=state["image.projection"].shape[1],
        width=width,
        layers=_layers(state, "image"),
        heads=max(1, width // 64),
        text_width=text_width,
        text_layers=_layers(state, "text"),
        text_heads=max(1, text_width // 64),
        words=words,
        length=state["text.positions"].shape[0],
        activation=activation,
    )


def _layers(state: Mapping[str, Tensor], tower: str) -> int:
    return sum(re.fullmatch(rf"{tower}\.blocks\.\d+\.norm1\.weight", key) is not None for key in state)
