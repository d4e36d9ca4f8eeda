"""What the muscles of each face do, and which expression that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .declare import Checked, Shape, Task
from .records import ActionUnitsRecord, ExpressionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..face import Face, FaceActions


@runtime_checkable
class ActionReader(Protocol):
    """Says what the muscles of faces do."""

    def read_actions(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceActions]:
        """Action units and expressions of each face of an (H, W, 3) uint8 RGB photo, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class ActionUnitOptions(Checked):
    """Action units have no options."""


@dataclass(frozen=True, slots=True)
class ExpressionOptions(Checked):
    """Expressions have no options."""


TASKS = (
    Task(
        name="action_units",
        verb="action_units",
        summary="Detect the facial action units of each face, with intensities from 0 to 5.",
        shape=Shape.RECORDS,
        options=ActionUnitOptions,
        load="facewright.pipelines.traits:load_action_units",
        result="facewright.pipelines.traits:FaceTraits",
        record=ActionUnitsRecord,
        default="mlcr",
        protocol=ActionReader,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("F1 by unit", "AUC of what expressions say of units"),
        guide="guides/analyse.md",
        title="Tell action units",
    ),
    Task(
        name="expression",
        verb="expression",
        summary="Recognise the expression of each face, with the probability of each of seven.",
        shape=Shape.RECORDS,
        options=ExpressionOptions,
        load="facewright.pipelines.traits:load_expression",
        result="facewright.pipelines.traits:FaceTraits",
        record=ExpressionRecord,
        default="mlcr",
        protocol=ActionReader,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("accuracy", "expected calibration error"),
        guide="guides/analyse.md",
    ),
)
