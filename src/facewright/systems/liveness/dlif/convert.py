"""Checkpoints of the published DLIF code: `uencoder`, `cls`, `vencoder` and `dis`, merged into one state dict.

The publisher's scripts write four files; their state dicts are given together, under the prefixes `u_encoder.`,
`classifier.`, `v_encoder.` and `discriminator.` (the parity vectors' names). The identity branch may be missing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import DLIF, DLIFConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"u_encoder\.(?:module\.)?cwsa1\.fc\.0\.weight", r"classifier\.(?:module\.)?classifier_layer\.weight")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_ENCODERS = {"u_encoder": "liveness", "v_encoder": "identity"}
_HEADS = {
    "classifier.classifier_layer.weight": "classify.weight",
    "discriminator.discriminator.weight": "discriminate.weight",
}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `DLIF`; KeyError for an unknown key."""
    return {_name(key.replace(".module.", ".")): value for key, value in state.items()}


def _name(key: str) -> str:
    if key in _HEADS:
        return _HEADS[key]
    encoder, _, rest = key.partition(".")
    if rest.startswith("cwsa"):
        return f"{_ENCODERS[encoder]}.gates.{int(rest[4]) - 1}{rest[5:]}"
    return f"{_ENCODERS[encoder]}.trunk.{rest}"


def import_published(state: Mapping[str, Tensor]) -> DLIF:
    """A network holding published weights; widths, crop and identities are told by the tensors.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    converted = convert_published(state)
    width = converted["liveness.trunk.conv1.weight"].shape[0]
    side = math.isqrt(converted["classify.weight"].shape[1] // (8 * width))
    people = converted["discriminate.weight"].shape[0] if "discriminate.weight" in converted else 0
    model = DLIF(DLIFConfig(size=32 * side, width=width, identities=people))
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    load_converted(model, counters | converted, state, "DLIF")
    return model.eval()
