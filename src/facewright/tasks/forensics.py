"""Was this face made or changed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, Self, runtime_checkable

import numpy as np

from .declare import Checked, Opt, Shape, Task
from .records import ForensicsRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .card import Preprocess


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What a detector of forgeries says of N crops.

    shares: (N,) float64 in [0, 1] for each kind that is told, of "manipulated", "generated" and "morphed": how much
        more the crop looks like it than real; not calibrated.
    maps: (N, S, S) float32 in [0, 1], where the crop looks changed.
    """

    shares: Mapping[str, NDArray[np.float64]]
    maps: NDArray[np.float32]

    @classmethod
    def of_kinds(cls, kinds: NDArray[np.float64], maps: NDArray[np.float32]) -> Self:
        """From shares (N, K) that sum to 1: real first, then manipulated, or manipulated and generated."""
        real = np.maximum(kinds[:, 0], 1e-6)
        names = ("manipulated", "generated")
        return cls({name: kinds[:, i] / (kinds[:, i] + real) for i, name in zip(range(1, kinds.shape[1]), names)}, maps)


@runtime_checkable
class ForgeryDetector(Protocol):
    """Says whether face crops were changed or generated, and where."""

    @property
    def preprocess(self) -> Preprocess: ...

    def examine(self, crops: NDArray[np.uint8]) -> Examination:
        """(N, S, S, 3) uint8 RGB crops, cut by `preprocess.crop`, to what is said of them."""
        ...


@runtime_checkable
class MorphDetector(Protocol):
    """Says whether face crops are morphs of several people."""

    @property
    def preprocess(self) -> Preprocess: ...

    def morphed(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, S, S, 3) uint8 RGB crops, cut by `preprocess.crop`, to shares (N,) in [0, 1]; not calibrated."""
        ...


@dataclass(frozen=True, slots=True)
class ForensicsOptions(Checked):
    """How a face is judged."""

    frames: Annotated[int, Opt("How many frames of a video are looked at, evenly spread.", low=1, high=1000)] = 16


TASKS = (
    Task(
        name="forgery",
        verb="forensics",
        summary="Look for signs that a face was edited, generated or morphed, and show where.",
        shape=Shape.RECORDS,
        options=ForensicsOptions,
        load="facewright.pipelines.forensics:load",
        result="facewright.pipelines.forensics:ForensicFace",
        record=ForensicsRecord,
        default="partspectrum",
        protocol=ForgeryDetector,
        needs=("detector",),
        media=("photo", "folder"),
        watch="facewright.pipelines.forensics:video_records",
        draw="facewright.pipelines.forensics:draw",
        metrics=("area under the ROC curve", "equal error rate", "pointing game"),
        guide="guides/forensics.md",
        title="Look for forgeries",
    ),
)
