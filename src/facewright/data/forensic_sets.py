"""Readers of the public collections of forged videos and of morphs, as their publishers lay them out.

An exhibit is one video or picture, real or not. It names what protocols need: the tool that made it, the people or
videos it was made of, the compression, and the publisher's split. The collections show real people and are never part
of the package.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..errors import FacewrightError, UsageError
from .layouts import by_name, files_below, folder_of, json_of, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Kind = Literal["real", "manipulated", "generated", "morphed"]
Compression = Literal["raw", "c0", "c23", "c40"]
_VIDEOS = ("*.mp4", "*.avi")
_PICTURES = ("*.png", "*.jpg", "*.jpeg")


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One video or picture.

    Args:
        name: Unique within its collection.
        kind: What it is.
        tool: What made it, such as "FaceSwap" or "opencv"; "" for real ones.
        parents: The people or videos it shows; those of one parent belong on one side of a protocol.
        split: The side the publisher put it on: "train", "val", "test", or "" where there are none.
        file: The video or picture.
        mask: Where it was changed, as a video or picture; None where none is published.
    """

    name: str
    kind: Kind
    tool: str
    parents: tuple[str, ...]
    split: str
    file: Path
    mask: Path | None = None


# --- videos

_FF_PAIR = re.compile(r"(\d{3})_(\d{3})")
_FF_ACTOR = re.compile(r"(\d{2})(?:_(\d{2}))?__.+")


def read_faceforensics(root: str | Path, compression: Compression = "c23") -> list[Exhibit]:
    """FaceForensics++: `original_sequences/SET/COMPRESSION/videos` and `manipulated_sequences/TOOL/…`.

    Splits are those of `splits/{train,val,test}.json` where they are there; the actors' videos have none. A forged
    video's parents are the video it changes and the one whose face it takes, in this order.
    """
    if compression not in get_args(Compression):
        raise UsageError(f"compression {compression!r} is none of {', '.join(get_args(Compression))}")
    folder = folder_of(root, "FaceForensics++")
    sides = _faceforensics_sides(folder / "splits")
    found = []
    for part, kind in (("original_sequences", "real"), ("manipulated_sequences", "manipulated")):
        for videos in sorted((folder / part).glob(f"*/{compression}/videos")):
            tool = videos.parts[-3]
            for path in files_below(videos, _VIDEOS):
                parents = _faceforensics_parents(path, tool)
                mask = videos.parents[1] / "masks" / "videos" / path.name
                found.append(
                    Exhibit(
                        f"{tool}/{path.stem}",
                        "real" if kind == "real" else "manipulated",
                        "" if kind == "real" else tool,
                        parents,
                        sides.get(parents[0], ""),
                        path,
                        mask if mask.is_file() else None,
                    )
                )
    return by_name(found, folder, f"FaceForensics++ in compression {compression}")


def _faceforensics_parents(path: Path, tool: str) -> tuple[str, ...]:
    if match := _FF_PAIR.fullmatch(path.stem):
        return match.groups()
    if match := _FF_ACTOR.fullmatch(path.stem):
        return tuple(f"actor {number}" for number in match.groups() if number)
    if re.fullmatch(r"\d{3}", path.stem):
        return (path.stem,)
    raise FacewrightError(f"{path} is not named as FaceForensics++ names the videos of {tool}")


def _faceforensics_sides(folder: Path) -> dict[str, str]:
    sides: dict[str, str] = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.json"
        if path.is_file():
            pairs = json_of(path)
            if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
                raise FacewrightError(f"{path} is not a list of pairs of videos")
            sides |= {str(video): split for pair in pairs for video in pair}
    return sides


_CELEB_REAL = re.compile(r"(id\d+)_\d{4}")
_CELEB_FAKE = re.compile(r"(id\d+)_(id\d+)_\d{4}")


def read_celeb_df(root: str | Path) -> list[Exhibit]:
    """Celeb-DF, version 1 or 2: `Celeb-real`, `YouTube-real` and `Celeb-synthesis`, with or without `videos` below.

    Videos of `List_of_testing_videos.txt` are "test", the others "train".
    """
    folder = folder_of(root, "Celeb-DF")
    table = folder / "List_of_testing_videos.txt"
    tested = {Path(line.split()[-1]).name for line in lines_of(table) if line.strip()} if table.is_file() else set()
    found = []
    for part in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        for path in files_below(folder / part, _VIDEOS):
            fake = part == "Celeb-synthesis"
            if part == "YouTube-real":
                parents: tuple[str, ...] = (f"YouTube {path.stem}",)
            elif match := (_CELEB_FAKE if fake else _CELEB_REAL).fullmatch(path.stem):
                parents = match.groups()
            else:
                raise FacewrightError(f"{path} is not named as Celeb-DF names its videos")
            split = ("test" if path.name in tested else "train") if tested else ""
            kind, tool = ("manipulated", "Celeb-DF") if fake else ("real", "")
            found.append(Exhibit(f"{part}/{path.stem}", kind, tool, parents, split, path))  # type: ignore[arg-type]
    return by_name(found, folder, "Celeb-DF")


