"""Faces that move: rendered ones whose action units are exact, photos whose expression is known, and others.

RAF-DB (Li, Deng, Du, CVPR 2017) gives one of seven expressions; of LFW's people nothing is known.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import FacewrightError, UsageError
from ..systems.action_units.mlcr.network import EXPRESSIONS, MLCR, MLCRConfig
from ..systems.recognise.distilledface.stages import FirstStages, begin_as_recogniser
from .ages import points_of
from .crops import EXACT, Variation
from .faces import data_root, open_faces
from .maps import KeptMaps
from .parsing import parsing_renders
from .people import FoundFaces, read_rgb
from .split import pictures_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    from .split import Split

    Image = NDArray[np.uint8]

RAFDB = "rafdb"
PRESENT = 1.5
"""Intensity from which a unit counts as present, of 5; below `ABSENT` it is absent, and unknown between them."""
ABSENT = 0.5
LIPS_APART, EYES_CLOSED = 0.05, 0.08
"""Opening over width from which lips are parted (AU25), and up to which eyes are closed (AU43)."""
MOST_YAW = 50.0


def read_rafdb(root: str | Path) -> dict[str, int]:
    """Pictures of RAF-DB's basic set, relative to `root`, to their expression's number in `EXPRESSIONS`.

    `train_labels.csv` names pictures and labels of 1 to 7. Raises FacewrightError where it is missing or damaged.
    """
    path = Path(root) / "train_labels.csv"
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = [(row["image"], int(row["label"])) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise FacewrightError(f"{path} is not RAF-DB's list of labels ({error})") from error
    if not rows or any(not 1 <= label <= len(EXPRESSIONS) for _, label in rows):
        raise FacewrightError(f"{path} holds labels other than 1 to {len(EXPRESSIONS)}, or none")
    return {f"aligned/train/train_images/{name}": label - 1 for name, label in rows}


def units_of_truth(truth: Mapping[str, Any], units: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels (U,) of 1, −1 and 0 unknown, and intensities 0…5 (U,), NaN unknown, of a rendered face's truth."""
    known: dict[str, float] = truth["action_units"]
    intensity = np.array([known.get(unit, 0.0) for unit in units])
    labels = np.where(intensity >= PRESENT, 1, np.where(intensity < ABSENT, -1, 0))
    seen = {
        "AU25": (float(truth["mouth_opening"]) / (4 * LIPS_APART), truth["mouth_opening"] >= LIPS_APART),
        "AU43": (1.0, max(truth["eye_opening"]) <= EYES_CLOSED),
    }
    for unit, (share, present) in seen.items():
        if unit in units:
            place = units.index(unit)
            labels[place] = 1 if present else -1
            intensity[place] = 5 * min(share, 1.0) if present else 0.0
    return labels.astype(np.int64), intensity


