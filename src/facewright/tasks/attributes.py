"""What can be said of each face: glasses, beard, smile and the like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import AttributesRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face, FaceAttributes


@runtime_checkable
class AttributeReader(Protocol):
    """Says whether statements about faces are true."""

    def describe_faces(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceAttributes]:
        """Attributes of each face of an (H, W, 3) uint8 RGB photo, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class AttributeOptions(Checked):
    """Which attributes are told."""

    every: Annotated[
        bool, Opt("Include subjective attributes and those a photo cannot settle, such as Attractive.")
    ] = False


TASKS = (
    Task(
        name="attributes",
        verb="attributes",
        summary="Predict attributes of each face, such as glasses, beard or smile, with probabilities.",
        shape=Shape.RECORDS,
        options=AttributeOptions,
        load="facewright.pipelines.traits:load_attributes",
        result="facewright.pipelines.traits:FaceTraits",
        record=AttributesRecord,
        default="lnet_anet",
        protocol=AttributeReader,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("accuracy", "balanced accuracy", "expected calibration error"),
        guide="guides/analyse.md",
        title="Tell attributes",
    ),
)
