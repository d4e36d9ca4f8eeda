"""Damaged prints with the truth about where they are damaged, made from undamaged photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..degrade.ageing import AgeingRange, age, sample_ageing
from ..degrade.cracks import damage_print
from ..errors import UsageError
from ..io.image import read
from ..io.sources import note
from .split import pictures_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from .split import Split

SUFFIXES = (".jpg", ".jpeg", ".png")
_AGEING = AgeingRange(scratches=(0, 0), dust=(0, 0), grain=(0, 10), sepia=(0, 1), fade=(0, 0.7))
_VALIDATION = 10  # one file in so many


class DamagedPrints(Dataset[dict[str, "Tensor"]]):
    """Squares cut out of photos, aged as prints and damaged.

    An item, a function of (seed, split, index) alone, has `image` (S, S, 3) uint8 RGB and `lost` (1, S, S) bool. Every
    tenth file of each of `folders` is for validation; `sets` maps known face sets to their folders, and of these the
    people's split decides. `intact` is the share of items without damage, so that wires, hair and patterns are learned
    as what they are.
    """

    def __init__(
        self,
        folders: Sequence[str] = (),
        split: Split = "train",
        seed: int = 0,
        *,
        sets: Mapping[str, str] | None = None,
        size: int = 256,
        intact: float = 0.15,
        length: int = 1 << 40,
    ) -> None:
        known = sets or {}
        found = [_split(Path(folder), split) for folder in folders]
        found += [[Path(folder) / name for name in pictures_of(key, split)] for key, folder in known.items()]
        note(*(Path(folder) for folder in (*folders, *known.values())))
        self.sets = [files for files in found if files]
        if not self.sets:
            raise UsageError(f"there are no pictures for {split} in {', '.join([*folders, *known]) or 'no folder'}")
        self.split, self.seed, self.size, self.intact, self.length = split, seed, size, intact, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        picture = np.asarray(self._square(rng) / np.float32(255), np.float32)
        if rng.random() < 0.8:
            picture = age(picture, sample_ageing(_AGEING, rng))
        lost = np.zeros((self.size, self.size), bool)
        if rng.random() >= self.intact:
            picture, lost = damage_print(picture, rng)
        if rng.random() < 0.5:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9)), np.float32)
        image = np.rint(255 * picture).clip(0, 255).astype(np.uint8)
        if rng.random() < 0.6:
            image = _compressed(image, int(rng.integers(40, 96)))
        return {"image": torch.from_numpy(image), "lost": torch.from_numpy(lost[None])}

    def _square(self, rng: Generator) -> NDArray[np.uint8]:
        """A square of the asked size from a random photo, at a random scale, perhaps mirrored or turned."""
        files = self.sets[int(rng.integers(len(self.sets)))]  # every folder is as likely, however large
        picture = read(files[int(rng.integers(len(files)))]).rgb()
        least = self.size / min(picture.shape[:2])
        scale = max(least, float(np.exp(rng.uniform(np.log(0.5), np.log(1.5)))))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        scaled = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)
        scaled = cv2.copyMakeBorder(
            scaled, 0, max(0, self.size - scaled.shape[0]), 0, max(0, self.size - scaled.shape[1]), cv2.BORDER_REFLECT
        )
        top, left = (int(rng.integers(0, side - self.size + 1)) for side in scaled.shape[:2])
        square = scaled[top : top + self.size, left : left + self.size]
        square = square[:, ::-1] if rng.random() < 0.5 else square
        return np.ascontiguousarray(np.rot90(square, int(rng.integers(4))) if rng.random() < 0.3 else square)


def _split(folder: Path, split: Split) -> list[Path]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    held = set(files[::_VALIDATION])
    return [f for f in files if (f in held) == (split == "val")]


def _compressed(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)
