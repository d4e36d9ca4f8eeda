"""What all recognisers share: crops by their preprocess record in, unit embeddings out, fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ...nn.inference import folded_copy
from ..base import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


_BATCH = 32
BOX_MARGIN = 0.15
"""Margin of the levelled box crops of recognisers without a template, in shares of the box's longer side."""


class Recogniser(System):
    """Base of recognition systems: a `backbone` from normalised crops (N, 3, S, S) to embeddings (N, D).

    forward returns the backbone's raw embedding, whose length some losses and quality measures use. `embed` follows
    the field's protocol: crop and mirror image, summed before normalisation. `mirror=False` halves the time and costs
    a little accuracy.
    """

    backbone: nn.Module
    mirror: bool = True

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return int(self.config.dim)

    def forward(self, image: Tensor) -> Tensor:
        side = self.preprocess.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"{self.slug} takes crops (N, 3, {side}, {side}), not {tuple(image.shape)}")
        embedding: Tensor = self.backbone(image)
        return embedding

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops on this network's template to (N, D) embeddings of length 1."""
        raw = self.embed_raw(crops)
        lengths = np.linalg.norm(raw, axis=1, keepdims=True)
        return np.asarray(raw / np.maximum(lengths, 1e-12), np.float32)

    def embed_raw(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `embed`, before normalisation: the length says how sure the network is of what it saw."""
        side = self.preprocess.size
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3):
            raise UsageError(f"{self.slug} takes crops (N, {side}, {side}, 3), not {crops.shape}")
        dtype = self.picture_dtype
        network = self.inference(dtype)
        rows = [self._run(network, dtype, crops[i : i + _BATCH]) for i in range(0, len(crops), _BATCH)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _run(self, network: nn.Module, dtype: torch.dtype, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = self.normalise(crops).to(dtype)
            if self.mirror:
                x = torch.cat([x, x.flip(3)]).contiguous(memory_format=torch.channels_last)
            out = network(x).float()
            if self.mirror:
                out = out[: len(crops)] + out[len(crops) :]
        return np.asarray(out.cpu().numpy(), np.float32)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return folded_copy(self.backbone, dtype)


def embedding_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 − cosine between (N, D) embeddings, (N,): the identity loss of restorers and of distillation."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1)


def check_backbone(slug: str, backbone: str, known: Sequence[str]) -> None:
    """Raise UsageError unless a system has a backbone of that name."""
    if backbone not in known:
        raise UsageError(f"{slug} has no backbone {backbone!r}; choose from {', '.join(known)}")
