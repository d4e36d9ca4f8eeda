"""Photos with label maps of CelebA-HQ for training face parsers, beside rendered faces and photos with landmarks.

The set is laid out as `images/<name>.jpg` and `masks/<name>.png` of 512 px, palette numbers in CelebAMask-HQ's order.
Its people are split in `data.people`, and `embed` there finds the points the crops are aligned by.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import FacewrightError, ImageReadError, UsageError
from ..systems.parse.taxonomy import CELEBAMASK_19, IGNORED
from .parsing import Crop, Evidence, Labelled, ParsingCrops, aligned_pair, mirror_pair, read_labels
from .people import FoundFaces, read_rgb
from .split import pictures_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    from .split import Split

NAME = "celebahq"
RARE = ("eye_g", "hat", "ear_r", "neck_l")
DRAWN_MORE: Mapping[str, float] = {"eye_g": 4.0, "hat": 4.0, "ear_r": 1.0, "neck_l": 4.0}
"""How much more often than others pictures with a rare class are drawn."""
LEAST_PIXELS = 30  # of a rare class in a picture that it is taken from, at 512 px
TURN, STRETCH, SHIFT = 8.0, 0.1, 0.04  # degrees, logarithm of the scale and shares of the side: standard deviations


class MaskedPhotos:
    """CelebA-HQ photos of one side of the people's split, with their label maps and five points.

    `root` holds the folder `celebahq`; `found` is the `celebahq.npz` that `python -m facewright.data.people embed`
    wrote. Raises FacewrightError where a file is missing, ImageReadError where picture and mask do not fit.
    """

    classes = CELEBAMASK_19

    def __init__(self, root: str | Path, found: str | Path, split: Split) -> None:
        self.folder = Path(root) / NAME
        faces = FoundFaces.load(Path(found))
        wanted = set(pictures_of(NAME, split))
        kept = [i for i, name in enumerate(faces.names) if str(name) in wanted]
        if not kept:
            raise FacewrightError(f"{found} holds no face of {NAME}'s {split} split; make it with data.people embed")
        self.names = [str(faces.names[i]) for i in kept]
        self.points5 = np.asarray(faces.points5[kept], np.float64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Labelled:
        image, labels = read_rgb(self.folder / self.names[index]), self.labels(index)
        if labels.shape != image.shape[:2]:
            raise ImageReadError(f"{self.names[index]} is {image.shape[:2]}, but its mask {labels.shape}: not a pair")
        return Labelled(self.names[index], image, labels)

    def labels(self, index: int) -> NDArray[np.uint8]:
        """(H, W) classes of a photo's pixels."""
        path = self.folder / "masks" / f"{Path(self.names[index]).stem}.png"
        labels = read_labels(path)
        if labels.max(initial=0) >= len(self.classes):
            raise ImageReadError(f"{path} holds labels above {len(self.classes) - 1}: of another data set?")
        return labels

    def pixel_counts(self) -> NDArray[np.int64]:
        """(N, C) pixels of every class in every photo."""
        count = len(self.classes)
        return np.stack([np.bincount(self.labels(i).ravel(), minlength=count) for i in range(len(self))])


class MixedParsing(ParsingCrops):
    """`ParsingCrops` with photos of exact labels.

    `masks` is the share of photos with label maps, `renders` that of rendered faces among the rest. Photos with rare
    classes are drawn more often, and sometimes (`borrow`) the glasses, hat, earring or necklace of another photo is
    laid over one. Crops follow the found points, or are the whole photo, turned and scaled a little.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        celebahq: str,
        found: str,
        masks: float = 0.6,
        borrow: float = 0.3,
        whole: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(split, seed, **options)
        if not 0 <= min(masks, borrow, whole) <= max(masks, borrow, whole) <= 1:
            raise UsageError("masks, borrow and whole are shares of 0…1")
        self.masked = MaskedPhotos(celebahq, found, split)
        self.masks, self.borrow, self.whole = masks, borrow, whole
        shown = self.masked.pixel_counts() >= LEAST_PIXELS
        self.donors = {name: np.flatnonzero(shown[:, CELEBAMASK_19.index(name)]) for name in RARE}
        chances = np.ones(len(self.masked))
        for name, more in DRAWN_MORE.items():
            chances[self.donors[name]] += more
        self.chances = chances / chances.sum()
        self.kept: dict[tuple[int, bool], tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def _drawn(self, rng: Generator) -> Crop:
        return self._masked(rng) if rng.random() < self.masks else super()._drawn(rng)

    def _masked(self, rng: Generator) -> Crop:
        number = int(rng.choice(len(self.masked), p=self.chances if self.augment else None))
        image, labels = self._framed(number, rng)
        if self.augment:
            if rng.random() < self.borrow:
                image, labels = self._with_borrowed(image, labels, rng)
            image, labels = moved_pair(image, labels, rng)
            if rng.random() < 0.5:
                image, labels = mirror_pair(image, labels)
        return Crop(image, labels, Evidence.nothing(self.size))

    def _framed(self, number: int, rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A photo cut to the template, or the whole of it; kept, for decoding takes longer than all the rest."""
        whole = self.augment and rng.random() < self.whole
        if (number, whole) not in self.kept:
            photo = self.masked[number]
            self.kept[number, whole] = (
                whole_pair(photo.image, photo.labels, self.size)
                if whole
                else aligned_pair(photo.image, photo.labels, self.masked.points5[number], self.size)
            )
        return self.kept[number, whole]

    def _with_borrowed(
        self, image: NDArray[np.uint8], labels: NDArray[np.uint8], rng: Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The pair with a rare thing of another photo laid over it, where the same crop shows it there."""
        name = RARE[int(rng.integers(len(RARE)))]
        donors = self.donors[name]
        if not len(donors):
            return image, labels
        other, classes = self._framed(int(rng.choice(donors)), rng)
        if rng.random() < 0.5:
            other, classes = mirror_pair(other, classes)
        return laid_over(image, labels, other, classes, name)


def whole_pair(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square photo and its labels at another size."""
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), np.asarray(
        cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8
    )


def laid_over(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], other: NDArray[np.uint8], classes: NDArray[np.uint8], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pair with the pixels of class `name` of another pair of the same size, their edge blended over a pixel."""
    mask = classes == CELEBAMASK_19.index(name)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)[..., None]
    mixed = image * (1 - soft) + other * soft
    return np.rint(mixed).astype(np.uint8), np.where(mask & (labels != IGNORED), classes, labels)


def moved_pair(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A pair turned, scaled and shifted a little; labels are 255 where nothing is known."""
    size = image.shape[0]
    middle = (size - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), rng.normal(0, TURN), float(np.exp(rng.normal(0, STRETCH))))
    matrix = np.asarray(turn, np.float64)
    matrix[:, 2] += rng.normal(0, SHIFT * size, 2)
    moved = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    cut = cv2.warpAffine(labels, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=IGNORED)
    return np.asarray(moved, np.uint8), np.asarray(cut, np.uint8)
