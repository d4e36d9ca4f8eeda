"""The embedded MLCR: its calibration, and how good it is on faces it never saw.

    python -m reproductions.mlcr.embedded SETS FOUND --fit runs/mlcr/model
    python -m reproductions.mlcr.embedded SETS FOUND --write

SETS holds the folder rafdb, FOUND is the `rafdb.npz` of `data.people embed`. Needs the face model and the backgrounds
of the labelled collections (FACEWRIGHT_DATA); 160 faces are rendered on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from facewright.data.actions import MOST_YAW, RafdbPhotos, units_of_truth
from facewright.data.crops import Variation
from facewright.data.faces import data_root
from facewright.data.parsing import parsing_renders
from facewright.metrics.calibration import fit_affine, reliability
from facewright.metrics.curves import reliability_figure, save_figure
from facewright.systems.action_units.mlcr.network import EXPRESSIONS, HIGHEST, MLCR
from facewright.systems.base import batches
from facewright.weights.measure import record

from .. import common, traits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from facewright.metrics.calibration import ReliabilityDiagram

    Floats = NDArray[np.float64]
    Image = NDArray[np.uint8]

RESULT = Path("docs/results/action-units.md")
RULES = {
    "happiness": ("AU6", "AU12"),
    "surprise": ("AU1", "AU2", "AU26"),
    "sadness": ("AU1", "AU4", "AU15"),
    "anger": ("AU4", "AU7"),
    "fear": ("AU1", "AU4", "AU5", "AU20"),
    "disgust": ("AU9", "AU10"),
}
"""What the Facial Action Coding System expects of the prototypes of expressions (Ekman, Friesen, Hager 2002)."""
LEAST_CALIBRATION = 5
BATCH = 32


class Rendered:
    """Rendered validation faces: pictures, points, labels (N, U) and intensities (N, U)."""

    def __init__(self, units: tuple[str, ...]) -> None:
        self.shards = parsing_renders("val", data_root())
        truths = [self.shards.truth(i) for i in range(len(self.shards))]
        self.numbers = [i for i, t in enumerate(truths) if abs(float(t["pose"]["yaw"])) <= MOST_YAW]
        told = [units_of_truth(truths[i], units) for i in self.numbers]
        self.points = [np.asarray(truths[i]["points5"]["xy"], np.float64) for i in self.numbers]
        self.labels, self.intensities = np.stack([t[0] for t in told]), np.stack([t[1] for t in told])

    def pictures(self) -> Iterable[tuple[Image, Floats]]:
        return ((self.shards.picture(number), points) for number, points in zip(self.numbers, self.points))


def logits_of(model: MLCR, pictures: Iterable[tuple[Image, Floats]], damage: str = "clean") -> tuple[Floats, Floats]:
    """Mean logits of the units (N, U) and logits of expressions (N, 7) of pictures and their five points."""
    crop, variation, rng = model.preprocess.crop, Variation(augment=False, damage=damage), np.random.default_rng(3)
    crops = [variation.crop(image, points, crop, rng)[0] for image, points in pictures]
    units, told = zip(*[model.score_crops(np.stack(group)) for group in batches(crops, BATCH)])
    return np.concatenate(units), np.concatenate(told)


def photos_of(sets: Path, found: Path) -> tuple[RafdbPhotos, Iterable[tuple[Image, Floats]]]:
    photos = RafdbPhotos(sets, found, "val")
    return photos, (photos[i][:2] for i in range(len(photos)))


def fit(sets: Path, found: Path, folder: Path) -> None:
    """Calibrate units on every other rendered face, expressions on every other photo, and save the model again."""
    model = MLCR.from_pretrained(folder)
    faces = Rendered(model.config.units)
    logits, _ = logits_of(model, faces.pictures())
    half = np.arange(len(logits)) % 2 == 0
    table = np.array(
        [_unit(logits[half, u], faces.labels[half, u], faces.intensities[half, u]) for u in range(logits.shape[1])]
    )
    photos, pictures = photos_of(sets, found)
    _, told = logits_of(model, pictures)
    scale = best_scale(told[::2], photos.labels[::2])
    model.calibrate(table, scale)
    model.save_pretrained(folder)
    print(f"{folder}: {int(half.sum())} renders, {len(told[::2])} photos, expressions x {scale:.2f}")


def _unit(logits: Floats, labels: NDArray[np.int64], intensities: Floats) -> tuple[float, float, float, float]:
    """Factor and offset for the probability, and for a fifth of the intensity, of one unit."""
    known = labels != 0
    present = labels[known] == 1
    scale, offset = 1.0, 0.0
    if min(present.sum(), (~present).sum()) >= LEAST_CALIBRATION:
        share = float(present.mean())
        llr = fit_affine(logits[known], present, prior=share, regularisation=1e-2)
        scale, offset = llr.scale, llr.offset + float(np.log(share / (1 - share)))

    def loss(w: Floats) -> float:
        return float(np.square(expit(w[0] * logits + w[1]) - intensities / HIGHEST).mean() + 1e-4 * w[0] ** 2)

    strong = minimize(loss, np.array([1.0, -1.0]), method="Nelder-Mead").x
    return scale, offset, float(strong[0]), float(strong[1])


def best_scale(logits: Floats, labels: NDArray[np.integer[Any]]) -> float:
    """The factor of logits (N, C) at which the labels (N,) are least surprising."""
    scales = np.geomspace(0.2, 3, 100)
    losses = [-log_softmax(logits * s, 1)[np.arange(len(labels)), labels].mean() for s in scales]
    return float(scales[int(np.argmin(losses))])


def report(model: MLCR, sets: Path, found: Path) -> tuple[list[str], dict[str, float], dict[str, ReliabilityDiagram]]:
    """The page, its numbers, and how often stated probabilities come true."""
    units = model.config.units
    faces = Rendered(units)
    logits, _ = logits_of(model, faces.pictures())
    other = np.arange(len(logits)) % 2 == 1
    actions = [model.read(row, np.zeros(len(EXPRESSIONS))) for row in logits]
    chance = np.array([[a.units[u].probability for u in units] for a in actions])
    strength = np.array([[a.units[u].intensity for u in units] for a in actions])
    rows, f1s = [], []
    for number, unit in enumerate(units):
        sure = other & (faces.labels[:, number] != 0)
        true, p = faces.labels[sure, number] == 1, chance[sure, number]
        hits = float(((p > 0.5) & true).sum())
        size = float((p > 0.5).sum() + true.sum())
        f1s.append(2 * hits / size if true.any() else float("nan"))
        error = np.abs(strength[other, number] - faces.intensities[other, number]).mean()
        rows.append([unit, str(int(true.sum())), f"{f1s[-1]:.2f}", f"{traits.auc(p, true):.2f}", f"{error:.2f}"])
    known = (faces.labels != 0) & other[:, None]
    unit_ece = traits.ece(chance[known], faces.labels[known] == 1)
    photos, pictures = photos_of(sets, found)
    seen, told = logits_of(model, pictures)
    labels = photos.labels
    scale = float(model.calibration[-1, 0]) / 1e6
    probabilities = softmax(told * (scale or 1.0), 1)
    right = probabilities.argmax(1) == labels
    accuracy = traits.by_person(photos.names, lambda i: float(right[i].mean()))
    measured = np.arange(len(labels)) % 2 == 1
    best = probabilities.max(1)
    expression_ece = traits.ece(best[measured], right[measured])
    rules = []
    for name, wanted in RULES.items():
        shown = labels == EXPRESSIONS.index(name)
        rules += [
            [name, unit, str(int(shown.sum())), f"{traits.auc(seen[:, units.index(unit)], shown):.3f}"]
            for unit in wanted
            if unit in units and shown.any()
        ]
    mean_rule = float(np.mean([float(r[3]) for r in rules]))
    recalls = [float(right[labels == i].mean()) for i in np.unique(labels)]
    confusion = np.array(
        [[int(((labels == i) & (probabilities.argmax(1) == j)).sum()) for j in range(7)] for i in range(7)]
    )
    metrics = {
        "renders_mean_f1": round(float(np.nanmean(f1s)), 4),
        "renders_ece": round(unit_ece, 4),
        "rafdb_rules_mean_auc": round(mean_rule, 4),
        "rafdb_expression_accuracy": round(accuracy[0], 4),
        "rafdb_expression_mean_recall": round(float(np.mean(recalls)), 4),
        "rafdb_expression_ece": round(expression_ece, 4),
    }
    damage_rows = []
    for preset in traits.DAMAGES[1:]:
        _, worn = logits_of(model, photos_of(sets, found)[1], preset)
        damage_rows.append([preset, f"{100 * float((worn.argmax(1) == labels).mean()):.1f}"])
    lines = [
        "# Action units and expressions of unseen faces",
        "",
        "```",
        "python -m reproductions.mlcr.embedded SETS FOUND --write",
        "```",
        "",
        "## Action units",
        "",
        f"The embedded MLCR on {int(other.sum())} rendered faces of other people, whose units are exact: a unit",
        "counts as present from intensity 1.5 of 5 on and as absent below 0.5. Half of the rendered faces chose the",
        "calibration, these are the others.",
        "",
        *common.table(["unit", "present", "F1", "AUC", "mean error of the intensity (0 to 5)"], rows),
        "",
        f"Mean F1 **{metrics['renders_mean_f1']:.2f}**, expected calibration error {100 * unit_ece:.1f} %.",
        "",
        f"On photos units are not labelled. What the prototypes of expressions should show, on {len(labels)} photos of",
        "RAF-DB of people that were not trained on: how well a unit tells photos with that expression from all others.",
        "The units' classifiers saw no label of a photo, but the features below them also learned expressions.",
        "",
        *common.table(["expression", "unit", "photos", "AUC"], rules),
        "",
        f"Mean AUC **{mean_rule:.3f}**.",
        "",
        "## Expressions",
        "",
        f"- accuracy on these photos: **{traits.text(accuracy)} %**;",
        f"- mean over the {len(recalls)} expressions that they show:"
        f" {100 * metrics['rafdb_expression_mean_recall']:.1f} %;",
        f"- expected calibration error of the likeliest expression on the {int(measured.sum())} photos that did not"
        f" choose the calibration: {100 * expression_ece:.1f} %; probabilities that are exactly right would show"
        f" {100 * traits.least_ece(best[measured]):.1f} % on so few.",
        "",
        "![Stated probabilities and how often they come true](../images/expression-reliability.png)",
        "",
        "Rows are labels, columns answers:",
        "",
        *common.table(["", *EXPRESSIONS], [[name, *map(str, confusion[i])] for i, name in enumerate(EXPRESSIONS)]),
        "",
        "Damaged photos:",
        "",
        *common.table(["damage", "accuracy %"], damage_rows),
    ]
    diagrams = {
        "likeliest expression, photos": reliability(best[measured], right[measured], bins=10),
        "action units, rendered faces": reliability(chance[known], faces.labels[known] == 1, bins=10),
    }
    return lines, metrics, diagrams


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("sets", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--fit", type=Path, help="folder of a trained model that gets its calibration")
    parser.add_argument("--model", type=Path, help="folder of the model to measure (default: the embedded one)")
    chosen = parser.parse_args()
    common.begin(chosen)
    if chosen.fit:
        fit(chosen.sets, chosen.found, chosen.fit)
        return
    lines, metrics, diagrams = report(MLCR.from_pretrained(chosen.model), chosen.sets, chosen.found)
    if command := common.finish(chosen, "action-units", lines, ["mlcr"]):
        record("mlcr", "embedded", metrics, command=command, data="RAF-DB's validation faces")
        save_figure(reliability_figure(diagrams), Path("docs/images/expression-reliability.png"), overwrite=True)


if __name__ == "__main__":
    main()
