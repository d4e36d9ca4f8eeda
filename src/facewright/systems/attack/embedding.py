"""A recogniser as a differentiable function of pictures: what an attacker who has the network can compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..recognise.recogniser import Recogniser


def embedding_of(recogniser: Recogniser) -> Callable[[Tensor], Tensor]:
    """RGB pictures (N, 3, S, S) in [0, 1] to raw embeddings (N, D), by the recogniser's own preprocess record."""
    record = recogniser.preprocess
    mean = torch.tensor(record.mean).view(1, 3, 1, 1)
    std = torch.tensor(record.std).view(1, 3, 1, 1)

    def embed(image: Tensor) -> Tensor:
        x = image.flip(1) if record.colour == "BGR" else image
        return recogniser((x * 255 / record.scale - mean.to(x)) / std.to(x))  # type: ignore[no-any-return]

    return embed
