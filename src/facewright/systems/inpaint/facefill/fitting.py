"""How FaceFill is fitted: principal components of faces and of their mirror images, and what these leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ....errors import UsageError
from .network import FaceFill, FaceFillConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_NOISE = 0.01  # standard deviation in [−1, 1]: about one grey level


def fit(faces: NDArray[np.uint8], config: FaceFillConfig) -> FaceFill:
    """The model of faces (N, S, S, 3) uint8 RGB on the `ffhq` template.

    Raises UsageError for faces of another size, and for fewer than twice the directions.
    """
    if faces.shape[1:] != (config.size, config.size, 3):
        raise UsageError(f"FaceFill is fitted to faces of {config.size} px, not of {faces.shape[1]}")
    if len(faces) < 2 * config.directions:
        raise UsageError(f"{len(faces)} faces are too few for {config.directions} directions")
    both = np.concatenate([faces, faces[:, :, ::-1]]).transpose(0, 3, 1, 2)
    rows = both.reshape(len(both), -1).astype(np.float32) / 127.5 - 1
    mean = rows.mean(0)
    rows -= mean
    # fewer faces than pixels: the small matrix has the same eigenvalues
    _, vectors = np.linalg.eigh(rows @ rows.T / len(rows))
    kept = slice(-1, -1 - config.directions, -1)
    directions = vectors[:, kept].T @ rows / np.sqrt(len(rows))
    left = float(np.square(rows).sum(1).mean() - np.square(directions).sum()) / rows.shape[1]
    model = FaceFill(config)
    with torch.no_grad():
        model.mean.copy_(torch.from_numpy(mean).view_as(model.mean))
        model.directions.copy_(torch.from_numpy(directions).view_as(model.directions))
        model.log_noise.fill_(0.5 * np.log(max(left, _LEAST_NOISE**2)))
    return model.eval()
