"""CLIP's checkpoints to start CLIPC8 from: of openai/CLIP, open_clip, or transformers. There is none of CLIPC8 itself.

The categories of such a network mean nothing yet: describe them with the numbers of CLIP's own tokeniser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ....nn.clip import from_openai, from_transformers
from ....weights.published import load_converted
from .categories import CATEGORIES
from .network import CLIPC8, CLIPC8Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def import_published(state: Mapping[str, Tensor]) -> CLIPC8:
    """A network holding the weights of CLIP ViT-B/16; WeightsError for another shape, KeyError for other files."""
    convert = from_transformers if any(key.startswith("vision_model.") for key in state) else from_openai
    config = CLIPC8Config()
    described = {"described": torch.zeros(len(CATEGORIES), config.dim)}
    model = CLIPC8(config)
    load_converted(model, convert(state) | described, state, "CLIP ViT-B/16")
    return model.eval()
