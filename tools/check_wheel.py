"""Look inside a built wheel: everything a user needs, nothing else, and a description that is true.

    python tools/check_wheel.py dist/facewright-0.1.0-py3-none-any.whl

Prints what is wrong and exits with 1, or one line and exits with 0. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import re
import sys
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "facewright"
LARGEST = 100_000_000
EMBEDDED = ("distilledface", "facedetail", "facewarp", "frgp", "mos", "segface", "vitfiqa")
"""Systems the command line needs: they must come with weights inside the wheel."""
NEEDED = (
    f"{PACKAGE}/py.typed",
    f"{PACKAGE}/cli/commands.py",
    f"{PACKAGE}/metrics/niqe_pristine.npz",
    f"{PACKAGE}/render/assets/skin.npz",
)
LICENCE_FILES = ("LICENSE", "NOTICE")
FOREIGN_FRAMEWORKS = ("torchvision", "timm", "basicsr", "facexlib")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".heic", ".mp4", ".mkv"}
PICKLES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin"}
TEXT = {".py", ".json", ".md", ".txt", ".toml", ".yaml", ".cfg", ""}
# a path of the machine the wheel was built on, not part of an address or of a relative path
MACHINE_PATH = re.compile(rb"(?<![\w.~:/$}])/(?:home|root|Users|tmp|work|mnt|opt|srv|var/folders)/\w|[A-Z]:\\Users\\")
PEEK = 1 << 20


def problems(wheel: Path, source: Path | None = None) -> list[str]:
    """Everything wrong with a wheel, one sentence each; `source` is the package folder it should hold completely."""
    with zipfile.ZipFile(wheel) as archive:
        found = [*_size(wheel), *_surplus(archive), *_missing(archive), *_paths(archive), *_weights(archive)]
        found += _metadata(archive)
        if source is not None:
            found += _incomplete(archive, source)
    return found


def _size(wheel: Path) -> Iterator[str]:
    size = wheel.stat().st_size
    if size >= LARGEST:
        yield f"the wheel has {size / 1e6:.1f} MB, the limit is {LARGEST / 1e6:.0f} MB"
    if not wheel.name.endswith("-py3-none-any.whl"):
        yield f"{wheel.name} is not for every Python 3 and platform"


def _surplus(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in archive.namelist():
        path = PurePosixPath(name)
        top = path.parts[0]
        if top != PACKAGE and not top.endswith(".dist-info"):
            yield f"{name} does not belong to the package"
        if {"tests", "__pycache__", "recipes", "reproductions"} & set(path.parts):
            yield f"{name} is for developers, not for users"
        if path.suffix.lower() in PICTURES:
            yield f"{name} is a picture or video"
        if path.suffix.lower() in PICKLES:
            yield f"{name} may be a pickle; weights are safetensors"
        if path.name.startswith("."):
            yield f"{name} is a hidden file"


def _missing(archive: zipfile.ZipFile) -> Iterator[str]:
    names = set(archive.namelist())
    for name in NEEDED:
        if name not in names:
            yield f"{name} is missing"


def _incomplete(archive: zipfile.ZipFile, source: Path) -> Iterator[str]:
    """Files of the source tree an ignore rule kept out."""
    names = set(archive.namelist())
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_dir() or "__pycache__" in inside.parts or path.name.startswith("."):
            continue
        name = f"{PACKAGE}/{inside.as_posix()}"
        if name not in names:
            yield f"{name} is in the source tree but not in the wheel"


def _paths(archive: zipfile.ZipFile) -> Iterator[str]:
    """Paths of the build machine in texts, and in the headers of safetensors files."""
    for info in archive.infolist():
        suffix = PurePosixPath(info.filename).suffix.lower()
        if suffix not in TEXT | {".safetensors"}:
            continue
        with archive.open(info) as stream:
            match = MACHINE_PATH.search(stream.read(PEEK) if suffix in TEXT else _header(stream.read(PEEK)))
        if match:
            yield f"{info.filename} names a path of the build machine: {match.group().decode(errors='replace')}…"


def _header(start: bytes) -> bytes:
    length = int.from_bytes(start[:8], "little")
    return start[8 : 8 + length]


def _weights(archive: zipfile.ZipFile) -> Iterator[str]:
    """Every card is sound, its embedded weights are here and unchanged, and no weights are without a card."""
    stored = {n for n in archive.namelist() if n.endswith((".safetensors", ".calibration.json"))}
    cards = {}
    for name in archive.namelist():
        if PurePosixPath(name).match(f"{PACKAGE}/systems/*/*/card.json"):
            cards[PurePosixPath(name).parent.name] = json.loads(archive.read(name))
    for slug in EMBEDDED:
        points = cards.get(slug, {}).get("checkpoints", [])
        if not any(point.get("file") for point in points):
            yield f"{slug} has no embedded weights; the demonstration cannot run"
    for slug, card in cards.items():
        for point in card["checkpoints"]:
            if not point.get("file"):
                continue
            name = f"{PACKAGE}/{point['file']}"
            if name not in stored:
                yield f"{name}, named by the card of {slug}, is missing"
                continue
            stored -= {name, name.replace(".safetensors", ".calibration.json")}
            data = archive.read(name)
            if (hashlib.sha256(data).hexdigest(), len(data)) != (point["sha256"], point["size_bytes"]):
                yield f"{name} is not the file its card describes (hash or size)"
            if not (point["licence"] and point["training_data"]):
                yield f"the card of {slug} does not say licence and training data of {point['name']}"
    for name in sorted(stored):
        yield f"{name} is on no card"


def _metadata(archive: zipfile.ZipFile) -> Iterator[str]:
    folders = {PurePosixPath(n).parts[0] for n in archive.namelist() if ".dist-info/" in n}
    if len(folders) != 1:
        yield f"there are {len(folders)} dist-info folders instead of one"
        return
    folder = folders.pop()
    meta = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
    if meta["Name"] != PACKAGE or not re.fullmatch(r"\d+\.\d+\.\d+\S*", meta["Version"] or ""):
        yield f"name or version is odd: {meta['Name']} {meta['Version']}"
    if meta["License-Expression"] != "Apache-2.0":
        yield f"the licence is given as {meta['License-Expression']}, not as Apache-2.0"
    if not (meta["Requires-Python"] or "").startswith(">=3.11"):
        yield f"the Python version is given as {meta['Requires-Python']}"
    if len(str(meta.get_payload()).strip()) < 1000:
        yield "the description (README.md) is missing"
    needs = meta.get_all("Requires-Dist") or []
    names = {re.split(r"[^\w.-]", need, maxsplit=1)[0].lower() for need in needs}
    for name in sorted(names & set(FOREIGN_FRAMEWORKS)):
        yield f"it depends on {name}"
    for name in LICENCE_FILES:
        if f"{folder}/licenses/{name}" not in archive.namelist():
            yield f"{name} is missing from the metadata"
    entries = configparser.ConfigParser()
    if f"{folder}/entry_points.txt" in archive.namelist():
        entries.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    if entries.get("console_scripts", PACKAGE, fallback="") != f"{PACKAGE}.cli:main":
        yield f"the command {PACKAGE} is missing or starts something else than {PACKAGE}.cli:main"


def main() -> int:
    parser = argparse.ArgumentParser(description="Look inside a built wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--source", type=Path, help="package folder that must be in the wheel completely")
    options = parser.parse_args()
    found = problems(options.wheel, options.source)
    for line in found:
        print(f"{options.wheel.name}: {line}", file=sys.stderr)
    if found:
        return 1
    with zipfile.ZipFile(options.wheel) as archive:
        count = len(archive.namelist())
    print(f"{options.wheel.name}: {count} files, {options.wheel.stat().st_size / 1e6:.1f} MB, nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
