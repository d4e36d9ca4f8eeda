"""Crops of real, edited, home-forged and generated faces with the truth about them, for training detectors.

    python -m facewright.data.forgery_crops FOLDER -o FIXED [--count 6000] [--morphs]

computes once what a compact detector need not learn (`FixedFeatures`) of so many training crops, because a small
processor would spend most of its training on it: FIXED then holds what `FixedCrops` reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..degrade.forge import Storage, look_alikes, resynthesise, self_blended, splice, stored, swap
from ..degrade.forge.record import Forgery
from ..degrade.forge.regions import Region, union
from ..degrade.forge.self_blended import HULLS
from ..errors import FacewrightError, UsageError
from ..io.sources import note
from .forgeries import PACKED, RING, SIDE, PackedForgeries, regions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    from .split import Split

    Image = NDArray[np.uint8]

REAL, MANIPULATED, GENERATED = range(3)
PARTS: tuple[Region, ...] = ("left eye", "right eye", "nose", "mouth")
"""The parts that the name of a CIPLAB edit lists, in its order."""
SHARES = {
    "real": 0.38,
    "edited": 0.27,
    "splice": 0.12,
    "swap": 0.02,
    "self-blended": 0.07,
    "resynthesis": 0.02,
    "generated": 0.12,
}
"""How often a picture of each making is drawn while training."""
REAL_SETS = {"ciplab": 0.5, "celebahq": 0.3, "scut": 0.2}
"""Share of the sets among real pictures and the parents of home-made forgeries: the same, so that no set tells."""


ORIGINS = ("", *REAL_SETS, *(making for making in SHARES if making != "real"))
"""Where a picture comes from: a set of real ones, or how it was made; "" where that was not noted."""


class ForgeryCrops(Dataset[dict[str, "Tensor"]]):
    """Crops of `data.forgeries` as found or forged at home, all through the same storage.

    An item, a function of (seed, split, index) alone, has `image` (256, 256, 3) uint8 RGB, `mask` (1, 256, 256) uint8
    with 255 where it was changed, and `kind` (): 0 real, 1 manipulated, 2 generated. `shares` replaces `SHARES`.
    Training items are moved and mirrored and stored anew; with `vary=False` items are the real, edited and generated
    pictures in order, stored by `storage` alone.
    """

    def __init__(
        self,
        folder: str,
        split: Split = "train",
        seed: int = 0,
        *,
        shares: Mapping[str, float] | None = None,
        vary: bool = True,
        storage: Mapping[str, float] | None = None,
        length: int = 1 << 40,
    ) -> None:
        self.packed = PackedForgeries.open(folder)
        chosen = dict(SHARES if shares is None else shares)
        if unknown := set(chosen) - set(SHARES):
            raise UsageError(f"unknown makings {sorted(unknown)}; choose from {', '.join(SHARES)}")
        self.makings = list(chosen)
        self.chances = np.array(list(chosen.values())) / sum(chosen.values())
        self.real = {name: self.packed.rows("real", split, [name]) for name in REAL_SETS}
        self.edited, self.generated = self.packed.rows("edited", split), self.packed.rows("generated", split)
        self.in_order = np.concatenate([*self.real.values(), self.edited, self.generated])
        self.split, self.seed, self.vary, self.length = split, seed, vary, length
        self.storage = Storage(**(storage or {}))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.length if self.vary else len(self.in_order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not self.vary:
            return self._plain(int(self.in_order[index % len(self.in_order)]))
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        making = self.makings[int(rng.choice(len(self.makings), p=self.chances))]
        kind, made = self._made(making, rng)
        image, mask = moved(made.image, made.mask, rng)
        origin = made.tool.partition("/")[0] if making == "real" else making
        return item(stored(image, Storage.drawn(rng)), mask, kind, origin)

    def _plain(self, row: int) -> dict[str, Tensor]:
        kind = {"real": REAL, "edited": MANIPULATED, "generated": GENERATED}[str(self.packed.kinds[row])]
        inside = np.s_[RING : RING + SIDE, RING : RING + SIDE]
        image = np.ascontiguousarray(self.packed.crops[row][inside])
        return item(stored(image, self.storage), self.truth(row)[inside], kind)

    def truth(self, row: int) -> NDArray[np.float32]:
        """(288, 288) what is known of where a packed picture was changed: nowhere, everywhere, or its named parts."""
        kind, name = str(self.packed.kinds[row]), str(self.packed.names[row])
        if kind != "edited":
            return np.full((PACKED, PACKED), float(kind == "generated"), np.float32)
        parts = tuple(part for part, on in zip(PARTS, regions_of(name)) if on)
        return union(self.packed.points68[row], parts, (PACKED, PACKED))

    def _made(self, making: str, rng: Generator) -> tuple[int, Forgery]:
        if making == "edited":
            row = int(rng.choice(self.edited))
            return MANIPULATED, Forgery(self.packed.crops[row], self.truth(row), "edited")
        if making == "generated":
            row = int(rng.choice(self.generated))
            return GENERATED, Forgery(self.packed.crops[row], self.truth(row), "generated")
        row = self._any_real(rng)
        if making == "real":
            return REAL, Forgery(self.packed.crops[row], self.truth(row), str(self.packed.names[row]))
        return MANIPULATED, self._forged(making, row, rng)

    def _forged(self, making: str, row: int, rng: Generator) -> Forgery:
        image, points = self.packed.crops[row], self.packed.points68[row]
        if making == "self-blended":
            return self_blended(np.asarray(image), points, rng)
        if making == "resynthesis":
            parts = HULLS[int(rng.integers(len(HULLS)))]
            how = ("transposed", "nearest", "shuffle", "bilinear")[int(rng.integers(4))]
            return resynthesise(np.asarray(image), points, parts, how, rng)  # type: ignore[arg-type]
        donor = self._donor(row, rng, alike=making == "swap")
        other, there = np.asarray(self.packed.crops[donor]), self.packed.points68[donor]
        finish = "poisson" if rng.random() < 0.2 else "feather"
        if making == "swap":
            return swap(np.asarray(image), points, other, there, finish=finish)  # type: ignore[arg-type]
        chosen = edited_parts(rng)
        return splice(np.asarray(image), points, other, there, chosen, finish=finish, colour=rng.random() < 0.8)  # type: ignore[arg-type]

    def _any_real(self, rng: Generator) -> int:
        names = [name for name, rows in self.real.items() if len(rows)]
        chances = np.array([REAL_SETS[name] for name in names])
        name = names[int(rng.choice(len(names), p=chances / chances.sum()))]
        return int(rng.choice(self.real[name]))

    def _donor(self, row: int, rng: Generator, *, alike: bool) -> int:
        """Another picture of the same split: one of the most alike of fifty, or any of them."""
        pool = np.concatenate(list(self.real.values()))
        some = rng.choice(pool, min(50, len(pool)), replace=False)
        found = look_alikes(self.packed.embeddings, row, some, 5 if alike else 50)
        return int(rng.choice(found)) if len(found) else row


def edited_parts(rng: Generator) -> Sequence[Region]:
    """Which parts an editor replaces, drawn about as often as in CIPLAB: all four, both eyes, nose and mouth, …"""
    draw = rng.random()
    if draw < 0.3:
        return PARTS
    if draw < 0.45:
        return PARTS[:2]
    if draw < 0.6:
        return PARTS[2:]
    chosen = [part for part in PARTS if rng.random() < 0.5]
    return chosen or [PARTS[int(rng.integers(4))]]


def moved(image: Image, mask: NDArray[np.float32], rng: Generator) -> tuple[Image, NDArray[np.float32]]:
    """Packed crop and mask cut to the detector's size, a little turned, scaled, shifted and perhaps mirrored."""
    scale, angle = np.exp(rng.normal(0, 0.05)), rng.normal(0, 4.0)
    matrix = cv2.getRotationMatrix2D(((PACKED - 1) / 2, (PACKED - 1) / 2), angle, scale)
    shift = np.zeros((2, 3))
    shift[:, 2] = rng.uniform(-8, 8, 2) - RING
    matrix = matrix + shift
    cubic = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    picture = cv2.warpAffine(np.asarray(image), matrix, (SIDE, SIDE), flags=cubic, borderMode=cv2.BORDER_REFLECT_101)
    changed = cv2.warpAffine(mask, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    if rng.random() < 0.5:
        picture, changed = picture[:, ::-1], changed[:, ::-1]
    return np.ascontiguousarray(picture, np.uint8), np.ascontiguousarray(changed, np.float32)


def item(image: Image, mask: NDArray[np.float32], kind: int, origin: str = "") -> dict[str, Tensor]:
    """Picture, truth, kind and the number of its origin in `ORIGINS` as tensors."""
    changed = (mask.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(image)),
        "mask": torch.from_numpy(changed[None]),
        "kind": torch.tensor(kind),
        "origin": torch.tensor(ORIGINS.index(origin)),
    }


