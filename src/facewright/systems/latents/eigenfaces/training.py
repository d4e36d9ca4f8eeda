"""How eigenfaces are found: the largest eigenvectors of the covariance of faces.

    python -m facewright.systems.latents.eigenfaces.training -o runs/eigenfaces

reads the training people of the labelled face collections (FACEWRIGHT_DATA) and takes about a minute of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from .network import Eigenfaces, EigenfacesConfig, planes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from .network import Components

_BATCH = 256


class Covariance:
    """Mean and covariance of rows that come in parts."""

    def __init__(self, places: int) -> None:
        self.count = 0
        self.sum = torch.zeros(places, dtype=torch.float64)
        self.squares = torch.zeros(places, places)

    def add(self, rows: Tensor) -> None:
        """(n, P) more rows."""
        self.count += len(rows)
        self.sum += rows.double().sum(0)
        self.squares.addmm_(rows.t(), rows)

    def fill(self, components: Components) -> None:
        """Store the mean and the directions in which rows vary most, as long as their standard deviations."""
        mean = self.sum / self.count
        covariance = (self.squares.double() / self.count - mean[:, None] * mean).float()
        variances, vectors = torch.linalg.eigh(covariance)
        count = len(components.directions)
        kept = vectors[:, -count:].flip(1) * variances[-count:].flip(0).clamp_min(1e-12).sqrt()
        with torch.no_grad():
            components.mean.copy_(mean)
            components.directions.copy_(kept.t())


def fit(pictures: Iterator[NDArray[np.uint8]], config: EigenfacesConfig) -> Eigenfaces:
    """Eigenfaces of pictures that come in parts (n, S, S, 3) uint8 RGB on the `arcface` template.

    Every face also counts mirrored.
    """
    model = Eigenfaces(config)
    found = (Covariance(config.size**2), Covariance(2 * config.colour_size**2))
    with torch.no_grad():
        for part in pictures:
            image = model.normalise(part)
            for each in (image, image.flip(3)):
                for covariance, rows in zip(found, planes(each, config.colour_size)):
                    covariance.add(rows)
    found[0].fill(model.lightness)
    found[1].fill(model.colour)
    return model.eval()


def training_faces(size: int) -> Iterator[NDArray[np.uint8]]:
    """Crops of the training people of LFW and UTKFace, in parts."""
    from ....data.identity import open_identities

    for name in ("lfw", "utkface"):
        crops = open_identities(name, "train")
        for start in range(0, len(crops.rows), _BATCH):
            part = crops.aligned(np.arange(start, min(start + _BATCH, len(crops.rows))))
            yield np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA) for one in part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    config = EigenfacesConfig.compact()
    model = fit(training_faces(config.size), config)
    print(f"eigenfaces in {model.save_pretrained(args.output)}")


if __name__ == "__main__":
    main()
