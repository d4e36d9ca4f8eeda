"""The embedded ANet: its support vector machines and their calibration, and how good it is on people it never saw.

    python -m reproductions.lnet_anet.embedded LIST --fit runs/lnet_anet/model
    python -m reproductions.lnet_anet.embedded LIST --write

LIST is list_attr_lfwa+.txt. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from facewright.data.attributes import AttributeCrops
from facewright.metrics.calibration import reliability
from facewright.metrics.curves import reliability_figure, save_figure
from facewright.pipelines.traits import UNTOLD
from facewright.systems.attributes.lnet_anet.network import ATTRIBUTES, LNetANet
from facewright.systems.attributes.lnet_anet.training import fit_machines
from facewright.training.trainer import signed
from facewright.weights.measure import record

from .. import common, traits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESULT = Path("docs/results/attributes.md")
PAPER = (84, 82, 83, 83, 88, 88, 75, 81, 90, 97, 74, 77, 82, 73, 78, 95, 78, 84, 95, 88, 94, 82, 92, 81, 79, 74, 84, 80,
         85, 78, 77, 91, 76, 76, 94, 88, 95, 88, 79, 86)  # fmt: skip
"""Accuracies the paper prints for LFWA, in percent."""


@torch.inference_mode()
def features_of(model: LNetANet, data: AttributeCrops, *, mirrored: bool = False) -> tuple[Floats, Floats]:
    """ANet's features (N, D) and scores (N, A) of all photos of a data set."""
    features, scores = [], []
    for batch in traits.batches_of(data, len(data.rows)):
        image = signed(batch["image"])
        seen = model(image.flip(3) if mirrored else image, return_aux=True)
        features.append(seen["features"].double().numpy())
        scores.append(seen["scores"].double().numpy())
    return np.concatenate(features), np.concatenate(scores)


def labels_of(data: AttributeCrops) -> NDArray[np.int8]:
    return np.stack([data.labels[row] for row in data.rows])


