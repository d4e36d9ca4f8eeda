"""Published checkpoints of RetinaFace (facexlib's, which are those of biubug6/Pytorch_Retinaface)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....weights.published import load_converted
from .network import RetinaFace, RetinaFaceConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (
    r"body\.(conv1|stage1)\.",
    r"fpn\.merge1\.",
    r"ssh1\.conv3X3\.",
    r"LandmarkHead\.0\.conv1x1\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_CONTEXT = {
    "conv3X3": "conv3",
    "conv5X5_1": "trunk5",
    "conv5X5_2": "conv5",
    "conv7X7_2": "trunk7",
    "conv7x7_3": "conv7",
}
_HEADS = {"ClassHead": "classes", "BboxHead": "boxes", "LandmarkHead": "points"}


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `RetinaFace`; KeyError for an unknown part of a known module."""
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    if match := re.match(r"ssh(\d)\.(\w+)\.(.+)", key):
        return f"context.{int(match[1]) - 1}.{_CONTEXT[match[2]]}.{match[3]}"
    if match := re.match(r"(ClassHead|BboxHead|LandmarkHead)\.(\d)\.conv1x1\.(\w+)", key):
        return f"{_HEADS[match[1]]}.{match[2]}.{match[3]}"
    return key


def import_published(state: Mapping[str, Tensor]) -> RetinaFace:
    """A network holding a published checkpoint on ResNet-50 or MobileNet; WeightsError for any other."""
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    model = RetinaFace(RetinaFaceConfig("mobilenet" if "body.stage1.0.0.weight" in plain else "resnet50"))
    load_converted(model, convert_published(plain), plain, "RetinaFace")
    return model.eval()
