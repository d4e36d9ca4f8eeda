"""Ages: crops of UTKFace for training, and the photos of FG-NET, on which people grow old."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import FacewrightError, UsageError
from ..geometry.resample import crop_by_matrix
from ..systems.age.fpage.network import STRIDE, FPAge, FPAgeConfig, RecogniserParser
from ..systems.parse.taxonomy import CELEBAMASK_19, IGNORED, LAPA_11, conversion, mirrored
from ..systems.recognise.distilledface.stages import begin_as_recogniser
from .crops import EXACT, Variation
from .detection import five_points
from .faces import FaceCollection, data_cache, open_faces, rows_key
from .maps import KeptMaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from ..systems.parse.segface.network import SegFace
    from .split import Split

PARSED_SIDE = 256
KEPT_SIDE = 64
_BATCH = 16
_FGNET = re.compile(r"(\d{3})a(\d{2})[a-z]?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AgedPhoto:
    """A photo of FG-NET: its path, the person's number, and the age on it in years."""

    path: Path
    person: int
    age: int


def read_fgnet(root: str | Path) -> list[AgedPhoto]:
    """FG-NET (Panis et al., 2016): `images/<person>A<age>[letter].JPG` below `root`, sorted.

    Raises FacewrightError where there is no such picture.
    """
    found = []
    for path in sorted((Path(root) / "images").glob("*.[jJ][pP][gG]")):
        match = _FGNET.fullmatch(path.stem)
        if match is None:
            raise FacewrightError(f"{path.name} is not named as in FG-NET, such as 001A02.JPG")
        found.append(AgedPhoto(path, int(match[1]), int(match[2])))
    if not found:
        raise FacewrightError(f"{root} holds no FG-NET: there are no pictures in its folder images")
    return found


class AgeCrops(Dataset[dict[str, Tensor]]):
    """Photos of UTKFace with ages, and what the embedded parser says of their pixels.

    An item has `image` (S, S, 3) uint8 RGB as the compact FP-Age takes it, `age` in years, and `labels` (S, S) uint8 of
    LaPa's classes, 255 outside the photo and in all photos but the first `parsed` (None: none is left out). It depends
    on (seed, index) alone; without `augment` items are the photos in order. The parser's labels are made on first use
    and kept. `presets`, `augment` and `damage` as in `Variation`.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        config: FPAgeConfig | None = None,
        length: int = 1 << 40,
        parsed: int | None = None,
        presets: Mapping[str, float] | None = None,
        augment: bool = True,
        damage: str = "clean",
        root: str | Path | None = None,
    ) -> None:
        self.collection = open_faces("utkface", split, root)
        ages = np.asarray(self.collection.labels["age_years"])
        self.rows = self.collection.rows[ages[self.collection.rows] >= 0]
        self.ages = ages
        self.crop = FPAge.preprocess_for(config or FPAgeConfig.compact()).crop
        self.parsed = parsed_photos(self.collection, self.rows[:parsed], f"utkface-{split}")
        self.variation = Variation(presets, augment=augment, damage=damage)
        self.seed, self.length, self.augment = seed, length, augment

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 6, index))
        return self.item(int(rng.integers(len(self.rows))) if self.augment else index % len(self.rows), rng)

    def item(self, place: int, rng: Generator, variation: Variation | None = None) -> dict[str, Tensor]:
        """The photo of that number, varied by `variation`, or else by that of the data set."""
        row = int(self.rows[place])
        photo, points = self.collection.read(row), points_of(self.collection, row)
        image, matrix, flipped = (variation or self.variation).crop(photo, points, self.crop, rng)
        labels = np.full((self.crop.size, self.crop.size), IGNORED, np.uint8)
        if place < len(self.parsed):
            labels = labels_in_crop(self.parsed[place], photo.shape, matrix, self.crop.size)
        if flipped:
            labels = _MIRROR[labels[:, ::-1]]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "age": torch.tensor(float(self.ages[row])),
            "labels": torch.from_numpy(np.ascontiguousarray(labels)),
        }


class AgeMaps(Dataset[dict[str, Tensor]]):
    """`AgeCrops` as the first stages of the compact FP-Age see them, which do not learn.

    What they see of `views` crops of every photo (of one without `augment`) is kept (`KeptMaps`), which saves most of
    the time of training: of the exact crop, and of varied ones. An item has `maps` (C, h, w) float32, `age`, and
    `labels` (h, w) uint8. It depends on (seed, index) alone. `options` as in `AgeCrops`.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        views: int = 2,
        length: int = 1 << 40,
        augment: bool = True,
        config: FPAgeConfig | None = None,
        **options: Any,
    ) -> None:
        self.crops = AgeCrops(split, seed, augment=augment, config=config, **options)
        self.seed, self.length, self.augment = seed, length, augment
        self.photos = len(self.crops.rows)
        network = FPAge(config or FPAgeConfig.compact())
        if not isinstance(network.parser, RecogniserParser):
            raise UsageError("only the compact FP-Age is trained on kept maps")
        begin_as_recogniser(network.parser.stages)
        self.count = self.photos * (views if augment else 1)
        settings = (split, seed, augment, config, sorted(options.items()), rows_key(self.crops.rows))
        self.kept = KeptMaps(f"age-maps-{split}", network, network.parser.stages, self._crop, self.count, settings)

    def _crop(self, number: int) -> dict[str, Tensor]:
        view, place = divmod(number, self.photos)
        rng = np.random.default_rng((self.seed, 6, view, place))
        item = self.crops.item(place, rng, None if view else EXACT)
        labels = item["labels"][None, None].float()
        side = item["labels"].shape[0] // STRIDE
        item["labels"] = F.interpolate(labels, size=(side, side), mode="nearest-exact")[0, 0].to(torch.uint8)
        return item

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 6, index))
        return self.kept[int(rng.integers(self.count)) if self.augment else index % self.count]


