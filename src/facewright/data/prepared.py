"""Pictures that were prepared once and are kept as arrays: small training sets of forgeries for compact networks.

A folder holds `<split>-<key>.npy`, all of one length. The arrays are mapped and not read. They may show real people and
are never part of the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from ..degrade.forge import Storage, stored
from ..errors import FacewrightError, UsageError
from ..io.atomic import atomic_output
from ..io.sources import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from .split import Split

Worn = Literal["", "real", "all"]
PER_GROUP = 3
"""Replayed pictures of one class of one earlier task in a batch."""


def write_prepared(folder: str | Path, split: Split, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays of one side; UsageError unless they have one length."""
    if len({len(array) for array in arrays.values()}) != 1:
        raise UsageError(f"arrays of one length are needed, not {[len(array) for array in arrays.values()]}")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        with atomic_output(place / f"{split}-{key}.npy", overwrite=True) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)  # not over a file that may be mapped


def read_prepared(folder: str | Path, split: Split) -> dict[str, NDArray[Any]]:
    """The arrays of one side by their keys; FacewrightError when there are none, or not of one length."""
    files = sorted(Path(folder).glob(f"{split}-*.npy"))
    try:
        found = {file.stem.partition("-")[2]: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
    except (OSError, ValueError) as error:
        raise FacewrightError(f"{folder} holds no prepared pictures ({error}); prepare them again") from error
    if "image" not in found or len({len(array) for array in found.values()}) != 1:
        raise FacewrightError(f"{folder} holds no prepared pictures for {split}; prepare them again")
    note(Path(folder))
    return found


class Prepared(Dataset[dict[str, "Tensor"]]):
    """Rows of a prepared folder, drawn at random: a function of (seed, index) alone.

    An item has every array of the folder at one row. `pairs` takes two rows after another, a real picture and its own
    forgery, for every two items. `flip` mirrors pictures; arrays with places (`mask`, `regions`) cannot follow, and are
    refused. `worn` stores pictures anew, as photos are: `real` only those whose `kind` is 0 (FakeLocator's partial
    augmentation), `all`, or none.
    """

    def __init__(
        self,
        folder: str,
        split: Split = "train",
        seed: int = 0,
        *,
        pairs: bool = False,
        flip: bool = False,
        worn: Worn = "",
        length: int = 1 << 40,
    ) -> None:
        self.arrays = read_prepared(folder, split)
        if worn not in get_args(Worn) or (worn == "real" and "kind" not in self.arrays):
            raise UsageError(f"pictures of {folder} cannot be worn {worn!r}")
        if flip and {"mask", "regions"} & set(self.arrays):
            raise UsageError(f"{folder} says where on a picture something is: its pictures cannot be mirrored")
        self.pairs, self.flip, self.worn = pairs, flip, worn
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        return self._item(self._row(index, rng), rng)

    def _row(self, index: int, rng: Generator) -> int:
        count = len(self.arrays["image"])
        if not self.pairs:
            return int(rng.integers(count))
        pair, forged = divmod(index, 2)
        return 2 * int(np.random.default_rng((self.seed, pair)).integers(count // 2)) + forged

    def _item(self, row: int, rng: Generator) -> dict[str, Tensor]:
        item = {key: torch.from_numpy(np.array(array[row])) for key, array in self.arrays.items()}
        image = item["image"].numpy()
        if self.worn == "all" or (self.worn == "real" and item["kind"] == 0):
            image = stored(image, Storage.drawn(rng))
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return item | {"image": torch.from_numpy(np.ascontiguousarray(image))}


class TaskStream(Prepared):
    """One task of a stream of forgeries, with what is replayed of the earlier ones, as `SurLidTraining` wants it.

    The folder has `label` (1 for fake) and `task`, the number of the maker. `order` lists the makers as they come, and
    `position` says which of them is new. Batches are of `new` pictures of it and, before them, three fakes and three
    reals of every earlier task from `replay`, a file of rows: (tasks so far, 2, count), reals first; "" replays none.
    `task` of an item is its place in the stream; with `one_head` it is always 0.
    """

    def __init__(
        self,
        folder: str,
        split: Split = "train",
        seed: int = 0,
        *,
        order: Sequence[int],
        position: int = 0,
        new: int = 20,
        replay: str = "",
        one_head: bool = False,
        flip: bool = True,
        length: int = 1 << 40,
    ) -> None:
        super().__init__(folder, split, seed, flip=flip, length=length)
        if not 0 <= position < len(order):
            raise UsageError(f"a stream of {len(order)} tasks has no task {position}")
        makers = np.asarray(self.arrays["task"])
        self.place = np.full(int(makers.max()) + 1, -1)
        self.place[list(order)] = np.arange(len(order))
        self.rows = np.flatnonzero(makers == order[position])
        self.replay = np.load(replay, allow_pickle=False) if replay else np.zeros((0, 2, PER_GROUP), np.int64)
        if not len(self.rows) or (replay and (len(self.replay) != position or self.replay.shape[2] < PER_GROUP)):
            raise FacewrightError(f"{folder} has no pictures of task {position}, or {replay} is of another one")
        self.new, self.one_head = new, one_head

    @property
    def batch_size(self) -> int:
        """What the trainer's batches must have for the replayed pictures to come first."""
        return self.new + 2 * PER_GROUP * len(self.replay)

    def _row(self, index: int, rng: Generator) -> int:
        batch, slot = divmod(index, self.batch_size)
        old, within = divmod(slot, 2 * PER_GROUP)
        if old >= len(self.replay):
            return int(rng.choice(self.rows))
        label = 1 - within // PER_GROUP  # fakes first
        group = np.random.default_rng((self.seed, batch, old, label))
        return int(group.choice(self.replay[old, label], PER_GROUP, replace=False)[within % PER_GROUP])

    def _item(self, row: int, rng: Generator) -> dict[str, Tensor]:
        item = super()._item(row, rng)
        place = 0 if self.one_head else int(self.place[int(item["task"])])
        return item | {"task": torch.tensor(place)}
