r"""How good the embedded recogniser is on people it never saw, clean and degraded, and what its scores mean.

    python -m reproductions.recogniser.evaluate --write --pictures docs/images
    python -m reproductions.recogniser.evaluate \
        --calibrate src/facewright/systems/recognise/distilledface/compact.calibration.json

Pairs come from the validation people of LFW; false acceptance by group from UTKFace's validation pictures, less the
pairs that the people's split takes for one person. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facewright.data.detection import five_points
from facewright.data.identity import SIZE, IdentityCrops, open_identities
from facewright.data.pairs import Pairs, many_pairs, verification_pairs
from facewright.data.split import shipped_split
from facewright.face import Face
from facewright.geometry.resample import crop_face
from facewright.loading import create, load_detector
from facewright.metrics.calibration import ScoreCalibration, cllr, cllr_min, fit_affine, reliability
from facewright.metrics.curves import det_figure, reliability_figure, roc_figure, save_figure
from facewright.metrics.verification import FoldAccuracy, fold_accuracy, roc
from facewright.systems.base import batches
from facewright.weights.measure import record

from .. import common
from .restored import small_photo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.systems.recognise.distilledface.network import DistilledFace

EYES = (20, 12, 8)
ETHNICITIES = ("White", "Black", "Asian", "Indian", "other")


def small_crop(crops: IdentityCrops, entry: int, eyes: float) -> NDArray[np.uint8]:
    """The crop of a photo that was reduced until the eyes are `eyes` pixels apart and saved as JPEG."""
    photo, points = small_photo(crops, entry, eyes)
    return crop_face(photo, points, SIZE, "arcface").image


def on_usual_crops(model: Any) -> bool:
    """Whether a recogniser takes the crops that are cut already."""
    return (model.preprocess.size, model.preprocess.crop.template) == (SIZE, "arcface")


def embed_photos(model: Any, crops: IdentityCrops) -> NDArray[np.float32]:
    """Embeddings of all photos, on the crops that the model wants, by the labelled box and points."""
    if on_usual_crops(model):
        return np.asarray(model.embed(crops.aligned(np.arange(len(crops.rows)))))
    labels, found = crops.collection.labels, []
    for part in batches(crops.rows.tolist(), 64):
        faces = []
        for row in part:
            x, y, width, height = np.asarray(labels["box_xywh"][row], np.float32)
            points = five_points(np.asarray(labels["landmarks68"][row], np.float64)).astype(np.float32)
            face = Face(box=np.array([x, y, x + width, y + height]), points5=points, score=1.0)
            faces.append(model.preprocess.crop.cut(crops.collection.read(row), face).image)
        found.append(model.embed(np.stack(faces)))
    return np.concatenate(found)


def detected_crops(crops: IdentityCrops) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The crops the whole pipeline would cut, by our detector's points; and where it found the labelled face."""
    detector: Any = load_detector()
    out, found = crops.aligned(np.arange(len(crops.rows))), np.zeros(len(crops.rows), bool)
    for i, row in enumerate(crops.rows):
        photo = crops.collection.read(int(row))
        points = five_points(np.asarray(crops.collection.labels["landmarks68"][row], np.float64))
        eyes = float(np.hypot(*(points[1] - points[0])))
        near = [f for f in detector.detect(photo) if np.hypot(*(f.points5.mean(0) - points.mean(0))) < 0.6 * eyes]
        if near:
            out[i], found[i] = crop_face(photo, near[0].points5, SIZE, "arcface").image, True
    return out, found


def accuracy(first: NDArray[np.float32], second: NDArray[np.float32], pairs: Pairs) -> FoldAccuracy:
    """Ten-fold accuracy of the pairs."""
    return fold_accuracy(((first[pairs.first] - second[pairs.second]) ** 2).sum(1), pairs.same)


