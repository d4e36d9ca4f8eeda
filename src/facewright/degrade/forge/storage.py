"""The way real and forged pictures both take before anybody sees them: moved, resampled, worn, compressed.

If only forgeries were resampled or compressed, a detector would learn the compressor. So every picture leaves through
`stored` with a `Storage` drawn without knowing what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Storage:
    """One way to store a picture; the defaults store it untouched.

    reduction: factor by which it is made smaller and larger again, 1 for not at all. blur: standard deviation in
    pixels. noise: standard deviation in grey levels. quality: of JPEG, 0 for none. gamma and gain: of the tone curve.
    """

    reduction: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    quality: int = 0
    gamma: float = 1.0
    gain: float = 1.0
    seed: int = 0

    @classmethod
    def drawn(cls, rng: Generator) -> Self:
        """As photos are stored: most of them compressed, some reduced, a few noisy or out of focus."""
        return cls(
            reduction=float(np.exp(rng.uniform(0.1, 0.8))) if rng.random() < 0.3 else 1.0,
            blur=float(rng.uniform(0.3, 1.2)) if rng.random() < 0.15 else 0.0,
            noise=float(rng.uniform(1, 6)) if rng.random() < 0.15 else 0.0,
            quality=int(rng.integers(55, 98)) if rng.random() < 0.75 else 0,
            gamma=float(np.exp(rng.normal(0, 0.15))),
            gain=float(np.exp(rng.normal(0, 0.08))),
            seed=int(rng.integers(1 << 31)),
        )


def stored(image: Image, how: Storage) -> Image:
    """The (H, W, 3) uint8 RGB picture after that storage; same size."""
    height, width = image.shape[:2]
    x = image
    if how.gamma != 1 or how.gain != 1:
        levels = np.linspace(0, 1, 256) ** how.gamma * (255 * how.gain)
        x = np.asarray(cv2.LUT(x, np.clip(levels + 0.5, 0, 255).astype(np.uint8)), np.uint8)
    if how.reduction > 1:
        size = (max(8, round(width / how.reduction)), max(8, round(height / how.reduction)))
        x = np.asarray(cv2.resize(x, size, interpolation=cv2.INTER_AREA), np.uint8)
    if how.blur > 0:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), how.blur), np.uint8)
    if how.noise > 0:
        noisy = x + np.random.default_rng(how.seed).normal(0, how.noise, x.shape)
        x = (noisy + 0.5).clip(0, 255).astype(np.uint8)
    if how.quality:
        _, data = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, how.quality])
        x = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    if x.shape[:2] != (height, width):
        x = np.asarray(cv2.resize(x, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.ascontiguousarray(x)
