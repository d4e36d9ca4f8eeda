"""Pictures, people and pairs of LFW, and how embeddings are scored on them.

All reproductions of recognition losses train on people of LFW (64 px crops) and are scored on other people of LFW, so
that their tables compare losses and nothing else. Seeds are fixed; nothing here depends on the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facewright.data.detection import five_points
from facewright.data.faces import open_faces
from facewright.data.identity import cached_crops, people_numbers
from facewright.data.pairs import Pairs, exhaustive_pairs
from facewright.geometry.crop import CropSpec
from facewright.geometry.resample import crop_by_matrix, crop_face
from facewright.metrics.verification import fold_accuracy, roc, squared_distances

from .training import half

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 64
BOXED = CropSpec.boxed(SIZE, margin=0.1)

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Crops (N, 64, 64, 3) uint8 RGB and the number of each one's person, (N,)."""

    images: Images
    people: Indices

    def of_people(self, least: int, most: int | None = None) -> Indices:
        """Indices of all pictures of people with `least` to `most` pictures."""
        counts = np.bincount(self.people)[self.people]
        return np.flatnonzero((counts >= least) & (counts <= (most or len(self.people))))

    def some_people(self, indices: Indices, count: int, seed: int) -> Indices:
        """Those of `indices` that belong to `count` people drawn from theirs."""
        names = np.unique(self.people[indices])
        chosen = np.random.default_rng(seed).permutation(names)[:count]
        return indices[np.isin(self.people[indices], chosen)]

    def numbered(self, indices: Indices) -> Indices:
        """The people of `indices` as labels 0, 1, 2, …"""
        return np.unique(self.people[indices], return_inverse=True)[1].astype(np.int64)


def load_faces(kind: Literal["aligned", "box"]) -> Faces:
    """All people of LFW, on the ArcFace template or cut from the detector's box alone; prepared on first use."""
    collection = open_faces("lfw")
    crop = _aligned if kind == "aligned" else _boxed

    def cut(image: Images, row: int) -> Images:
        return crop(image, collection.labels, row)

    images = cached_crops(f"lfw-floor-{kind}-{SIZE}", collection, SIZE, cut)
    return Faces(np.array(images), people_numbers(collection))


def _aligned(image: Images, labels: dict[str, Any], row: int) -> Images:
    return crop_face(image, five_points(labels["landmarks68"][row].astype(np.float64)), SIZE, "arcface").image


def _boxed(image: Images, labels: dict[str, Any], row: int) -> Images:
    x, y, width, height = labels["box_xywh"][row].astype(np.float64)
    return crop_by_matrix(image, BOXED.around(np.array([x, y, x + width, y + height])), SIZE, "").image


def verification_pairs(faces: Faces, indices: Indices, per_fold: int, seed: int = 0) -> Pairs:
    """Up to `per_fold` pairs a fold among the pictures `indices`, in ten folds with people of their own."""
    return exhaustive_pairs(faces.people, indices, per_fold=per_fold, seed=seed)


@torch.inference_mode()
def run(
    network: Callable[[Tensor], Tensor],
    prepare: Callable[[Images], Tensor],
    images: Images,
    *,
    mirror: bool = True,
) -> NDArray[np.float64]:
    """Outputs of a network, averaged with those of the mirror image if asked, (N, D); `prepare` makes its input."""
    rows = []
    for start in range(0, len(images), 256):
        x = prepare(images[start : start + 256]).contiguous(memory_format=torch.channels_last)
        with half():
            out = network(x).float()
            rows.append(((out + network(x.flip(3)).float()) / 2 if mirror else out).numpy())
    return np.concatenate(rows).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Verification:
    """Ten-fold accuracy, area under the ROC curve and share of genuine pairs accepted at 1 % false matches."""

    accuracy: float
    auc: float
    tar: float

    @classmethod
    def of(cls, embeddings: NDArray[np.float64], pairs: Pairs, *, unit: bool = True) -> Verification:
        """Judge embeddings (N, D), numbered as `pairs` numbers pictures; by angle, or by distance if not `unit`."""
        a, b = embeddings[pairs.first], embeddings[pairs.second]
        distance = squared_distances(a, b) if unit else ((a - b) ** 2).sum(1)
        grid = np.linspace(0, np.quantile(distance, 0.999), 1000)
        curve = roc(-distance, pairs.same)
        accuracy = fold_accuracy(distance, pairs.same, thresholds=grid).mean
        return cls(accuracy, curve.auc, curve.tar_at(0.01))


def spread_out(faces: Faces, used: Indices, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows for all pictures of `faces`: `values` at `used`, NaN elsewhere, so that pair indices stay valid."""
    full = np.full((len(faces.people), values.shape[1]), np.nan)
    full[used] = values
    return full
