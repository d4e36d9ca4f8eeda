"""How a film of any length is denoised by a network of few frames: windows that move and overlap, and their mean.

SVFR's sampling (released code): in every step the film is cut into windows of 16 frames, whose start moves by 3 from
step to step, so that no border stays a border; in the first steps they overlap. What the windows make of a frame is
averaged with weights that fall towards their ends.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from ....errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Windows:
    """size: frames of a window. overlap: frames that they share, and by which they move each step. overlapping: steps
    in which they overlap. wrap: whether windows run from the end into the beginning, as released, which ghosts where
    these differ; else the first and the last ones stay inside."""

    size: int = 16
    overlap: int = 3
    overlapping: int = 3
    wrap: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise UsageError(f"windows of {self.size} frames cannot overlap by {self.overlap}")

    def at(self, step: int, frames: int) -> list[list[int]]:
        """The frames of every window in a step; `frames`, at least `size`, of the film."""
        stride = self.size - (self.overlap if step < self.overlapping else 0)
        moved = step * self.overlap % self.size
        starts = [start - moved for start in range(0, frames, stride)]
        if not self.wrap:
            last = frames - self.size
            starts = sorted({min(max(start, 0), last) for start in starts} | {last})
        return [[(start + i) % frames for i in range(self.size)] for start in starts]

    def weights(self) -> list[int]:
        """Of the frames of a window: min(i + 1, size − i)."""
        return [min(i + 1, self.size - i) for i in range(self.size)]


def averaged(
    film: Tensor, made: Tensor, windows: Windows, step: int, change: Callable[[Tensor, list[int]], Tensor]
) -> None:
    """One step of a film (T, …): `change` makes of every window's frames, and their numbers, new ones; their weighted
    means are written to `made`, of the same shape."""
    made.zero_()
    weights, total = windows.weights(), [0] * len(film)
    for numbers in windows.at(step, len(film)):
        changed = change(film[numbers], numbers)
        for frame, weight, value in zip(numbers, weights, changed):
            made[frame] += weight * value
            total[frame] += weight
    for frame, weight in enumerate(total):
        made[frame] /= weight


def reflected(frames: int, least: int) -> list[int]:
    """Numbers of the frames of a film, mirrored at its end until there are `least`."""
    if frames < 1:
        raise UsageError("this film has no frames")
    numbers = np.pad(np.arange(frames), (0, max(0, least - frames)), mode="reflect" if frames > 1 else "edge")
    return [int(number) for number in numbers]


class Store:
    """Maps (…) of the frames of films, in files that go when the block ends: memory does not grow with the film."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._folder = tempfile.TemporaryDirectory(prefix="facewright-film-")
        self._files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def maps(self, frames: int) -> Tensor:
        """A new tensor (frames, …), float32, of zeros."""
        return self._mapped(self._new(), frames)

    def collected(self, maps: Iterable[Tensor], least: int) -> tuple[Tensor, int]:
        """A tensor (frames, …) of the maps of all frames, mirrored until there are `least`, and their own number."""
        file, count = self._new(), 0
        with file.open("wb") as stream:
            for value in maps:
                stream.write(value.float().contiguous().numpy().tobytes())
                count += 1
        order = reflected(count, least)
        film = self._mapped(file, len(order))
        for number in range(count, len(order)):
            film[number] = film[order[number]]
        return film, count

    def _new(self) -> Path:
        self._files += 1
        return Path(self._folder.name) / str(self._files)

    def _mapped(self, file: Path, frames: int) -> Tensor:
        size = frames * int(np.prod(self.shape))
        return torch.from_file(str(file), shared=True, size=size, dtype=torch.float32).view(frames, *self.shape)
