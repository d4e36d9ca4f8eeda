"""Who is it: identity embeddings, and whether two photos show one person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from .declare import Checked, Opt, Shape, Task
from .records import EmbeddingRecord, VerificationRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Embedder(Protocol):
    """Maps aligned face crops to identity embeddings of unit length."""

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to (N, D) embeddings."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedOptions(Checked):
    """Which faces are embedded."""

    force: Annotated[bool, Opt("Also uncertain detections, if there is no certain face.")] = False


@dataclass(frozen=True, slots=True)
class VerifyOptions(Checked):
    """How two faces are compared."""

    far: Annotated[float, Opt("False accept rate: 0.01, 0.001 or 0.0001.")] = 1e-3
    largest: Annotated[bool, Opt("If there are several faces, take the largest.")] = False
    force: Annotated[bool, Opt("Also accept faces that are too small, turned too far, uncertain or too damaged.")] = (
        False
    )
    liveness: Annotated[bool, Opt("The face of the second photo must be live, not a print, a screen or a mask.")] = (
        False
    )


TASKS = (
    Task(
        name="recognise",
        verb="embed",
        summary="Compute identity embeddings of the faces in a photo or a folder of photos.",
        shape=Shape.RECORDS,
        options=EmbedOptions,
        load="facewright.pipelines.identity:load_embedding",
        result="facewright.pipelines.identity:FaceEmbedding",
        record=EmbeddingRecord,
        default="distilledface",
        protocol=Embedder,
        needs=("detector",),
        media=("photo", "folder"),
        metrics=("verification accuracy", "TAR at FAR", "rank-1 identification"),
        guide="guides/identity.md",
        title="Recognise people",
    ),
    Task(
        name="verify",
        verb="verify",
        summary="Compare the faces in two photos: same person, different people, or cannot tell, and why.",
        shape=Shape.PAIR,
        options=VerifyOptions,
        load="facewright.pipelines.identity:load_verification",
        result="facewright.pipelines.identity:Verification",
        record=VerificationRecord,
        default="distilledface",
        systems="recognise",
        needs=("detector",),
        metrics=("false acceptance rate", "false rejection rate", "log-likelihood-ratio cost"),
        guide="guides/identity.md",
    ),
)
