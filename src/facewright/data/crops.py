"""Crops of labelled photos for networks that say something of a face, varied as detectors and cameras vary them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..degrade import apply, sample
from ..geometry.resample import crop_by_matrix
from .detection import photograph
from .parsing import displaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    from ..geometry.crop import CropSpec

    Image = NDArray[np.uint8]


class Variation:
    """How the crops of a data set differ from what its labels say.

    While training the five points are off, the picture is mirrored, lit differently, and damaged by one of `presets`,
    which maps names of degradations to their shares. Without `augment` crops are exact, and damaged by `damage` alone.
    """

    def __init__(
        self, presets: Mapping[str, float] | None = None, *, augment: bool = True, damage: str = "clean"
    ) -> None:
        shares = dict(presets or {"clean": 1.0}) if augment else {damage: 1.0}
        self.presets, self.shares = list(shares), np.array(list(shares.values())) / sum(shares.values())
        self.augment = augment

    def crop(
        self, image: Image, points5: NDArray[np.floating], spec: CropSpec, rng: Generator
    ) -> tuple[Image, NDArray[np.float64], bool]:
        """A crop (S, S, 3), the matrix from the photo to it before mirroring, and whether it was mirrored."""
        points = np.asarray(points5, np.float64)
        matrix = spec.align(displaced(points, rng) if self.augment else points)
        crop = crop_by_matrix(image, matrix, spec.size, spec.template).image
        mirrored = self.augment and bool(rng.random() < 0.5)
        return self._worn(crop[:, ::-1] if mirrored else crop, rng), matrix, mirrored

    def _worn(self, crop: Image, rng: Generator) -> Image:
        """A crop in another light and damaged."""
        if self.augment and rng.random() < PHOTOGRAPHED:
            crop = photograph(crop, rng)[0]
        preset = self.presets[int(rng.choice(len(self.presets), p=self.shares))]
        crop = np.ascontiguousarray(crop)
        return crop if preset == "clean" else apply(crop, sample(preset, rng, crop.shape[0], scaled=True))


EXACT = Variation(augment=False)
PHOTOGRAPHED = 0.5
"""Share of training crops that are seen as if by another camera."""
