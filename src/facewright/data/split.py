"""On which side of the split a picture of a known face set is: for training, for validation, or on neither.

The table, `splits/people.json.gz`, is made by `facewright.data.people` and holds every picture of UTKFace, CelebA-HQ,
CIPLAB, SCUT-FBP5500, RAF-DB and the made-up faces in which a face was found. People recur inside and across these sets;
nobody is on both sides, and nobody who was ever trained on is for validation, so that weights trained with an earlier
split can be measured by this one. LFW has names: one person in ten is for validation, by a hash of the name; the table
names those who are on neither side because other sets show them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import FacewrightError
from ..io.atomic import atomic_output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Split = Literal["train", "val"]
NEITHER = "dropped"
VALIDATION_SHARE = 10
SPLIT_FILE = Path(__file__).parent / "splits" / "people.json.gz"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture is: its side, "train", "val" or "dropped", and a number for its person.

    Pictures of one set with one number show one person, as far as embeddings tell; 0 is a person of one picture.
    """

    side: str
    person: int


@dataclass(frozen=True, slots=True)
class SplitTable:
    """Set → picture → place, and the names of LFW's people on neither side."""

    sets: Mapping[str, Mapping[str, Place]]
    lfw_dropped: frozenset[str]

    @classmethod
    def load(cls, path: Path = SPLIT_FILE) -> SplitTable:
        """Read a table; raises FacewrightError when it is none."""
        try:
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                data = json.load(stream)
            sets = {
                name: {
                    picture: Place(side, person)
                    for side, (pictures, people) in sides.items()
                    for picture, person in zip(pictures, people, strict=True)
                }
                for name, sides in data["sets"].items()
            }
            return cls(sets, frozenset(data["lfw_dropped"]))
        except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
            raise FacewrightError(
                f"{path} is no split ({error}); make it with `facewright.data.people split`"
            ) from error

    def save(self, path: Path = SPLIT_FILE) -> None:
        """Write it as small compressed JSON, the same bytes for the same split."""
        sets: dict[str, dict[str, tuple[list[str], list[int]]]] = {}
        for name, places in self.sets.items():
            for picture, place in sorted(places.items()):
                pictures, people = sets.setdefault(name, {}).setdefault(place.side, ([], []))
                pictures.append(picture)
                people.append(place.person)
        data = {"sets": sets, "lfw_dropped": sorted(self.lfw_dropped)}
        text = json.dumps(data, separators=(",", ":"), sort_keys=True)
        with atomic_output(path, overwrite=True, parents=True) as temporary:
            Path(temporary).write_bytes(gzip.compress(text.encode(), 9, mtime=0))

    def sides(self, name: str, pictures: Sequence[str], subjects: Sequence[str]) -> NDArray[np.str_]:
        """(N,) the side of every picture of a set, by its name, or by its person's where the set is LFW.

        A picture of another set that the table does not know may show anybody: it is on neither side.
        """
        if name == "lfw":
            return np.array([self._side_of_name(subject) for subject in subjects], "<U7")
        places = self._known(name)
        return np.array([places[p].side if p in places else NEITHER for p in pictures], "<U7")

    def people(self, name: str, pictures: Sequence[str]) -> NDArray[np.int64]:
        """(N,) the number of every picture's person; 0 for a person of one picture, or of none known."""
        places = self._known(name)
        return np.array([places[p].person if p in places else 0 for p in pictures], np.int64)

    def pictures(self, name: str, split: Split) -> list[str]:
        """The sorted names of a set's pictures on one side."""
        return sorted(picture for picture, place in self._known(name).items() if place.side == split)

    def _known(self, name: str) -> Mapping[str, Place]:
        if name not in self.sets:
            raise FacewrightError(f"there is no split of {name!r}; it is known for {', '.join(sorted(self.sets))}")
        return self.sets[name]

    def _side_of_name(self, subject: str) -> str:
        if subject in self.lfw_dropped:
            return NEITHER
        return "val" if is_validation(subject) else "train"


def is_validation(subject: str) -> bool:
    """Whether a name is for validation: one in ten, by a hash, so it never changes."""
    return int(hashlib.sha256(subject.encode()).hexdigest(), 16) % VALIDATION_SHARE == 0


@cache
def shipped_split() -> SplitTable:
    """The table that comes with the package."""
    return SplitTable.load()


def split_id() -> str:
    """The beginning of the shipped table's SHA-256: by which split people were held out."""
    return hashlib.sha256(SPLIT_FILE.read_bytes()).hexdigest()[:8]


def pictures_of(name: str, split: Split) -> list[str]:
    """The file names of a set on one side of the split; raises FacewrightError for a set that was not split."""
    return shipped_split().pictures(name, split)