def calibration_scores(
    embeddings: NDArray[np.float32], subjects: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Scores, labels and identities of many pairs of clean photos."""
    pairs = many_pairs(subjects)
    scores = (embeddings[pairs.first] * embeddings[pairs.second]).sum(1)
    return scores, pairs.same, subjects[np.stack([pairs.first, pairs.second], 1)]


def halves(identities: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pairs within one and within the other half of the people: to calibrate on one and judge on the other."""
    side = identities % 2
    return (side == 0).all(1), (side == 1).all(1)


def group_rates(model: DistilledFace, threshold: float) -> dict[str, tuple[int, float]]:
    """By group of UTKFace the number of pictures, and the false acceptance at the threshold found on LFW."""
    crops = open_identities("utkface", "val")
    files = np.asarray(crops.collection.labels["filename"])[crops.rows].astype(str).tolist()
    people = shipped_split().people("utkface", files)
    embeddings = model.embed(crops.aligned(np.arange(len(crops.rows))))
    labels = {k: np.asarray(crops.collection.labels[k])[crops.rows] for k in ("ethnicity", "gender", "age_years")}
    groups = {name: labels["ethnicity"] == i for i, name in enumerate(ETHNICITIES)}
    groups |= {"men": labels["gender"] == 0, "women": labels["gender"] == 1}
    ages = {"0–12 years": (0, 12), "13–29 years": (13, 29), "30–59 years": (30, 59), "60 years and more": (60, 200)}
    groups |= {name: (labels["age_years"] >= a) & (labels["age_years"] <= b) for name, (a, b) in ages.items()}
    found = {}
    for name, members in groups.items():
        chosen, who = embeddings[members], people[members]
        one_person = (who[:, None] == who) & (who > 0)
        strangers = np.triu(~one_person, 1)
        found[name] = len(chosen), float(((chosen @ chosen.T)[strangers] >= threshold).mean())
    return found


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, pictures="the curves")
    parser.add_argument("--model", default="distilledface", help="recogniser")
    parser.add_argument("--weights", default=None, help="file, folder or name; the shipped ones when left out")
    parser.add_argument("--calibrate", type=Path)
    options = parser.parse_args()
    common.begin(options)
    start = time.perf_counter()
    model: Any = create(options.model, pretrained=options.weights or True)
    crops = open_identities("lfw", "val")
    clean = embed_photos(model, crops)
    scores, same, identities = calibration_scores(clean, crops.subjects)
    calibration = ScoreCalibration.measure(
        scores,
        same,
        identities,
        recogniser=options.model,
        sha256=model.weights_sha256 or "",
        measured_on="LFW, validation people",
        replicates=300,
    )
    if options.calibrate:
        options.calibrate.write_text(calibration.to_json(), encoding="utf-8")
        print(f"{options.calibrate}: {calibration.genuine} genuine, {calibration.impostors} impostor pairs")
    if options.write is None:
        return
    if not on_usual_crops(model):
        raise SystemExit(
            f"the page is about recognisers on crops of the `arcface` template; {options.model} can only be calibrated"
        )
    lines, values, groups = report(model, crops, clean, scores, same, identities, calibration)
    minutes = (time.perf_counter() - start) / 60
    lines.insert(2, f"Made by `python -m reproductions.recogniser.evaluate --write` in {minutes:.0f} minutes.\n")
    command = common.finish(options, "recogniser", lines, [options.model])
    if command and not options.weights:
        data = f"photos of {len(np.unique(crops.subjects))} validation people of LFW"
        record(options.model, "evaluate", values, command=command, data=data)
        data = "UTKFace's validation people, pairs within each group"
        record(options.model, "groups", groups, command=command, data=data, listed=False)
    if options.pictures:
        fit, judge = halves(identities)
        stated = ScoreCalibration("distilledface", "", "", 0, 0, fit_affine(scores[fit], same[fit]), ()).probability(
            scores[judge], prior=float(same[judge].mean())
        )
        diagram = reliability(stated, same[judge])
        curves = {"clean": roc(scores, same)}
        save_figure(det_figure(curves), options.pictures / "recogniser-det.png", overwrite=True)
        save_figure(roc_figure(curves), options.pictures / "recogniser-roc.png", overwrite=True)
        save_figure(
            reliability_figure({"distilledface": diagram}),
            options.pictures / "recogniser-reliability.png",
            overwrite=True,
        )


