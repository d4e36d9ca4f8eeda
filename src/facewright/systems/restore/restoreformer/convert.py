"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from ....nn.vq import from_taming
from ....weights.published import load_converted
from .network import RestoreFormer, RestoreFormerConfig

KEYS = (
    r"(vqvae\.)?quantize\.embedding\.",
    r"(vqvae\.)?decoder\.up\.\d\.attn\.\d\.norm2\.",
    r"(vqvae\.)?encoder\.down\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

Variant = Literal["restoreformer++", "restoreformer", "rohqd", "rohqd-v1"]


_VARIANTS: dict[str, RestoreFormerConfig] = {
    "restoreformer++": RestoreFormerConfig(),
    "restoreformer": RestoreFormerConfig.v1(),
    "rohqd": RestoreFormerConfig.dictionary(),
    "rohqd-v1": RestoreFormerConfig(cross_at=(), heads=8),
}


def published_tensors(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The network's tensors of a checkpoint: out of a `state_dict` or `params_ema`, without prefixes and losses."""
    for wrapper in ("params_ema", "params", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    tensors = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    return {k.removeprefix(prefix): v for k, v in tensors.items() if not k.startswith("loss.")}


def published_variant(state: Mapping[str, Any]) -> Variant:
    """Which of the published networks a checkpoint holds.

    RestoreFormer and the dictionaries have the same keys. A checkpoint that was saved with its losses tells them apart
    (only restorers have discriminators of facial components); one without is taken for a restorer.
    """
    inner = state.get("state_dict", state)
    if any(".up.4.attn." in key for key in inner):
        return "restoreformer++"
    with_losses = any(key.startswith("loss.") for key in inner)
    restorer = any(key.startswith("loss.net_d_") for key in inner)
    return "rohqd" if with_losses and not restorer else "restoreformer"


def convert_published(state: Mapping[str, Any], variant: Variant) -> dict[str, Tensor]:
    """A published state dict as that of `RestoreFormer` with the variant's configuration.

    Takes the Lightning dictionary (`vqvae.` before every key), a bare one, or the port of GFPGAN; losses and the
    counter of code use are left out.
    """
    tensors = published_tensors(state, "vqvae.")
    tensors.pop("quantize.utility_counter", None)
    return {f"net.{k}": v for k, v in from_taming(tensors, _VARIANTS[variant].layout).items()}


def import_published(state: Mapping[str, Any], variant: Variant | None = None) -> RestoreFormer:
    """A network holding a published RestoreFormer, RestoreFormer++ or dictionary; `variant` overrules the guess.

    Raises WeightsError for incomplete and for other checkpoints, naming the network they look most like.
    """
    chosen = variant or published_variant(state)
    model = RestoreFormer(_VARIANTS[chosen])
    load_converted(model, convert_published(state, chosen), published_tensors(state, "vqvae."), chosen)
    return model.eval()
