"""Checkpoints of Hyp-OC: VGG-Face (`vgg_face_dag.pth`) and the head, alone or together.

Training writes `encoder_state_dict` and `classifier_state_dict`; their tensors are given together, and keys do not
clash. VGG-Face alone gives a network with a fresh head, to be trained.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch

from ....weights.published import load_converted
from .network import HypOC, HypOCConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEYS = (r"conv5_3\.weight", r"fc6\.weight", r"fc8\.weight")
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_UNUSED = ("fc7.", "fc8.")
_HEAD = {"topoincare.xp": "ball.base", "last_layer.a_vals": "logits.normals", "last_layer.p_vals": "logits.offsets"}


def convert_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VGG-Face's state dict as that of `VGGFace`; KeyError for an unknown key."""
    found = {}
    for key, value in state.items():
        if key.startswith(_UNUSED):
            continue
        if match := re.fullmatch(r"conv(\d)_(\d)\.(weight|bias)", key):
            found[f"blocks.{int(match[1]) - 1}.{int(match[2]) - 1}.{match[3]}"] = value
        elif key.startswith("fc6."):
            found[key] = value
        else:
            raise KeyError(key)
    return found


def convert_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's state dict as that of `Head`; KeyError for an unknown key."""
    found = {}
    for key, value in state.items():
        if match := re.fullmatch(r"model\.(\d+)\.(weight|bias)", key):
            found[f"layers.{int(match[1]) // 2}.{match[2]}"] = value
        else:
            found[_HEAD[key]] = value
    return found


def convert_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and, where it is there, head as the state dict of `HypOC`; KeyError for an unknown key."""
    head = {key: value for key, value in state.items() if key in _HEAD or key.startswith("model.")}
    encoder = {key: value for key, value in state.items() if key not in head}
    found = {f"encoder.{key}": value for key, value in convert_encoder(encoder).items()}
    return found | {f"head.{key}": value for key, value in convert_head(head).items()}


def import_published(state: Mapping[str, Tensor]) -> HypOC:
    """A network holding published weights. VGG-Face alone gets a fresh head, the same one every time.

    Raises WeightsError for incomplete and KeyError for other checkpoints.
    """
    converted = convert_published(state)
    width = converted["encoder.blocks.0.0.weight"].shape[0]
    feature, flat = converted["encoder.fc6.weight"].shape
    side = math.isqrt(flat // (8 * width))
    hidden = tuple(v.shape[0] for k, v in converted.items() if re.fullmatch(r"head\.layers\.\d+\.weight", k))
    config = HypOCConfig(size=32 * side, width=width, feature=feature, hidden=hidden or HypOCConfig().hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HypOC(config)
    if not hidden:
        converted |= {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    load_converted(model, converted, state, "Hyp-OC")
    return model.eval()
