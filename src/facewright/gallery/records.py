"""What a gallery is told and what it answers: recogniser, sample, person, match."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

UNIT_TOLERANCE = 1e-3
LONGEST_NAME = 500
JPEG_START = b"\xff\xd8\xff"
_NAMES_TODAY = {"sface": "distilledface"}  # what the embedded recogniser was called when older galleries were made


@dataclass(frozen=True, slots=True)
class RecogniserId:
    """The network whose vectors a gallery holds; vectors of two networks cannot be compared.

    `slug` is the system's name, `weights_sha256` the hash of its weights file in hex, `dimension` the vectors' length.
    """

    slug: str
    weights_sha256: str
    dimension: int

    def is_same(self, other: RecogniserId) -> bool:
        """Whether vectors of the two can be compared; the names of earlier versions count as today's."""
        names = {_NAMES_TODAY.get(recogniser.slug, recogniser.slug) for recogniser in (self, other)}
        same = (self.weights_sha256, self.dimension) == (other.weights_sha256, other.dimension)
        return same and len(names) == 1

    def __str__(self) -> str:
        return f"{self.slug} (weights {self.weights_sha256[:12]}…, {self.dimension} numbers)"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture of one person.

    `vector` is (D,) float32 of unit length; `quality` > 0 is its weight in the person's template. A `key` that is not
    empty names the picture: a person has each key once, so that enrolling the picture again changes nothing.
    `metadata` is anything JSON can hold; `thumbnail` is JPEG bytes.
    """

    person: str
    vector: NDArray[np.float32]
    quality: float = 1.0
    key: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody enrolled, and in how many pictures."""

    name: str
    samples: int


@dataclass(frozen=True, slots=True)
class Match:
    """A person who resembles a probe; `score` is the cosine between probe and template, in [−1, 1]."""

    person: str
    score: float


class Store(Protocol):
    """Where samples are kept. What a call has returned for is on the disk; a call that raises has changed nothing.

    Samples and queries that arrive here have been checked by `Gallery`.
    """

    recogniser: RecogniserId

    def enrol(self, samples: Sequence[Sample]) -> list[int]:
        """Add all samples or none; the number of each sample, of the old one where person and key are known."""
        ...

    def contains(self, person: str, key: str) -> bool:
        """Whether the person has a sample of that key."""
        ...

    def search(self, queries: NDArray[np.float32], k: int) -> list[list[Match]]:
        """The at most `k` best matches of every row of (N, D) unit queries, best first."""
        ...

    def remove(self, people: Sequence[str]) -> int:
        """Delete all of these people or, with UsageError if one is unknown, none; the number of samples deleted."""
        ...

    def people(self) -> list[Person]:
        """Everybody, by name."""
        ...

    def samples(self, person: str) -> list[Sample]:
        """A person's samples in the order of enrolment; empty for somebody unknown."""
        ...

    def problems(self) -> list[str]:
        """Read everything; one line for each thing that is not as it was written."""
        ...

    def index_recall(self) -> float | None:
        """How often the index finds the best match of exact search, in [0, 1]; None while search is exact."""
        ...

    def close(self) -> None: ...


def fuse(vectors: NDArray[np.float32], qualities: NDArray[np.floating]) -> NDArray[np.float32]:
    """The template of one person: the quality-weighted mean of (N, D) unit vectors, brought back to unit length.

    Raises UsageError when the vectors cancel out.
    """
    total = np.asarray(qualities, np.float64) @ np.asarray(vectors, np.float64)
    length = float(np.linalg.norm(total))
    if length < UNIT_TOLERANCE * float(np.sum(qualities)):
        raise UsageError("the vectors of one person cancel each other out; they cannot all be of the same face")
    return np.asarray(total / length, np.float32)


def check_sample(sample: Sample, dimension: int) -> None:
    """Raise UsageError unless the sample can be enrolled in a gallery of that dimension."""
    who = f"the sample of {sample.person!r}"
    if not sample.person.strip() or len(sample.person) > LONGEST_NAME or not sample.person.isprintable():
        raise UsageError(f"{sample.person!r} is not a usable name; give 1 to {LONGEST_NAME} printable characters")
    check_vectors(sample.vector[None] if sample.vector.ndim == 1 else sample.vector, dimension, who)
    if sample.vector.ndim != 1:
        raise UsageError(f"{who} has an array of shape {sample.vector.shape}; give one vector")
    if not (np.isfinite(sample.quality) and sample.quality > 0):
        raise UsageError(f"{who} has quality {sample.quality}; give a number above 0")
    if sample.thumbnail is not None and not sample.thumbnail.startswith(JPEG_START):
        raise UsageError(f"the thumbnail of {sample.person!r} is not a JPEG")
    try:
        json.dumps(dict(sample.metadata))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{who} has metadata that JSON cannot hold ({error})") from error


def check_vectors(vectors: NDArray[np.floating], dimension: int, what: str) -> None:
    """Raise UsageError unless these are (N, `dimension`) finite vectors of unit length."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise UsageError(f"{what}: the gallery holds vectors of {dimension} numbers, not of shape {vectors.shape}")
    if not (np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1) < UNIT_TOLERANCE).all():
        raise UsageError(f"{what}: a vector is not of unit length; divide it by its norm")


def template_problem(
    person: str, template: NDArray[np.float32], vectors: Sequence[NDArray[np.float32]], qualities: Sequence[float]
) -> str | None:
    """What is wrong with a stored person, or None."""
    if not vectors:
        return f"{person} has a template but no picture"
    expected = fuse(np.stack(vectors), np.asarray(qualities))
    if not np.allclose(template, expected, atol=1e-5):
        return f"the template of {person} is not the mean of the pictures"
    return None
