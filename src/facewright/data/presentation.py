"""Presentation attacks: readers of the public collections' layouts, and crops of the faces in them.

A presentation is one video (or photo) of somebody live or of an attack. It names what metrics and protocols need: the
client (the person shown), the species of the attack, the domain it was recorded in. People are never on two sides of a
protocol, so every reader gives the client. The collections show real people and are never part of the package.

    python -m facewright.data.presentation ROOT -o FOUND.npz [--frames 5] [--times 0 63 126 176 239]

finds the face in frames of Replay-Attack below ROOT, which training and reproductions read (`FoundFrames`).
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from ..errors import FacewrightError, UsageError
from ..face import Face
from ..io.atomic import atomic_output
from ..io.sources import note
from .layouts import by_name, files_below, folder_of, json_of, lines_of
from .people import read_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ..geometry.crop import CropSpec
    from ..tasks.detect import Detector

    Images = NDArray[np.uint8]

LIVE = "live"
_VIDEOS = ("*.mov", "*.mp4", "*.avi")


@dataclass(frozen=True, slots=True)
class Presentation:
    """One recording in front of a camera.

    Args:
        name: Unique within its collection.
        species: The attack's instrument, such as "print" or "replay mobile"; `LIVE` for somebody who was there.
        client: Whom it shows.
        domain: What it was recorded with and under, such as "mobile/hand/adverse".
        split: The side the publisher put it on: "train", "devel", "test", or "" where there are none.
        files: The video, or its frames in their order.
    """

    name: str
    species: str
    client: str
    domain: str
    split: str
    files: tuple[Path, ...]

    @property
    def attack(self) -> bool:
        return self.species != LIVE


# --- layouts ---------------------------------------------------------------------------------------------------------

_REPLAY = re.compile(
    r"(?:attack_(?P<medium>print|mobile|highdef)_)?(?P<client>client\d+)_session\d+_"
    r"(?:webcam_authenticate|(?:highdef|mobile)_(?P<shown>photo|video))_(?P<light>controlled|adverse)(?:_\d)?"
)


def read_replay_attack(root: str | Path) -> list[Presentation]:
    """Idiap Replay-Attack: the publisher's videos, or folders of frames named `SPLIT__KIND__HOLDING__VIDEO`.

    Species are the instruments (print, mobile photo, mobile video, highdef photo, highdef video); a domain is medium,
    holding and lighting, as in "mobile/hand/adverse" or "webcam/live/controlled".
    """
    folder = folder_of(root, "Replay-Attack")
    videos = [path for split in ("train", "devel", "test") for path in files_below(folder / split, _VIDEOS)]
    found = [_replay(path.stem, path.relative_to(folder).parts[:-1], (path,)) for path in videos]
    for path in sorted(folder.glob("**/*__*__*__*")):
        *parts, stem = path.name.split("__")
        if frames := tuple(sorted(path.glob("*.jpg"))):
            found.append(_replay(stem, tuple(parts), frames))
    return by_name(found, folder, "Replay-Attack")


def _replay(stem: str, parts: Sequence[str], files: tuple[Path, ...]) -> Presentation:
    match = _REPLAY.fullmatch(stem)
    if match is None:
        raise FacewrightError(f"{files[0]} is not named as Replay-Attack names its videos")
    medium, holding = match["medium"], parts[-1] if match["medium"] else LIVE
    species = LIVE if medium is None else "print" if medium == "print" else f"{medium} {match['shown']}"
    domain = f"{medium or 'webcam'}/{holding}/{match['light']}"
    return Presentation(f"{parts[0]}/{holding}/{stem}", species, match["client"], domain, parts[0], files)


_OULU_FILES = ("", LIVE, "print 1", "print 2", "video 1", "video 2")


def read_oulu_npu(root: str | Path) -> list[Presentation]:
    """OULU-NPU: `PHONE_SESSION_USER_FILE.avi` in `Train_files`, `Dev_files` and `Test_files`.

    A domain is phone and session, whose protocols leave out sessions, instruments or phones.
    """
    folder, found = folder_of(root, "OULU-NPU"), []
    for name, split in (("Train_files", "train"), ("Dev_files", "devel"), ("Test_files", "test")):
        for path in files_below(folder / name, ("*.avi",)):
            match = re.fullmatch(r"(\d)_(\d)_(\d+)_([1-5])", path.stem)
            if match is None:
                raise FacewrightError(f"{path} is not named as OULU-NPU names its videos")
            phone, session, user, file = match.groups()
            species, domain = _OULU_FILES[int(file)], f"phone {phone}/session {session}"
            found.append(Presentation(path.stem, species, user, domain, split, (path,)))
    return by_name(found, folder, "OULU-NPU")


_CASIA_QUALITY = {"1": (LIVE, "low"), "2": (LIVE, "normal"), "HR_1": (LIVE, "high")} | {
    name: (species, quality)
    for species, names in (
        ("warped", ("3", "4", "HR_2")),
        ("cut", ("5", "6", "HR_3")),
        ("video", ("7", "8", "HR_4")),
    )
    for name, quality in zip(names, ("low", "normal", "high"))
}


def read_casia_fasd(root: str | Path) -> list[Presentation]:
    """CASIA-FASD: `train_release/PERSON/FILE.avi` and `test_release/…`; a domain is the camera's quality.

    People of both releases are numbered from one; they are different people.
    """
    folder, found = folder_of(root, "CASIA-FASD"), []
    for release, split in (("train_release", "train"), ("test_release", "test")):
        for path in files_below(folder / release, ("*.avi",)):
            if path.stem not in _CASIA_QUALITY:
                raise FacewrightError(f"{path} is not named as CASIA-FASD names its videos")
            species, quality = _CASIA_QUALITY[path.stem]
            client = f"{split} {path.parent.name}"
            found.append(
                Presentation(f"{split}/{path.parent.name}/{path.stem}", species, client, quality, split, (path,))
            )
    return by_name(found, folder, "CASIA-FASD")


_MSU = re.compile(
    r"(?P<kind>real|attack)_client(?P<client>\d+)_(?P<camera>android|laptop)_SD(?:_(?P<medium>\w+?))?_scene01"
)


def read_msu_mfsd(root: str | Path) -> list[Presentation]:
    """MSU-MFSD: `scene01/real` and `scene01/attack`, with `train_sub_list.txt` and `test_sub_list.txt` of clients.

    A domain is the camera.
    """
    folder, found = folder_of(root, "MSU-MFSD"), []
    sides = {}
    for split in ("train", "test"):
        for number in " ".join(lines_of(folder / f"{split}_sub_list.txt")).split():
            sides[int(number)] = split
    for path in files_below(folder / "scene01", ("*.mp4", "*.mov")):
        match = _MSU.fullmatch(path.stem)
        if match is None or int(match["client"]) not in sides:
            raise FacewrightError(f"{path} is not named as MSU-MFSD names its videos, or its client is in neither list")
        species = LIVE if match["kind"] == "real" else match["medium"].replace("_", " ")
        split = sides[int(match["client"])]
        found.append(Presentation(path.stem, species, match["client"], match["camera"], split, (path,)))
    return by_name(found, folder, "MSU-MFSD")


_SIW_TYPES = {"1": LIVE, "2": "print", "3": "replay"}


def read_siw(root: str | Path) -> list[Presentation]:
    """SiW: `Train/live/SUBJECT/SUBJECT-SENSOR-TYPE-MEDIUM-SESSION.mov` and its like.

    Species of replays and prints carry the number of the medium; a domain is the sensor.
    """
    folder, found = folder_of(root, "SiW"), []
    for name, split in (("Train", "train"), ("Test", "test")):
        for path in files_below(folder / name, _VIDEOS):
            parts = path.stem.split("-")
            if len(parts) != 5 or parts[2] not in _SIW_TYPES:
                raise FacewrightError(f"{path} is not named as SiW names its videos")
            subject, sensor, kind, medium, _ = parts
            species = LIVE if kind == "1" else f"{_SIW_TYPES[kind]} {medium}"
            found.append(Presentation(path.stem, species, subject, f"sensor {sensor}", split, (path,)))
    return by_name(found, folder, "SiW")


_CELEBA_SPECIES = (
    *(LIVE, "photo", "poster", "A4 print", "face mask", "upper body mask", "region mask"),
    *("screen PC", "screen pad", "screen phone", "3D mask"),
)
_CELEBA_SPECIES_LABEL, _CELEBA_LIGHT_LABEL, _CELEBA_PLACE_LABEL = 40, 41, 42


def read_celeba_spoof(root: str | Path) -> list[Presentation]:
    """CelebA-Spoof: photos `Data/SPLIT/PERSON/{live,spoof}/…` with `metas/intra_test/SPLIT_label.json`.

    Of the 43 numbers of a photo the last three are attack, illumination and place; a domain is the last two.
    """
    folder, found = folder_of(root, "CelebA-Spoof"), []
    for split in ("train", "test"):
        table = folder / "metas" / "intra_test" / f"{split}_label.json"
        if not table.is_file():
            continue
        photos = json_of(table)
        if not isinstance(photos, dict):
            raise FacewrightError(f"{table} is not a table of photos")
        for name, labels in photos.items():
            try:
                kind, light, place = (
                    int(labels[i]) for i in (_CELEBA_SPECIES_LABEL, _CELEBA_LIGHT_LABEL, _CELEBA_PLACE_LABEL)
                )
                species, person = _CELEBA_SPECIES[kind], name.split("/")[2]
            except (IndexError, TypeError, ValueError) as error:
                raise FacewrightError(f"{table}: the labels of {name} are not CelebA-Spoof's ({error})") from error
            domain = f"light {light}/place {place}"
            found.append(Presentation(name, species, person, domain, split, (folder / name,)))
    return by_name(found, folder, "CelebA-Spoof")


READERS: Mapping[str, Callable[[str | Path], list[Presentation]]] = {
    "replay-attack": read_replay_attack,
    "oulu-npu": read_oulu_npu,
    "casia-fasd": read_casia_fasd,
    "msu-mfsd": read_msu_mfsd,
    "siw": read_siw,
    "celeba-spoof": read_celeba_spoof,
}
"""Readers by the collection's name."""