def read_dfdc(root: str | Path) -> list[Exhibit]:
    """DFDC: folders of videos, each with `metadata.json` that says of every one whether it is REAL or FAKE.

    A forged video's parent is its original. Videos that a folder lists but does not hold are left out.
    """
    folder = folder_of(root, "DFDC")
    found = []
    for table in sorted([*folder.glob("metadata.json"), *folder.glob("*/metadata.json")]):
        entries = json_of(table)
        if not isinstance(entries, dict):
            raise FacewrightError(f"{table} is not a table of videos")
        for name, values in entries.items():
            label = str(values.get("label", "")).upper() if isinstance(values, dict) else ""
            if label not in ("REAL", "FAKE"):
                raise FacewrightError(f"{table}: {name} is labelled neither REAL nor FAKE")
            path = table.parent / Path(name).name
            if not path.is_file():
                continue
            original = Path(str(values.get("original") or name)).stem
            fake = label == "FAKE"
            found.append(
                Exhibit(
                    f"{table.parent.name}/{path.stem}",
                    "manipulated" if fake else "real",
                    "DFDC" if fake else "",
                    (original if fake else path.stem,),
                    str(values.get("split") or ""),
                    path,
                )
            )
    return by_name(found, folder, "DFDC")


# --- morphs

_SMDD = {"o25k_bf_t": ("real", ""), "m15k_t": ("morphed", "opencv")}


def read_smdd(root: str | Path) -> list[Exhibit]:
    """SMDD: `o25k_bf_t` (faces that StyleGAN2-ADA made, taken for bona fide) and `m15k_t` (their morphs).

    Also a table `image_path,label` of "bonafide" and "attack", as its programs read it: give the `.csv` file.
    """
    path = Path(root)
    if path.suffix == ".csv":
        return _table_of_morphs(path)
    folder = folder_of(root, "SMDD")
    found = [
        _picture(f"{part}/{path.stem}", kind, tool, (path.stem,), "train", path)
        for part, (kind, tool) in _SMDD.items()
        for path in files_below(folder / part, _PICTURES)
    ]
    return by_name(found, folder, "SMDD")


def _table_of_morphs(path: Path) -> list[Exhibit]:
    found = []
    for number, row in enumerate(csv.DictReader(lines_of(path), skipinitialspace=True), start=2):
        label, picture = (row.get("label") or "").strip(), (row.get("image_path") or "").strip()
        if label not in ("bonafide", "attack") or not picture:
            raise FacewrightError(f"{path}, line {number}: give image_path and a label, bonafide or attack")
        file = Path(picture) if Path(picture).is_absolute() else path.parent / picture
        kind, tool = ("morphed", "unknown") if label == "attack" else ("real", "")
        found.append(_picture(picture, kind, tool, (file.stem,), "", file))
    return by_name(found, path, "a table of morphs")


_FRLL_TOOLS = ("amsl", "facemorpher", "opencv", "stylegan", "webmorph")
_FRLL_PERSON = re.compile(r"(?<!\d)(\d{3})(?!\d)")


def read_frll_morphs(root: str | Path) -> list[Exhibit]:
    """FRLL-Morphs: `raw` (or `facelab_london/raw`) and `morph_TOOL` beside it; parents are the numbers in a name.

    Of the portraits only those that look straight ahead, `…_03` (neutral) and `…_08` (smiling), are bona fide; where
    no name says so, all are.
    """
    folder = folder_of(root, "FRLL-Morphs")
    home = folder / "facelab_london" if (folder / "facelab_london").is_dir() else folder
    portraits = files_below(home / "raw", _PICTURES)
    frontal = [path for path in portraits if path.stem.endswith(("_03", "_08"))]
    found = [_frll(path, "") for path in frontal or portraits]
    found += [_frll(path, tool) for tool in _FRLL_TOOLS for path in files_below(home / f"morph_{tool}", _PICTURES)]
    return by_name(found, folder, "FRLL-Morphs")


def _frll(path: Path, tool: str) -> Exhibit:
    people = tuple(dict.fromkeys(_FRLL_PERSON.findall(path.stem)))
    if len(people) != (2 if tool else 1):
        raise FacewrightError(f"{path} does not name {'two people' if tool else 'one person'} by three digits")
    kind = "morphed" if tool else "real"
    return _picture(f"{tool or 'raw'}/{path.stem}", kind, tool, people, "", path)


def _picture(name: str, kind: str, tool: str, parents: tuple[str, ...], split: str, file: Path) -> Exhibit:
    return Exhibit(name, "morphed" if kind == "morphed" else "real", tool, parents, split, file)


# --- all

READERS: Mapping[str, Callable[[str | Path], list[Exhibit]]] = {
    "faceforensics": read_faceforensics,
    "celeb-df": read_celeb_df,
    "dfdc": read_dfdc,
    "smdd": read_smdd,
    "frll-morphs": read_frll_morphs,
}
"""Readers by the collection's name."""


def read_exhibits(collection: str, root: str | Path) -> list[Exhibit]:
    """The exhibits of a collection; UsageError for one without a reader, FacewrightError for another layout."""
    if collection not in READERS:
        raise UsageError(f"no reader for {collection!r}; there are: {', '.join(READERS)}")
    return READERS[collection](root)


def families(exhibits: Sequence[Exhibit]) -> list[int]:
    """The number of the family of every exhibit: those that share a parent, also by way of others, are one.

    Protocols that split by family have no person or source video on two sides.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers = {name: number for number, name in enumerate(dict.fromkeys(p for one in exhibits for p in one.parents))}
    pairs = [(numbers[one.parents[0]], numbers[other]) for one in exhibits for other in one.parents]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), bool), (first, second)), (len(numbers), len(numbers)))
    groups = connected_components(graph, directed=False)[1]
    return [int(groups[numbers[one.parents[0]]]) for one in exhibits]
