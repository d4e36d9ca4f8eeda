"""Pairs of degraded and true face crops for training and judging restorers, made on the fly.

Crops are cut once to the FFHQ template and kept in a memory-mapped cache. A pair is a function of (seed, index) alone.
Where the photo does not fill the crop (UTKFace is cut tightly, LFW has black corners from funnelling) `mask` is false.

Besides the presets of `facewright.degrade` there is super-resolution: "sr-x4", "sr-x8" and "sr-x16" reduce by that
factor with an antialiased bicubic filter, enlarge with the bicubic filter again, and do nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade import Blur, Chain, Degradation, apply, eased, sample, target
from ..degrade.presets import DEFAULT_ORDER
from ..errors import UsageError
from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix
from ..io.atomic import atomic_output
from .detection import five_points
from .faces import FaceCollection, data_cache, open_faces, rows_key
from .samplers import WeightedDraw, inverse_share_weights, yaw_bins

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .split import Split

Name = Literal["lfw", "utkface"]

# Below these variances of the Laplacian the "true" picture is itself blurred and would teach blur.
SHARP_ENOUGH = {"lfw": 60.0, "utkface": 32.0}

SUPER_RESOLUTION: Mapping[str, float] = {"sr-x4": 4.0, "sr-x8": 8.0, "sr-x16": 16.0}


@dataclass(frozen=True, slots=True, eq=False)
class CropCache:
    """Aligned crops of one collection: `images` (N, S, S, 3) uint8 RGB, packed validity bits, and their label rows."""

    images: NDArray[np.uint8]
    bits: NDArray[np.uint8]
    rows: NDArray[np.int64]
    collection: FaceCollection

    def crop(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Crop and validity mask (S, S) of an entry."""
        image = np.asarray(self.images[index])
        size = image.shape[0]
        return image, np.unpackbits(self.bits[index])[: size * size].reshape(size, size).astype(bool)


def open_crops(
    name: Name, split: Split, size: int = 256, root: str | Path | None = None, *, sharp: bool = True
) -> CropCache:
    """The coloured crops of a collection's split whose picture is sharp enough to be a truth; prepared on first use.

    With `sharp=False` those that are not: real bad pictures, to which no truth belongs.
    """
    collection = open_faces(name, split, root)
    chosen = (np.asarray(collection.labels["sharpness"])[collection.rows] >= SHARP_ENOUGH[name]) == sharp
    colour = ~np.asarray(collection.labels["greyscale"])[collection.rows]
    rows = collection.rows[chosen & colour]
    stem = data_cache() / f"{name}-{split}-{'ffhq' if sharp else 'blurred'}{size}-v2-{rows_key(rows)}"
    images_path, bits_path = stem.with_suffix(".images.npy"), stem.with_suffix(".bits.npy")
    if not bits_path.exists():
        _prepare(collection, rows, size, images_path, bits_path)
    images = np.load(images_path, mmap_mode="r")
    return CropCache(images, np.load(bits_path), rows, collection)


