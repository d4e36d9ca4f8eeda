"""A gallery: enrol people by the vectors of their faces, and find who resembles a face.

The gallery knows vectors, not pictures or networks; `cli` brings these together. A person's template is the
quality-weighted mean of their vectors, as set-based protocols fuse them (IJB-C, Maze et al. 2018, section 4).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import numpy as np

from ..errors import GalleryError, UsageError
from .crypto import read_key
from .records import check_sample, check_vectors
from .sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .records import Match, Person, RecogniserId, Sample, Store

Place = str | os.PathLike[str]


class Gallery:
    """People and the vectors of their faces: in a file, in a folder of LanceDB (its name ends in .lance), or, for a
    postgresql:// address, on a server.

    All calls raise GalleryError when the store is damaged, busy or gone, and OutputError when it cannot be written.
    What a call has returned for is on the disk, and survives the process being killed or the power failing.
    """

    def __init__(self, store: Store, recogniser: RecogniserId | None) -> None:
        if recogniser is not None and not recogniser.is_same(store.recogniser):
            raise GalleryError(
                f"this gallery was made with {store.recogniser}, not with {recogniser}; "
                "use that recogniser, or enrol the pictures into a new gallery"
            )
        self._store = store
        self._matched = recogniser is not None

    @classmethod
    def create(cls, place: Place, recogniser: RecogniserId, *, key_file: Place | None = None) -> Self:
        """Make an empty gallery for the vectors of one recogniser; `key_file` encrypts it (files only).

        Raises OutputError when there is something already, GalleryError for a bad key.
        """
        if is_address(place):
            from .postgres import PostgresStore

            _refuse_key(key_file)
            return cls(PostgresStore.create(str(place), recogniser), recogniser)
        if is_lance(place):
            from .lance import LanceStore

            _refuse_key(key_file)
            return cls(LanceStore.create(os.fspath(place), recogniser), recogniser)
        return cls(SqliteStore.create(os.fspath(place), recogniser, key=_key(key_file)), recogniser)

    @classmethod
    def open(cls, place: Place, recogniser: RecogniserId | None, *, key_file: Place | None = None) -> Self:
        """Open a gallery. Without a recogniser it can be read, checked and removed from, but not added to or searched.

        Raises GalleryError when it was made by another recogniser, with another key, or is not a gallery.
        """
        store: Store
        if is_address(place):
            from .postgres import PostgresStore

            _refuse_key(key_file)
            store = PostgresStore(str(place))
        elif is_lance(place):
            from .lance import LanceStore

            _refuse_key(key_file)
            store = LanceStore(os.fspath(place))
        else:
            store = SqliteStore(os.fspath(place), key=_key(key_file))
        try:
            return cls(store, recogniser)
        except GalleryError:
            store.close()
            raise

    @property
    def recogniser(self) -> RecogniserId:
        """Whose vectors these are."""
        return self._store.recogniser

    def enrol(self, samples: Sequence[Sample]) -> list[int]:
        """Add all of these samples or, on any error, none; returns the number of each.

        A sample whose person and key are known is left as it is. Many samples in one call are much faster than one
        call for each. Raises UsageError for a sample that cannot be: name, length or norm of the vector, quality.
        """
        self._need_recogniser()
        for sample in samples:
            check_sample(sample, self.recogniser.dimension)
        return self._store.enrol(samples) if samples else []

    def contains(self, person: str, key: str) -> bool:
        """Whether this person has a sample of that key already."""
        return self._store.contains(person, key)

    def search(self, vectors: NDArray[np.float32], k: int = 5) -> list[list[Match]]:
        """The at most `k` people who resemble each of (N, D) unit vectors most, best first."""
        self._need_recogniser()
        check_vectors(vectors, self.recogniser.dimension, "the probe")
        if k < 1:
            raise UsageError(f"{k} matches are not possible; ask for 1 or more")
        return self._store.search(np.ascontiguousarray(vectors, np.float32), k) if len(vectors) else []

    def remove(self, people: Sequence[str]) -> int:
        """Delete people, with names, vectors, metadata and thumbnails; returns the number of pictures deleted.

        The store is rewritten without them, so that their bytes are gone from its files: removing many people in one
        call costs as much as removing one. Raises UsageError, and removes nobody, if one of them is unknown.
        """
        return self._store.remove(people) if people else 0

    def people(self) -> list[Person]:
        """Everybody enrolled, by name."""
        return self._store.people()

    def samples(self, person: str) -> list[Sample]:
        """A person's samples in the order of enrolment; empty for somebody unknown."""
        return self._store.samples(person)

    def problems(self) -> list[str]:
        """Read and check everything; one line for each thing that is not as it was written, empty if all is well."""
        return self._store.problems()

    def index_recall(self) -> float | None:
        """How often the search index finds what exact search finds, measured now; None while search is exact."""
        return self._store.index_recall()

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _need_recogniser(self) -> None:
        if not self._matched:
            raise UsageError("the gallery was opened without a recogniser; name it to enrol or to search")


def is_address(place: Place) -> bool:
    """Whether this is the address of a server, not a file."""
    return str(place).startswith(("postgresql://", "postgres://"))


def is_lance(place: Place) -> bool:
    """Whether this is the folder of a gallery in LanceDB."""
    return str(place).endswith(".lance")


def _key(path: Place | None) -> bytes | None:
    return None if path is None else read_key(os.fspath(path))


def _refuse_key(path: Place | None) -> None:
    if path is not None:
        raise UsageError("a database or server compares the vectors itself, so they cannot be encrypted; omit --key")
