"""How old each face looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .declare import Checked, Shape, Task
from .records import AgeRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import AgeEstimate, Face


@runtime_checkable
class AgeEstimator(Protocol):
    """Says how old faces look."""

    def estimate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[AgeEstimate]:
        """Age of each face of an (H, W, 3) uint8 RGB photo, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class AgeOptions(Checked):
    """Ages have no options."""


TASKS = (
    Task(
        name="age",
        verb="age",
        summary="Estimate the apparent age of each face, with an 80 % interval.",
        shape=Shape.RECORDS,
        options=AgeOptions,
        load="facewright.pipelines.traits:load_age",
        result="facewright.pipelines.traits:FaceTraits",
        record=AgeRecord,
        default="fpage",
        protocol=AgeEstimator,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("mean absolute error in years", "share within 5 years", "coverage of the intervals"),
        guide="guides/analyse.md",
        title="Tell the age",
    ),
)