def report(
    model: DistilledFace,
    crops: IdentityCrops,
    clean: NDArray[np.float32],
    scores: NDArray[np.float32],
    same: NDArray[np.bool_],
    identities: NDArray[np.int64],
    calibration: ScoreCalibration,
) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """The results page as Markdown lines, the numbers of the card, and false acceptance by group in percent."""
    pairs = verification_pairs(crops.subjects)
    teacher = crops.teacher()
    detected, found = detected_crops(crops)
    by_detector = model.embed(detected)
    measured = {
        "the teacher, clean": accuracy(teacher, teacher, pairs),
        "clean": accuracy(clean, clean, pairs),
        f"clean, aligned by our detector (found {100 * found.mean():.1f} %)": accuracy(by_detector, by_detector, pairs),
    }
    needed = np.unique(pairs.second)
    for eyes in EYES:
        images = crops.aligned(np.arange(len(crops.rows)))
        for entry in needed:
            images[entry] = small_crop(crops, int(entry), eyes)
        measured[f"one of the pair small, {eyes} px between the eyes"] = accuracy(clean, model.embed(images), pairs)
    rows = [f"| {name} | {100 * a.mean:.2f} ± {100 * a.std:.2f} |" for name, a in measured.items()]
    fit, judge = halves(identities)
    llr = fit_affine(scores[fit], same[fit])(scores[judge])
    values = {
        "lfw_accuracy_clean_percent": 100 * measured["clean"].mean,
        "lfw_accuracy_one_at_12_px_percent": 100 * measured["one of the pair small, 12 px between the eyes"].mean,
        "lfw_accuracy_of_the_teacher_percent": 100 * measured["the teacher, clean"].mean,
        **{f"threshold_far_{p.far:g}": p.threshold for p in calibration.points},
        **{f"tar_far_{p.far:g}_percent": 100 * p.tar for p in calibration.points},
        "cllr_bits": cllr(llr, same[judge]),
    }
    points = [
        f"| {p.far:g} | {p.threshold:.3f} {_interval(p.threshold_interval)} | {100 * p.tar:.1f} % "
        f"{_interval(p.tar_interval, 100)} |"
        for p in calibration.points
    ]
    groups = group_rates(model, calibration.point(1e-3).threshold)
    lines = [
        "# The embedded recogniser",
        "",
        f"{len(pairs.same)} balanced pairs in ten folds, of {len(np.unique(crops.subjects))} people of LFW that no",
        "training saw; nobody is in two folds. The threshold of a fold is chosen on the nine others.",
        "",
        "| pictures | accuracy (%) |",
        "| --- | --- |",
        *rows,
        "",
        "## Thresholds and calibration",
        "",
        f"Of {calibration.genuine} genuine and {calibration.impostors} impostor pairs of the same people, with 95 %",
        "intervals by resampling people. The threshold for 0.0001 rests on few impostors.",
        "",
        "| false acceptance | threshold (cosine) | true acceptance |",
        "| --- | --- | --- |",
        *points,
        "",
        f"Cllr {cllr(llr, same[judge]):.3f} bits, of which {cllr_min(scores[judge], same[judge]):.3f} are lost by",
        "discrimination and the rest by calibration; calibrated on one half of the people, judged on the other.",
        "",
        "![Error trade-off](../images/recogniser-det.png)",
        "![Reliability](../images/recogniser-reliability.png)",
        "",
        "## False acceptance by group",
        "",
        "Impostor pairs within each group of UTKFace's validation pictures, at the threshold of 0.001. Pairs within",
        "a group look more alike than random pairs, so more than 0.1 % is expected; the differences are the bias.",
        "Whom the teacher's embeddings cannot tell from others (infants above all) is in no group, because such people",
        "are never held out: what is said of children and of alike faces is less than the truth.",
        "",
        "| group | pictures | false acceptance |",
        "| --- | --- | --- |",
        *(f"| {name} | {count} | {100 * rate:.2f} % |" for name, (count, rate) in groups.items()),
    ]
    return lines, values, {name: 100 * rate for name, (_, rate) in groups.items()}


def _interval(ends: tuple[float, float] | None, factor: float = 1) -> str:
    if ends is None:
        return ""
    digits = 1 if factor == 100 else 3
    return f"[{factor * ends[0]:.{digits}f}, {factor * ends[1]:.{digits}f}]"


if __name__ == "__main__":
    main()
