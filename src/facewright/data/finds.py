"""What a detector found, faces and other things, as crops for a network that tells one from the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import UsageError
from ..io.sources import note
from .detection import photograph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    Image = NDArray[np.uint8]

_VALIDATION = 12  # one block of finds in so many
_BLOCK = 50  # neighbouring finds are of the same pictures


class FoundCrops(Dataset[dict[str, "Tensor"]]):
    """Crops of finds that `reproductions/second_opinion/finds.py` gathered, changed at random.

    An item, a function of (seed, split, index) alone, has `image` (S, S, 3) uint8 RGB and `face` (), 1 or 0. Half of
    the items are faces. `turned` is the share of the other half that shows faces lying on their side or upside down,
    which says that the find was looked at the wrong way up. One block of fifty finds in twelve is for validation, whose
    items are as they were found.
    """

    def __init__(
        self,
        files: Sequence[str],
        split: Literal["train", "val"] = "train",
        seed: int = 0,
        *,
        turned: float = 0.15,
        length: int = 1 << 40,
    ) -> None:
        crops, faces = zip(*(_stored(Path(file), split) for file in files)) if files else ((), ())
        self.faces = [c[f] for c, f in zip(crops, faces) if f.any()]
        self.others = [c[~f] for c, f in zip(crops, faces) if not f.all()]
        if not self.faces or not self.others:
            raise UsageError(f"there must be faces and other things for {split} in {', '.join(files) or 'no file'}")
        self.split, self.seed, self.turned, self.length = split, seed, turned, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        is_face = bool(rng.random() < 0.5)
        turned = not is_face and rng.random() < self.turned
        crop = self._any(rng, self.faces if is_face or turned else self.others)
        if turned:
            crop = np.rot90(crop, int(rng.integers(1, 4)))
        if self.split == "train":
            crop = self._changed(crop, rng)
        return {"image": torch.from_numpy(np.ascontiguousarray(crop)), "face": torch.tensor(float(is_face))}

    def _any(self, rng: Generator, sets: Sequence[Image]) -> Image:
        """A crop of any file; every file is as likely, however long."""
        crops = sets[int(rng.integers(len(sets)))]
        return np.asarray(crops[int(rng.integers(len(crops)))], np.uint8)

    def _changed(self, crop: Image, rng: Generator) -> Image:
        """Mirrored, moved, coarser, partly hidden, photographed."""
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        crop = _moved(np.ascontiguousarray(crop), rng)
        side = crop.shape[0]
        if rng.random() < 0.15:
            least = int(np.exp(rng.uniform(np.log(side / 5), np.log(side))))
            small = cv2.resize(crop, (least, least), interpolation=cv2.INTER_AREA)
            crop = np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
        if rng.random() < 0.15:
            other = self._any(rng, self.others)
            height, width = (int(v) for v in rng.uniform(0.1, 0.4, 2) * side)
            y, x = int(rng.integers(side - height)), int(rng.integers(side - width))
            crop[y : y + height, x : x + width] = other[y : y + height, x : x + width]
        return photograph(crop, rng)[0] if rng.random() < 0.6 else crop


def _moved(crop: Image, rng: Generator) -> Image:
    """Turned, scaled and shifted a little."""
    side = crop.shape[0]
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.normal(0, 4), float(np.exp(rng.normal(0, 0.06))))
    matrix = matrix + np.column_stack([np.zeros((2, 2)), rng.normal(0, 0.02 * side, 2)])
    return np.asarray(cv2.warpAffine(crop, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _stored(file: Path, split: Literal["train", "val"]) -> tuple[Image, NDArray[np.bool_]]:
    """Crops (N, S, S, 3) and whether each is a face."""
    if not file.is_file():
        raise UsageError(f"{file} is missing; make it with 'python -m reproductions.second_opinion.finds {file}'")
    note(file)
    with np.load(file) as stored:
        crops, faces = stored["crop"], stored["face"].astype(bool)
    chosen = (np.arange(len(crops)) // _BLOCK % _VALIDATION == _VALIDATION - 1) == (split == "val")
    return crops[chosen], faces[chosen]
