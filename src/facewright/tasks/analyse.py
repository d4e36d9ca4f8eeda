"""Say what is in the faces of a photo: landmarks, pose, parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import AnalysisRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face, Landmarks, Pose
    from .card import Preprocess


@runtime_checkable
class Landmarker(Protocol):
    """Places landmarks in the faces of a whole photo."""

    def locate(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[Landmarks]:
        """(H, W, 3) uint8 RGB and its faces to 68 points in photo pixels and their confidences, in the same order."""
        ...


@runtime_checkable
class PoseEstimator(Protocol):
    """Measures how the heads in a whole photo are turned."""

    def poses(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[Pose]:
        """(H, W, 3) uint8 RGB and its faces to their poses, in the same order."""
        ...


@runtime_checkable
class Parser(Protocol):
    """Says what every pixel of a face crop shows.

    Crops are cut as `preprocess.crop` says; others of the same face will do, too. `faces`, one for each crop and in its
    pixels, are for networks that look at a face by its box or landmarks; the others do not ask for them.
    """

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers; 0 is the background."""
        ...

    def parse(self, crops: NDArray[np.uint8], *, faces: Sequence[Face] | None = None) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 RGB crops to (N, H, W) class numbers."""
        ...

    def probabilities(self, crops: NDArray[np.uint8], *, faces: Sequence[Face] | None = None) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB crops to (N, C, H, W) probabilities of the classes."""
        ...


@dataclass(frozen=True, slots=True)
class AnalyseOptions(Checked):
    """How faces are analysed."""

    min_score: Annotated[float, Opt("Minimum detection score.", low=0, high=1)] = 0.7
    age: Annotated[bool, Opt("Estimate the apparent age of each face.")] = False
    attributes: Annotated[bool, Opt("Predict attributes, such as glasses or a smile.")] = False
    action_units: Annotated[bool, Opt("Detect action units and their intensities.")] = False
    expression: Annotated[bool, Opt("Recognise the expression.")] = False


TASKS = (
    Task(
        name="parse",
        verb="analyse",
        summary="Analyse the faces in a photo: boxes, 68 landmarks, pose, face parts and more.",
        shape=Shape.RECORDS,
        options=AnalyseOptions,
        load="facewright.pipelines.analyse:load",
        result="facewright.pipelines.analyse:FaceAnalysis",
        record=AnalysisRecord,
        default="segface",
        protocol=Parser,
        needs=("detector", "landmarker", "head_pose"),
        media=("photo", "folder"),
        document="photo",
        draw="facewright.pipelines.analyse:draw_analysis",
        metrics=("F1 by class", "normalised mean error of landmarks"),
        guide="guides/analyse.md",
        title="Tell the parts of a face",
    ),
)
