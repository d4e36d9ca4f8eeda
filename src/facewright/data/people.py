"""Who is on which picture: one split of all face sets that no person crosses.

Most public sets have no identities, and people recur inside and across them (celebrities above all). The embedded
recogniser embeds every face; faces whose cosine is at least `SAME` are joined, transitively, and a group lies on one
side as a whole. The sides of the labelled collections (LFW, UTKFace) are given: a group that matches a training person
there is for training, one that matches a validation person for validation, and one that matches both is dropped. Any
other group is for validation with probability 1/`VALIDATION_SHARE`, by a hash of its first name.

    python -m facewright.data.people embed ROOT -o FOLDER   # finds and embeds faces: FOLDER/<set>.npz
    python -m facewright.data.people split FOLDER           # writes splits/people.json.gz beside this module

ROOT holds one folder per set of `SETS`; sets that are not there are left out.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import cv2
import numpy as np

from ..errors import FacewrightError
from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix, crop_face
from ..io.atomic import atomic_output
from .detection import five_points
from .faces import VALIDATION_SHARE, is_validation, open_faces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..tasks.detect import Detector
    from ..tasks.recognise import Embedder
    from .faces import Split

SAME = 0.6
SPLIT_FILE = Path(__file__).parent / "splits" / "people.json.gz"
COLLECTIONS = ("lfw", "utkface")
_BATCH = 32


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
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class FoundFaces:
    """The largest face of every picture of a set in which one was found.

    `names` (N,); `points5` (N, 5, 2) in picture pixels; `embeddings` (N, D) of unit length; `side` (N,): what a
    collection already says about the person, "train", "val" or "".
    """

    names: NDArray[np.str_]
    points5: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    side: NDArray[np.str_]

    def save(self, path: Path) -> None:
        """Write an `.npz` file."""
        with atomic_output(path, overwrite=True, parents=True) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream, names=self.names, points5=self.points5, embeddings=self.embeddings.astype(np.float16),
                side=self.side,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> FoundFaces:
        """Read what `save` wrote; raises FacewrightError when that is not so."""
        try:
            with np.load(path, allow_pickle=False) as file:
                embeddings = file["embeddings"].astype(np.float32)
                embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
                return cls(file["names"], file["points5"], embeddings, file["side"])
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise FacewrightError(
                f"{path} does not hold detected faces ({error}); make it again with `embed`"
            ) from error


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
    return FoundFaces(
        np.array(names), np.array(points, np.float32), np.concatenate(embeddings), np.full(len(names), "", "<U5")
    )


def find_labelled(name: str, root: str | Path | None, embedder: Embedder) -> FoundFaces:
    """The faces of a labelled collection by its own landmarks, with the side of the split each person is on."""
    collection = open_faces(name, None, root)  # type: ignore[arg-type]
    subjects = np.asarray(collection.labels["subject"])[collection.rows]
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
    side = np.array(["val" if is_validation(str(s)) else "train" for s in subjects])
    return FoundFaces(names, points.astype(np.float32), np.concatenate(embeddings), side)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB; raises FacewrightError when it cannot be decoded."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FacewrightError(f"{path} cannot be decoded; lay the set out again")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _largest(faces: Sequence[Face]) -> Face | None:
    return max(faces, key=lambda face: face.eye_distance, default=None)


def groups_of(embeddings: NDArray[np.float32], same: float = SAME, *, block: int = 2048) -> NDArray[np.int64]:
    """(N,) group numbers of (N, D) unit embeddings: the connected parts of the graph of all pairs at least `same`."""
    parent = np.arange(len(embeddings))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for start in range(0, len(embeddings), block):
        similar = embeddings[start : start + block] @ embeddings[start:].T >= same
        for i, j in zip(*np.nonzero(similar)):
            if i < j:
                a, b = root(start + int(i)), root(start + int(j))
                parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(embeddings))], np.int64)


def matched_sides(
    embeddings: NDArray[np.float32], labelled: FoundFaces, same: float = SAME, *, block: int = 2048
) -> list[set[str]]:
    """For every one of (N, D) unit embeddings, the sides of the labelled faces that are the same person."""
    sides: list[set[str]] = []
    for start in range(0, len(embeddings), block):
        similar = embeddings[start : start + block] @ labelled.embeddings.T >= same
        sides += [set(labelled.side[row].tolist()) for row in similar]
    return sides


def divide(names: Sequence[str], groups: NDArray[np.int64], given: Sequence[set[str]]) -> list[str]:
    """The side of every face, "train", "val" or "dropped", from its unique name, its group and its given sides."""
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(int(group), []).append(index)
    sides = [""] * len(names)
    for indices in members.values():
        known = set().union(*(given[i] for i in indices))
        side = _side_by_hash(min(names[i] for i in indices)) if not known else known.pop()
        for i in indices:
            sides[i] = "dropped" if known else side
    return sides


def _side_by_hash(name: str) -> str:
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    return "val" if number % VALIDATION_SHARE == 0 else "train"


def split_people(found: Mapping[str, FoundFaces]) -> dict[str, dict[str, list[str]]]:
    """Set → side → sorted file names, for every set that has no sides of its own."""
    unlabelled = {key: faces for key, faces in found.items() if key not in COLLECTIONS}
    names = [f"{key}/{name}" for key, faces in unlabelled.items() for name in faces.names]
    embeddings = np.concatenate([faces.embeddings for faces in unlabelled.values()])
    given: list[set[str]] = [set() for _ in names]
    for key in COLLECTIONS:
        if key in found:
            given = [a | b for a, b in zip(given, matched_sides(embeddings, found[key]))]
    result: dict[str, dict[str, list[str]]] = {}
    for full, side in zip(names, divide(names, groups_of(embeddings), given)):
        key, _, name = full.partition("/")
        result.setdefault(key, {}).setdefault(side, []).append(name)
    return {key: {side: sorted(value) for side, value in sorted(parts.items())} for key, parts in result.items()}


@cache
def _split_table() -> dict[str, dict[str, list[str]]]:
    with gzip.open(SPLIT_FILE, "rt", encoding="utf-8") as stream:
        table: dict[str, dict[str, list[str]]] = json.load(stream)["sets"]
    return table


def pictures_of(name: str, split: Split) -> list[str]:
    """The file names of a set on one side of the split; raises FacewrightError for a set that was not split."""
    table = _split_table()
    if name not in table:
        raise FacewrightError(f"there is no split of {name!r}; it is known for {', '.join(sorted(table))}")
    return list(table[name].get(split, []))


def write_split(table: Mapping[str, Any], path: Path = SPLIT_FILE) -> None:
    """Write the split as small compressed JSON, the same bytes for the same split."""
    text = json.dumps({"same": SAME, "sets": table}, separators=(",", ":"), sort_keys=True)
    with atomic_output(path, overwrite=True, parents=True) as temporary:
        Path(temporary).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _embed(root: Path, labelled: str | None, output: Path, wanted: Sequence[str]) -> Iterator[str]:
    from ..systems.detect.mos.network import MOS
    from ..systems.recognise.sface.network import SFace

    detector, embedder = MOS.from_pretrained(), SFace.from_pretrained()
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
    commands = parser.add_subparsers(dest="command", required=True)
    embed = commands.add_parser("embed", help="find and embed the faces of every set")
    embed.add_argument("root", type=Path, help="folder with one folder per set")
    embed.add_argument("-o", "--output", type=Path, required=True)
    embed.add_argument("--labelled", help="folder of the labelled collections (default: FACEWRIGHT_DATA)")
    embed.add_argument("--sets", nargs="+", default=[*SETS, *COLLECTIONS], choices=[*SETS, *COLLECTIONS])
    split = commands.add_parser("split", help="group the people and write the split")
    split.add_argument("folder", type=Path)
    split.add_argument("-o", "--output", type=Path, default=SPLIT_FILE)
    options = parser.parse_args(arguments)
    if options.command == "embed":
        for name in _embed(options.root, options.labelled, options.output, options.sets):
            print(f"{name}: done")
        return
    found = {path.stem: FoundFaces.load(path) for path in sorted(options.folder.glob("*.npz"))}
    table = split_people(found)
    write_split(table, options.output)
    for name, parts in table.items():
        print(name, {side: len(files) for side, files in parts.items()})


if __name__ == "__main__":
    main()
