"""How good recognisers are that were taught by names alone, beside the embedded one, which a teacher taught.

    facewright train recipes/cosface-thin.yaml -o runs/cosface-thin
    python -m reproductions.recogniser.margins runs/cosface-thin/model [--write]

Pairs are of LFW's validation people, whom neither was trained on. Needs the labelled face collections
(FACEWRIGHT_DATA).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from facewright.data.identity import IdentityCrops, open_identities
from facewright.data.pairs import many_pairs, verification_pairs
from facewright.loading import create
from facewright.metrics.verification import roc
from facewright.tasks.declare import get_task
from facewright.weights.store import load_file, weights_in

from .. import common
from .evaluate import accuracy, embed_photos

if TYPE_CHECKING:
    from collections.abc import Sequence

BEST = 0.965
"""Ten-fold accuracy from which a recogniser without a teacher would ship."""


def row(name: str, model: Any, crops: IdentityCrops) -> tuple[list[str], float]:
    """A row of the table, and the ten-fold accuracy."""
    embeddings = embed_photos(model, crops)
    right = accuracy(embeddings, embeddings, verification_pairs(crops.subjects))
    pairs = many_pairs(crops.subjects)
    curve = roc((embeddings[pairs.first] * embeddings[pairs.second]).sum(1), pairs.same)
    count = sum(p.numel() for p in model.parameters())
    cells = [
        name,
        f"{count / 1e6:.2f}",
        f"{100 * right.mean:.1f} ± {100 * right.std:.1f}",
        f"{100 * curve.auc:.1f}",
        f"{100 * curve.tar_at(1e-2):.1f}",
    ]
    return cells, right.mean


def taught(folder: str) -> str:
    """How a trained folder says it was made."""
    made = load_file(weights_in(Path(folder)))[1].get("made_by", {})
    recipe = made.get("recipe", {})
    head = recipe.get("training", {}).get("options", {}).get("head", "?")
    return f"{head}, {made.get('step', '?')} steps of {recipe.get('batch_size', '?')}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("models", nargs="+", help="trained folders")
    options = parser.parse_args(arguments)
    common.begin(options)
    crops = open_identities("lfw", "val")
    default = get_task("verify").default
    rows, best = [], 0.0
    for folder in options.models:
        system = load_file(weights_in(Path(folder)))[1]["slug"]
        cells, right = row(f"{system}: {taught(folder)}", create(system, pretrained=folder), crops)
        rows.append(cells)
        best = max(best, right)
    with_teacher, its = row(f"{default}, distilled", create(default, pretrained=True), crops)
    lines = [
        "# Recognisers without a teacher",
        "",
        "Made by `python -m reproductions.recogniser.margins FOLDER`. Taught by names alone: LFW's people of the",
        f"training side with two photos or more. Judged on {len(crops.rows)} photos of the other side's people.",
        "",
        *common.table(
            ["recogniser", "M parameters", "10-fold accuracy %", "AUC %", "TAR at FAR 1 % %"], [*rows, with_teacher]
        ),
        "",
        f"Without a teacher {100 * best:.1f} % at best, with one {100 * its:.1f} %; what ships without one has to",
        f"reach {100 * BEST:.1f} %.",
    ]
    common.finish(options, "margins", lines, [default], given="FOLDER")


if __name__ == "__main__":
    main()
