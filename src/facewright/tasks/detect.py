"""Find the faces of a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .declare import Checked, Shape, Task
from .records import FaceRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face


@runtime_checkable
class Detector(Protocol):
    """Finds faces in a whole photo."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """(H, W, 3) uint8 RGB to faces, best score first."""
        ...


@runtime_checkable
class Follower(Protocol):
    """A detector that knows a face again in the next frame of a video, at a fraction of what a detection costs."""

    def follow(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[Face]:
        """(H, W, 3) uint8 RGB and where faces of earlier frames are thought to be, to where they are, in their order.

        Points and pose are those of this picture; `score` is the probability, 0 to 1, that there is still a face.
        """
        ...


@runtime_checkable
class Verifier(Protocol):
    """Says of what a detector found whether it is a face at all."""

    def verify(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N finds in it to the log odds (N,) of each to be a face."""
        ...


@dataclass(frozen=True, slots=True)
class DetectOptions(Checked):
    """Finding faces has no options."""


TASKS = (
    Task(
        name="detect",
        verb="detect",
        summary="Find the faces in a photo: boxes, five points, pose.",
        shape=Shape.RECORDS,
        options=DetectOptions,
        load="facewright.pipelines.detect:load",
        result="facewright.face:Face",
        record=FaceRecord,
        default="mos",
        protocol=Detector,
        media=("photo", "folder"),
        document="faces",
        draw="facewright.pipelines.sheets:draw_faces",
        metrics=("average precision", "recall by size", "pose error in degrees"),
        guide="guides/analyse.md",
        title="Find faces",
    ),
)
