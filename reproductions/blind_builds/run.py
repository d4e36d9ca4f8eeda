"""A blind look at two builds of the whole command on real photos, face by face.

    python reproductions/blind_builds/photos.py PHOTOS local/new                       # with this build
    PYTHONPATH=OTHER/src python reproductions/blind_builds/photos.py PHOTOS local/old  # with the other
    python -m reproductions.blind_builds.run make PHOTOS local/old local/new local/blind --pairs 40 --seed 0
    python -m reproductions.blind_builds.run score local/blind choices.txt --write

`make` draws faces that one of the builds changed and writes sheets with the input, A and B in a drawn order, and
`key.json`, which the viewer does not open. The viewer writes a line for every pair: "1 A", "2 B", or "3 =" where
neither is better. The sheets show real people, so the folder is one of your own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

import facewright as fw
from facewright.errors import FacewrightError, UsageError
from facewright.evaluation.pages import write_page
from facewright.io.image import read, save_rgb
from facewright.io.kinds import survey
from facewright.pipelines.sheets import grid
from facewright.systems.base import batches

from .. import common
from ..frgp.blind import EMBEDDED, KEY, OTHER, preferred, read_choices, read_key, result_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from facewright.face import Face

    Image = NDArray[np.uint8]

TILE = 300
PAIRS_OF_SHEET, PAIRS_OF_ROW = 8, 2
LEAST_CHANGE = 1.0  # grey levels on average from which a face counts as changed
MOST_OF_A_PHOTO = 4
HEADER = ["photos", "pairs", "this build", "before", "no choice", "prefers this build"]


def cut(picture: Image, face: Face) -> Image:
    """The square around a face, enlarged or reduced to a tile; the same for every build."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    side = 1.25 * max(x1 - x0, y1 - y0)
    matrix = np.array([[TILE / side, 0, TILE / 2], [0, TILE / side, TILE / 2]])
    matrix[:, 2] -= TILE / side * np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    how = cv2.INTER_AREA if side > TILE else cv2.INTER_CUBIC
    return np.asarray(cv2.warpAffine(picture, matrix, (TILE, TILE), flags=how, borderMode=cv2.BORDER_REPLICATE))


def faces_of(photo: Path, old: Path, new: Path) -> list[list[Image]]:
    """Input, old and new output of the faces of a photo that one of the builds changed."""
    rgb, *outputs = (read(path).rgb() for path in (photo, *(folder / f"{photo.stem}.png" for folder in (old, new))))
    found = []
    for face in fw.detect(photo):
        tiles = [cut(picture, face) for picture in (rgb, *outputs)]
        if max(np.abs(tile.astype(int) - tiles[0]).mean() for tile in tiles[1:]) >= LEAST_CHANGE:
            found.append(tiles)
    return found[:MOST_OF_A_PHOTO]


def make(photos: Path, old: Path, new: Path, folder: Path, pairs: int, seed: int) -> None:
    """Write the sheets and the key; UsageError where the folder holds a set already."""
    if (folder / KEY).exists():
        raise UsageError(f"{folder} holds a set of pairs already; choose another folder")
    rng = np.random.default_rng(seed)
    both = [path for path, _ in survey(photos).files if all((f / f"{path.stem}.png").is_file() for f in (old, new))]
    found = [tiles for path in both for tiles in faces_of(path, old, new)]
    cells, entries = [], []
    for number, index in enumerate(rng.permutation(len(found))[:pairs], 1):
        given, before, after = found[index]
        first = EMBEDDED if rng.random() < 0.5 else OTHER
        cells.append((number, [given, *((after, before) if first == EMBEDDED else (before, after))]))
        entries.append({"number": number, "damage": "real", "A": first})
    folder.mkdir(parents=True, exist_ok=True)
    for place, part in enumerate(batches(cells, PAIRS_OF_SHEET), 1):
        save_rgb(sheet(part), folder / f"sheet-{place:02}.png", overwrite=True)
    (folder / KEY).write_text(json.dumps({"seed": seed, "pairs": entries}, indent=2) + "\n", encoding="utf-8")
    print(f"{len(entries)} pairs of {len(found)} changed faces in {len(both)} photos")


def sheet(numbered: Sequence[tuple[int, list[Image]]]) -> Image:
    """Two pairs a row: the input, A, B."""
    rows, labels = [], []
    for part in batches(numbered, PAIRS_OF_ROW):
        rows.append([image for _, images in part for image in images])
        labels.append([text for number, _ in part for text in (f"{number}: input", "A", "B")])
    return grid(rows, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the sheets and the key")
    for name in ("photos", "old", "new", "folder"):
        making.add_argument(name, type=Path)
    making.add_argument("--pairs", type=int, default=40)
    making.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score", help="compare choices with the key")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("choices", type=Path)
    scoring.add_argument("--write", type=Path, nargs="?", const=Path("docs/results/blind-builds.md"))
    options = parser.parse_args()
    try:
        if options.command == "make":
            make(options.photos, options.old, options.new, options.folder, options.pairs, options.seed)
            return
        key = read_key(options.folder)
        choices = read_choices(options.choices, {entry["number"] for entry in key["pairs"]})
    except FacewrightError as error:
        parser.error(str(error))
    outcomes = [preferred(entry, choices[entry["number"]]) for entry in key["pairs"]]
    lines = [
        "# Two builds on real photos: a blind look",
        "",
        f"Made by `python -m reproductions.blind_builds.run`, {len(choices)} faces of old and damaged photos with",
        f"seed {key['seed']}, restored by the whole command with default options: by this build, and by the one before",
        "it knew faces of 512 px. The viewer, a developer of this project, saw the input and A and B in a drawn order.",
        "The share counts half of the ties; 95 % Wilson interval.",
        "",
        *common.table(HEADER, [result_row("real", outcomes)]),
    ]
    print("\n".join(lines))
    if options.write:
        command = "python -m reproductions.blind_builds.run score FOLDER CHOICES"
        text = "\n".join([*lines, ""])
        write_page(options.write, text, command=command, systems=["frgp", "facedetail"], people=False)


if __name__ == "__main__":
    main()
