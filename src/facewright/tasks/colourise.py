"""Give photos without colours some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import ColouriseRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Colouriser(Protocol):
    """Invents the colours of a picture."""

    def colourise(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size to the same picture in other colours; colours of the input do not matter."""
        ...


@dataclass(frozen=True, slots=True)
class ColouriseOptions(Checked):
    """How a photo is coloured."""

    strength: Annotated[float, Opt("How strong the colours are, 0 to 1.", low=0, high=1)] = 1.0


TASKS = (
    Task(
        name="colourise",
        verb="colourise",
        summary="Give a black-and-white photo colours; they are invented.",
        shape=Shape.EDIT,
        options=ColouriseOptions,
        load="facewright.pipelines.colourise:load",
        result="facewright.pipelines.colourise:Colourised",
        record=ColouriseRecord,
        default="ddcolor",
        protocol=Colouriser,
        media=("photo",),
        metrics=("colourfulness", "Fréchet distance"),
        guide="guides/published-weights.md",
        title="Colour black-and-white photos",
    ),
)
