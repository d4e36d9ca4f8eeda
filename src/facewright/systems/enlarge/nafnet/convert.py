"""Published checkpoints of NAFNet: SIDD (noise), GoPro (blur), REDS (blur and compression), of either width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import NAFNet, NAFNetConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"intro\.", r"encoders\.0\.0\.sca\.1\.", r"middle_blks\.0\.beta", r"ups\.0\.0\.")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""


def published_config(state: Mapping[str, Tensor]) -> NAFNetConfig:
    """The configuration of a checkpoint, from its keys and shapes; KeyError where it is none."""
    return NAFNetConfig(
        width=len(state["intro.weight"]),
        encoder=_counts(state, "encoders"),
        middle=len({key.split(".")[1] for key in state if key.startswith("middle_blks.")}),
        decoder=_counts(state, "decoders"),
    )


def _counts(state: Mapping[str, Tensor], part: str) -> tuple[int, ...]:
    """Blocks of each level."""
    places = {tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith(f"{part}.")}
    levels = sorted({level for level, _ in places})
    return tuple(sum(level == other for other, _ in places) for level in levels)


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (`params`) as that of `NAFNet`."""
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    if key.startswith("ups."):
        _, level, _, name = key.split(".")
        return f"ups.{level}.{name}"
    return key.replace("middle_blks.", "middle.").replace(".sca.1.", ".attention.")


def import_published(state: Mapping[str, Tensor]) -> NAFNet:
    """A network holding a published checkpoint; its size is told by the tensors. WeightsError for any other."""
    model = NAFNet(published_config(state))
    load_converted(model, convert_published(state), state, "NAFNet")
    return model.eval()
