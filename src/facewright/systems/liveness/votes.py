"""What liveness networks share: cutting faces out of a photo, and votes in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ...face import Face
    from ..base import System

_BATCH = 16


@torch.inference_mode()
def votes_of(
    system: System, photo: NDArray[np.uint8], faces: Sequence[Face], live: Callable[[Tensor], Tensor]
) -> NDArray[np.float64]:
    """(H, W, 3) uint8 RGB and N faces to votes (N,); `live` maps normalised crops to the vote of each, 0…1."""
    crops = [system.preprocess.crop.cut(photo, face).image for face in faces]
    parts = [np.stack(crops[start : start + _BATCH]) for start in range(0, len(crops), _BATCH)]
    votes = [live(system.normalise(part)).double().cpu().numpy() for part in parts]
    return np.concatenate([np.zeros(0), *votes])
