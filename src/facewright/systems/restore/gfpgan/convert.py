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


_ORIGINAL = {
    "conv_body_first": {"0.weight": "weight", "1.bias": "bias"},
    "final_conv": {"0.weight": "weight", "1.bias": "bias"},
    "conv_body_down": {
        "conv1.0.weight": "conv1.weight",
        "conv1.1.bias": "conv1.bias",
        "conv2.1.weight": "conv2.weight",
        "conv2.2.bias": "conv2.bias",
        "skip.1.weight": "skip.weight",
    },
    "conv_body_up": {
        "conv1.0.weight": "conv1.weight",
        "conv1.1.bias": "conv1.bias",
        "conv2.activation.bias": "conv2.bias",
    },
}
"""Tensors of version 1.0 by the part and the name in it, to ours; filters have places in its lists, but no tensors."""


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a published GFPGAN (`params_ema`), of either form, to ours; KeyError for an unknown key."""
    original = is_original(state)
    prior = {key.removeprefix(_DECODER): value for key, value in state.items() if key.startswith(_DECODER)}
    converted = {f"generator.{key}": value for key, value in from_basicsr(prior).items()}
    for key, value in state.items():
        if not key.startswith(_DECODER):
            part, _, rest = key.partition(".")
            converted[f"{_PARTS[part]}.{_original_name(part, rest) if original else rest}"] = value
    return converted


def _original_name(part: str, rest: str) -> str:
    table = _ORIGINAL.get(part, {})
    if not part.startswith("conv_body_") or part == "conv_body_first":
        return table.get(rest, rest)
    number, _, name = rest.partition(".")
    return f"{number}.{table.get(name, name)}"


def is_original(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is of version 1.0, whose convolutions and activations have numbers of their own."""
    return "conv_body_first.0.weight" in state


def import_published(state: Mapping[str, Tensor]) -> GFPGAN:
    """A network holding a published GFPGAN; its form, size and widths are told by the tensors.

    Raises KeyError or RuntimeError for anything else.
    """
    model = GFPGAN(_config_of(state))
    model.load_state_dict(convert_published(state))
    return model.eval()


def _config_of(state: Mapping[str, Tensor]) -> GFPGANConfig:
    original = is_original(state)
    base = GFPGANConfig.original() if original else GFPGANConfig()
    top = 4 * 2 ** sum(key.startswith("toRGB.") and key.endswith(".weight") for key in state)
    narrow = state[f"{_DECODER}constant_input.weight"].shape[1] / channel_widths(8)[4]
    layers = sum(key.startswith(f"{_DECODER}style_mlp.") and key.endswith(".weight") for key in state)
    style_dim = state[f"{_DECODER}style_mlp.1.weight"].shape[0] if layers else base.style_dim
    full = channel_widths(top, 1, narrow * _ENCODER_NARROW)[top]
    stem = state["conv_body_first.0.weight" if original else "conv_body_first.weight"]
    multiplier = stem.shape[0] / full if top >= 64 else base.channel_multiplier
    return GFPGANConfig(top, multiplier, narrow, style_dim, layers, form=base.form)
