"""Say whether a face belongs to somebody in front of the camera, or to a print or a screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import LivenessRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face


@runtime_checkable
class LivenessEstimator(Protocol):
    """Says how much a face looks like somebody who is there."""

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to a vote (N,), 0 for an attack to 1 for live; no probability."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LivenessEvidence:
    """What a face looks like to a network that says more than a vote.

    live: calibrated probability, 0…1, that somebody is there. attacks: share of every kind of attack, if it is one.
    map: (h, w) in 0…1, how much every part of the network's crop looks like an attack. matrix: (2, 3) from pixels of
    the photo to pixels of the crop, whose side is `size`.
    """

    live: float
    attacks: Mapping[str, float]
    map: NDArray[np.float32]
    matrix: NDArray[np.float64]
    size: int

    @property
    def kind(self) -> str:
        """The likeliest kind of attack."""
        return max(self.attacks, key=lambda name: self.attacks[name])


@runtime_checkable
class LivenessExaminer(LivenessEstimator, Protocol):
    """An estimator whose votes are calibrated probabilities, and that knows kinds of attacks and where they show."""

    def examine(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[LivenessEvidence]:
        """(H, W, 3) uint8 RGB and N faces in it to the evidence of each."""
        ...


@dataclass(frozen=True, slots=True)
class LivenessOptions(Checked):
    """How a face is judged."""

    least_vote: Annotated[float, Opt("Vote (or probability) from which a face counts as live.", low=0, high=1)] = 0.5


TASKS = (
    Task(
        name="liveness",
        verb="liveness",
        summary="Whether each face of a photo or video is live, a print, a screen or a mask, or cannot be told.",
        shape=Shape.RECORDS,
        options=LivenessOptions,
        load="facewright.pipelines.liveness:load",
        result="facewright.pipelines.liveness:JudgedFace",
        record=LivenessRecord,
        default="livecheck",
        protocol=LivenessEstimator,
        needs=("detector",),
        media=("photo", "folder"),
        watch="facewright.pipelines.liveness:watch",
        draw="facewright.pipelines.liveness:draw_liveness",
        metrics=("attack and bona fide classification error rates", "half total error rate"),
        guide="guides/liveness.md",
        title="Tell live faces from pictures of faces",
    ),
)
