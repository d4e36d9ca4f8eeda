"""Who is on which picture: makes the split of all face sets that no person crosses (`data.split` reads it).

Most public sets have no identities, and people recur inside and across them (celebrities above all). Two faces are
alike when their embeddings have a cosine of at least `SAME`: between LFW and UTKFace those that come with them, else
those of the embedded recogniser. Within a set, alike faces are joined, transitively, and a group is on one side as a
whole. Sets are placed one after the other, LFW first:

- Nobody who was ever trained on is for validation: what was on the training side of the split before, or is alike to
  it in any set, is for training with its group. A validation person of LFW like that is on neither side.
- What is alike to somebody placed for validation before is on neither side, with its group.
- What is alike to somebody placed for training before is for training.
- Other groups stay for validation if they were, and else are with probability 1/`VALIDATION_SHARE`, by a hash of the
  first name.
- Groups of more than `CROWD` faces are no person: they are chains of faces that embeddings cannot tell apart, infants
  above all, and small pictures. They are for training, less the faces alike to somebody for validation.

    python -m facewright.data.people embed ROOT -o FOLDER   # finds and embeds faces: FOLDER/<set>.npz
    python -m facewright.data.people split FOLDER           # writes splits/people.json.gz beside this module
    python -m facewright.data.people check FOLDER           # the most alike pairs across the sides

ROOT holds one folder per set of `SETS`; sets that are not there are left out. LFW and UTKFace are found through
FACEWRIGHT_DATA.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import FacewrightError
from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix, crop_face
from ..io.atomic import atomic_output
from ..io.sources import note
from .detection import five_points
from .faces import open_faces
from .split import NEITHER, SPLIT_FILE, Place, SplitTable, is_validation, shipped_split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..tasks.detect import Detector
    from ..tasks.recognise import Embedder

SAME = 0.6
CROWD = 100
COLLECTIONS = ("lfw", "utkface")
_BATCH = 32
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Where a set's pictures are: globs relative to the folder of its name."""

    name: str
    patterns: tuple[str, ...]

    def names(self, root: Path) -> list[str]:
        """The relative paths of the pictures, sorted."""
        folder = root / self.name
        found = {path.relative_to(folder).as_posix() for pattern in self.patterns for path in folder.glob(pattern)}
        return sorted(found)


