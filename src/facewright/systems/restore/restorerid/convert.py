"""The published network of RestorerID, RestorerIDFull.ckpt, and the recogniser that it needs beside it.

The file holds Stable Diffusion with its additions, both encoders and what makes tokens; not the face recogniser, an
IResNet-50 of insightface (`buffalo_l`), whose tensors are expected as `face_net.` in the same state dict or apart. Of
the text tower only what it says of the three texts is kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ....nn.clip import TextTower, TowerShape, from_transformers
from ....nn.vq import from_taming
from ....weights.published import load_converted
from ....weights.store import load_published
from .network import RestorerID, RestorerIDConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

UNET = "model.diffusion_model."
STRUCTURE = "structcond_stage_model."
FIRST_STAGE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
PICTURE = "Adapter.image_encoder."
TOKENS = "Adapter.image_proj_model."
KEYS = (
    r"model\.diffusion_model\.input_blocks\.1\.0\.IDBalance\.crossattn\.",
    r"model\.diffusion_model\.input_blocks\.1\.0\.spade\.",
    r"structcond_stage_model\.fea_tran\.",
)
"""Beginnings of keys that the published checkpoint has; they tell a file of unknown origin."""
TEXT_NUMBERS = (
    (),
    (949, 3027, 267, 1400, 3027),
    (7651, 267, 274, 323, 267, 5185, 267, 25576, 267, 1049, 934, 267, 2103, 15376, 267, 5719, 3027, 267, 1042, 3027),
)
"""The empty text, `network.POSITIVE` and `network.NEGATIVE` in numbers of CLIP's vocabulary."""
_HEADS = 12


def convert_published(state: Mapping[str, Tensor], config: RestorerIDConfig | None = None) -> dict[str, Tensor]:
    """The published state dict as that of `RestorerID`; schedules, losses and running means are left out."""
    config = config or RestorerIDConfig()
    found = {f"unet.{_unet_name(k.removeprefix(UNET))}": v for k, v in state.items() if k.startswith(UNET)}
    found |= {f"structure.{k.removeprefix(STRUCTURE)}": v for k, v in state.items() if k.startswith(STRUCTURE)}
    first = {k.removeprefix(FIRST_STAGE): v for k, v in state.items() if k.startswith(FIRST_STAGE)}
    first = {k: v for k, v in first.items() if not k.startswith(("loss.", "model_ema."))}
    found |= {f"autoencoder.{key}": value for key, value in from_taming(first, config.latents).items()}
    picture = {k.removeprefix(PICTURE): v for k, v in state.items() if k.startswith(PICTURE)}
    found |= {f"picture.{k.removeprefix('image.')}": v for k, v in from_transformers(picture).items()}
    found |= {f"tokens.{k.removeprefix(TOKENS)}": v for k, v in state.items() if k.startswith(TOKENS)}
    found |= {f"recogniser.{k.removeprefix('face_net.')}": v for k, v in state.items() if k.startswith("face_net.")}
    text = {k.removeprefix(TEXT): v for k, v in state.items() if k.startswith(TEXT)}
    if text:
        found["texts"] = text_states(from_transformers(text))
    return found


def import_published(
    state: Mapping[str, Tensor], *, recogniser: str | Path | Mapping[str, Tensor] | None = None
) -> RestorerID:
    """A network holding the published one; WeightsError for any other.

    `recogniser` is the state dict of an IResNet-50, or its file, where the checkpoint has none.
    """
    beside = load_published(recogniser) if isinstance(recogniser, str | Path) else recogniser or {}
    everything = dict(state) | {f"face_net.{key}": value for key, value in beside.items()}
    model = RestorerID()
    load_converted(model, convert_published(everything), state, "RestorerID with its face recogniser (`face_net.`)")
    return model.eval()


@torch.no_grad()
def text_states(tower: Mapping[str, Tensor]) -> Tensor:
    """(3, 77, 768): what CLIP's text tower (`text.` of `nn.clip`) says of the empty, wanted and unwanted text."""
    own = {key.removeprefix("text."): value for key, value in tower.items()}
    words, width = own["embedding.weight"].shape
    length = len(own["positions"])
    layers = 1 + max(int(match[1]) for key in own if (match := re.match(r"blocks\.(\d+)\.", key)))
    model = TextTower(TowerShape(width, layers, _HEADS), width, words=words, length=length)
    model.load_state_dict(model.state_dict() | own)
    begin, end = words - 2, words - 1
    rows = [[begin, *numbers, *[end] * (length - 1 - len(numbers))] for numbers in TEXT_NUMBERS]
    return model.states(model.embedding(torch.tensor(rows, device=own["positions"].device)))


def _unet_name(key: str) -> str:
    """Low-rank products stand inside the layers that they belong to."""
    key = re.sub(r"\.to_out_lora\.", ".to_out.0.", key)
    return re.sub(r"\.to_([qkv])_lora\.", r".to_\1.", key)