def fit(labels: str, folder: Path) -> None:
    """Fit machines and calibration on the training people kept for them, and save the model again."""
    model = LNetANet.from_pretrained(folder)
    data = AttributeCrops("train", labels=labels, part="machines", augment=False, config=model.config)
    both = [features_of(model, data, mirrored=mirrored)[0] for mirrored in (False, True)]
    interleaved = np.stack(both, 1).reshape(-1, both[0].shape[1])
    # a photo and its mirror image must not fall on different sides of the halves: every other *pair* does
    order = np.concatenate([np.arange(0, len(interleaved), 4), np.arange(1, len(interleaved), 4)])
    rest = np.concatenate([np.arange(2, len(interleaved), 4), np.arange(3, len(interleaved), 4)])
    count = min(len(order), len(rest))
    alternating = np.stack([order[:count], rest[:count]], 1).ravel()
    fit_machines(model, interleaved[alternating], labels_of(data)[alternating // 2])
    model.save_pretrained(folder)
    print(f"{folder}: machines from {len(data.rows)} photos")


def told(model: LNetANet, scores: Floats) -> Floats:
    """(N, A) probabilities."""
    return np.array([list(model.read(row).probabilities.values()) for row in scores])


def _share(right: NDArray[np.bool_], chosen: NDArray[np.int64]) -> float:
    return float(right[chosen].mean())


def report(model: LNetANet, labels: str) -> tuple[list[str], dict[str, float], Floats, NDArray[np.bool_]]:
    data = {
        preset: AttributeCrops("val", 3, labels=labels, augment=False, damage=preset, config=model.config)
        for preset in traits.DAMAGES
    }
    clean = data["clean"]
    true = labels_of(clean) > 0
    scores = {preset: features_of(model, data[preset])[1] for preset in traits.DAMAGES}
    chances = told(model, scores["clean"])
    column = clean.collection.labels
    people = np.asarray(column["subject"])[clean.rows]
    yaw = np.asarray(column["pose_yaw_pitch_roll_deg"])[clean.rows][:, 0]
    found = chances > 0.5
    right = found == true
    accuracy = traits.by_person(people, lambda i: float(right[i].mean()))
    balanced = traits.by_person(people, lambda i: float(np.nanmean(traits.balanced_accuracy(found[i], true[i]))))
    shown = np.array([name not in UNTOLD for name in ATTRIBUTES])
    rows = []
    for number, name in enumerate(ATTRIBUTES):
        share = float(true[:, number].mean())
        each = traits.by_person(people, partial(_share, right[:, number]), draws=300)
        rows.append(
            [
                name,
                f"{100 * share:.0f}",
                f"{100 * max(share, 1 - share):.1f}",
                traits.text(each),
                f"{100 * float(traits.balanced_accuracy(found, true)[number]):.1f}",
                f"{traits.auc(chances[:, number], true[:, number]):.3f}",
                f"{100 * traits.ece(chances[:, number], true[:, number]):.1f}",
                str(PAPER[number]),
                "" if shown[number] else "untold",
            ]
        )
    of = {name: true[:, ATTRIBUTES.index(name)] for name in ("Male", "Young", "Pale_Skin", "Eyeglasses")}
    groups = traits.groups_of(
        {
            "sex as labelled": [("male", of["Male"]), ("not male", ~of["Male"])],
            "age as labelled": [("young", of["Young"]), ("not young", ~of["Young"])],
            "skin as labelled": [("pale", of["Pale_Skin"]), ("not pale", ~of["Pale_Skin"])],
            "glasses": [("with", of["Eyeglasses"]), ("without", ~of["Eyeglasses"])],
            "yaw": traits.by_yaw(yaw),
        }
    )
    group_rows = [
        [
            name,
            str(int(member.sum())),
            traits.text(traits.by_person(people[member], partial(_share, right[member]), draws=300)),
            f"{100 * traits.ece(chances[member], true[member]):.1f}",
        ]
        for name, member in groups
    ]
    damage_rows = []
    for preset in traits.DAMAGES:
        p = told(model, scores[preset])
        damage_rows.append(
            [preset, f"{100 * float(((p > 0.5) == true).mean()):.1f}", f"{100 * traits.ece(p, true):.1f}"]
        )
    majority = float(np.maximum(true.mean(0), 1 - true.mean(0)).mean())
    metrics = {
        "lfwa_mean_accuracy_unseen_people": round(accuracy[0], 4),
        "lfwa_mean_balanced_accuracy": round(balanced[0], 4),
        "lfwa_majority_accuracy": round(majority, 4),
        "ece": round(traits.ece(chances, true), 4),
    }
    lines = [
        "# Attributes of unseen people",
        "",
        "```",
        "python -m reproductions.lnet_anet.embedded LIST --write",
        "```",
        "",
        f"The embedded ANet on {len(people)} photos of {len(np.unique(people))} people of LFW that neither",
        "its networks nor its support vector machines saw, with the labels of LFWA+; intervals hold 95 % of the",
        "resamples by person.",
        "",
        f"- mean accuracy over 40 attributes: **{traits.text(accuracy)} %**; always saying what is more frequent gives"
        f" {100 * majority:.1f} %; the paper prints 84 % for LFWA, with 160,000 photos of CelebA to learn from, on"
        " another split;",
        f"- with true and untrue weighing alike: {traits.text(balanced)} %;",
        f"- expected calibration error of all probabilities together: {100 * metrics['ece']:.1f} %.",
        "",
        "![Stated probabilities and how often they come true](../images/attributes-reliability.png)",
        "",
        *common.table(
            ["attribute", "true %", "majority %", "accuracy %", "balanced %", "AUC", "ECE %", "paper %", ""], rows
        ),
        "",
        "LFWA's labels were made by a network and checked by people. Many are doubtful, and so is what follows from",
        "them.",
        "",
        "## Groups",
        "",
        *common.table(["group", "photos", "accuracy %", "ECE %"], group_rows),
        "",
        "## Damage",
        "",
        "The same photos damaged before they are cut out again; see `degrade/presets.py`.",
        "",
        *common.table(["damage", "accuracy %", "ECE %"], damage_rows),
    ]
    return lines, metrics, chances, true


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("labels", help="list_attr_lfwa+.txt")
    parser.add_argument("--fit", type=Path, help="folder of a trained model that gets its machines")
    parser.add_argument("--model", type=Path, help="folder of the model to measure (default: the embedded one)")
    chosen = parser.parse_args()
    common.begin(chosen)
    if chosen.fit:
        fit(chosen.labels, chosen.fit)
        return
    lines, metrics, chances, true = report(LNetANet.from_pretrained(chosen.model), chosen.labels)
    if command := common.finish(chosen, "attributes", lines, ["lnet_anet"]):
        record("lnet_anet", "embedded", metrics, command=command, data="LFW's validation people, attributes of LFWA")
        figure = reliability_figure({"attributes": reliability(chances.ravel(), true.ravel(), bins=15)})
        save_figure(figure, Path("docs/images/attributes-reliability.png"), overwrite=True)


if __name__ == "__main__":
    main()