SETS: Mapping[str, PictureSet] = {
    s.name: s
    for s in (
        PictureSet("ciplab", ("*/real/*.jpg",)),
        PictureSet("celebahq", ("images/*",)),
        PictureSet("scut", ("Images/*.jpg",)),
        PictureSet("ganfaces", ("**/*.jpg",)),
        PictureSet("rafdb", ("aligned/**/*.jpg",)),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class FoundFaces:
    """The largest face of every picture of a set in which one was found.

    `names` (N,); `points5` (N, 5, 2) in picture pixels; `embeddings` (N, D) of unit length.
    """

    names: NDArray[np.str_]
    points5: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write an `.npz` file."""
        with atomic_output(path, overwrite=True, parents=True) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, names=self.names, points5=self.points5, embeddings=self.embeddings.astype(np.float16))

    @classmethod
    def load(cls, path: Path) -> FoundFaces:
        """Read what `save` wrote; raises FacewrightError when that is not so."""
        note(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["names"], file["points5"], unit(file["embeddings"]))
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise FacewrightError(
                f"{path} does not hold detected faces ({error}); make it again with `embed`"
            ) from error


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, D) vectors of length 1."""
    values = np.asarray(vectors, np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def find_faces(
    pictures: PictureSet, root: Path, detector: Detector, embedder: Embedder, *, log: Callable[[str], None] = print
) -> FoundFaces:
    """Find and embed the largest face of every picture of a set below `root`."""
    names: list[str] = []
    points: list[NDArray[np.float32]] = []
    crops: list[NDArray[np.uint8]] = []
    embeddings: list[NDArray[np.float32]] = []
    for number, name in enumerate(pictures.names(root)):
        rgb = read_rgb(root / pictures.name / name)
        face = _largest(detector.detect(rgb))
        if face is None:
            log(f"{pictures.name}: no face in {name}")
            continue
        names.append(name)
        points.append(face.points5)
        crops.append(crop_face(rgb, face.points5, 112, "arcface").image)
        if len(crops) == _BATCH:
            embeddings.append(embedder.embed(np.stack(crops)))
            crops.clear()
        if number % 500 == 0:
            log(f"{pictures.name}: {number}")
    if crops:
        embeddings.append(embedder.embed(np.stack(crops)))
    if not names:
        raise FacewrightError(f"no face in any picture of {root / pictures.name}; is the set laid out there?")
    return FoundFaces(np.array(names), np.array(points, np.float32), np.concatenate(embeddings))


def find_labelled(name: str, root: str | Path | None, embedder: Embedder) -> FoundFaces:
    """The faces of a labelled collection by its own landmarks."""
    collection = open_faces(name, None, root)  # type: ignore[arg-type]
    points = np.stack(
        [five_points(np.asarray(collection.labels["landmarks68"][row], np.float64)) for row in collection.rows]
    )
    embeddings: list[NDArray[np.float32]] = []
    for start in range(0, len(points), _BATCH):
        rows = collection.rows[start : start + _BATCH]
        crops = [
            crop_by_matrix(collection.read(int(row)), align_matrix(p, 112, "arcface"), 112, "arcface").image
            for row, p in zip(rows, points[start : start + _BATCH])
        ]
        embeddings.append(embedder.embed(np.stack(crops)))
    names = np.asarray(collection.labels["filename"])[collection.rows].astype(str)
    return FoundFaces(names, points.astype(np.float32), np.concatenate(embeddings))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB; raises FacewrightError when it cannot be decoded."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FacewrightError(f"{path} cannot be decoded; lay the set out again")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _largest(faces: Sequence[Face]) -> Face | None:
    return max(faces, key=lambda face: face.eye_distance, default=None)


# --- who is alike


@dataclass(frozen=True, slots=True, eq=False)
class PeopleOf:
    """The faces of a set as the split sees them.

    `names` (N,); `embeddings` (N, D) by the embedded recogniser. The labelled collections also have `labelled` (N, E),
    the embeddings that came with them, and `subjects` (N,), which are names of people in LFW only.
    """

    names: NDArray[np.str_]
    embeddings: NDArray[np.float32]
    labelled: NDArray[np.float32] | None = None
    subjects: NDArray[np.str_] | None = None

    @classmethod
    def of(cls, name: str, found: FoundFaces, root: str | Path | None = None) -> PeopleOf:
        """What was found in a set, and of a labelled collection what its labels say."""
        if name not in COLLECTIONS:
            return cls(found.names, found.embeddings)
        collection = open_faces(name, None, root)  # type: ignore[arg-type]
        files, subjects, embeddings = (
            np.asarray(collection.labels[key])[collection.rows] for key in ("filename", "subject", "embedding128")
        )
        if not np.array_equal(files.astype(str), found.names):
            raise FacewrightError(f"what was found in {name} is not of these labels; make it again with `embed`")
        return cls(found.names, found.embeddings, unit(embeddings), subjects.astype(str))


def alike(first: PeopleOf, second: PeopleOf) -> NDArray[np.int64]:
    """(M, 2) indices of all pairs, one of each, with a cosine of at least `SAME`."""
    if first.labelled is not None and second.labelled is not None:
        a, b = first.labelled, second.labelled
    else:
        a, b = first.embeddings, second.embeddings
    found = []
    for start in range(0, len(a), _BLOCK):
        pairs = np.argwhere(a[start : start + _BLOCK] @ b.T >= SAME)
        pairs[:, 0] += start
        found.append(pairs)
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def groups_of(people: PeopleOf) -> NDArray[np.int64]:
    """(N,) group numbers of the faces of a set: the connected parts of all alike pairs."""
    first, second = alike(people, people).T
    count = len(people.names)
    graph = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


# --- the split


def split_people(people: Mapping[str, PeopleOf], former: SplitTable) -> SplitTable:
    """The table of all sets; `former` is the split before it. LFW must be among them. See the module's description."""
    order = sorted(people, key=lambda name: (name != "lfw", name != "utkface", name not in former.sets, name))
    groups = {name: _groups_or_names(people[name]) for name in order}
    before = {name: sides_before(former, name, people[name]) for name in order}
    links = {(a, b): alike(people[a], people[b]) for a in order for b in order if order.index(a) > order.index(b)}
    links |= {(b, a): pairs[:, ::-1] for (a, b), pairs in links.items()}
    links["lfw", "lfw"] = alike(people["lfw"], people["lfw"])
    trained = {name: before[name] == "train" for name in order}
    trained = {name: flags | _spread(flags, groups[name]) for name, flags in trained.items()}
    seen = {name: _seen(name, trained, links, groups[name]) for name in order}

    placed = {"lfw": np.where(before["lfw"] == "train", "train", np.where(seen["lfw"], NEITHER, "val"))}
    for name in order[1:]:
        near = {side: np.zeros(len(groups[name]), bool) for side in ("train", "val")}
        for earlier, sides in placed.items():
            for side, flags in near.items():
                pairs = links[name, earlier]
                flags[pairs[sides[pairs[:, 1]] == side, 0]] = True
        named = [f"{name}/{picture}" for picture in people[name].names]
        divided = divide(named, groups[name], before[name], seen[name] | near["train"])
        placed[name] = np.where(near["val"] | _spread(near["val"], groups[name]), NEITHER, divided)
    return _table(people, placed, groups)


def _groups_or_names(people: PeopleOf) -> NDArray[np.int64]:
    """The groups of a set; in LFW those of its names."""
    subjects = people.subjects
    if subjects is None or len(np.unique(subjects)) == len(subjects):
        return groups_of(people)
    return np.unique(subjects, return_inverse=True)[1]


def _seen(
    name: str,
    trained: Mapping[str, NDArray[np.bool_]],
    links: Mapping[tuple[str, str], NDArray[np.int64]],
    groups: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which faces of a set were trained on, themselves or as somebody alike in any set, or as one of their group."""
    seen = trained[name].copy()
    for (own, other), pairs in links.items():
        if own == name:
            seen[pairs[trained[other][pairs[:, 1]], 0]] = True
    return seen | _spread(seen, groups)


def _table(
    people: Mapping[str, PeopleOf], placed: Mapping[str, NDArray[np.str_]], groups: Mapping[str, NDArray[np.int64]]
) -> SplitTable:
    subjects = people["lfw"].subjects
    assert subjects is not None
    sets = {}
    for name, sides in placed.items():
        if name != "lfw":
            pictures = people[name].names.tolist()
            numbers = person_numbers(pictures, groups[name])
            places = zip(pictures, sides.tolist(), numbers.tolist())
            sets[name] = {picture: Place(side, number) for picture, side, number in places}
    return SplitTable(sets, frozenset(subjects[placed["lfw"] == NEITHER].tolist()))


def sides_before(former: SplitTable, name: str, people: PeopleOf) -> NDArray[np.str_]:
    """(N,) the side of every picture in the split before, "" where it was on none.

    That of LFW is by a hash of the names, and so was the first of UTKFace, where every file has a name of its own.
    """
    pictures = people.names.tolist()
    if name in former.sets:
        sides = former.sides(name, pictures, pictures)
        return np.where(sides == NEITHER, "", sides)
    if people.subjects is not None:
        return np.array(["val" if is_validation(subject) else "train" for subject in people.subjects], "<U7")
    return np.full(len(pictures), "", "<U7")


def _spread(flags: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether anybody of each face's group has the flag; nobody in a crowd."""
    counts, flagged = np.bincount(groups), np.bincount(groups, flags)
    return ((flagged > 0) & (counts <= CROWD))[groups]


def divide(
    names: Sequence[str], groups: NDArray[np.int64], before: NDArray[np.str_], seen: NDArray[np.bool_]
) -> list[str]:
    """The side of every face from its unique name, its group, its side before, and whether it is seen in training."""
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(int(group), []).append(index)
    sides = [""] * len(names)
    for indices in members.values():
        if len(indices) > CROWD or any(seen[i] for i in indices):
            side = "train"
        elif any(before[i] == "val" for i in indices) or is_validation(min(names[i] for i in indices)):
            side = "val"
        else:
            side = "train"
        for i in indices:
            sides[i] = side
    return sides


def person_numbers(names: Sequence[str], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) numbers of people from 1, in the order of their first names; 0 where a group has one face, or is a crowd."""
    counts = np.bincount(groups)[groups]
    numbers = np.zeros(len(names), np.int64)
    known: dict[int, int] = {}
    for index in sorted(range(len(names)), key=lambda i: names[i]):
        if 1 < counts[index] <= CROWD:
            numbers[index] = known.setdefault(int(groups[index]), len(known) + 1)
    return numbers


def crossings(people: Mapping[str, PeopleOf], table: SplitTable) -> dict[tuple[str, str], int]:
    """For every two sets the number of validation faces of the first that a training face of the second is alike to."""
    on: dict[str, NDArray[np.str_]] = {}
    for name, faces in people.items():
        subjects = faces.names if faces.subjects is None else faces.subjects
        on[name] = table.sides(name, faces.names.tolist(), subjects.tolist())
    found = {}
    for a, first in people.items():
        for b, second in people.items():
            pairs = alike(first, second)
            across = (on[a][pairs[:, 0]] == "val") & (on[b][pairs[:, 1]] == "train")
            found[a, b] = len(np.unique(pairs[across, 0]))
    return found


# --- command line


def _embed(root: Path, labelled: str | None, output: Path, wanted: Sequence[str]) -> Iterator[str]:
    from ..systems.detect.mos.network import MOS
    from ..systems.recognise.distilledface.network import DistilledFace

    detector, embedder = MOS.from_pretrained(), DistilledFace.from_pretrained()
    for name in wanted:
        path = output / f"{name}.npz"
        if path.exists():
            continue
        if name in COLLECTIONS:
            find_labelled(name, labelled, embedder).save(path)
        elif (root / name).is_dir():
            find_faces(SETS[name], root, detector, embedder).save(path)
        else:
            continue
        yield name


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m facewright.data.people", description=str(__doc__).split("\n")[0])
    parser.add_argument("--labelled", help="folder of the labelled collections (default: FACEWRIGHT_DATA)")
    commands = parser.add_subparsers(dest="command", required=True)
    embed = commands.add_parser("embed", help="find and embed the faces of every set")
    embed.add_argument("root", type=Path, help="folder with one folder per set")
    embed.add_argument("-o", "--output", type=Path, required=True)
    embed.add_argument("--sets", nargs="+", default=[*SETS, *COLLECTIONS], choices=[*SETS, *COLLECTIONS])
    split = commands.add_parser("split", help="group the people and write the split")
    split.add_argument("folder", type=Path)
    split.add_argument("-o", "--output", type=Path, default=SPLIT_FILE)
    check = commands.add_parser("check", help="count the validation faces that a training face is alike to")
    check.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "embed":
        for name in _embed(options.root, options.labelled, options.output, options.sets):
            print(f"{name}: done")
        return
    found = {path.stem: FoundFaces.load(path) for path in sorted(options.folder.glob("*.npz"))}
    people = {name: PeopleOf.of(name, faces, options.labelled) for name, faces in found.items()}
    if options.command == "check":
        wrong = {pair: count for pair, count in crossings(people, shipped_split()).items() if count}
        for (a, b), count in wrong.items():
            print(f"{count} validation faces of {a} have a training face of {b} at {SAME} or more")
        raise SystemExit(1 if wrong else f"nobody is on both sides, in {len(people)} sets")
    table = split_people(people, shipped_split())
    table.save(options.output)
    for line in summary(table):
        print(line)


def summary(table: SplitTable) -> list[str]:
    """How many pictures of each set are on which side."""
    lines = [f"lfw: {len(table.lfw_dropped)} people on neither side"]
    for name, places in table.sets.items():
        sides = [place.side for place in places.values()]
        lines.append(f"{name}: " + ", ".join(f"{sides.count(side)} {side}" for side in ("train", "val", NEITHER)))
    return lines


if __name__ == "__main__":
    main()