_MIRROR = np.arange(256, dtype=np.uint8)
_MIRROR[: len(LAPA_11)] = mirrored(LAPA_11)


def points_of(collection: FaceCollection, row: int) -> NDArray[np.float64]:
    """The five points of a row of a collection."""
    return five_points(np.asarray(collection.labels["landmarks68"][row], np.float64))


def labels_in_crop(
    labels: NDArray[np.uint8], shape: Sequence[int], matrix: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Labels (h, w) that cover a photo of `shape` (height, width, …) in a crop by the matrix from photo to crop."""
    scale = np.array([shape[1] / labels.shape[1], shape[0] / labels.shape[0]])
    to_photo = np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])
    placed = cv2.warpAffine(labels, matrix @ to_photo, (size, size), flags=cv2.INTER_NEAREST, borderValue=IGNORED)
    return np.asarray(placed, np.uint8)


def parsed_photos(collection: FaceCollection, rows: NDArray[np.int64], name: str) -> NDArray[np.uint8]:
    """(N, 64, 64) LaPa's classes of the photos as the embedded parser sees them; made on first use and kept.

    A pixel of them is a square of the photo; what the parser's crop does not reach is 255.
    """
    from ..systems.parse.segface.network import SegFace

    parser = SegFace.from_pretrained()
    path = data_cache() / f"{name}-parsed{KEPT_SIDE}-{(parser.weights_sha256 or '')[:12]}-{len(rows)}.npy"
    if not len(rows):
        return np.zeros((0, KEPT_SIDE, KEPT_SIDE), np.uint8)
    if not path.exists():
        found = np.stack([_parsed(parser, collection, int(row)) for row in rows])
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, found)
        temporary.replace(path)
    return np.asarray(np.load(path), np.uint8)


def _parsed(parser: SegFace, collection: FaceCollection, row: int) -> NDArray[np.uint8]:
    photo, crop = collection.read(row), parser.preprocess.crop
    matrix = crop.align(points_of(collection, row))
    image = crop_by_matrix(photo, matrix, crop.size, crop.template).image
    labels = _TO_LAPA[parser.parse(image[None])[0]]
    height, width = photo.shape[:2]
    x, y = KEPT_SIDE / width, KEPT_SIDE / height
    to_kept = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])
    there = to_kept @ np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    size = (KEPT_SIDE, KEPT_SIDE)
    placed = cv2.warpAffine(labels, there, size, flags=cv2.INTER_NEAREST, borderValue=IGNORED)
    return np.asarray(placed, np.uint8)


_TO_LAPA = conversion(CELEBAMASK_19, LAPA_11)