def read_presentations(collection: str, root: str | Path) -> list[Presentation]:
    """The presentations of a collection; UsageError for one without a reader, FacewrightError for another layout."""
    if collection not in READERS:
        raise UsageError(f"no reader for {collection!r}; there are: {', '.join(READERS)}")
    return READERS[collection](root)


# --- faces in frames -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class FoundFrames:
    """The largest face in frames of presentations whose files are pictures.

    `names` (N,) of the presentation, `frames` (N,) paths below the root, `boxes` (N, 4), `points5` (N, 5, 2).
    """

    names: NDArray[np.str_]
    frames: NDArray[np.str_]
    boxes: NDArray[np.float32]
    points5: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.names)

    def face(self, index: int) -> Face:
        return Face(self.boxes[index], 1.0, self.points5[index])

    def save(self, path: Path) -> None:
        """Write an `.npz` file."""
        with atomic_output(path, overwrite=True, parents=True) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, names=self.names, frames=self.frames, boxes=self.boxes, points5=self.points5)

    @classmethod
    def load(cls, path: str | Path) -> FoundFrames:
        """Read what `save` wrote; raises FacewrightError when that is not so."""
        note(Path(path))
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(*(file[key] for key in ("names", "frames", "boxes", "points5")))
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise FacewrightError(f"{path} does not hold faces of presentations ({error}); make it again") from error

    def crops(self, root: str | Path, spec: CropSpec, rows: Sequence[int] | None = None) -> Images:
        """(M, S, S, 3) uint8 RGB crops of the chosen rows (all by default), cut by a spec."""
        chosen = range(len(self)) if rows is None else rows
        return np.stack([spec.cut(read_rgb(Path(root) / str(self.frames[i])), self.face(i)).image for i in chosen])