def _prepare(
    collection: FaceCollection, rows: NDArray[np.int64], size: int, images_path: Path, bits_path: Path
) -> None:
    temporary = images_path.with_suffix(".tmp")
    images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(rows), size, size, 3))
    bits = np.zeros((len(rows), size * size // 8), np.uint8)
    for i, row in enumerate(rows):
        images[i], mask = aligned_truth(collection, int(row), size)
        bits[i] = np.packbits(mask)
    images.flush()
    temporary.replace(images_path)
    with atomic_output(bits_path, overwrite=True) as finished, open(finished, "wb") as stream:
        np.save(stream, bits)


def aligned_truth(collection: FaceCollection, row: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The FFHQ crop of a labelled picture and where it shows real pixels."""
    image = collection.read(row)
    points = five_points(np.asarray(collection.labels["landmarks68"][row], np.float64))
    matrix = align_matrix(points, size)
    crop = crop_by_matrix(image, matrix, size)
    shown = cv2.warpAffine(_real_pixels(image), matrix, (size, size), flags=cv2.INTER_LINEAR) > 250
    valid = cv2.erode((shown & crop.valid).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    return crop.image, valid


def _real_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """255 where the picture is not part of a black region touching a corner."""
    height, width = image.shape[:2]
    dark = (image.max(2) <= 6).astype(np.uint8)
    reached = np.zeros((height + 2, width + 2), np.uint8)
    for corner in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        if dark[corner[1], corner[0]]:
            cv2.floodFill(dark, reached, corner, 2)
    return np.where(dark == 2, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Clean pictures first, then damage that grows to its full range, over a training of so many `samples`.

    `clean` and `full` are shares of the training: up to the first nothing is damaged, from the second on everything as
    the preset says, between them the ranges grow linearly. Raises UsageError unless 0 ≤ clean < full and samples ≥ 1.
    """

    samples: int
    clean: float = 0.1
    full: float = 0.3

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.clean < self.full:
            raise UsageError(
                f"a curriculum needs samples of at least 1 and 0 ≤ clean < full, not {self.samples}, "
                f"{self.clean} and {self.full}"
            )

    def severity(self, index: int) -> float:
        """Share of the full ranges at a sample's number, 0…1."""
        return min(max((index / self.samples - self.clean) / (self.full - self.clean), 0.0), 1.0)


class RestorationPairs(Dataset[dict[str, Tensor]]):
    """Degraded/true pairs as uint8 tensors.

    An item has `lq` and `hq` (S, S, 3) uint8 RGB, `mask` (1, S, S) bool, and `degradation` (6,): log1p of the blur
    sigma, log2 of the reduction, noise sigma / 25, (100 - JPEG quality) / 50, PSNR / 50 and SSIM of the input.
    `presets` maps a degradation preset to its share; a name ending in "@scaled" scales sizes given for 512-pixel crops.

    `curriculum` holds the entries of a `Curriculum` (`samples` is steps × batch × processes); it rules the training
    split only. `views=2` adds `lq_second`, the same truth damaged another time. `unpaired` adds a real bad picture,
    `real`, its `real_mask`, and `real_worse`, the same damaged on top. `balance_pose` draws truths by the inverse share
    of their bin of |yaw|, at most four to one.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        size: int = 256,
        length: int = 1 << 40,
        collections: dict[Name, float] | None = None,
        presets: dict[str, float] | None = None,
        jitter: float = 0.5,
        flip: bool = True,
        curriculum: Mapping[str, float] | None = None,
        views: int = 1,
        unpaired: bool = False,
        balance_pose: bool = False,
        root: str | Path | None = None,
    ) -> None:
        if views not in (1, 2):
            raise UsageError(f"a pair has 1 or 2 views, not {views}")
        shares = collections or {"lfw": 0.5, "utkface": 0.5}
        self.caches = {name: open_crops(name, split, size, root) for name in shares}
        self.bad = {name: open_crops(name, split, size, root, sharp=False) for name in shares} if unpaired else {}
        self.draws = {name: _by_pose(cache) for name, cache in self.caches.items()} if balance_pose else {}
        self.names = list(shares)
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.presets = list(presets or {"gfpgan": 1.0})
        weights = np.array(list((presets or {"gfpgan": 1.0}).values()), float)
        self.weights = weights / weights.sum()
        self.curriculum = _curriculum(curriculum) if curriculum and split == "train" else None
        self.seed, self.size, self.length, self.jitter, self.flip = seed, size, length, jitter, flip
        self.views = views

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        name = self.names[int(rng.choice(len(self.names), p=self.shares))]
        cache = self.caches[name]
        draw = self.draws.get(name)
        truth, mask = cache.crop(int(rng.integers(len(cache.rows))) if draw is None else draw(rng))
        truth, mask = self._augment(truth, mask, rng)
        preset = self.presets[int(rng.choice(len(self.presets), p=self.weights))]
        severity = 1.0 if self.curriculum is None else self.curriculum.severity(index)
        record = self._drawn(preset, severity, rng)
        degraded, hq = damaged(truth, record), target(truth, record)
        item = {
            "lq": torch.from_numpy(degraded),
            "hq": torch.from_numpy(hq),
            "mask": torch.from_numpy(mask[None]),
            "degradation": torch.from_numpy(degradation_target(record, degraded, hq, mask)),
        }
        if self.views == 2:
            item["lq_second"] = torch.from_numpy(self._second_view(truth, record, preset, severity, rng))
        return item | self._unpaired(name, preset, rng)

    def _drawn(self, preset: str, severity: float, rng: np.random.Generator) -> Degradation:
        """A degradation of the preset at a severity between none (0) and its full ranges (1)."""
        if severity == 0:
            return sample("clean", rng, self.size)
        if preset in SUPER_RESOLUTION:
            return super_resolution(preset, self.size, severity)
        name = preset.removesuffix("@scaled")
        rules = name if severity == 1 else eased(name, severity)
        return sample(rules, rng, self.size, scaled=preset.endswith("@scaled"))

    def _second_view(
        self, truth: NDArray[np.uint8], first: Degradation, preset: str, severity: float, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """The truth damaged another time, with all that the first view shares with the target."""
        second = replace(self._drawn(preset, severity, rng), shift=first.shift)
        if first.colour_on_target:
            second = replace(second, colour=first.colour)
        return damaged(truth, second)

    def _unpaired(self, name: Name, preset: str, rng: np.random.Generator) -> dict[str, Tensor]:
        if not self.bad:
            return {}
        cache = self.bad[name]
        if len(cache.rows) == 0:
            raise UsageError(f"{name} has no bad picture in this split; leave out `unpaired`")
        real, mask = self._augment(*cache.crop(int(rng.integers(len(cache.rows)))), rng)
        record = replace(self._drawn(preset, 1.0, rng), shift=(0, 0))
        worse = damaged(real, record)
        return {
            "real": torch.from_numpy(real.copy()),  # the cache is read-only
            "real_mask": torch.from_numpy(mask[None]),
            "real_worse": torch.from_numpy(worse),
        }

    def _augment(
        self, image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if rng.random() < self.jitter:
            image, mask = _jitter(image, mask, rng)
        if self.flip and rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _curriculum(entries: Mapping[str, float]) -> Curriculum:
    try:
        return Curriculum(**entries)  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(f"a curriculum has samples, clean and full, not {sorted(entries)}") from error


def _by_pose(cache: CropCache) -> WeightedDraw:
    yaw = np.asarray(cache.collection.labels["pose_yaw_pitch_roll_deg"])[cache.rows, 0]
    return WeightedDraw(inverse_share_weights(yaw_bins(yaw)))


def super_resolution(preset: str, size: int, severity: float = 1.0) -> Degradation:
    """The record of a super-resolution preset for crops of `size`, from no reduction (severity 0) to all of it (1)."""
    factor = 1 + severity * (SUPER_RESOLUTION[preset] - 1)
    return Degradation(preset, (size, size), Chain(DEFAULT_ORDER, factor=factor, interpolation="cubic"))


def damaged(image: NDArray[np.uint8], record: Degradation) -> NDArray[np.uint8]:
    """The low-quality picture of a (H, W, 3) uint8 RGB picture, also for super-resolution."""
    if record.preset not in SUPER_RESOLUTION:
        return apply(image, record)
    height, width = image.shape[:2]
    low = (max(1, round(width / record.chain.factor)), max(1, round(height / record.chain.factor)))
    picture = Image.fromarray(image)
    for side in (low, (width, height)):  # Pillow's filter widens as it shrinks: antialiased
        picture = picture.resize(side, Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8).copy()


def _jitter(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A small turn, scale and shift, as a detector's imprecise landmarks cause."""
    size = image.shape[0]
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 3), float(np.exp(rng.normal(0, 0.03))))
    matrix = matrix + np.column_stack([np.zeros((2, 2)), rng.normal(0, 0.01 * size, 2)])
    moved = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    kept = cv2.warpAffine(mask.astype(np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8), kept > 0


def degradation_target(
    record: Degradation, degraded: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """What a degradation estimator should say about an input; see `RestorationPairs`."""
    error = float(((degraded.astype(np.float32) - truth) ** 2)[mask].mean())
    psnr = min(50.0, 10 * np.log10(255**2 / max(error, 1e-3)))
    chain = record.chain
    return np.array(
        [
            np.log1p(_sigma(chain.blur)),
            np.log2(max(chain.factor, 1.0)),
            chain.noise.sigma / 25 if chain.noise else 0,
            (100 - chain.jpeg) / 50 if chain.jpeg else 0,
            psnr / 50,
            luma_ssim(degraded, truth, mask),
        ],
        np.float32,
    )


def _sigma(blur: Blur | None) -> float:
    if blur is None:
        return 0.0
    if blur.kind == "motion":
        return blur.length / 4
    return blur.sigma_x if blur.kind == "iso" else float(np.sqrt(blur.sigma_x * blur.sigma_y))


def luma_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Mean SSIM of the luma inside a mask (11-tap Gaussian, sigma 1.5); fast enough for a data loader."""
    x, y = (cv2.cvtColor(v, cv2.COLOR_RGB2GRAY).astype(np.float32) for v in (a, b))

    def blur(v: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(v, (11, 11), 1.5), np.float32)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(ssim[mask].mean()) if mask.any() else 1.0
