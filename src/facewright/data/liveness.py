"""Packed crops that liveness networks are taught and measured on: Replay-Attack, and simulated attacks.

    python -m facewright.data.presentation REPLAY -o FOUND.npz
    python -m facewright.data.liveness REPLAY FOUND.npz -o CROPS.npz

Three sides, between which neither people nor instruments are shared: "train", "calibration" (thresholds and the
meaning of scores), "test". Of Replay-Attack the publisher's training clients are "train", the first third of its
development clients "calibration" and the others "test". Simulated attacks (`degrade.presentation`) show LFW and
UTKFace; people for validation are "test", one training person in eight is for calibration; each side has a kit of
cameras and instruments of its own. The file shows real people and is never part of the package.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade.presentation import SPECIES, Kit, present
from ..errors import FacewrightError, UsageError
from ..face import Face
from ..geometry.crop import CropSpec
from ..io.atomic import atomic_output
from ..io.sources import note
from .detection import five_points
from .faces import open_faces
from .presentation import LIVE, FoundFrames, Presentation, read_replay_attack
from .split import shipped_split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

Side = Literal["train", "calibration", "test"]

SIZE = 80
SPEC = CropSpec.aligned(SIZE, "arcface", zoom=0.85)
_WORK = 3  # times the crop's side at which attacks are simulated
_CALIBRATION_SHARE = 8
_CALIBRATION_CLIENTS = 5
_PHOTOS: Mapping[Side, Mapping[str, int]] = {
    "train": {"lfw": 220, "utkface": 80},
    "calibration": {"lfw": 50, "utkface": 15},
    "test": {"lfw": 100, "utkface": 35},
}
_ATTACKS = 3  # of every two photos, beside both live


@dataclass(frozen=True, slots=True, eq=False)
class PackedCrops:
    """Crops of presentations.

    `images` (N, S, S, 3) uint8 RGB; `species`, `person`, `source` (the collection), `domain`, `video`, `side` (N,)
    words. Simulated pictures are videos of one frame.
    """

    images: Image
    species: NDArray[np.str_]
    person: NDArray[np.str_]
    source: NDArray[np.str_]
    domain: NDArray[np.str_]
    video: NDArray[np.str_]
    side: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def live(self) -> NDArray[np.bool_]:
        return np.asarray(self.species == LIVE)

    @property
    def real(self) -> NDArray[np.bool_]:
        """Whether it was recorded, and not simulated."""
        return np.asarray(self.source == "replay-attack")

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> PackedCrops:
        """Some of the crops."""
        return PackedCrops(*(getattr(self, name)[chosen] for name in self.__slots__))

    def save(self, path: Path) -> None:
        """Write an `.npz` file."""
        with atomic_output(path, overwrite=True, parents=True) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: str | Path) -> PackedCrops:
        """Read what `save` wrote; raises FacewrightError when that is not so."""
        note(Path(path))
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(*(file[name] for name in cls.__slots__))
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise FacewrightError(f"{path} does not hold packed presentations ({error}); make it again") from error

    @classmethod
    def joined(cls, parts: list[PackedCrops]) -> PackedCrops:
        """Several together, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


def kind_of(species: str) -> int:
    """The place of a species among live, print, replay and mask, as `systems.liveness.livecheck` numbers them."""
    if species == LIVE:
        return 0
    if species.startswith(("mobile", "highdef", "replay", "video", "screen")):
        return 2
    return 3 if "mask" in species else 1


def side_of_client(one: Presentation, clients: list[str]) -> Side:
    """The side of a presentation of Replay-Attack; `clients` are the sorted development clients."""
    if one.split == "train":
        return "train"
    return "calibration" if one.client in clients[:_CALIBRATION_CLIENTS] else "test"


def pack_replay_attack(root: str | Path, found: FoundFrames, spec: CropSpec = SPEC) -> PackedCrops:
    """The faces of Replay-Attack's train and development videos."""
    videos = {one.name: one for one in read_replay_attack(root)}
    clients = sorted({one.client for one in videos.values() if one.split == "devel"})
    shown = [videos[str(name)] for name in found.names]
    return PackedCrops(
        found.crops(root, spec),
        np.array([one.species for one in shown]),
        np.array([one.client for one in shown]),
        np.array(["replay-attack"] * len(shown)),
        np.array([one.domain for one in shown]),
        np.array([one.name for one in shown]),
        np.array([side_of_client(one, clients) for one in shown]),
    )


