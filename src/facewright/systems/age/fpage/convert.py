"""Published checkpoints of this system: key maps to this network, and networks made from them.

Two files belong together: the parser's (`resnet50-fcn-14.torch`) and the age network's
(`fpage-resnet50-fcn-14-97.torch`). Put into one, their keys begin with `face_parser.` and `age_estimator.`; the age
network's alone is read, too, if the parser's is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....errors import WeightsError
from .network import FPAge, FPAgeConfig

KEYS = (
    r"(age_estimator\.)?conv1x1_attened\.",
    r"(age_estimator\.)?age_net\.0\.conv1\.",
    r"face_parser\.encoder\.body\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_AGE = {
    "conv1x1_attened.": "attention.project.",
    "se.mlp.1.": "attention.gate.0.",
    "se.mlp.3.": "attention.gate.2.",
    "conv1x1.": "reduce.",
    "age_fc.": "head.",
    **{f"age_net.{2 * i}.": f"blocks.{i}." for i in range(8)},
}
_PARSER = {"encoder.body.": "trunk.body.", "decoder.": "head."}


def convert_published(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Both published files, under the names above, as the state dict of `FPAge`, without a calibration."""
    converted = {"temperature": torch.zeros(1, dtype=torch.int32)}
    for key, value in _tensors(state).items():
        part, _, rest = key.partition(".")
        if part == "face_parser" and not rest.startswith(("encoder.body.fc", "aux")):
            converted[f"parser.{_renamed(rest, _PARSER)}"] = value
        elif part == "age_estimator":
            converted[f"age_net.{_renamed(rest, _AGE)}"] = value
    return converted


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under the names of one file with both parts."""
    inner = state["state_dict"] if isinstance(state.get("state_dict"), Mapping) else state
    tensors = {key.removeprefix("module."): value for key, value in inner.items() if isinstance(value, Tensor)}
    if any(key.startswith("age_estimator.") for key in tensors):
        return tensors
    return {key if key.startswith("face_parser.") else f"age_estimator.{key}": value for key, value in tensors.items()}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    theirs = next((name for name in names if key.startswith(name)), "")
    return names.get(theirs, "") + key.removeprefix(theirs)


def import_published(state: Mapping[str, Any], *, parser: Mapping[str, Any] | None = None) -> FPAge:
    """A network with published weights.

    `state` holds both parts, or the age network's alone beside `parser`, the state of the parser's file. Raises
    WeightsError for other and for incomplete checkpoints.
    """
    tensors = _tensors(state)
    if parser is not None:
        inner = parser["state_dict"] if isinstance(parser.get("state_dict"), Mapping) else parser
        tensors |= {f"face_parser.{key.removeprefix('module.')}": value for key, value in inner.items()}
    last = tensors.get("age_estimator.age_fc.3.weight")
    if last is None:
        raise WeightsError("this is not a checkpoint of FP-Age: the layer that tells the ages is missing")
    if not any(key.startswith("face_parser.") for key in tensors):
        raise WeightsError(
            "this file holds FP-Age without its parser: put the tensors of resnet50-fcn-14.torch beside "
            "them, with face_parser. before their names"
        )
    model = FPAge(FPAgeConfig(ages=len(last)))
    try:
        model.load_state_dict(convert_published(tensors))
    except RuntimeError as error:
        raise WeightsError(f"this is not a complete checkpoint of FP-Age: {error}".replace("\n", " ")) from error
    return model.eval()
