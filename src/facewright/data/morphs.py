"""Crops of bona fide portraits and of morphs of look-alikes, all through the same storage, for detectors of morphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
from torch.utils.data import Dataset

from ..degrade.forge import Forgery, Storage, look_alikes, morph, stored
from ..degrade.forge.morph import MorphFinish
from ..errors import UsageError
from .forgeries import RING, SIDE, PackedForgeries
from .forgery_crops import REAL_SETS, item, moved

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.random import Generator
    from torch import Tensor

    from .split import Split

BONA_FIDE, MORPHED = 0, 1
SEEN: tuple[MorphFinish, ...] = ("whole", "hull-feather", "hull-colour")
"""Tools to learn from; the fourth is kept to see what an unknown tool costs."""
POOL = 80
"""How many faces a partner is chosen among, by likeness."""


class MorphCrops(Dataset[dict[str, "Tensor"]]):
    """Crops of `data.forgeries`: every second one bona fide, the others morphed with a look-alike of the same side.

    An item, a function of (seed, split, index) alone, has `image` (256, 256, 3) uint8 RGB, `mask` (1, 256, 256) uint8
    and `kind` (): 1 for morphs. With `vary=False` items are not moved and stored by `storage` alone.
    """

    def __init__(
        self,
        folder: str,
        split: Split = "train",
        seed: int = 0,
        *,
        tools: Sequence[MorphFinish] = SEEN,
        vary: bool = True,
        storage: Mapping[str, float] | None = None,
        length: int = 1 << 40,
    ) -> None:
        if not tools or set(tools) - set(get_args(MorphFinish)):
            raise UsageError(f"unknown tools {tools}; choose from {', '.join(get_args(MorphFinish))}")
        self.packed = PackedForgeries.open(folder)
        self.rows = self.packed.rows("real", split, list(REAL_SETS))
        self.tools, self.split, self.seed = tuple(tools), split, seed
        self.vary, self.length = vary, length
        self.storage = Storage(**(storage or {}))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        made = self.bona_fide(rng) if index % 2 == 0 else self.morph(rng)
        kind = BONA_FIDE if index % 2 == 0 else MORPHED
        if self.vary:
            image, mask = moved(made.image, made.mask, rng)
            return item(stored(image, Storage.drawn(rng)), mask, kind)
        inside = np.s_[RING : RING + SIDE, RING : RING + SIDE]
        return item(stored(np.ascontiguousarray(made.image[inside]), self.storage), made.mask[inside], kind)

    def bona_fide(self, rng: Generator) -> Forgery:
        """A portrait as it is."""
        row = int(rng.choice(self.rows))
        image = np.asarray(self.packed.crops[row])
        return Forgery(image, np.zeros(image.shape[:2], np.float32), "bona fide", (str(self.packed.names[row]),))

    def morph(self, rng: Generator) -> Forgery:
        """Two look-alikes in one; `parents` names them."""
        packed = self.packed
        row = int(rng.choice(self.rows))
        pool = rng.choice(self.rows, min(POOL, len(self.rows)), replace=False)
        partners = look_alikes(packed.embeddings, row, pool)
        partner = int(rng.choice(partners)) if len(partners) else int(rng.choice(self.rows))
        tool = self.tools[int(rng.integers(len(self.tools)))]
        return morph(
            np.asarray(packed.crops[row]),
            packed.points68[row],
            np.asarray(packed.crops[partner]),
            packed.points68[partner],
            alpha=float(rng.uniform(0.35, 0.65)) if self.vary else 0.5,
            finish=tool,
            parents=(str(packed.names[row]), str(packed.names[partner])),
        )
