"""Pictures as the first modules of a network see them, computed once for a training in which these do not learn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .faces import data_cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from ..systems.base import System

    Item = dict[str, Tensor]

_BATCH = 16


class KeptMaps:
    """Numbered items with `maps` (C, h, w) float32, of a network's first modules, in place of their `image`.

    `item` gives the item of a number below `count`, whose `image` (S, S, 3) is uint8 RGB as the network takes it;
    `network` normalises it and `modules` see it. All is computed on first use and kept in the cache of prepared data,
    under `name` and a digest of the modules' weights and of `settings`, which says what else the items depend on.
    """

    def __init__(
        self,
        name: str,
        network: System,
        modules: nn.Module,
        item: Callable[[int], Item],
        count: int,
        settings: object,
    ) -> None:
        digest = hashlib.sha256(repr((count, settings)).encode())
        for value in modules.state_dict().values():
            digest.update(value.numpy().tobytes())
        self.folder = data_cache() / f"{name}-{digest.hexdigest()[:16]}"
        if not self.folder.exists():
            prepare(self.folder, network, modules.eval(), item, count)
        self.parts: dict[str, NDArray[Any]] = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted(self.folder.glob("*.npy"))
        }

    def __getitem__(self, number: int) -> Item:
        item = {key: torch.from_numpy(np.array(values[number])) for key, values in self.parts.items()}
        return item | {"maps": item["maps"].float()}  # torch stacks no float16 under autocast on a processor


@torch.inference_mode()
def prepare(folder: Path, network: System, modules: nn.Module, item: Callable[[int], Item], count: int) -> None:
    """Write an array for each part of the items into a folder that appears when all of it is there."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir(exist_ok=True)
    files: dict[str, NDArray[Any]] = {}
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        batch: Item = torch.utils.data.default_collate([item(number) for number in range(start, stop)])
        with network.picture_autocast():
            batch["maps"] = modules(network.normalise(batch.pop("image").numpy())).half()
        for key, values in batch.items():
            if not start:
                shape = (count, *values.shape[1:])
                path = temporary / f"{key}.npy"
                files[key] = np.lib.format.open_memmap(path, "w+", values.numpy().dtype, shape)
            files[key][start:stop] = values.numpy()
    for array in files.values():
        array.flush()  # type: ignore[attr-defined]
    temporary.replace(folder)
