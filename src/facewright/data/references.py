"""Damaged faces of LFW with other photos of the same person, as the frozen restorer sees both.

The reference restorer corrects what FRGP makes of a face; FRGP itself does not learn. What it makes of every training
face and what its encoder sees in every reference is therefore computed once, on first use, and kept memory-mapped:
`TARGETS` photos of each of `PEOPLE` people with at least two are damaged (one damage each), up to `PHOTOS` serve as
references.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade import sample
from ..errors import UsageError
from ..geometry.resample import recut
from .faces import data_cache, rows_key
from .restoration import CropCache, damaged, open_crops
from .split import split_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .split import Split

SIZE = 256
TARGETS = 2
PHOTOS = 5
PEOPLE = 440
PRESETS: Mapping[str, float] = {"small": 0.4, "far": 0.3, "severe": 0.2, "vqfr": 0.1}
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class SeenFaces:
    """What the frozen networks make of the chosen photos of a split.

    `entries` (P,) index `crops`; `people` (P,) number the person; the photos of a person stand together, damaged ones
    first. `target` (P,) is the row in `damaged`, `restored` (T, S, S, 3) uint8, `coarse` (T, C, 16, 16) and `fine`
    (T, C, 32, 32) float16, −1 for photos that serve as references only. `taps_coarse`, `taps_fine` (P, …) are what the
    encoder sees in the clean photo, `identity` (P, D) is its embedding.
    """

    crops: CropCache
    entries: NDArray[np.int64]
    people: NDArray[np.int64]
    target: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]


def open_seen(split: Split, root: str | Path | None = None) -> SeenFaces:
    """Photos of people with at least two on one side of the split; computed on first use, resumably."""
    crops = open_crops("lfw", split, SIZE, root)
    entries, people, target = _chosen(crops)
    folder = data_cache() / f"lfw-{split}-references-{split_id()}-{rows_key(crops.rows[entries])}"
    folder.mkdir(exist_ok=True)
    if not (folder / "done.json").exists():
        _prepare(folder, crops, entries, target)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return SeenFaces(crops, entries, people, target, arrays)


def _chosen(crops: CropCache) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Entries of the photos in use, person by person in an order drawn once; their people and rows as targets."""
    rng = np.random.default_rng(0)
    subjects = np.asarray(crops.collection.labels["subject"])[crops.rows].astype(str)
    names, counts = np.unique(subjects, return_counts=True)
    entries: list[int] = []
    people: list[int] = []
    target: list[int] = []
    for person, name in enumerate(rng.permutation(names[counts >= 2])[:PEOPLE]):
        own = rng.permutation(np.flatnonzero(subjects == name))[:PHOTOS]
        first = sum(row >= 0 for row in target)
        entries += own.tolist()
        people += [person] * len(own)
        target += [first + i if i < TARGETS else -1 for i in range(len(own))]
    return np.array(entries), np.array(people), np.array(target)


def _prepare(folder: Path, crops: CropCache, entries: NDArray[np.int64], target: NDArray[np.int64]) -> None:
    """Compute all arrays in place, batch by batch; an interrupted run goes on where it was."""
    from ..systems.recognise.distilledface.network import DistilledFace
    from ..systems.reference.facereference.frozen import look, look_at_reference
    from ..systems.restore.frgp.network import FRGP

    frgp, recogniser = FRGP.from_pretrained(), DistilledFace.from_pretrained()
    progress = folder / "progress"
    done = int(progress.read_text()) if progress.exists() else 0
    out: dict[str, NDArray[Any]] = {}
    for start in range(done, len(entries), _BATCH):
        part = slice(start, start + _BATCH)
        clean = np.stack([crops.crop(int(entry))[0] for entry in entries[part]])
        rows = target[part]
        bad = np.stack([clean[i] if row < 0 else _damaged(clean[i], int(row)) for i, row in enumerate(rows)])
        reference = look_at_reference(frgp, clean)
        found: dict[str, tuple[slice | NDArray[np.int64], NDArray[Any], int]] = {
            "taps_coarse": (part, reference.coarse.half().numpy(), len(entries)),
            "taps_fine": (part, reference.fine.half().numpy(), len(entries)),
            "identity": (part, recogniser.embed(recut(clean, "arcface", 112)), len(entries)),
        }
        if len(kept := np.flatnonzero(rows >= 0)):
            looked, count = look(frgp, bad[kept]), int(target.max()) + 1
            found |= {
                "damaged": (rows[kept], bad[kept], count),
                "restored": (rows[kept], looked.restored, count),
                "coarse": (rows[kept], looked.coarse.half().numpy(), count),
                "fine": (rows[kept], looked.fine.half().numpy(), count),
            }
        for name, (place, values, count) in found.items():
            if name not in out:
                out[name] = _opened(folder / f"{name}.npy", (count, *values.shape[1:]), values.dtype)
            out[name][place] = values
        progress.write_text(str(min(start + _BATCH, len(entries))))
    for array in out.values():
        array.flush()  # type: ignore[attr-defined]
    (folder / "done.json").write_text("{}")


