"""Real, edited and generated faces in one folder, and crops of them with home-made forgeries for training detectors.

    python -m facewright.data.people embed ROOT -o FOUND
    python -m facewright.data.forgeries ROOT FOUND -o FOLDER

ROOT holds one folder per set. Every picture is cut by `FORENSIC_CROP` with a ring of `RING` pixels around it, and its
68 landmarks are placed. FOLDER then has `crops.npy`, which is mapped and not read, and `table.npz`. Splits are those of
`data.split`; an edit of CIPLAB is on the side of the people it resembles, and else one in four is for validation, with
all that resemble it. The pictures show real people: the folder is never part of the package.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import FacewrightError
from ..geometry.crop import CropSpec
from ..geometry.resample import crop_by_matrix
from ..geometry.similarity import invert, transform_points
from ..io.sources import note
from .people import SAME, FoundFaces, PictureSet, find_faces, read_rgb
from .split import NEITHER, shipped_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..systems.landmarks.facewarp.network import FaceWarp

    Image = NDArray[np.uint8]

Kind = Literal["real", "edited", "generated"]

SIDE, RING = 256, 16
ZOOM, CENTRE = 1.3, (0.5, 0.55)
FORENSIC_CROP = CropSpec.aligned(SIDE, "ffhq", zoom=ZOOM, centre=CENTRE)
"""What detectors of forgeries see: the face from the brows to below the chin, and a little around it."""
PACKED = SIDE + 2 * RING
PACKED_CROP = CropSpec.aligned(PACKED, "ffhq", zoom=ZOOM * SIDE / PACKED, centre=CENTRE)
EDITS = PictureSet("ciplab", ("*/fake/*.jpg",))
KINDS: dict[str, Kind] = {"ciplab": "real", "celebahq": "real", "scut": "real", "ganfaces": "generated"}
MOST = {"scut": (300, 100), "ganfaces": (720, 180)}
"""Most pictures of a set per side, training and validation."""
LEAST_EYE_DISTANCE = 45.0
"""Faces smaller than this in their photo, in pixels between the eyes, are enlarged so far that edits are lost."""
TWINS = 0.8
"""Cosine from which two generated faces are near twins."""
_EDITS_FOR_VALIDATION = 4
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class PackedForgeries:
    """Crops (N, 288, 288, 3) uint8 RGB with names (`set/file`), kinds, sides, landmarks (N, 68, 2) and embeddings."""

    crops: NDArray[np.uint8]
    names: NDArray[np.str_]
    kinds: NDArray[np.str_]
    sides: NDArray[np.str_]
    points68: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    @classmethod
    def open(cls, folder: str | Path) -> PackedForgeries:
        """What `pack` wrote, the crops mapped; raises FacewrightError when it cannot be read."""
        place = Path(folder)
        note(place / "table.npz")
        try:
            crops = np.load(place / "crops.npy", mmap_mode="r", allow_pickle=False)
            with np.load(place / "table.npz", allow_pickle=False) as table:
                return cls(crops, *(table[key] for key in ("names", "kinds", "sides", "points68", "embeddings")))
        except (OSError, EOFError, KeyError, ValueError) as error:
            raise FacewrightError(f"{folder} holds no packed forgeries ({error}); pack them again") from error

    def rows(self, kind: Kind, side: str, sets: Sequence[str] = ()) -> NDArray[np.int64]:
        """Indices of the pictures of a kind on a side, of some sets or of all."""
        wanted = (self.kinds == kind) & (self.sides == side)
        if sets:
            wanted &= np.array([name.partition("/")[0] in sets for name in self.names])
        return np.flatnonzero(wanted)


def regions_of(name: str) -> tuple[bool, bool, bool, bool]:
    """What the name of a CIPLAB edit says was replaced: the eye on the left, on the right, the nose, the mouth.

    FacewrightError for a name without these four digits.
    """
    if not says_regions(name):
        raise FacewrightError(f"{name} does not say in four digits which parts were edited")
    digits = Path(name).stem.rpartition("_")[2]
    left, right, nose, mouth = (digit == "1" for digit in digits)
    return left, right, nose, mouth


def says_regions(name: str) -> bool:
    """Whether the name of an edit says which parts it changed; one of the published names has three digits."""
    digits = Path(name).stem.rpartition("_")[2]
    return len(digits) == 4 and not set(digits) - set("01")


def sides_of_edits(edits: FoundFaces, known: FoundFaces) -> NDArray[np.str_]:
    """(N,) the sides of edited pictures, from the people they resemble among themselves and among the real pictures."""
    sides = shipped_split().sides("ciplab", [str(name) for name in known.names], [])
    near = edits.embeddings @ known.embeddings.T >= SAME
    groups = _connected(edits.embeddings @ edits.embeddings.T >= SAME)
    found = np.empty(len(groups), "<U7")
    for group in np.unique(groups):
        members = groups == group
        met = set(sides[near[members].any(0)])
        number = int(hashlib.sha256(min(map(str, edits.names[members])).encode()).hexdigest(), 16)
        lot = "val" if number % _EDITS_FOR_VALIDATION == 0 else "train"
        found[members] = "train" if "train" in met else NEITHER if NEITHER in met else "val" if "val" in met else lot
    return found


def sides_of_twins(faces: FoundFaces) -> NDArray[np.str_]:
    """(N,) sides of generated faces: one in five is for validation, with its near twins.

    They show nobody, but resemble so many people that the split by people has them nearly all for training.
    """
    groups = _connected(faces.embeddings @ faces.embeddings.T >= TWINS)
    firsts = {int(group): min(map(str, faces.names[groups == group])) for group in np.unique(groups)}
    lots = {group: int(hashlib.sha256(name.encode()).hexdigest(), 16) % 5 for group, name in firsts.items()}
    return np.array(["val" if lots[int(group)] == 0 else "train" for group in groups], "<U7")


def _connected(alike: NDArray[np.bool_]) -> NDArray[np.int64]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    return np.asarray(connected_components(coo_array(alike), directed=False)[1], np.int64)


def pack(root: Path, found: Path, output: Path) -> dict[str, int]:
    """Write the folder; returns how many pictures there are of each set, kind and side."""
    from ..runtime.session import default_session

    landmarker = default_session().network("facewarp")
    chosen = list(_chosen(root, found))
    output.mkdir(parents=True, exist_ok=True)
    crops = np.lib.format.open_memmap(output / "crops.npy", "w+", np.uint8, (len(chosen), PACKED, PACKED, 3))
    points68 = np.zeros((len(chosen), 68, 2), np.float32)
    for start in range(0, len(chosen), _BATCH):
        some = chosen[start : start + _BATCH]
        cut = [_cut(root / item.set / item.file, item) for item in some]
        crops[start : start + len(some)] = [crop for crop, _ in cut]
        points68[start : start + len(some)] = _landmarks([crop for crop, _ in cut], [p for _, p in cut], landmarker)
    crops.flush()
    np.savez(
        output / "table.npz",
        names=np.array([f"{item.set}/{item.file}" for item in chosen]),
        kinds=np.array([item.kind for item in chosen]),
        sides=np.array([item.side for item in chosen]),
        points68=points68,
        embeddings=np.array([item.embedding for item in chosen], np.float32),
    )
    counts: dict[str, int] = {}
    for item in chosen:
        key = f"{item.set} {item.kind} {item.side}"
        counts[key] = counts.get(key, 0) + 1
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    set: str
    file: str
    kind: Kind
    side: str
    points5: NDArray[np.float32]
    embedding: NDArray[np.float32]


def _chosen(root: Path, found: Path) -> Iterator[_Picture]:
    """The pictures to pack: large enough faces on a side, so many of a set."""
    for name, kind in KINDS.items():
        faces = FoundFaces.load(found / f"{name}.npz")
        files = [str(file) for file in faces.names]
        sides = sides_of_twins(faces) if kind == "generated" else shipped_split().sides(name, files, [])
        yield from _limited(name, kind, faces, sides)
    edits = _edits(root, found)
    yield from _limited("ciplab", "edited", edits, sides_of_edits(edits, FoundFaces.load(found / "ciplab.npz")))


def _limited(name: str, kind: Kind, faces: FoundFaces, sides: NDArray[np.str_]) -> Iterator[_Picture]:
    for side, most in zip(("train", "val"), MOST.get(name, (10_000, 10_000))):
        rows = np.flatnonzero(sides == side)
        rows = rows[np.argsort([hashlib.sha256(str(faces.names[row]).encode()).digest() for row in rows])]
        large = [row for row in rows if _eye_distance(faces.points5[row]) >= LEAST_EYE_DISTANCE]
        if kind == "edited":
            large = [row for row in large if says_regions(str(faces.names[row]))]
        for row in large[:most]:
            yield _Picture(name, str(faces.names[row]), kind, side, faces.points5[row], faces.embeddings[row])


def _edits(root: Path, found: Path) -> FoundFaces:
    """The faces of CIPLAB's edits, found once."""
    file = found / "ciplab-edits.npz"
    if not file.exists():
        from ..runtime.session import default_session
        from ..tasks.declare import NetworkChoice

        session, choice = default_session(), NetworkChoice()
        find_faces(EDITS, root, session.detector(choice), session.recogniser(choice)).save(file)
    return FoundFaces.load(file)


