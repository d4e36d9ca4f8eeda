"""Aligned crops with identities for training recognisers, from clean to barely recognisable, made on the fly.

Crops are cut once to the ArcFace template, with a margin for small misalignments, and kept in a memory-mapped cache.
An item is a function of (seed, index) alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade import apply, sample
from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix
from .detection import five_points
from .faces import FaceCollection, data_cache, open_faces, rows_key
from .samplers import IdentitySampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from .restoration import Name
    from .split import Split

SIZE = 112
MARGIN = 8

DEGRADATIONS: dict[str, float] = {"vqfr@scaled": 0.3, "small": 0.3, "severe@scaled": 0.15, "mild@scaled": 0.25}


@dataclass(frozen=True, slots=True, eq=False)
class IdentityCrops:
    """Crops of one collection: `images` (N, 128, 128, 3) uint8 RGB, the inner 112 px on the ArcFace template.

    `rows` index the collection's labels; `subjects` (N,) numbers the people of the collection.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    subjects: NDArray[np.int64]
    collection: FaceCollection

    def aligned(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The (n, 112, 112, 3) crops of some entries."""
        return np.ascontiguousarray(self.images[indices, MARGIN:-MARGIN, MARGIN:-MARGIN])

    def teacher(self) -> NDArray[np.float32]:
        """The (N, 128) unit embeddings of the public recogniser that came with the collection."""
        return np.asarray(self.collection.labels["embedding128"][self.rows], np.float32)


def open_identities(name: Name, split: Split, root: str | Path | None = None) -> IdentityCrops:
    """The identity crops of a collection's split; prepared on first use."""
    collection = open_faces(name, split, root)
    rows = collection.rows

    def cut(image: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        return padded_crop(image, np.asarray(collection.labels["landmarks68"][row]))

    images = cached_crops(f"{name}-{split}-arcface{SIZE}-{rows_key(rows)}", collection, SIZE + 2 * MARGIN, cut)
    return IdentityCrops(images, rows, people_numbers(collection), collection)


def people_numbers(collection: FaceCollection) -> NDArray[np.int64]:
    """(N,) number of the person in each picture of a collection's split, by the order of their names."""
    names = np.asarray(collection.labels["subject"])[collection.rows]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def cached_crops(
    name: str, collection: FaceCollection, side: int, cut: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """(N, side, side, 3) crops of a collection, memory-mapped and read-only; cut on first use, and kept by `name`.

    `cut` makes a crop of a picture and its row in the collection's labels.
    """
    path = data_cache() / f"{name}.npy"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        made = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(collection), side, side, 3))
        for i, row in enumerate(collection.rows):
            made[i] = cut(collection.read(int(row)), int(row))
        made.flush()
        temporary.replace(path)
    images: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return images


def padded_crop(image: NDArray[np.uint8], landmarks68: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The (128, 128, 3) crop of a labelled photo: the ArcFace crop with `MARGIN` pixels more on every side."""
    matrix = align_matrix(five_points(np.asarray(landmarks68, np.float64)), SIZE, "arcface")
    matrix = matrix + np.array([[0, 0, MARGIN], [0, 0, MARGIN]], float)
    return crop_by_matrix(image, matrix, SIZE + 2 * MARGIN, "arcface").image


class DistillationCrops(Dataset[dict[str, Tensor]]):
    """Augmented crops with the teacher's embedding of the clean photo.

    An item has `image` (112, 112, 3) uint8 RGB, `teacher` (128,) of length 1, and `label`: the person's number among
    those of LFW with several photos, or −1. `degraded` is the share of crops that get a degradation of
    `DEGRADATIONS`; `weights` the shares of the collections; `several` the share drawn from people with several photos.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        length: int = 1 << 40,
        degraded: float = 0.6,
        augment: bool = True,
        collections: dict[Name, float] | None = None,
        several: float = 0.3,
        root: str | Path | None = None,
    ) -> None:
        shares = collections or {"lfw": 0.45, "utkface": 0.55}
        self.crops = [open_identities(name, split, root) for name in shares]
        self.teachers = [crops.teacher() for crops in self.crops]
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.labels = [labels_of_several(crops) for crops in self.crops]
        self.known = [np.flatnonzero(labels >= 0) for labels in self.labels]
        self.seed, self.length, self.degraded, self.augment, self.several = seed, length, degraded, augment, several

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        part = int(rng.choice(len(self.crops), p=self.shares))
        pool = self.known[part]
        chosen = pool if len(pool) and rng.random() < self.several else np.arange(len(self.crops[part].rows))
        entry = int(chosen[rng.integers(len(chosen))])
        crop = np.asarray(self.crops[part].images[entry])
        return {
            "image": torch.from_numpy(varied(crop, rng, augment=self.augment, degraded=self.degraded)),
            "teacher": torch.from_numpy(self.teachers[part][entry]),
            "label": torch.tensor(int(self.labels[part][entry])),
        }


class PeopleCrops(Dataset[dict[str, Tensor]]):
    """Batches of `people` people with `pictures` pictures each, of those of LFW with at least `at_least`.

    An item has `image` (size, size, 3) uint8 RGB, on the `arcface` template, and `label`, the person's number among
    them from 0 on. A recipe's batch has people × pictures items. `degraded` and `augment` as for `DistillationCrops`.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        people: int,
        pictures: int,
        at_least: int = 2,
        size: int = SIZE,
        length: int = 1 << 40,
        degraded: float = 0.0,
        augment: bool = True,
        root: str | Path | None = None,
    ) -> None:
        crops = open_identities("lfw", split, root)
        self.images = crops.images
        self.sampler = IdentitySampler(crops.subjects, people, pictures, seed=seed, at_least=at_least)
        self.labels = np.full(len(crops.subjects), -1)
        for number, deck in enumerate(self.sampler.decks):
            self.labels[deck] = number
        self.seed, self.size, self.length, self.degraded, self.augment = seed, size, length, degraded, augment
        self._batch: tuple[int, list[int]] = -1, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, place = divmod(index, self.sampler.people * self.sampler.pictures)
        if self._batch[0] != number:
            self._batch = number, self.sampler.batch(number)
        entry = self._batch[1][place]
        rng = np.random.default_rng((self.seed, index))
        image = varied(np.asarray(self.images[entry]), rng, augment=self.augment, degraded=self.degraded)
        if self.size != SIZE:
            image = np.asarray(cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA), np.uint8)
        return {"image": torch.from_numpy(image), "label": torch.tensor(int(self.labels[entry]))}


def varied(crop: NDArray[np.uint8], rng: np.random.Generator, *, augment: bool, degraded: float) -> NDArray[np.uint8]:
    """A (112, 112, 3) picture of a (128, 128, 3) crop: as it is or changed at random, in a share `degraded` damaged."""
    image = _augmented(crop, rng) if augment else np.ascontiguousarray(crop[MARGIN:-MARGIN, MARGIN:-MARGIN])
    return degrade(image, rng) if rng.random() < degraded else image


def _augmented(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    image = _misalign(crop, rng)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    image = _relight(image, rng)
    if rng.random() < 0.15:
        _cover(image, rng)
    return np.ascontiguousarray(image)


def labels_of_several(crops: IdentityCrops) -> NDArray[np.int64]:
    """(N,) number of each entry's person among those with at least two photos, −1 for the others."""
    counts = np.bincount(crops.subjects)
    number = np.full(len(counts), -1, np.int64)
    number[counts >= 2] = np.arange(int((counts >= 2).sum()))
    return number[crops.subjects]


def degrade(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One degradation drawn from `DEGRADATIONS`, on a square crop."""
    names = list(DEGRADATIONS)
    name = names[int(rng.choice(len(names), p=list(DEGRADATIONS.values())))]
    record = sample(name.removesuffix("@scaled"), rng, image.shape[0], scaled=name.endswith("@scaled"))
    return apply(image, record)


def _misalign(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A small turn, scale and shift, as a detector's imprecise landmarks cause, cut to 112 px."""
    centre = (crop.shape[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), rng.normal(0, 3), float(np.exp(rng.normal(0, 0.03))))
    matrix = matrix + np.column_stack([np.zeros((2, 2)), rng.normal(0, 1.5, 2) - MARGIN])
    moved = cv2.warpAffine(crop, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def _relight(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another exposure, contrast and white balance; sometimes greyscale."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.15:
        pixels[:] = pixels @ np.array([0.299, 0.587, 0.114], np.float32)[:, None]
    gain = np.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.04, 3))
    mean = pixels.mean()
    pixels = (mean + (pixels - mean) * np.exp(rng.normal(0, 0.15))) * gain
    return np.asarray(np.clip(pixels + 0.5, 0, 255), np.uint8)


def _cover(image: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """A rectangle of one colour over up to a third of each side, in place."""
    height, width = rng.integers(SIZE // 10, SIZE // 3, 2)
    top, left = rng.integers(0, SIZE - height), rng.integers(0, SIZE - width)
    image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
