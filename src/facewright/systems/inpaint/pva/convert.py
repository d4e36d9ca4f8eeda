"""PVA's weights: Stable Diffusion 2's inpainting checkpoint and what PVA's training adds to it, in one state dict.

No trained PVA is public. `facewright import pva` takes a file that holds both; `from_base` makes the network that
training starts from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ....errors import UsageError
from ....nn.bpe import BytePairs
from ....nn.clip import from_openai
from ....nn.sd import from_diffusers
from ....nn.vq import from_taming
from ....weights.published import load_converted
from .network import PVA, PVAConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

UNET = "model.diffusion_model."
FIRST_STAGE = "first_stage_model."
TEXT = "cond_stage_model.model."
KEYS = (r"(unet\.)?down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn2\.to_visual_q\.", r"transform_network\.")
"""Beginnings of keys that only PVA's training adds."""
_TEXT_PARTS = ("token_embedding.", "positional_embedding", "text_projection", "ln_final.", "transformer.")


def convert_published(state: Mapping[str, Tensor], config: PVAConfig | None = None) -> dict[str, Tensor]:
    """The published state dicts, in one, as that of `PVA`; what neither network has (schedules, EMA) is left out.

    Of Stable Diffusion LDM's names (`model.diffusion_model.`, `first_stage_model.`, `cond_stage_model.model.`); of PVA
    `unet.` with diffusers' names, `transform_network.`, `face_net.` and `modifier_vec`.
    """
    config = config or PVAConfig()
    found = {f"unet.{k.removeprefix(UNET)}": v for k, v in state.items() if k.startswith(UNET)}
    first = {k.removeprefix(FIRST_STAGE): v for k, v in state.items() if k.startswith(FIRST_STAGE)}
    first = {k: v for k, v in first.items() if not k.startswith(("loss.", "model_ema."))}
    found |= {f"autoencoder.{key}": _as_convolution(key, v) for key, v in from_taming(first, config.latents).items()}
    text = {k.removeprefix(TEXT): v for k, v in state.items() if k.startswith(TEXT)}
    found |= from_openai({k: v for k, v in text.items() if k.startswith(_TEXT_PARTS)})
    visual = {k.removeprefix("unet."): v for k, v in state.items() if ".to_visual_" in k}
    found |= {f"unet.{key}": value for key, value in from_diffusers(visual, config.unet).items()}
    for theirs, own in (("transform_network.", "transform."), ("face_net.", "recogniser.")):
        found |= {own + k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
    if "modifier_vec" in state:
        found["modifier"] = state["modifier_vec"].flatten()
    return found


def import_published(state: Mapping[str, Tensor], *, merges: str | Path | None = None) -> PVA:
    """A network holding both; WeightsError where something is missing or does not fit.

    `merges` is the file of CLIP's byte pairs, which prompts need.
    """
    vocabulary = _vocabulary(merges)
    model = PVA(PVAConfig(merges=len(vocabulary)))
    converted = convert_published(state) | {"merges": vocabulary}
    load_converted(model, converted, state, "PVA")
    return model.eval()


def from_base(state: Mapping[str, Tensor], *, merges: str | Path | None = None) -> PVA:
    """What training starts from: Stable Diffusion's inpainting checkpoint and a recogniser (`face_net.`).

    The new projections are copies of the text's; tokens and word are drawn.
    """
    vocabulary = _vocabulary(merges)
    model = PVA(PVAConfig(merges=len(vocabulary)))
    fresh = {name: value.detach() for name, value in model.added().items()}
    converted = fresh | convert_published(state) | {"merges": vocabulary}
    for name in fresh:
        if ".to_visual_" in name:
            converted[name] = converted[name.replace(".to_visual_", ".to_")]
    load_converted(model, converted, state, "Stable Diffusion 2 inpainting")
    return model


def _as_convolution(key: str, value: Tensor) -> Tensor:
    """Attention of some copies of the auto-encoder is linear; here it is a 1×1 convolution."""
    return value[:, :, None, None] if ".attention." in key and key.endswith("weight") and value.dim() == 2 else value


def _vocabulary(merges: str | Path | None) -> Tensor:
    if merges is None:
        return torch.zeros(0, dtype=torch.uint8)
    try:
        text = Path(merges).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the byte pairs in {merges}: {error}") from error
    pairs = BytePairs.read(text)
    kept = "\n".join(["#", *(" ".join(pair) for pair in pairs.merges)]) + "\n"
    return torch.frombuffer(bytearray(kept.encode()), dtype=torch.uint8)
