"""Any number of face crops through a restorer: in runs that fit into memory, in the form that is fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..base import System

PIXELS_AT_ONCE = {"cpu": 512**2, "cuda": 8 * 512**2}
"""Of all crops of a run. One of 512 px keeps a processor busy; two would need twice the memory and no less time."""


def restored_in_runs(
    model: System, crops: NDArray[np.uint8], each: Mapping[str, NDArray[Any]] | None = None, **options: Any
) -> NDArray[np.uint8]:
    """(N, S, S, 3) uint8 RGB crops to what the network makes of them, of the same shape.

    Both go to the network's `forward`, which answers with images (N, 3, S, S) around [−1, 1]: `options` as they are,
    of the arrays in `each` those rows that belong to the crops of the run.
    """
    network = model.inference()
    restored = np.empty_like(crops)
    step = max(1, PIXELS_AT_ONCE[model.device.type] // (crops.shape[1] * crops.shape[2]))
    for start in range(0, len(crops), step):
        run = slice(start, start + step)
        own = {name: rows[run] for name, rows in (each or {}).items()}
        with torch.inference_mode():
            images = network(model.normalise(crops[run]), **own, **options)
            pixels = images.float().add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
            restored[run] = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return restored
