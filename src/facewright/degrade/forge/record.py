"""What a home-made forgery knows of itself: where it was changed, with which tool, from whose pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Forgery:
    """An (H, W, 3) uint8 RGB picture with the truth about it.

    mask: (H, W) float32 in [0, 1], the share of every pixel that is not the parent's.
    tool: name of the maker and how it finished, such as "morph-poisson".
    parents: names of the pictures it was made from; the first is the one whose head and background are shown.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.float32]
    tool: str
    parents: tuple[str, ...] = ()


def check_points(image: NDArray[np.uint8], points68: NDArray[np.floating]) -> None:
    """Raise UsageError unless a picture and its landmarks are what makers of forgeries take."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind != "u" or image.dtype.itemsize != 1:
        raise UsageError(f"a forgery is made of an (H, W, 3) uint8 RGB picture, not of {image.shape} {image.dtype}")
    if points68.shape != (68, 2):
        raise UsageError(f"a forgery needs 68 landmarks (68, 2), not {points68.shape}")
