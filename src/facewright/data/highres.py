"""Sharp aligned faces of 512 px in one file, and pairs of them with damaged copies for training restorers.

    python -m facewright.data.people embed ROOT -o FOUND
    python -m facewright.data.highres ROOT FOUND -o faces.npz [--quality 90] [--sets ciplab celebahq]

The pictures are cut to the `ffhq` template by the points in FOUND (see `data.people`), encoded as WebP. Left out are
pictures that would have to be enlarged by more than `MAX_SCALE` and the softest share of each set, which are no truth.
They show real people: the file is never part of the package.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade import Degradation, apply, sample, target
from ..errors import FacewrightError, UsageError
from ..geometry.resample import crop_face
from ..io.atomic import atomic_output
from ..io.sources import note
from .people import SETS, FoundFaces, read_rgb
from .split import pictures_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .split import Split

    Picture = NDArray[np.uint8]

SIDE = 512
MAX_SCALE = 1.35
SOFTEST = 0.08
FACE = np.s_[0.27:0.83, 0.2:0.8]
"""Rows and columns of a crop on the `ffhq` template that show the face, as shares of its side."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedFaces:
    """Faces of one split: encoded pictures, their names (`set/file`), and the share of each crop inside its photo."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    names: NDArray[np.str_]
    bits: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    def face(self, index: int) -> tuple[Picture, NDArray[np.bool_]]:
        """A (512, 512, 3) uint8 RGB crop and where it shows real pixels (512, 512)."""
        encoded = self.data[self.offsets[index] : self.offsets[index + 1]]
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        if bgr is None:
            raise FacewrightError(f"packed face {self.names[index]} cannot be decoded; pack the set again")
        small = np.unpackbits(self.bits[index]).reshape(SIDE // 8, SIDE // 8)
        return np.ascontiguousarray(bgr[..., ::-1], np.uint8), np.kron(small, np.ones((8, 8), np.uint8)) > 0

    def of_sets(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """Indices of the faces of some sets."""
        return np.flatnonzero([str(name).partition("/")[0] in wanted for name in self.names])


def open_packed(path: str | Path, split: Split) -> PackedFaces:
    """One split of a packed file; raises FacewrightError when it cannot be read."""
    note(Path(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            return PackedFaces(
                *(file[f"{split}_{key}"] for key in ("data", "offsets", "names", "bits")),
            )
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise FacewrightError(f"{path} is not a packed set of faces ({error}); make it with data.highres") from error


def detail_map(image: Picture) -> NDArray[np.float32]:
    """The Laplacian of the luma of an (H, W, 3) uint8 RGB picture, in grey levels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.Laplacian(grey, cv2.CV_32F), np.float32)


def detail_retained(damaged: Picture, truth: Picture, mask: NDArray[np.bool_]) -> float:
    """The share of the true detail's amplitude that a damaged picture still shows, 0…1; its square is the energy's.

    The projection of one Laplacian on the other: noise, blocks and dots, which do not follow the truth, do not count.
    """
    seen, true = detail_map(damaged)[mask], detail_map(truth)[mask]
    return float(np.clip((seen * true).sum() / max(float((true * true).sum()), 1e-6), 0, 1))


def face_part(side: int) -> NDArray[np.bool_]:
    """(side, side), true where an `ffhq` crop shows the face."""
    inside = np.zeros((side, side), np.bool_)
    rows, columns = (slice(int(s.start * side), int(s.stop * side)) for s in FACE)
    inside[rows, columns] = True
    return inside


