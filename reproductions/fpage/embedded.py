"""The embedded FP-Age: the temperature of its intervals, and how far off it is on people it never saw.

    python -m reproductions.fpage.embedded --fit runs/fpage/model
    python -m reproductions.fpage.embedded --fgnet FOLDER --write

FOLDER is FG-NET's, with `images`. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from facewright.data.ages import AgeCrops, read_fgnet
from facewright.loading import load_detector
from facewright.pipelines.choosing import largest_face, sure_faces
from facewright.systems.age.fpage.network import COVERAGE, FPAge
from facewright.weights.measure import record

from .. import common, traits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

RESULT = Path("docs/results/age.md")
BINS = ((0, 5), (6, 15), (16, 30), (31, 45), (46, 60), (61, 116))
SEXES = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "other")


def logits_of(model: FPAge, data: AgeCrops) -> Floats:
    """(N, A) of all photos of a data set."""
    batches = traits.batches_of(data, len(data.rows))
    return np.concatenate([model.score_crops(batch["image"].numpy()).double().numpy() for batch in batches])


def measures(data: AgeCrops) -> Flags:
    """Which photos measure the intervals; the others choose the temperature. People's photos go together."""
    people = np.asarray(data.collection.labels["subject"])[data.rows]
    return np.array([int(hashlib.sha256(f"age {p}".encode()).hexdigest(), 16) % 2 == 0 for p in people])


def fit(folder: Path) -> None:
    """Choose the temperature on half of the validation people, and save the model again."""
    model = FPAge.from_pretrained(folder)
    data = AgeCrops("val", config=model.config, parsed=0, augment=False)
    chosen = ~measures(data)
    scale = model.calibrate(logits_of(model, data)[chosen], data.ages[data.rows][chosen])
    model.save_pretrained(folder)
    print(f"{folder}: temperature {scale:.2f} from {int(chosen.sum())} photos")


def errors_of(model: FPAge, logits: Floats, ages: Floats) -> tuple[Floats, Flags]:
    """Years off (N,), and whether the true age lies in the interval."""
    told = model.read(logits)
    off = np.array([estimate.age for estimate in told]) - ages
    held = [low <= true <= high for (low, high), true in zip([(e.low or 0.0, e.high or 0.0) for e in told], ages)]
    return off, np.array(held)


def row(name: str, off: Floats, held: Flags) -> list[str]:
    return [
        name,
        str(len(off)),
        f"{np.abs(off).mean():.2f}",
        f"{off.mean():+.1f}",
        f"{100 * (np.abs(off) <= 5).mean():.0f}",
        f"{100 * held.mean():.0f}",
    ]


def on_fgnet(model: FPAge, root: Path) -> tuple[Floats, Flags, NDArray[np.int64], NDArray[np.int64], int]:
    """Errors, intervals, people and ages on FG-NET as a user would see them, and how many photos show no face."""
    detector, off, held, people, ages, lost = load_detector(), [], [], [], [], 0
    for photo in read_fgnet(root):
        bgr: Any = cv2.imread(str(photo.path), cv2.IMREAD_COLOR)
        rgb = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
        face = largest_face(sure_faces(detector.detect(rgb)))
        if face is None:
            lost += 1
            continue
        (told,) = model.estimate(rgb, [face])
        off.append(told.age - photo.age)
        held.append((told.low or 0.0) <= photo.age <= (told.high or 0.0))
        people.append(photo.person)
        ages.append(photo.age)
    return np.array(off), np.array(held), np.array(people), np.array(ages), lost


