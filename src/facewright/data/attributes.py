"""LFWA+: forty statements about every photo of LFW (Liu et al., ICCV 2015), and LFW's faces placed in scenes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import FacewrightError
from ..systems.attributes.lnet_anet.network import ATTRIBUTES, LNetANet, LNetANetConfig
from .crops import Variation
from .detection import five_points, load_backgrounds
from .faces import open_faces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    from .faces import FaceCollection
    from .split import Split

    Image = NDArray[np.uint8]

Part = Literal["networks", "machines", "all"]
MACHINES_SHARE = 8
"""One in so many training people teaches the support vector machines, and not the networks."""
FACE_SHARE = (0.3, 0.65)
"""Side of the head's square, in shares of a scene's side."""


def read_lfwa(path: str | Path) -> dict[str, NDArray[np.int8]]:
    """File names of LFW to their 40 labels of ±1, from `list_attr_lfwa+.txt`: a count, the names, one line a photo.

    Raises FacewrightError where the file is missing or damaged.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        count, names = int(lines[0]), tuple(lines[1].split())
        rows = [line.split() for line in lines[2:] if line.strip()]
        labels = {row[0]: np.array(row[1:], np.int8) for row in rows}
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise FacewrightError(f"{path} is not the list of LFWA+ ({error}); get it again") from error
    if names != ATTRIBUTES or len(rows) != count or any(len(v) != len(names) for v in labels.values()):
        raise FacewrightError(f"{path} does not hold {len(ATTRIBUTES)} attributes of {count} photos; get it again")
    if any((np.abs(v) != 1).any() for v in labels.values()):
        raise FacewrightError(f"{path} holds labels other than 1 and -1; get it again")
    return labels


def teaches_machines(subject: str) -> bool:
    """Whether a training person's photos are kept from the networks, for the machines on top of them."""
    return int(hashlib.sha256(f"machines {subject}".encode()).hexdigest(), 16) % MACHINES_SHARE == 0


class AttributeCrops(Dataset[dict[str, Tensor]]):
    """Photos of LFW with their attributes.

    An item has `attributes` (40,) of 1 and −1, `row` of LFW's labels, and `image` (S, S, 3) uint8 RGB as ANet takes it;
    or with `scenes` what LNets take instead: `scene` (T, T, 3), the head somewhere before a background, and `head`
    (T, T, 3), a loose square around it. It depends on (seed, index) alone; without `augment` photos come in order.
    `part` of the training people: the `networks`' or the support vector `machines`'. `labels` is the list of LFWA+.
    `presets`, `augment` and `damage` as in `Variation`.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        labels: str,
        part: Part = "networks",
        config: LNetANetConfig | None = None,
        length: int = 1 << 40,
        scenes: bool = False,
        presets: Mapping[str, float] | None = None,
        augment: bool = True,
        damage: str = "clean",
        root: str | Path | None = None,
    ) -> None:
        self.collection: FaceCollection = open_faces("lfw", split, root)
        known = read_lfwa(labels)
        names, subjects = (self.collection.labels[key] for key in ("filename", "subject"))
        self.rows = [
            int(row)
            for row in self.collection.rows
            if str(names[row]) in known
            and (split == "val" or part == "all" or teaches_machines(str(subjects[row])) == (part == "machines"))
        ]
        self.labels = {row: known[str(names[row])] for row in self.rows}
        self.config = config or LNetANetConfig.compact()
        self.crop = LNetANet.preprocess_for(self.config).crop
        self.variation = Variation(presets, augment=augment, damage=damage)
        self.backgrounds = load_backgrounds(split, root) if scenes else []
        self.seed, self.length, self.scenes, self.augment = seed, length, scenes, augment

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 5, index))
        row = self.rows[int(rng.integers(len(self.rows)))] if self.augment else self.rows[index % len(self.rows)]
        photo, points = self.photo(row)
        if self.scenes:
            background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            side = self.config.scene
            scene, box = placed(photo, points, background, side, rng)
            pictures = {"scene": scene, "head": around(scene, box, side, rng)}
        else:
            image, _, _ = self.variation.crop(photo, points, self.crop, rng)
            pictures = {"image": np.ascontiguousarray(image)}
        return {
            **{name: torch.from_numpy(picture) for name, picture in pictures.items()},
            "attributes": torch.from_numpy(self.labels[row].astype(np.int64)),
            "row": torch.tensor(row),
        }

    def photo(self, row: int) -> tuple[Image, NDArray[np.float64]]:
        """A photo of LFW and its five points."""
        landmarks = np.asarray(self.collection.labels["landmarks68"][row], np.float64)
        return self.collection.read(row), five_points(landmarks)


def placed(
    photo: Image, points5: NDArray[np.float64], background: Image, side: int, rng: Generator
) -> tuple[Image, NDArray[np.float64]]:
    """The head of a photo somewhere before a background (S, S, 3), and its box x0, y0, x1, y1 in the scene.

    An ellipse around head and shoulders is pasted with a soft edge; the box is the square around the face alone.
    """
    scene = _square_part(background, side, rng)
    eyes = points5[1] - points5[0]
    unit = max(float(np.hypot(*eyes)), 1.0)
    middle = points5.mean(0)
    size = rng.uniform(*FACE_SHARE) * side
    scale = size / (4.2 * unit)  # a head with hair is about 4.2 eye distances high
    at = rng.uniform(0.45 * size, side - 0.45 * size, 2)
    matrix = np.column_stack([np.eye(2) * scale, at - scale * middle])
    head = cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101)
    ys, xs = np.mgrid[:side, :side]
    distance = np.hypot((xs - at[0]) / (0.42 * size), (ys - at[1] + 0.06 * size) / (0.55 * size))
    soft = np.clip((1.08 - distance) / 0.16, 0, 1)[..., None]
    mixed = np.rint(head * soft + scene * (1 - soft)).astype(np.uint8)
    half = 1.35 * unit * scale
    return mixed, np.concatenate([at - half, at + half])


def around(scene: Image, box: NDArray[np.float64], side: int, rng: Generator) -> Image:
    """A square (S, S, 3) of a scene around a face's box, two to three times as large and not quite in the middle."""
    size = (box[2] - box[0]) * rng.uniform(1.8, 3.0)
    middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.15, 0.15, 2) * size
    scale = side / size
    matrix = np.column_stack([np.eye(2) * scale, (side - 1) / 2 - scale * middle])
    flags, border = cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101
    return np.asarray(cv2.warpAffine(scene, matrix, (side, side), flags=flags, borderMode=border), np.uint8)


def _square_part(background: Image, side: int, rng: Generator) -> Image:
    """A square part of a picture at a side of so many pixels."""
    height, width = background.shape[:2]
    least = min(height, width)
    cut = int(rng.uniform(0.5, 1.0) * least)
    y, x = (int(rng.integers(0, full - cut + 1)) for full in (height, width))
    part = background[y : y + cut, x : x + cut]
    return np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
