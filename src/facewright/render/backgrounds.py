"""What is behind the head: pictures of a collection, or colours made from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tarfile import TarError, TarFile
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import ImageReadError, UsageError
from ..io.image import read
from ..io.kinds import PHOTOS
from .skin import linear_of_srgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURE_SUFFIXES = tuple(suffix for kind in PHOTOS if kind.needs is None for suffix in kind.suffixes)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """What is behind the head: the picture `name` of a collection, the square `box` (x, y, side) of it as shares of its
    shorter side, or colours made from `seed` where there is no name."""

    seed: int
    name: str = ""
    box: tuple[float, float, float] = (0.0, 0.0, 1.0)


class Backgrounds:
    """The pictures of a folder (with its folders) or an uncompressed tar, by name in sorted order.

    Raises ImageReadError where there are none.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        self.names = tuple(sorted(n for n in self._list() if n.lower().endswith(PICTURE_SUFFIXES)))
        if not self.names:
            raise ImageReadError(f"{self.source} holds no pictures for backgrounds; give a folder or a .tar of them")

    def _list(self) -> list[str]:
        if self.source.is_dir():
            return [p.relative_to(self.source).as_posix() for p in self.source.rglob("*") if p.is_file()]
        return list(self._members)

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        """Where in the tar the bytes of each file are."""
        try:
            with TarFile.open(self.source, "r:") as tar:
                return {m.name: (m.offset_data, m.size) for m in tar if m.isfile()}
        except (OSError, TarError) as error:
            raise ImageReadError(
                f"{self.source} cannot be read as backgrounds; give a folder or a .tar ({error})"
            ) from error

    def picture(self, name: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB. Raises UsageError for a name that is not there."""
        if name not in self.names:
            raise UsageError(f"the scene's background {name!r} is not in {self.source}; give the one it was made with")
        if self.source.is_dir():
            return read(self.source / name).rgb()
        offset, size = self._members[name]
        with self.source.open("rb") as file:
            file.seek(offset)
            return read(file.read(size)).rgb()


def procedural_background(seed: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, 3) linear RGB: a gradient and coloured clouds of several sizes, in or out of focus."""
    width, height = size
    rng = np.random.default_rng(seed)
    base, other = rng.uniform(0.02, 0.8, (2, 3))
    y, x = np.mgrid[0:height, 0:width] / max(size)
    angle = rng.uniform(0, 2 * np.pi)
    slope = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    picture = base + np.clip(slope, 0, 1)[..., None] * (other - base)
    for cells in (3, 7, 17):
        coarse = rng.normal(0, rng.uniform(0, 0.25), (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def drawn_backdrop(record: Backdrop, size: tuple[int, int], backgrounds: Backgrounds | None) -> NDArray[np.float32]:
    """(H, W, 3) linear RGB. Raises UsageError where the scene wants pictures that were not given."""
    if not record.name:
        return procedural_background(record.seed, size)
    if backgrounds is None:
        raise UsageError(f"the scene's background {record.name!r} is a picture; give the collection with --backgrounds")
    picture = backgrounds.picture(record.name)
    width, height = size
    side = record.box[2] * min(picture.shape[1] / width, picture.shape[0] / height)
    wide, high = max(1, int(side * width)), max(1, int(side * height))
    x, y = (
        int(record.box[i] * (room - taken)) for i, (room, taken) in enumerate(zip(picture.shape[1::-1], (wide, high)))
    )
    shrinks = wide > width
    cut = cv2.resize(
        picture[y : y + high, x : x + wide], size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return linear_of_srgb(np.asarray(cut, np.float32) / np.float32(255))
