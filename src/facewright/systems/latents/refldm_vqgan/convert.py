"""The published auto-encoder of ReF-LDM, vqgan.ckpt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....nn.vq import from_taming
from ....weights.published import load_converted
from .network import RefLDMVQGAN, RefLDMVQGANConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"encoder\.down\.3\.block\.1\.",
    r"decoder\.up\.0\.block\.2\.",
    r"quantize\.embedding\.",
    r"post_quant_conv\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (out of `state_dict`) as that of `RefLDMVQGAN`; losses are left out."""
    own = {key: value for key, value in state.items() if not key.startswith(("loss.", "model_ema."))}
    return {f"net.{key}": value for key, value in from_taming(own, RefLDMVQGANConfig().layout).items()}


def import_published(state: Mapping[str, Tensor]) -> RefLDMVQGAN:
    """A network holding the published auto-encoder; WeightsError for any other."""
    model = RefLDMVQGAN()
    load_converted(model, convert_published(state), state, "ReF-LDM's auto-encoder")
    return model.eval()
