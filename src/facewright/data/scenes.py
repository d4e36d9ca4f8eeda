"""Damaged and true parts of pictures of anything, for training restorers of what is not a face.

The pictures are the faceless backgrounds of the labelled collections and whole portraits of `data.people`'s sets, with
clothes, hair and rooms in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade import apply, sample, target
from ..errors import UsageError
from .detection import load_backgrounds
from .highres import damage_target
from .people import read_rgb
from .split import pictures_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .split import Split

    Picture = NDArray[np.uint8]


class ScenePairs(Dataset[dict[str, Tensor]]):
    """Square parts of pictures, damaged and true, as uint8 tensors.

    An item is that of `data.highres.HighresPairs`: `lq` and `hq` (P, P, 3), `mask` (1, P, P), `place` (2,) zeros, and
    `damage` (5,). `side` is P. `portraits` is a folder with one folder per set of `sets`; of these the people of the
    split are taken. Pictures are reduced by up to 2 at random, so that many are sharp to the pixel. `presets` maps a
    degradation preset to its share; without `vary`, item i is the middle of picture i.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        root: str | Path | None = None,
        portraits: str | Path | None = None,
        sets: Sequence[str] = ("ciplab",),
        length: int = 1 << 40,
        side: int = 128,
        presets: Mapping[str, float] | None = None,
        vary: bool = True,
    ) -> None:
        chosen = dict(presets or {"soft": 1.0})
        self.pictures = load_backgrounds(split, root)
        if portraits is not None:
            folder = Path(portraits)
            self.pictures += [read_rgb(folder / name / file) for name in sets for file in pictures_of(name, split)]
        self.pictures = [p for p in self.pictures if min(p.shape[:2]) >= side]
        if not self.pictures:
            raise UsageError(f"no picture is as large as parts of {side} px; choose a smaller side")
        self.presets, weights = list(chosen), np.array(list(chosen.values()), float)
        self.weights = weights / weights.sum()
        self.seed, self.length, self.side, self.vary = seed, length, side, vary

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        which = int(rng.integers(len(self.pictures))) if self.vary else index % len(self.pictures)
        truth = self._part(self.pictures[which], rng)
        record = sample(self.presets[int(rng.choice(len(self.presets), p=self.weights))], rng, self.side)
        damaged, hq = apply(truth, record), target(truth, record)
        mask = np.ones((self.side, self.side), np.bool_)
        return {
            "lq": torch.from_numpy(damaged),
            "hq": torch.from_numpy(hq),
            "mask": torch.from_numpy(mask[None]),
            "place": torch.zeros(2),
            "damage": torch.from_numpy(damage_target(record, damaged, hq, mask)),
        }

    def _part(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """A square part, sometimes of the picture made smaller, mirrored or in other light."""
        side, shortest = self.side, min(picture.shape[:2])
        if not self.vary:
            top, left = ((length - side) // 2 for length in picture.shape[:2])
            return np.ascontiguousarray(picture[top : top + side, left : left + side])
        factor = float(np.exp2(rng.uniform(0, min(1.0, np.log2(shortest / side)))))
        seen = min(round(side * factor), shortest)
        top, left = (int(rng.integers(length - seen, endpoint=True)) for length in picture.shape[:2])
        part = picture[top : top + seen, left : left + seen]
        if seen != side:
            part = np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        part = part[:, ::-1] if rng.random() < 0.5 else part
        if rng.random() < 0.2:  # clothes and grain of grey prints
            part = np.repeat(cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        return np.ascontiguousarray(part)