class FixedCrops(Dataset[dict[str, "Tensor"]]):
    """Fixed features of training crops, computed once by this module.

    An item has `fixed8` (C, 32, 32) and `fixed16` (D, 16, 16) float32, `mask` (1, 256, 256) uint8 and `kind` (). The
    file has no items for validation. `shares` says how often each of `ORIGINS` is drawn; without, every item alike.
    """

    def __init__(
        self,
        folder: str,
        split: Split = "train",
        seed: int = 0,
        *,
        shares: Mapping[str, float] | None = None,
        length: int = 1 << 40,
    ) -> None:
        place = Path(folder)
        note(place / "kinds.npy")
        try:
            self.near, self.far, self.masks, self.kinds, self.origins = (
                np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in STORED
            )
        except (OSError, ValueError) as error:
            raise FacewrightError(f"{folder} holds no fixed features ({error}); compute them again") from error
        if unknown := set(shares or {}) - set(ORIGINS):
            raise UsageError(f"unknown origins {sorted(unknown)}; choose from {', '.join(ORIGINS)}")
        counts = np.bincount(self.origins, minlength=len(ORIGINS))
        wanted = np.array([shares.get(name, 0.0) for name in ORIGINS]) if shares else counts
        each = np.divide(wanted, counts, out=np.zeros(len(ORIGINS)), where=counts > 0)[self.origins]
        self.ends = np.cumsum(each / each.sum())
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = np.random.default_rng((self.seed, index)).random()
        row = min(int(np.searchsorted(self.ends, draw, "right")), len(self.ends) - 1)
        mask = np.kron(self.masks[row], np.ones((CELL, CELL), np.uint8))
        return {
            "fixed8": torch.from_numpy(self.near[row].astype(np.float32)),
            "fixed16": torch.from_numpy(self.far[row].astype(np.float32)),
            "mask": torch.from_numpy(mask[None]),
            "kind": torch.tensor(int(self.kinds[row])),
        }


