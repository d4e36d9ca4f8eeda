"""A blind look at the outputs of two restorers, pair by pair.

    python -m reproductions.frgp.blind make local/blind --before first/frgp-compact.safetensors --pairs 40 --seed 0
    python -m reproductions.frgp.blind score local/blind choices.txt --write

`make` restores validation faces with the embedded and with other weights and writes sheets on which A and B are
shuffled, and `key.json`, which the viewer does not open. The viewer writes a line for every pair: "1 A", "2 B", or
"3 =" where neither is better. Needs the labelled face collections (FACEWRIGHT_DATA) and shows real people, so the
folder is one of your own.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.data.restoration import open_crops
from facewright.errors import FacewrightError, UsageError
from facewright.evaluation.pages import write_page
from facewright.io.image import save_rgb
from facewright.pipelines.sheets import BACKGROUND, grid
from facewright.systems.base import batches
from facewright.systems.restore.frgp.network import FRGP

from .groups import damaged
from .honesty import COLLECTIONS, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

DAMAGES = ("vqfr@scaled", "vqfr", "far")
TILE, SMALL, GAP = 160, 96, 24
FACE = (slice(64, 228), slice(46, 210))  # of a 256-pixel crop
PAIRS_OF_SHEET, PAIRS_OF_ROW = 10, 2
KEY = "key.json"
EMBEDDED, OTHER, TIE = "embedded", "other", "="


def make(folder: Path, embedded: str | None, before: str, pairs: int, seed: int) -> None:
    """Write the sheets and the key; UsageError where the folder holds a set already."""
    if (folder / KEY).exists():
        raise UsageError(f"{folder} holds a set of pairs already; choose another folder")
    models = {EMBEDDED: FRGP.from_pretrained(embedded), OTHER: FRGP.from_pretrained(before)}
    rng = np.random.default_rng(seed)
    truths = validation_faces(pairs, rng)
    cells, entries = [], []
    for number, (name, truth) in enumerate(truths.items(), 1):
        damage = DAMAGES[(number - 1) % len(DAMAGES)]
        low = damaged(truth, damage, f"{seed}/{name}")
        order = [EMBEDDED, OTHER] if rng.random() < 0.5 else [OTHER, EMBEDDED]
        shown = [models[which].restore(low[None])[0] for which in order]
        cells.append([fitted(low, SMALL), *(fitted(image, TILE) for image in (*shown, truth))])
        entries.append({"number": number, "damage": damage, "A": order[0]})
    folder.mkdir(parents=True, exist_ok=True)
    for place, part in enumerate(batches(list(enumerate(cells, 1)), PAIRS_OF_SHEET), 1):
        save_rgb(sheet(part), folder / f"sheet-{place:02}.png", overwrite=True)
    weights = {name: model.weights_sha256 for name, model in models.items()}
    key = {"seed": seed, "weights": weights, "pairs": entries}
    (folder / KEY).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")


def validation_faces(count: int, rng: np.random.Generator) -> dict[str, Image]:
    """So many different faces, half of each collection, in a drawn order."""
    found: dict[str, Image] = {}
    for name, share in zip(COLLECTIONS, (count - count // 2, count // 2)):
        crops = open_crops(name, "val")  # type: ignore[arg-type]
        chosen = rng.choice(len(crops.rows), share, replace=False)
        found |= {f"{name}/{index}": crops.crop(int(index))[0] for index in chosen}
    names = list(found)
    return {names[i]: found[names[i]] for i in rng.permutation(len(names))}


def fitted(image: Image, side: int) -> Image:
    """The face of a crop, nearly at its own resolution in tiles of `TILE`."""
    return np.asarray(cv2.resize(image[FACE], (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def sheet(numbered: Sequence[tuple[int, list[Image]]]) -> Image:
    """Pairs side by side: the input small, A, B, the truth."""
    gap = np.full((TILE, GAP, 3), BACKGROUND, np.uint8)
    rows, labels = [], []
    for part in batches(numbered, PAIRS_OF_ROW):
        rows.append([image for _, images in part for image in (*images, gap)])
        labels.append([text for number, _ in part for text in (f"{number}: input", "A", "B", "truth", "")])
    return grid(rows, labels)


# --- the result


def read_choices(path: Path, numbers: set[int]) -> dict[int, str]:
    """A, B or = for every number; UsageError where a line is malformed, a pair missing, twice there or unknown."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the choices {path} cannot be read: {error}") from error
    choices: dict[int, str] = {}
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*(\d+)\s+([ABab=])\s*", line)
        if found is None:
            raise UsageError(f'{path}, line {place}: {line.strip()!r} is not a choice; write for example "{place} A"')
        number = int(found[1])
        if number in choices or number not in numbers:
            problem = "was chosen twice" if number in choices else "is not in the key"
            raise UsageError(f"{path}, line {place}: pair {number} {problem}; each pair needs one line")
        choices[number] = found[2].upper()
    if missing := sorted(numbers - set(choices)):
        raise UsageError(f"{path} says nothing about pairs {', '.join(map(str, missing))}; judge them, too")
    return choices


