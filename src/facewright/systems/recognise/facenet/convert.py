"""Published checkpoints of this system: key maps to this network, and networks made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....nn.inception_resnet import from_facenet_pytorch
from ....weights.published import load_converted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
from .network import FaceNet

KEYS = (
    r"conv2d_1a\.",
    r"repeat_1\.",
    r"last_linear\.",
)
"""Beginnings of keys that all published checkpoints have; they tell a file of unknown origin."""

_CLASSIFIER = "logits."


def import_published(state: Mapping[str, Tensor]) -> FaceNet:
    """A network holding a published file of facenet-pytorch, with or without the classifier it was trained with.

    Raises WeightsError for incomplete and for other checkpoints, naming tensors that are missing, unknown or of another
    shape.
    """
    embedding = {key: value for key, value in state.items() if not key.startswith(_CLASSIFIER)}
    model = FaceNet()
    load_converted(model.backbone, from_facenet_pytorch(embedding), state, "FaceNet")
    return model.eval()