def simulate(side: Side, log: Callable[[str], None] = print) -> PackedCrops:
    """Photos of a side's people, each live once, and attacks on them by the instruments of the side."""
    kit = Kit.draw(("train", "calibration", "test").index(side))
    images, species, people, sources, domains, names = [], [], [], [], [], []
    spec = CropSpec.aligned(_WORK * SIZE, "arcface", zoom=0.85)
    for number, (source, name, person, photo, points) in enumerate(_photos(side)):
        crop = spec.cut(photo, Face(np.zeros(4, np.float32), 1.0, points.astype(np.float32)))
        at = points @ crop.matrix[:, :2].T + crop.matrix[:, 2]
        first = number * _ATTACKS // 2
        attacks = [SPECIES[1 + i % (len(SPECIES) - 1)] for i in range(first, (number + 1) * _ATTACKS // 2)]
        for turn, wanted in enumerate((SPECIES[0], *attacks)):
            seed = int(hashlib.sha256(f"{source} {name} {turn}".encode()).hexdigest()[:8], 16)
            shown = present(crop.image, at, wanted, kit, SIZE, seed)
            images.append(shown.image)
            species.append(wanted)
            people.append(person)
            sources.append(source)
            domains.append(f"camera {side} {shown.camera}")
            names.append(f"{source}/{name}/{turn}")
        if number % 100 == 0:
            log(f"{side}: {number} photos")
    words = (np.array(values) for values in (species, people, sources, domains, names, [side] * len(names)))
    return PackedCrops(np.stack(images), *words)


def _photos(side: Side) -> Iterator[tuple[str, str, str, Image, NDArray[np.float64]]]:
    """Collection, name, person, picture and five points of the photos of a side, the same ones every time."""
    split: Literal["train", "val"] = "val" if side == "test" else "train"
    for name in ("lfw", "utkface"):
        collection = open_faces(name, split)
        labels, left = collection.labels, _PHOTOS[side][name]
        for row in np.random.default_rng(22).permutation(collection.rows):
            person = str(labels["subject"][row])
            if name == "utkface":  # without names: people of several pictures are numbered
                number = int(shipped_split().people(name, [str(labels["filename"][row])])[0])
                person = f"person {number}" if number else person
            if left == 0:
                break
            if side != "test" and _calibrates(person) != (side == "calibration"):
                continue
            points = five_points(labels["landmarks68"][row].astype(np.float64))
            yield name, str(labels["filename"][row]), person, collection.read(int(row)), points
            left -= 1


def _calibrates(person: str) -> bool:
    return int(hashlib.sha256(f"liveness {person}".encode()).hexdigest(), 16) % _CALIBRATION_SHARE == 0


class LivenessCrops(Dataset[dict[str, Tensor]]):
    """Crops of a packed file, changed at random.

    An item, a function of (seed, split, index) alone, has `image` (S, S, 3) uint8 RGB, `kind` () as `kind_of` numbers
    it, and `row` (). Half of the items are live; `real` is the share of recorded ones. "val" is the calibration side,
    as it is.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        seed: int = 0,
        *,
        file: str,
        real: float = 0.5,
        length: int = 1 << 40,
    ) -> None:
        side = "train" if split == "train" else "calibration"
        packed = PackedCrops.load(file)
        self.crops = packed.where(packed.side == side)
        self.kinds = np.array([kind_of(str(species)) for species in self.crops.species])
        live, recorded = self.crops.live, self.crops.real
        self.rows = {
            (a, b): np.flatnonzero((live == a) & (recorded == b)) for a in (True, False) for b in (True, False)
        }
        if not any(len(self.rows[True, b]) and len(self.rows[False, b]) for b in (True, False)):
            raise UsageError(f"{file} has no live people or no attacks for {side}")
        self.split, self.seed, self.real, self.length = split, seed, real, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        rows = self.rows[bool(rng.random() < 0.5), bool(rng.random() < self.real)]
        row = int(rows[int(rng.integers(len(rows)))])
        image = self.crops.images[row]
        if self.split == "train":
            image = changed(image, rng)
        kind = torch.tensor(int(self.kinds[row]))
        return {"image": torch.from_numpy(np.ascontiguousarray(image)), "kind": kind, "row": torch.tensor(row)}


def changed(image: Image, rng: Generator) -> Image:
    """A crop as another program might have passed it on: mirrored, moved, at another exposure, coarser, compressed.

    Whether it is live changes none of this.
    """
    side = image.shape[0]
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    if rng.random() < 0.8:
        scale, angle, shift = rng.uniform(0.88, 1.12), rng.uniform(-8, 8), rng.uniform(-0.05, 0.05, 2) * side
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, scale)
        matrix[:, 2] += shift
        image = np.asarray(cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101), np.uint8)
    if rng.random() < 0.6:
        gains = np.exp(rng.normal(0, 0.05, 3) + rng.normal(0, 0.2))
        table = np.clip((np.arange(256)[:, None] / 255) ** np.exp(rng.normal(0, 0.15)) * gains * 255, 0, 255)
        image = np.stack([table[:, c].astype(np.uint8)[image[..., c]] for c in range(3)], 2)
    if rng.random() < 0.3:
        small = max(8, int(side * rng.uniform(0.5, 0.9)))
        reduced = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(reduced, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.4:
        noise = rng.normal(0, rng.uniform(0, 4), image.shape)
        image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 100))])
        image = np.asarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replay", type=Path, help="folder of Replay-Attack")
    parser.add_argument("found", type=Path, help="its faces, made by facewright.data.presentation")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    sides: tuple[Side, ...] = ("train", "calibration", "test")
    recorded = pack_replay_attack(args.replay, FoundFrames.load(args.found))
    packed = PackedCrops.joined([recorded, *(simulate(side) for side in sides)])
    packed.save(args.output)
    print(f"{len(packed)} crops in {args.output}")


if __name__ == "__main__":
    main()
