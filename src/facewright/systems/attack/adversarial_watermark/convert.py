"""Checkpoints of HiDDeN's usual PyTorch version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import Hidden, HiddenConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"encoder\.conv_layers\.0\.layers\.0\.", r"encoder\.after_concat_layer\.", r"decoder\.linear\.")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_BLOCKS = re.compile(r"(encoder\.conv_layers|decoder\.layers|discriminator\.before_linear)\.(\d+)\.layers\.(\d)\.(.+)")
_ENDS = {
    "encoder.after_concat_layer.layers": "encoder.join",
    "encoder.final_layer": "encoder.paint",
    "decoder.linear": "decoder.linear",
    "discriminator.linear": "discriminator.linear",
}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict, encoder, decoder and discriminator together, as that of `Hidden`; KeyError else."""
    return {_name(key): value for key, value in state.items()}


def _name(key: str) -> str:
    match = _BLOCKS.fullmatch(key)
    if match:
        return f"{match[1].partition('.')[0]}.features.{match[2]}.{match[3]}.{match[4]}"
    for theirs, ours in _ENDS.items():
        if key.startswith(theirs + "."):
            return ours + key.removeprefix(theirs)
    raise KeyError(key)


def import_published(state: Mapping[str, Tensor]) -> Hidden:
    """A network holding a published checkpoint; its shape is told by the tensors.

    Encoder and decoder are published together and the discriminator apart: pass both as one, the latter's keys with
    `discriminator.` before them. Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    converted = convert_published(state)
    model = Hidden(_config_of(converted))
    load_converted(model, converted, state, "HiDDeN")
    return model.eval()


def _config_of(state: Mapping[str, Tensor]) -> HiddenConfig:
    def count(part: str) -> int:
        return len({key.split(".")[2] for key in state if key.startswith(f"{part}.features.")})

    return HiddenConfig(
        bits=len(state["decoder.linear.bias"]) if "decoder.linear.bias" in state else HiddenConfig().bits,
        width=len(state["encoder.features.0.0.bias"]) if "encoder.features.0.0.bias" in state else HiddenConfig().width,
        encoder_blocks=max(1, count("encoder")),
        decoder_blocks=max(1, count("decoder") - 1),
        discriminator_blocks=max(1, count("discriminator")),
    )