def report(model: FPAge, fgnet: Path | None) -> tuple[list[str], dict[str, float]]:
    data = {p: AgeCrops("val", 3, config=model.config, parsed=0, augment=False, damage=p) for p in traits.DAMAGES}
    clean = data["clean"]
    ages = clean.ages[clean.rows].astype(np.float64)
    column = clean.collection.labels
    people, sex, group, yaw = (
        np.asarray(column[key])[clean.rows] for key in ("subject", "gender", "ethnicity", "pose_yaw_pitch_roll_deg")
    )
    other = measures(clean)
    off, held = errors_of(model, logits_of(model, clean), ages)
    mae = traits.by_person(people, lambda i: float(np.abs(off[i]).mean()))
    guess = float(np.abs(ages - np.median(ages)).mean())
    groups = traits.groups_of(
        {
            "age": [(f"{low} to {high}", (ages >= low) & (ages <= high)) for low, high in BINS],
            "sex as labelled": [(name, sex == i) for i, name in enumerate(SEXES)],
            "group as labelled": [(name, group == i) for i, name in enumerate(ETHNICITIES)],
            "yaw": traits.by_yaw(yaw[:, 0]),
        }
    )
    header = ["", "photos", "MAE", "bias", "within 5 years %", "in the interval %"]
    metrics = {
        "utkface_mae_years": round(mae[0], 3),
        "utkface_cs5": round(float((np.abs(off) <= 5).mean()), 4),
        "utkface_interval_coverage": round(float(held[other].mean()), 4),
    }
    damaged = [
        row(preset, *errors_of(model, logits_of(model, data[preset]), ages))
        for preset in traits.DAMAGES
        if preset != "clean"
    ]
    lines = [
        "# Ages of unseen people",
        "",
        "```",
        "python -m reproductions.fpage.embedded --fgnet FOLDER --write",
        "```",
        "",
        f"The embedded FP-Age on {len(ages)} photos of UTKFace of people that it was not trained on. Ages are those",
        "the publishers of UTKFace estimated. Bias is above 0 where people are taken for older than they are.",
        "",
        f"- mean absolute error: **{traits.text(mae, 2, 1.0)} years**; always saying the median age gives {guess:.1f};",
        f"- within 5 years: {100 * metrics['utkface_cs5']:.0f} %;",
        f"- the interval that should hold {100 * COVERAGE:.0f} % of the ages holds"
        f" {100 * metrics['utkface_interval_coverage']:.1f} % of those of the {int(other.sum())} photos that did not"
        " choose its temperature.",
        "",
        *common.table(header, [row(name, off[member], held[member]) for name, member in groups]),
        "",
        "Share of errors up to so many years:",
        "",
        *common.table(
            [str(k) for k in range(1, 16)], [[f"{100 * (np.abs(off) <= k).mean():.0f}" for k in range(1, 16)]]
        ),
        "",
        "The same photos damaged before they are cut out; see `degrade/presets.py`:",
        "",
        *common.table(header, damaged),
    ]
    if fgnet is not None:
        far, inside, who, true, lost = on_fgnet(model, fgnet)
        error = traits.by_person(who, lambda i: float(np.abs(far[i]).mean()))
        metrics |= {
            "fgnet_mae_years": round(error[0], 3),
            "fgnet_cs5": round(float((np.abs(far) <= 5).mean()), 4),
            "fgnet_interval_coverage": round(float(inside.mean()), 4),
        }
        lines += [
            "",
            "## FG-NET",
            "",
            f"Another collection, on which nothing was trained: {len(true)} photos of {len(np.unique(who))} people,",
            f"many of them faded scans; faces found by the embedded detector, which found none in {lost}.",
            "",
            f"Mean absolute error: **{traits.text(error, 2, 1.0)} years**.",
            "",
            *common.table(
                header,
                [
                    row("all", far, inside),
                    *(
                        row(f"{low} to {high}", far[chosen], inside[chosen])
                        for low, high in BINS
                        for chosen in [(true >= low) & (true <= high)]
                        if chosen.sum() >= traits.LEAST
                    ),
                ],
            ),
        ]
    return lines, metrics


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--fit", type=Path, help="folder of a trained model that gets its temperature")
    parser.add_argument("--model", type=Path, help="folder of the model to measure (default: the embedded one)")
    parser.add_argument("--fgnet", type=Path, help="folder of FG-NET")
    chosen = parser.parse_args()
    common.begin(chosen)
    if chosen.fit:
        fit(chosen.fit)
        return
    lines, metrics = report(FPAge.from_pretrained(chosen.model), chosen.fgnet)
    if command := common.finish(chosen, "age", lines, ["fpage"]):
        record("fpage", "embedded", metrics, command=command, data="photos of UTKFace's validation people, FG-NET")


if __name__ == "__main__":
    main()
