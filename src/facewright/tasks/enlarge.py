"""Enlarge whole pictures; a network beside the restorer, for what is not a face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Enlarger(Protocol):
    """Draws a picture at several times its size, cleaner than it was."""

    @property
    def scale(self) -> int:
        """How many times larger."""
        ...

    def enlarge(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size to (H · scale, W · scale, 3)."""
        ...