def pack(root: Path, found: Path, sets: Sequence[str], output: Path, *, quality: int = 90) -> dict[str, int]:
    """Write the packed file; returns the number of faces per split."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for split in ("train", "val"):
        encoded: list[bytes] = []
        names: list[str] = []
        bits: list[NDArray[np.uint8]] = []
        for name in sets:
            for file, crop, valid in _sharp_crops(root, name, FoundFaces.load(found / f"{name}.npz"), split):
                _, picture = cv2.imencode(".webp", crop[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
                encoded.append(picture.tobytes())
                names.append(f"{name}/{file}")
                whole = valid.reshape(SIDE // 8, 8, SIDE // 8, 8).all((1, 3))
                bits.append(np.packbits(whole))
        arrays |= {
            f"{split}_data": np.frombuffer(b"".join(encoded), np.uint8),
            f"{split}_offsets": np.cumsum([0, *map(len, encoded)]),
            f"{split}_names": np.array(names),
            f"{split}_bits": np.array(bits),
        }
    with atomic_output(output, overwrite=True, parents=True) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    return {split: len(arrays[f"{split}_names"]) for split in ("train", "val")}


def _sharp_crops(
    root: Path, name: str, found: FoundFaces, split: Split
) -> list[tuple[str, Picture, NDArray[np.bool_]]]:
    wanted = set(pictures_of(name, split))
    crops, energies = [], []
    for file, points in zip(found.names, found.points5):
        if str(file) not in wanted:
            continue
        crop = crop_face(read_rgb(root / name / str(file)), points, SIDE)
        if float(np.hypot(crop.matrix[0, 0], crop.matrix[1, 0])) > MAX_SCALE:
            continue
        crops.append((str(file), crop.image, crop.valid))
        energies.append(float(np.square(detail_map(crop.image)[face_part(SIDE)]).mean()))
    if not crops:
        return []
    limit = np.quantile(energies, SOFTEST)
    return [crop for crop, energy in zip(crops, energies) if energy >= limit]


class HighresPairs(Dataset[dict[str, Tensor]]):
    """Damaged and true faces, or square parts of them, as uint8 tensors.

    An item has `lq` and `hq` (P, P, 3) uint8 RGB, `mask` (1, P, P) bool, `place` (2,): row and column of the part's
    corner in its crop, in pixels, and `damage` (5,): the shares of the detail's amplitude kept, in the picture and in
    one of half its size, PSNR / 50, log1p of noise and grain / 3, and log2 of the reduction / 4. `side` is P, at most
    512; parts lie at multiples of 32 px.
    `presets` maps a degradation preset to its share, `shares` a set to how often it is drawn per face. `keep_decoded`
    keeps every face that was decoded once, 1 MB each: with small parts decoding is most of the work.
    """

    def __init__(
        self,
        packed: str | Path,
        split: Split = "train",
        seed: int = 0,
        *,
        length: int = 1 << 40,
        side: int = SIDE,
        presets: Mapping[str, float] | None = None,
        shares: Mapping[str, float] | None = None,
        vary: bool = True,
        keep_decoded: bool = False,
    ) -> None:
        if side % 32 or not 32 <= side <= SIDE:
            raise UsageError(f"a part of {side} px is not possible; choose a multiple of 32 up to {SIDE}")
        self.faces = open_packed(packed, split)
        chances = np.array([_share(str(name), shares) for name in self.faces.names], np.float64)
        if not chances.sum():
            raise UsageError(f"{packed} has no face of the sets {', '.join(shares or SETS)} in its {split} split")
        self.ends = np.cumsum(chances / chances.sum())
        self.presets = list(presets or {"soft": 1.0})
        weights = np.array(list((presets or {"soft": 1.0}).values()), float)
        self.weights = weights / weights.sum()
        self.seed, self.length, self.side, self.vary = seed, length, side, vary
        self.decoded: dict[int, tuple[Picture, NDArray[np.bool_]]] | None = {} if keep_decoded else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        which = int(np.searchsorted(self.ends, rng.random())) if self.vary else index % len(self.faces)
        truth, mask = self._face(min(which, len(self.faces) - 1))
        top, left = (32 * int(rng.integers(0, (SIDE - self.side) // 32, endpoint=True)) for _ in range(2))
        if self.vary and rng.random() < 0.5:
            truth, mask = truth[:, ::-1], mask[:, ::-1]
        inside = np.s_[top : top + self.side, left : left + self.side]
        truth, mask = np.ascontiguousarray(truth[inside]), np.ascontiguousarray(mask[inside])
        if self.vary and rng.random() < 0.5:
            truth = _relit(truth, rng)
        record = sample(self.presets[int(rng.choice(len(self.presets), p=self.weights))], rng, self.side)
        damaged, hq = apply(truth, record), target(truth, record)
        return {
            "lq": torch.from_numpy(damaged),
            "hq": torch.from_numpy(hq),
            "mask": torch.from_numpy(mask[None]),
            "place": torch.tensor([top, left], dtype=torch.float32),
            "damage": torch.from_numpy(damage_target(record, damaged, hq, mask)),
        }

    def _face(self, index: int) -> tuple[Picture, NDArray[np.bool_]]:
        if self.decoded is None:
            return self.faces.face(index)
        if index not in self.decoded:
            self.decoded[index] = self.faces.face(index)
        return self.decoded[index]


def _share(name: str, shares: Mapping[str, float] | None) -> float:
    return 1.0 if shares is None else shares.get(name.partition("/")[0], 0.0)


def damage_target(
    record: Degradation, damaged: Picture, truth: Picture, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """What a damage estimator should say about an input; see `HighresPairs`."""
    error = float(np.square(damaged.astype(np.float32) - truth)[mask].mean()) if mask.any() else 0.0
    psnr = min(50.0, 10 * np.log10(255**2 / max(error, 1e-3)))
    chain = record.chain
    noise = np.hypot(chain.noise.sigma if chain.noise else 0.0, chain.grain.sigma if chain.grain else 0.0)
    kept = detail_retained(damaged, truth, mask)
    retained_of_half = detail_retained(_halved(damaged), _halved(truth), mask[::2, ::2])
    return np.array(
        [kept, retained_of_half, psnr / 50, np.log1p(noise) / 3, np.log2(max(chain.factor, 1.0)) / 4], np.float32
    )


def _halved(image: Picture) -> Picture:
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def _relit(image: Picture, rng: np.random.Generator) -> Picture:
    """The picture in another light: the detail stays that of the photo."""
    gamma, gain = np.exp(rng.normal(0, 0.18)), np.exp(rng.normal(0, 0.06, 3)) * rng.uniform(0.8, 1.05)
    levels = np.linspace(0, 1, 256)[:, None] ** gamma * gain * 255
    table = np.clip(levels, 0, 255).round().astype(np.uint8)[None]
    return np.asarray(cv2.LUT(image, table), np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m facewright.data.highres", description=str(__doc__).split("\n")[0])
    parser.add_argument("root", type=Path, help="folder with one folder per set")
    parser.add_argument("found", type=Path, help="folder written by data.people embed")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["ciplab", "celebahq"], choices=list(SETS))
    parser.add_argument("--quality", type=int, default=90, help="of the WebP pictures")
    options = parser.parse_args(arguments)
    counts = pack(options.root, options.found, options.sets, options.output, quality=options.quality)
    print(f"{options.output}: {counts}, {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
