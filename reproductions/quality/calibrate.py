"""Fit the 0–100 qualities of damaged and of restored faces and the limit of "already good", and judge all on others.

    python -m reproductions.quality.calibrate --write \\
        --fit src/facewright/systems/quality/retained.json

Fitted on training people of LFW and UTKFace, judged on validation people of LFW. Needs the labelled face collections
(FACEWRIGHT_DATA). What was measured is kept in `--work`, so that a stopped run goes on where it was.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from facewright.pipelines.restore import GOOD_SSIM
from facewright.systems.quality.reasons import percentiles
from facewright.systems.quality.retained import RetainedModel, RetainedModels, signals
from facewright.systems.quality.vitfiqa.network import ViTFIQA

from .. import common
from .measure import VERSIONS, Measurements, measured

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RIDGE = 0.01
GAIN_WORTH_IT = 0.01  # SSIM
NEIGHBOURHOOD = 0.04  # of estimated SSIM, over which a gain is averaged
WORSE = 0.1  # dB
BINS = (0.0, 0.7, 0.8, 0.84, 0.87, 0.89, 0.91, 0.93, 0.95, 1.0)
BADLY_DAMAGED, RATED_GOOD = 0.6, 80
CLEARLY_WORSE = 0.05  # of what is left


def left(of: Measurements) -> NDArray[np.float64]:
    """What is really left of the damaged faces: structure times identity, (photos, versions)."""
    return of.column("true_ssim") * of.column("identity").clip(0, 1)


def left_after(of: Measurements) -> NDArray[np.float64]:
    """What is really left of the true faces in the restored ones, (photos, versions)."""
    return of.column("restored_ssim") * of.column("restored_identity").clip(0, 1)


def signals_of(of: Measurements, prefix: str = "") -> NDArray[np.float64]:
    """(photos, versions, 4) of the damaged faces; with the prefix "after_" of the restored ones."""
    return signals(*(of.column(prefix + name) for name in ("blur_sigma", "downscale", "jpeg_quality", "ssim")))


def fit(parts: list[Measurements], truth: Callable[[Measurements], NDArray[np.float64]]) -> RetainedModel:
    """Least squares of `truth`; no weight below zero, because less damage must never lower the number."""
    x = np.concatenate([signals_of(part).reshape(-1, 4) for part in parts])
    y = np.concatenate([truth(part).ravel() for part in parts])

    def residuals(w: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([RetainedModel(*w)(x) - y, RIDGE * w[1:]])

    found = least_squares(residuals, np.r_[0.0, np.ones(4)], bounds=(np.r_[-np.inf, np.zeros(4)], np.inf))
    return RetainedModel(*(round(float(w), 4) for w in found.x))


def good_from(parts: list[Measurements]) -> float:
    """The least estimated SSIM at which restoring damaged faces adds less structure than `GAIN_WORTH_IT`."""
    estimated, gain = _gains(parts)
    for limit in np.arange(0.7, 1.0 - NEIGHBOURHOOD, 0.01):
        near = (estimated >= limit) & (estimated < limit + NEIGHBOURHOOD)
        if near.any() and gain[near].mean() < GAIN_WORTH_IT:
            return round(float(limit), 2)
    raise SystemExit("restoring is worth it for every face: no limit was found")


def _gains(parts: list[Measurements], measure: str = "ssim") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimated SSIM of all damaged versions, and what restoring adds to them in SSIM or PSNR; both (N,)."""
    estimated = [part.column("ssim")[:, 1:].ravel() for part in parts]
    gain = [(part.column(f"restored_{measure}") - part.column(f"true_{measure}"))[:, 1:].ravel() for part in parts]
    return np.concatenate(estimated), np.concatenate(gain)


