"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....nn.stylegan2 import channel_widths, from_basicsr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

from .network import _ENCODER_NARROW, GFPGAN, GFPGANConfig

KEYS = (
    r"stylegan_decoder\.",
    r"conv_body_first\.",
    r"condition_scale\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_DECODER = "stylegan_decoder."


_PARTS = {
    "conv_body_first": "stem",
    "conv_body_down": "downs",
    "conv_body_up": "ups",
    "final_conv": "bottleneck",
    "final_linear": "to_latent",
    "toRGB": "to_rgbs",
    "condition_scale": "scale_heads",
    "condition_shift": "shift_heads",
}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a clean GFPGAN (`params_ema` of GFPGANv1.2 … 1.4) to ours; KeyError for an unknown key."""
    prior = {key.removeprefix(_DECODER): value for key, value in state.items() if key.startswith(_DECODER)}
    converted = {f"generator.{key}": value for key, value in from_basicsr(prior).items()}
    for key, value in state.items():
        if not key.startswith(_DECODER):
            part, _, rest = key.partition(".")
            converted[f"{_PARTS[part]}.{rest}"] = value
    return converted


def import_published(state: Mapping[str, Tensor]) -> GFPGAN:
    """A network holding a published clean GFPGAN; its size and widths are told by the tensors.

    Raises ValueError for the first version (1.0), whose StyleGAN2 has custom operators, and KeyError or RuntimeError
    for anything else.
    """
    if f"{_DECODER}style_mlp.2.weight" in state or "conv_body_first.0.weight" in state:
        raise ValueError("a GFPGAN of the original form (1.0); versions 1.2, 1.3 and 1.4 can be imported")
    model = GFPGAN(_config_of(state))
    model.load_state_dict(convert_published(state))
    return model.eval()


def _config_of(state: Mapping[str, Tensor]) -> GFPGANConfig:
    base, top = GFPGANConfig(), 4 * 2 ** sum(key.startswith("toRGB.") and key.endswith(".weight") for key in state)
    narrow = state[f"{_DECODER}constant_input.weight"].shape[1] / channel_widths(8)[4]
    layers = sum(key.startswith(f"{_DECODER}style_mlp.") and key.endswith(".weight") for key in state)
    style_dim = state[f"{_DECODER}style_mlp.1.weight"].shape[0] if layers else base.style_dim
    full = channel_widths(top, 1, narrow * _ENCODER_NARROW)[top]
    multiplier = state["conv_body_first.weight"].shape[0] / full if top >= 64 else base.channel_multiplier
    return GFPGANConfig(top, multiplier, narrow, style_dim, layers)
