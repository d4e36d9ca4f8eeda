"""Make faces of nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import SampleRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Generator(Protocol):
    """Makes faces of nobody."""

    def sample(self, count: int, *, seed: int = 0, truncation: float = 0.7) -> NDArray[np.uint8]:
        """(count, S, S, 3) uint8 RGB; the same faces for the same seed, tamer with a lower truncation."""
        ...


@dataclass(frozen=True, slots=True)
class SynthesiseOptions(Checked):
    """How faces are made."""

    count: Annotated[int, Opt("Number of faces.", low=1)] = 1
    seed: Annotated[int, Opt("Same seed, same faces.", low=0)] = 0
    truncation: Annotated[float, Opt("Lower values give more average faces.", low=0, high=1)] = 0.7


TASKS = (
    Task(
        name="synthesise",
        verb="synthesise",
        summary="Generate faces of people who do not exist; they carry an invisible watermark.",
        shape=Shape.GENERATE,
        options=SynthesiseOptions,
        load="facewright.pipelines.synthesise:load",
        result="facewright.pipelines.synthesise:Samples",
        record=SampleRecord,
        default="stylegan2",
        protocol=Generator,
        metrics=("Fréchet distance", "share of same-person pairs"),
        guide="guides/python.md",
        title="Make faces",
    ),
)
