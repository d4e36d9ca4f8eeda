"""The published network of ReF-LDM, refldm.ckpt: U-Net, its running mean, and the auto-encoder it works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....nn.vq import from_taming
from ....weights.published import load_converted
from .network import RefLDM, RefLDMConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

UNET = "model.diffusion_model."
UNET_MEAN = "model_ema.diffusion_model"
FIRST_STAGE = "first_stage_model."
KEYS = (
    r"model\.diffusion_model\.time_embed\.0\.",
    r"model\.diffusion_model\.input_blocks\.4\.1\.qkv\.",
    r"model\.diffusion_model\.middle_block\.1\.proj_out\.",
    r"model\.diffusion_model\.out\.2\.",
    r"first_stage_model\.encoder\.",
)
"""Beginnings of keys that the published checkpoint has; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict as that of `RefLDM`, with the U-Net's running mean where the file has one.

    The running mean has the names of the U-Net's parameters without their dots. Losses and the schedule are left out.
    """
    unet = {key.removeprefix(UNET): value for key, value in state.items() if key.startswith(UNET)}
    found = {f"unet.{key}": state.get(UNET_MEAN + key.replace(".", ""), value) for key, value in unet.items()}
    first = {key.removeprefix(FIRST_STAGE): value for key, value in state.items() if key.startswith(FIRST_STAGE)}
    own = {key: value for key, value in first.items() if not key.startswith(("loss.", "model_ema."))}
    converted = from_taming(own, RefLDMConfig().latents.layout) if own else {}
    return found | {f"autoencoder.{key}": value for key, value in converted.items()}


def import_published(state: Mapping[str, Tensor]) -> RefLDM:
    """A network holding the published one; WeightsError for any other."""
    model = RefLDM()
    load_converted(model, convert_published(state), state, "ReF-LDM")
    return model.eval()