def _opened(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A memory-mapped array of the file, which is made when it is not there."""
    if path.exists():
        return np.load(path, mmap_mode="r+")  # type: ignore[no-any-return]
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _damaged(truth: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The truth with the damage of a target's number."""
    rng = np.random.default_rng((20, number))
    preset = list(PRESETS)[int(rng.choice(len(PRESETS), p=list(PRESETS.values())))]
    return damaged(truth, sample(preset, rng, SIZE))


class ReferencePairs(Dataset[dict[str, Tensor]]):
    """Damaged faces as the frozen restorer left them, with references and the truth.

    An item has `restored`, `damaged` and `hq` (S, S, 3) uint8 RGB, `mask` (1, S, S) bool, the maps `coarse` and `fine`
    of the damaged face, and of the references `ref_coarse`, `ref_fine` (R, C, …), `ref_identity` (R, D) and `present`
    (R,): between one and `references` other photos of the same person, all of them where `most` is set, and with
    `stranger` as many of somebody else. An item is a function of (seed, index) alone.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        references: int = 4,
        most: bool = False,
        stranger: bool = False,
        length: int = 1 << 40,
        root: str | Path | None = None,
    ) -> None:
        if not 1 <= references < PHOTOS:
            raise UsageError(f"between 1 and {PHOTOS - 1} references can be drawn, not {references}")
        self.seen = open_seen(split, root)
        self.targets = np.flatnonzero(self.seen.target >= 0)
        self.seed, self.references, self.most, self.stranger = seed, references, most, stranger
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        # turns through all targets, each round in an order of its own
        turn, place = divmod(index, len(self.targets))
        photo = int(self.targets[np.random.default_rng((self.seed, 1, turn)).permutation(len(self.targets))[place]])
        return self.item(photo, self._drawn(photo, rng))

    def _drawn(self, photo: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Photos that serve as references of a photo."""
        people = self.seen.people
        person = people[photo]
        if self.stranger:
            person = int(rng.choice(np.setdiff1d(people, [person])))
        others = np.flatnonzero(people == person)
        others = rng.permutation(others[others != photo])
        count = self.references if self.most else int(rng.integers(1, self.references + 1))
        return np.asarray(others[:count], np.int64)

    def item(self, photo: int, references: NDArray[np.int64]) -> dict[str, Tensor]:
        """The item of a photo (a row of `seen`) with these references, padded to the most there can be."""
        arrays, row = self.seen.arrays, int(self.seen.target[photo])
        truth, mask = self.seen.crops.crop(int(self.seen.entries[photo]))
        found = {name: torch.from_numpy(np.array(arrays[name][row])) for name in ("damaged", "restored")}
        found |= {name: torch.from_numpy(arrays[name][row].astype(np.float32)) for name in ("coarse", "fine")}
        for name, key in (("taps_coarse", "ref_coarse"), ("taps_fine", "ref_fine"), ("identity", "ref_identity")):
            values = np.zeros((self.references, *arrays[name].shape[1:]), np.float32)
            values[: len(references)] = arrays[name][references]
            found[key] = torch.from_numpy(values)
        present = torch.arange(self.references) < len(references)
        return found | {
            "hq": torch.from_numpy(truth.copy()),
            "mask": torch.from_numpy(mask[None].copy()),
            "present": present,
        }
