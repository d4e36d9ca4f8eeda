"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ....nn.stylegan2 import (
    BASE_SIZE,
    channel_widths,
    from_basicsr,
    from_nvidia,
    from_rosinality,
    is_clean,
)
from ....weights.published import load_converted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

from .network import StyleGAN2, StyleGAN2Config

KEYS = (
    r"(style_mlp|style|mapping)\.",
    r"(style_convs|style_conv1|convs|conv1|synthesis)\.",
    r"(to_rgbs|to_rgb1|synthesis\.b4)",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

Layout = Literal["rosinality", "basicsr", "nvidia"]


def layout_of(state: Mapping[str, Any]) -> Layout:
    """Which code base named the tensors of a generator; BasicSR's when nothing tells."""
    if any(key.startswith(("synthesis.", "mapping.fc")) for key in state):
        return "nvidia"
    return "rosinality" if any(key.startswith(("input.", "style.", "conv1.conv.")) for key in state) else "basicsr"


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a published generator (`g_ema`, `params_ema` or `G_ema`) to ours; WeightsError for a foreign key."""
    convert = {"rosinality": from_rosinality, "basicsr": from_basicsr, "nvidia": from_nvidia}[layout_of(state)]
    kept = {key: value for key, value in state.items() if not key.endswith((".kernel", "latent_avg"))}
    return {f"generator.{key}": value for key, value in convert(kept).items()}


def import_published(state: Mapping[str, Tensor]) -> StyleGAN2:
    """A network holding a published generator; its size and widths are told by the tensors.

    BasicSR's original form is read with the FIR filter: a checkpoint trained with `StyleGAN2GeneratorBilinear` has the
    same keys and no mark, so set `upsample` in the configuration for it. Raises WeightsError for incomplete and for
    other checkpoints, saying what is missing and what they look most like.
    """
    converted = convert_published(state)
    clean = layout_of(state) == "basicsr" and is_clean(dict(state))
    model = StyleGAN2(_config_of(converted, clean))
    load_converted(model, converted, state, "StyleGAN2")
    return model.eval()


def _config_of(converted: Mapping[str, Tensor], clean: bool) -> StyleGAN2Config:
    """The configuration that fits converted tensors, as far as they tell."""
    sides = [BASE_SIZE << i for i in range(sum(k.endswith(".bias") and _is_to_rgb(k) for k in converted))]
    kernels = [converted.get(f"generator.to_rgbs.{i}.conv.weight") for i in range(len(sides))]
    if len(sides) < 2 or any(kernel is None for kernel in kernels):
        return StyleGAN2Config()
    widths = tuple(int(kernel.shape[1]) for kernel in kernels if kernel is not None)
    style = converted.get("generator.convs.0.conv.modulation.weight")
    layers = sum(k.startswith("generator.mapping.") and k.endswith(".weight") for k in converted)
    ruled = next((m for m in (2, 1) if tuple(channel_widths(sides[-1], m).values()) == widths), None)
    return StyleGAN2Config(
        size=sides[-1],
        channel_multiplier=ruled or 2,
        widths=() if ruled else widths,
        style_dim=512 if style is None else int(style.shape[1]),
        mapping_layers=layers,
        upsample="bilinear" if clean else "fir",
        equalised=not clean,
    )


def _is_to_rgb(key: str) -> bool:
    return key.startswith("generator.to_rgbs.") and key.count(".") == 3
