"""Was this face made or changed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import ForensicsRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .card import Preprocess


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What a detector of forgeries says of N crops.

    kinds: (N, K) float64, shares that sum to 1: real first, then changed, or changed and generated; not calibrated.
    maps: (N, S, S) float32 in [0, 1], where the crop looks changed.
    """

    kinds: NDArray[np.float64]
    maps: NDArray[np.float32]


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
        default="fakelocator",
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
