"""Portraits of LFW to forge: one picture a person, cut as a system wants it, with landmarks and look-alikes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facewright.data.detection import five_points
from facewright.data.faces import open_faces
from facewright.degrade.forge import look_alikes
from facewright.geometry.resample import crop_by_matrix
from facewright.geometry.similarity import transform_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.data.split import Split
    from facewright.geometry.crop import CropSpec


@dataclass(frozen=True, slots=True, eq=False)
class Portraits:
    """Crops (N, S, S, 3) uint8 RGB of N people, landmarks in them (N, 68, 2), embeddings of length 1 (N, 128), names.

    The embeddings came with LFW; they are not of a recogniser of this package.
    """

    crops: NDArray[np.uint8]
    points68: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    names: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.crops)

    def part(self, number: int, of: int) -> Portraits:
        """The people number, number + of, …: parts that share nobody."""
        rows = slice(number, None, of)
        return Portraits(self.crops[rows], self.points68[rows], self.embeddings[rows], self.names[rows])

    def partner(self, row: int, rng: np.random.Generator, most: int = 5) -> int:
        """One of the people most alike to one of them."""
        found = look_alikes(self.embeddings, row, np.arange(len(self)), most)
        return int(rng.choice(found))


def portraits(split: Split, spec: CropSpec, most: int = 1 << 30) -> Portraits:
    """A coloured picture of each of up to `most` people of one side of the split, in an order that says nothing."""
    faces = open_faces("lfw", split)
    names, people = (faces.labels[key].astype(str) for key in ("filename", "subject"))
    first: dict[str, int] = {}
    for row in sorted(faces.rows, key=lambda row: str(names[row])):
        if not faces.labels["greyscale"][row]:
            first.setdefault(str(people[row]), int(row))
    rows = sorted(first.values(), key=lambda row: hashlib.sha256(str(names[row]).encode()).digest())[:most]
    crops, points = [], []
    for row in rows:
        landmarks = np.asarray(faces.labels["landmarks68"][row], np.float64)
        matrix = spec.align(five_points(landmarks))
        crops.append(crop_by_matrix(faces.read(row), matrix, spec.size, spec.template).image)
        points.append(transform_points(matrix, landmarks))
    embeddings = faces.labels["embedding128"][rows].astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Portraits(np.stack(crops), np.array(points, np.float32), embeddings, names[rows])