STORED = ("near", "far", "masks", "kinds", "origins")
CELL = 8
"""Pixels of a crop per stored cell of its mask, as the compact detector's map has them."""


def compute_fixed(crops: Dataset[dict[str, Tensor]], output: Path, count: int, *, batch: int = 16) -> None:
    """Write the fixed features of the first `count` items of a data set."""
    from ..nn.inference import folded_copy
    from ..systems.base import system_class
    from ..systems.forgery.features import FixedFeatures
    from ..training.trainer import signed

    fixed = FixedFeatures().eval()
    parser: Any = system_class("segface").from_pretrained()
    state = parser.net.backbone.state_dict()
    fixed.trunk.load_state_dict({key: state[key] for key in fixed.trunk.state_dict()})
    fixed.trunk = folded_copy(fixed.trunk, torch.bfloat16)  # type: ignore[assignment]
    output.mkdir(parents=True, exist_ok=True)
    near, far = FixedFeatures.channels
    cells = SIDE // CELL
    shapes = {"near": (near, cells, cells), "far": (far, cells // 2, cells // 2), "masks": (cells, cells)}
    files = {
        name: np.lib.format.open_memmap(
            output / f"{name}.npy",
            "w+",
            np.float16 if name in ("near", "far") else np.uint8,
            (count, *shapes.get(name, ())),
        )
        for name in STORED
    }
    for start in range(0, count, batch):
        items = [crops[i] for i in range(start, min(count, start + batch))]
        images = signed(torch.stack([each["image"] for each in items]))
        found = fixed(images.contiguous(memory_format=torch.channels_last))
        here = slice(start, start + len(items))
        files["near"][here], files["far"][here] = (part.float().numpy() for part in found)
        files["masks"][here] = [cell_means(each["mask"][0].numpy()) for each in items]
        for name in ("kinds", "origins"):
            files[name][here] = [int(each[name[:-1]]) for each in items]
    for file in files.values():
        file.flush()


def cell_means(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(S, S) to the means of its cells."""
    cells = mask.shape[0] // CELL
    means = mask.reshape(cells, CELL, cells, CELL).mean((1, 3))
    return np.asarray(means.round(), np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(
        prog="python -m facewright.data.forgery_crops", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="folder written by data.forgeries")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--morphs", action="store_true", help="bona fide portraits and morphs instead")
    options = parser.parse_args(arguments)
    from .morphs import MorphCrops

    kind = MorphCrops if options.morphs else ForgeryCrops
    compute_fixed(kind(str(options.folder), seed=options.seed), options.output, options.count)


if __name__ == "__main__":
    main()