def read_key(folder: Path) -> dict[str, Any]:
    """What `make` wrote; UsageError where it is not there."""
    try:
        key: dict[str, Any] = json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"the key {folder / KEY} cannot be read ({error}); make the pairs first") from error
    return key


def preferred(entry: dict[str, Any], choice: str) -> str:
    """Which weights a choice means."""
    if choice == TIE:
        return TIE
    return EMBEDDED if (choice == "A") == (entry["A"] == EMBEDDED) else OTHER


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)


def result_row(name: str, outcomes: list[str]) -> list[str]:
    """Counts, and the share that prefers the embedded weights with half of the ties."""
    counts = Counter(outcomes)
    share = (counts[EMBEDDED] + counts[TIE] / 2) / len(outcomes)
    low, high = wilson(share, len(outcomes))
    text = f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    return [name, str(len(outcomes)), *(str(counts[which]) for which in (EMBEDDED, OTHER, TIE)), text]


def page(key: dict[str, Any], choices: dict[int, str]) -> str:
    """The Markdown page of the result."""
    outcomes = [(entry["damage"], preferred(entry, choices[entry["number"]])) for entry in key["pairs"]]
    rows = [result_row(damage, own) for damage in DAMAGES if (own := [which for of, which in outcomes if of == damage])]
    rows.append(result_row("all", [which for _, which in outcomes]))
    first = sum(choice == "A" for choice in choices.values())
    lines = [
        "# FRGP, embedded weights: a blind look",
        "",
        f"Made by `reproductions/frgp/blind.py`, {len(choices)} pairs with seed {key['seed']}: validation faces, half",
        "of LFW and half of UTKFace, damaged, restored with both weights and shown beside the true face as A and B in",
        "a drawn order, which the viewer did not know. The share counts half of the ties; 95 % Wilson intervals. A was",
        f"chosen {first} times. Embedded weights {key['weights'][EMBEDDED][:12]}, others {key['weights'][OTHER][:12]}.",
        "",
        *table(["damage", "pairs", "embedded", "others", "no choice", "prefers the embedded"], rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="A blind comparison of two restorers.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the sheets and the key")
    making.add_argument("folder", type=Path)
    making.add_argument("--before", required=True, help="the other weights")
    making.add_argument("--weights", help="weights in place of the embedded ones")
    making.add_argument("--pairs", type=int, default=40)
    making.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score", help="compare choices with the key")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("choices", type=Path)
    scoring.add_argument("--write", type=Path, help="Markdown file for the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if options.command == "make":
            make(options.folder, options.weights, options.before, options.pairs, options.seed)
            return
        key = read_key(options.folder)
        text = page(key, read_choices(options.choices, {entry["number"] for entry in key["pairs"]}))
    except FacewrightError as error:
        parser.error(str(error))
    print(text)
    if options.write:
        write_page(options.write, text, command="python -m reproductions.frgp.blind score", systems=["frgp"])


if __name__ == "__main__":
    main()