def frames_at(files: Sequence[Path], times: Sequence[int]) -> list[int]:
    """Places of the files whose number, the last one of their name, is nearest to each of `times`, each file once.

    Videos of live people and of attacks differ in length, so that evenly spaced frames would tell them apart by how
    much moves from one to the next. UsageError for files without numbers.
    """
    matches = [re.search(r"(\d+)\D*$", path.stem) for path in files]
    if not files or not all(matches):
        raise UsageError("frames are chosen by the numbers in their names; there are none")
    numbers = np.array([int(match[1]) for match in matches if match])
    return sorted({int(np.abs(numbers - time).argmin()) for time in times})


def find_frames(
    presentations: Sequence[Presentation],
    root: str | Path,
    detector: Detector,
    frames: int | Mapping[bool, int] = 5,
    *,
    times: Sequence[int] = (),
    log: Callable[[str], None] = print,
) -> FoundFrames:
    """Find the largest face in `frames` evenly spaced frames of every presentation, or so many by whether it is an
    attack, or with `times` in the frames of these numbers; frames without a face are left out."""
    names, paths, boxes, points = [], [], [], []
    for number, one in enumerate(presentations):
        wanted = frames if isinstance(frames, int) else frames[one.attack]
        spread = np.unique(np.linspace(0, len(one.files) - 1, wanted).round().astype(int)).tolist()
        for index in frames_at(one.files, times) if times else spread:
            faces = detector.detect(read_rgb(one.files[index]))
            if not faces:
                continue
            face = max(faces, key=lambda found: found.width * found.height)
            names.append(one.name)
            paths.append(one.files[index].relative_to(root).as_posix())
            boxes.append(face.box)
            points.append(face.points5)
        if number % 50 == 0:
            log(f"{number} of {len(presentations)} presentations, {len(names)} faces")
    if not names:
        raise FacewrightError("no face was found in any frame")
    return FoundFrames(np.array(names), np.array(paths), np.array(boxes, np.float32), np.array(points, np.float32))


def main() -> None:
    from ..runtime.session import Session
    from ..tasks.declare import NetworkChoice

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of Replay-Attack as frames")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=5, help="of every attack; twice as many of live people")
    parser.add_argument("--times", type=int, nargs="+", default=(), help="frame numbers, the same of every video")
    args = parser.parse_args()
    presentations = [p for p in read_replay_attack(args.root) if p.files[0].suffix == ".jpg"]
    detector = Session().detector(NetworkChoice()).detector  # upright faces: no second opinion
    count = {True: args.frames, False: 2 * args.frames}
    found = find_frames(presentations, args.root, detector, count, times=args.times)
    found.save(args.output)
    print(f"{len(found)} faces of {len(presentations)} presentations in {args.output}")


if __name__ == "__main__":
    main()
