"""Networks that other systems are built on: features of pictures, and pictures as latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class FeatureExtractor(Protocol):
    """Says what a picture shows as a direction in a space of features."""

    def features(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB to features (N, D) of length 1."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """Turns pictures into small maps and back."""

    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB to latents (N, D, h, w)."""
        ...

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Latents (N, D, h, w) to pictures (N, S, S, 3) uint8 RGB."""
        ...
