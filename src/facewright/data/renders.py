"""Rendered faces for training: made once, kept in tar shards beside the prepared photos."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import FacewrightError
from ..io.sources import note
from .faces import data_cache, tar_offsets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SHARD = 20


class RenderShards:
    """The pictures in a folder of shards, as `facewright render --format webdataset` writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        note(folder)
        self._members = {shard: tar_offsets(shard) for shard in sorted(folder.glob("faces-*.tar"))}
        self._index = [(shard, key) for shard, keys in self._members.items() for key in keys if key.endswith(".json")]

    def __len__(self) -> int:
        return len(self._index)

    def truth(self, index: int) -> dict[str, Any]:
        """Everything known about a render."""
        found: dict[str, Any] = json.loads(self._bytes(index, "json"))
        return found

    def picture(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return np.ascontiguousarray(self._decoded(index, "rgb.png", cv2.IMREAD_COLOR)[..., ::-1])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) uint8 of CelebAMask-HQ's 19 classes."""
        return self._decoded(index, "mask.png", cv2.IMREAD_UNCHANGED)

    def _decoded(self, index: int, suffix: str, flags: int) -> NDArray[np.uint8]:
        decoded = cv2.imdecode(np.frombuffer(self._bytes(index, suffix), np.uint8), flags)
        if decoded is None:
            shard, key = self._index[index]
            raise FacewrightError(
                f"{shard}: {suffix} of {key} cannot be decoded; delete {self.folder} to make it again"
            )
        return np.asarray(decoded, np.uint8)

    def _bytes(self, index: int, suffix: str) -> bytes:
        shard, key = self._index[index]
        offset, size = self._members[shard][f"{key.removesuffix('json')}{suffix}"]
        with open(shard, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)


def prepared_renders(
    name: str,
    root: Path,
    *,
    seed: int,
    count: int,
    size: int,
    what: tuple[str, ...] = ("rgb",),
    rates: dict[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RenderShards:
    """`count` rendered faces of a seed before the backgrounds in `root`, without camera effects; what is missing is
    rendered now (about a third of a second each).

    The face model is ICT-FaceKit where `root` has its file, else the package's own coarse one.
    """
    from ..render.jobs import Plan, run

    ict = root / "ict_facekit.npz"
    kind, model = ("ict", str(ict)) if ict.exists() else ("coarse", "coarse")
    folder = data_cache() / f"{name}-{kind}-{size}-{seed}"
    plan = Plan(
        model=model,
        size=size,
        seed=seed,
        count=count,
        what=what,
        output=str(folder),
        format="webdataset",
        shard=SHARD,
        effects=False,
        backgrounds=str(root / "backgrounds.tar"),
        rates=rates,
    )
    run(plan, resume=True, progress=progress)
    return RenderShards(folder)
