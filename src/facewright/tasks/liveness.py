"""Say whether a face belongs to somebody in front of the camera, or to a print or a screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import LivenessRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face


@runtime_checkable
class LivenessEstimator(Protocol):
    """Says how much a face looks like somebody who is there."""

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to a vote (N,), 0 for an attack to 1 for live; no probability."""
        ...


@dataclass(frozen=True, slots=True)
class LivenessOptions(Checked):
    """How a face is judged."""

    least_vote: Annotated[float, Opt("Vote from which a face counts as live.", low=0, high=1)] = 0.5


TASKS = (
    Task(
        name="liveness",
        verb="liveness",
        summary="Whether each face of a photo is live, a print or a screen, or cannot be told.",
        shape=Shape.RECORDS,
        options=LivenessOptions,
        load="facewright.pipelines.liveness:load",
        result="facewright.pipelines.liveness:JudgedFace",
        record=LivenessRecord,
        default="minifasnet",
        protocol=LivenessEstimator,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("attack and bona fide classification error rates", "half total error rate"),
        guide="guides/published-weights.md",
        title="Tell live faces from pictures of faces",
    ),
)
