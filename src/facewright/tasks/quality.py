"""How useful the picture of each face is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .declare import Checked, Shape, Task
from .records import QualityRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import DegradationEstimate, Face, FaceQuality
    from .card import Preprocess


@runtime_checkable
class QualityEstimator(Protocol):
    """Says how useful the picture of each face is."""

    def rate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceQuality]:
        """Quality of the faces found in an (H, W, 3) uint8 RGB photo."""
        ...


@runtime_checkable
class DegradationEstimator(Protocol):
    """Says how a face crop was damaged; restorers can be such estimators, too."""

    @property
    def preprocess(self) -> Preprocess: ...

    def assess(self, crops: NDArray[np.uint8]) -> list[DegradationEstimate]:
        """(N, S, S, 3) uint8 RGB crops to what was done to each."""
        ...


@dataclass(frozen=True, slots=True)
class QualityOptions(Checked):
    """Rating has no options."""


TASKS = (
    Task(
        name="quality",
        verb="quality",
        summary="Rate the picture of each face from 0 to 100, and say what is wrong with it.",
        shape=Shape.RECORDS,
        options=QualityOptions,
        load="facewright.pipelines.quality:load",
        result="facewright.pipelines.quality:RatedFace",
        record=QualityRecord,
        default="vitfiqa",
        protocol=QualityEstimator,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("rank correlation with what is left of the face", "error versus discard"),
        guide="guides/identity.md",
        title="Rate pictures of faces",
    ),
)