def _cut(path: Path, item: _Picture) -> tuple[Image, NDArray[np.float64]]:
    """The crop and where its five points are."""
    points = np.asarray(item.points5, np.float64)
    matrix = PACKED_CROP.align(points)
    return crop_by_matrix(read_rgb(path), matrix, PACKED, "ffhq").image, transform_points(matrix, points)


def _landmarks(
    crops: Sequence[Image], points5: Sequence[NDArray[np.float64]], landmarker: FaceWarp
) -> NDArray[np.float32]:
    """(N, 68, 2) landmarks in packed crops."""
    spec = landmarker.preprocess.crop
    matrices = [spec.align(points) for points in points5]
    again = np.stack([crop_by_matrix(crop, m, spec.size, spec.template).image for crop, m in zip(crops, matrices)])
    found = landmarker.landmarks(again, mirror=False).points
    return np.stack([transform_points(invert(m), points) for m, points in zip(matrices, found)]).astype(np.float32)


def _eye_distance(points5: NDArray[np.floating]) -> float:
    return float(np.hypot(*(points5[1] - points5[0])))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(
        prog="python -m facewright.data.forgeries", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("root", type=Path, help=f"folder with one folder per set: {', '.join(KINDS)}")
    parser.add_argument("found", type=Path, help="folder written by data.people embed")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    for key, count in sorted(pack(options.root, options.found, options.output).items()):
        print(f"{key}: {count}")


if __name__ == "__main__":
    main()