def version_table(columns: dict[str, NDArray[np.float64]]) -> list[str]:
    """Medians for every version of what is really left and of what each number says, (photos, versions) each."""
    lines = ["| damage | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 1)]
    for place, version in enumerate(VERSIONS):
        medians = " | ".join(f"{np.median(values[:, place]):.0f}" for values in columns.values())
        lines.append(f"| {version.name} | {medians} |")
    return lines


def verdict_table(
    truth: NDArray[np.float64], numbers: dict[str, NDArray[np.float64]], counted: NDArray[np.bool_]
) -> list[str]:
    """How well each number follows what is left, among the faces that are `counted`; all (photos, versions)."""
    worse = truth[:, :, None] + CLEARLY_WORSE < truth[:, None, :]
    worse &= counted[:, :, None] & counted[:, None, :]
    bad = counted & (truth < BADLY_DAMAGED)
    lines = [
        "| number | rank correlation with what is left | versions of a face in order "
        f"| less than {100 * BADLY_DAMAGED:.0f} % left, but rated {RATED_GOOD} or more |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in numbers.items():
        ordered = (values[:, :, None] < values[:, None, :])[worse].mean()
        kind = (values[bad] >= RATED_GOOD).mean()
        rank = spearmanr(values[counted], truth[counted]).statistic
        lines.append(f"| {name} | {rank:.2f} | {100 * ordered:.0f} % | {100 * kind:.0f} % |")
    return lines


def gate_table(parts: list[Measurements]) -> list[str]:
    """What restoring does to damaged faces, by the estimated SSIM of the input."""
    estimated, gain = _gains(parts)
    _, decibels = _gains(parts, "psnr")
    lines = ["| estimated SSIM | faces | gain in SSIM | gain in dB | made worse |", "| --- | --- | --- | --- | --- |"]
    for low, high in zip(BINS, BINS[1:]):
        inside = (estimated >= low) & (estimated < high)
        if inside.any():
            lines.append(
                f"| {low:.2f}–{high:.2f} | {inside.sum()} | {gain[inside].mean():+.3f} | "
                f"{decibels[inside].mean():+.2f} | {100 * (decibels[inside] < -WORSE).mean():.0f} % |"
            )
    return lines


def damaged_section(judged: Measurements, models: RetainedModels) -> list[str]:
    """The number of damaged faces, as Markdown lines."""
    reference = ViTFIQA.from_pretrained().reference.numpy()
    scores = judged.column("fiqa")
    truths = {
        "structure": 100 * judged.column("true_ssim"),
        "identity": 100 * judged.column("identity"),
        "both": 100 * left(judged),
    }
    numbers = {
        "estimated SSIM": 100 * judged.column("ssim").clip(0, 1),
        "ViT-FIQA percentile": percentiles(scores.ravel(), reference).reshape(scores.shape),
        "quality now": 100 * models.damaged(signals_of(judged)),
    }
    return [
        f"Whole photos are damaged; a row has the medians of the same {len(scores)} faces of validation people of LFW,",
        "one photo each. *Structure* is the SSIM inside the face to the undamaged photo, *identity* the embedded",
        "recogniser's cosine to it, in percent; *both* is their product, what the number should say. Before, the",
        "restorer's report showed the estimated SSIM, and `facewright quality` the percentile of ViT-FIQA.",
        "",
        *version_table(truths | numbers),
        "",
        f"Versions of one face are compared where *both* differs by more than {CLEARLY_WORSE:g}.",
        "",
        *verdict_table(left(judged), numbers, np.ones(scores.shape, bool)),
    ]


def restored_section(judged: Measurements, models: RetainedModels, limit: float) -> list[str]:
    """The number of restored faces, as Markdown lines."""
    truth = left_after(judged)
    output = signals_of(judged, "after_")
    truths = {
        "left before": 100 * left(judged),
        "structure after": 100 * judged.column("restored_ssim"),
        "identity after": 100 * judged.column("restored_identity"),
        "left after": 100 * truth,
    }
    numbers = {
        "quality of the output alone": 100 * models.damaged(output),
        "quality after": 100 * models.after(signals_of(judged), output),
    }
    restored = judged.column("ssim") < limit
    return [
        "## After restoring",
        "",
        "The same faces, restored; *left after* is structure times identity again. A restored face has no noise, blur",
        "or blocks, so that the estimate of the restorer's own output (*quality of the output alone*, which the report",
        "showed before) finds nearly all of it left, however much of it is invented. *Quality after* rests on the",
        "damage of the input and is never above the other number.",
        "",
        *version_table(truths | numbers),
        "",
        f"Of the {restored.sum()} faces that are not left alone as already good:",
        "",
        *verdict_table(truth, numbers, restored),
    ]


def weights_of(model: RetainedModel) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in asdict(model).items())


def report(fitted: list[Measurements], judged: Measurements, models: RetainedModels, limit: float) -> list[str]:
    """The results page as Markdown lines."""
    severe = [version.preset == "severe" for version in VERSIONS]
    alone = 100 * (judged.column("ssim") >= limit)
    fitted_faces = sum(len(part.values) for part in fitted)
    return [
        "# The 0–100 quality, and when a face is good enough",
        "",
        f"Made by `python -m reproductions.quality.calibrate`. Fitted on {fitted_faces} faces of training people of",
        f"LFW and UTKFace, {len(VERSIONS)} versions each:",
        "",
        f"- damaged faces: {weights_of(models.damaged)};",
        f"- restored faces: {weights_of(models.restored)}.",
        "",
        "## Damaged faces",
        "",
        *damaged_section(judged, models),
        "",
        *restored_section(judged, models, limit),
        "",
        "## Already good",
        "",
        "What restoring does to the damaged faces of the same training people. A face is left alone from the",
        f"estimated SSIM on at which the mean gain falls below {GAIN_WORTH_IT:g}: **{limit:.2f}** (`GOOD_SSIM` is",
        f"{GOOD_SSIM:.2f}). Of the validation people it leaves {alone[:, 0].mean():.0f} % of the undamaged and",
        f"{alone[:, severe].mean():.0f} % of the severely damaged faces alone.",
        "",
        *gate_table(fitted),
    ]


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("--people", type=int, default=40, help="of each collection and split")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="folder of the measurements")
    parser.add_argument("--fit", type=Path, help="write the fitted weights here")
    options = parser.parse_args()
    common.begin(options)
    fitted = [measured(name, "train", options.people, options.work) for name in ("lfw", "utkface")]
    judged = measured("lfw", "val", options.people, options.work)
    models, limit = RetainedModels(fit(fitted, left), fit(fitted, left_after)), good_from(fitted)
    if options.fit:
        options.fit.write_text(models.to_json(), encoding="utf-8")
    text = report(fitted, judged, models, limit)
    common.finish(options, "quality", text, ["frgp", "distilledface", "vitfiqa", "mos"])


if __name__ == "__main__":
    main()
