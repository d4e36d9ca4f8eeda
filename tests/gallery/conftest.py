"""Random people: unit vectors as a recogniser would give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.gallery import Gallery, RecogniserId, Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DIMENSION = 32


@pytest.fixture
def recogniser() -> RecogniserId:
    return RecogniserId("tester", "ab" * 32, DIMENSION)


@pytest.fixture
def unit() -> Callable[..., np.ndarray]:
    """A function from a seed to (D,), or with a count to (N, D), unit vectors."""

    def make(seed: int, count: int | None = None, dimension: int = DIMENSION) -> np.ndarray:
        values = np.random.default_rng(seed).standard_normal((count or 1, dimension))
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return values.astype(np.float32) if count else values[0].astype(np.float32)

    return make


@pytest.fixture
def sample(unit: Any) -> Callable[..., Sample]:
    """A function that makes the sample of a person from a seed."""

    def make(person: str, seed: int, **fields: Any) -> Sample:
        return Sample(person, unit(seed), **fields)

    return make


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store" / "people.gallery"


@pytest.fixture
def gallery(place: Path, recogniser: RecogniserId) -> Any:
    place.parent.mkdir()
    with Gallery.create(place, recogniser) as opened:
        yield opened