class ActionCrops(Dataset[dict[str, Tensor]]):
    """Rendered faces, RAF-DB and LFW, mixed.

    An item has `image` (S, S, 3) uint8 RGB as the network takes it, `units` (U,) of 1, −1 and 0 unknown, and
    `expression`, −1 unknown. It depends on (seed, index) alone. `renders` and `rafdb_share` are shares of the draws,
    the rest is LFW; `rendered` renders are used, made on first use. `rafdb` holds the folder of that name, `found` the
    `rafdb.npz` of `data.people embed`. Expressions are drawn by the root of how often they occur.
    `presets`, `augment` and `damage` as in `Variation`.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        rafdb: str,
        found: str,
        config: MLCRConfig | None = None,
        renders: float = 0.25,
        rafdb_share: float = 0.55,
        rendered: int | None = None,
        length: int = 1 << 40,
        presets: Mapping[str, float] | None = None,
        augment: bool = True,
        damage: str = "clean",
        root: str | Path | None = None,
    ) -> None:
        self.config = config or MLCRConfig.compact()
        self.crop = MLCR.preprocess_for(self.config).crop
        self.photos = RafdbPhotos(rafdb, found, split)
        self.shards = parsing_renders(split, data_root(root), rendered if split == "train" else None)
        self.faces = open_faces("lfw", split, root)
        turned = [abs(float(self.shards.truth(i)["pose"]["yaw"])) > MOST_YAW for i in range(len(self.shards))]
        self.usable = np.flatnonzero(~np.array(turned))
        counts = np.bincount(self.photos.labels, minlength=len(EXPRESSIONS))
        chances = 1 / np.sqrt(counts[self.photos.labels])
        self.chances = chances / chances.sum()
        self.renders, self.rafdb_share = renders, rafdb_share
        self.variation = Variation(presets, augment=augment, damage=damage)
        self.seed, self.length, self.augment = seed, length, augment

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 7, index))
        kind, number = self.drawn(rng)
        return self.item(kind, number, rng)

    def drawn(self, rng: Generator) -> tuple[str, int]:
        """A kind of picture by its share, and the number of one of them."""
        kind = rng.random()
        if kind < self.renders:
            return "render", int(rng.integers(len(self.usable)))
        if kind < self.renders + self.rafdb_share:
            return "rafdb", int(rng.choice(len(self.photos), p=self.chances if self.augment else None))
        return "lfw", int(rng.integers(len(self.faces)))

    def item(self, kind: str, number: int, rng: Generator, variation: Variation | None = None) -> dict[str, Tensor]:
        """The picture of that kind and number, varied by `variation`, or else by that of the data set."""
        units, expression = np.zeros(len(self.config.units), np.int64), -1
        if kind == "render":
            shard = int(self.usable[number])
            truth = self.shards.truth(shard)
            image, points = self.shards.picture(shard), np.asarray(truth["points5"]["xy"], np.float64)
            units = units_of_truth(truth, self.config.units)[0]
        elif kind == "rafdb":
            image, points, expression = self.photos[number]
        else:
            row = int(self.faces.rows[number])
            image, points = self.faces.read(row), points_of(self.faces, row)
        crop, _, _ = (variation or self.variation).crop(image, points, self.crop, rng)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(crop)),
            "units": torch.from_numpy(units),
            "expression": torch.tensor(expression),
        }


class ActionMaps(Dataset[dict[str, Tensor]]):
    """`ActionCrops` as the first stages of the compact MLCR see them, which do not learn.

    What they see of `views` crops of every picture of RAF-DB, `render_views` of every rendered face, and one of
    `lfw` photos is kept (`KeptMaps`); the first crop of a picture is exact, the others are varied. Without `augment`
    there is one of each. An item has `maps` (C, h, w) float32 in place of `image`. It depends on (seed, index) alone.
    `options` as in `ActionCrops`.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        views: int = 2,
        render_views: int = 6,
        lfw: int = 2000,
        length: int = 1 << 40,
        augment: bool = True,
        config: MLCRConfig | None = None,
        **options: Any,
    ) -> None:
        self.crops = crops = ActionCrops(split, seed, augment=augment, config=config, **options)
        self.seed, self.length = seed, length
        self.sizes = {"render": len(crops.usable), "rafdb": len(crops.photos), "lfw": min(lfw, len(crops.faces))}
        self.views = {"render": render_views, "rafdb": views, "lfw": 1} if augment else dict.fromkeys(self.sizes, 1)
        counts = [self.sizes[kind] * self.views[kind] for kind in self.sizes]
        self.first = dict(zip(self.sizes, np.cumsum([0, *counts[:-1]]).tolist()))
        network = MLCR(crops.config)
        if not isinstance(network.shared, FirstStages):
            raise UsageError("only the compact MLCR is trained on kept maps")
        begin_as_recogniser(network.shared)
        settings = (split, seed, augment, config, sorted(options.items()), self.sizes, self.views, crops.photos.names)
        self.kept = KeptMaps(f"action-maps-{split}", network, network.shared, self._crop, sum(counts), settings)

    def _crop(self, number: int) -> dict[str, Tensor]:
        kind = max(self.first, key=lambda kind: (self.first[kind] <= number, self.first[kind]))
        view, place = divmod(number - self.first[kind], self.sizes[kind])
        seed = (self.seed, 7, list(self.sizes).index(kind), view, place)
        return self.crops.item(kind, place, np.random.default_rng(seed), None if view else EXACT)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 7, index))
        kind, number = self.crops.drawn(rng)
        view = int(rng.integers(self.views[kind]))
        return self.kept[self.first[kind] + view * self.sizes[kind] + number % self.sizes[kind]]


class RafdbPhotos:
    """RAF-DB's photos of one side of the people's split: picture, five points, and the expression's number."""

    def __init__(self, root: str | Path, found: str | Path, split: Split) -> None:
        self.folder = Path(root) / RAFDB
        known, faces = read_rafdb(self.folder), FoundFaces.load(Path(found))
        wanted = set(pictures_of(RAFDB, split)) & set(known)
        kept = [i for i, name in enumerate(faces.names) if str(name) in wanted]
        if not kept:
            raise FacewrightError(f"{found} holds no face of {RAFDB}'s {split} split; make it with data.people embed")
        self.names = [str(faces.names[i]) for i in kept]
        self.points5 = np.asarray(faces.points5[kept], np.float64)
        self.labels = np.array([known[name] for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image, NDArray[np.float64], int]:
        return read_rgb(self.folder / self.names[index]), self.points5[index], int(self.labels[index])
