"""Calibrate the compact ViT-FIQA and judge it on people it never saw. Needs the labelled collections (FACEWRIGHT_DATA).

python -m reproductions.vitfiqa.run calibrate runs/vitfiqa-compact/model     # sets the percentile scale, in place
python -m reproductions.vitfiqa.run judge [--weights runs/vitfiqa-compact/model] [--judge distilledface] [--record]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr

from facewright.data.identity import IdentityCrops, degrade, labels_of_several, open_identities
from facewright.data.pairs import Pairs, many_pairs
from facewright.data.restoration import luma_ssim
from facewright.metrics.curves import discard_figure, save_figure
from facewright.metrics.discard import DiscardCurve, error_versus_discard, pair_quality, partial_auc
from facewright.systems.base import system_class
from facewright.systems.quality.vitfiqa.network import ViTFIQA
from facewright.weights.measure import record

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CLEAN_SHARE = 0.5
DISCARDS = (0.1, 0.2, 0.3)
FMR = 1e-2


def discard_table(
    cosines: NDArray[np.floating], pairs: Pairs, qualities: dict[str, NDArray[np.floating]], fmr: float
) -> str:
    """Error versus discard of several quality measures, one a line.

    Areas with the threshold fixed are relative to discarding nothing (1 helps nothing); the refitted one is raw.
    """
    lines = [
        f"  FMR {fmr:g}            area to 0.3  to 0.5  refitted  FNMR at 0 " + " ".join(f"{r:5g}" for r in DISCARDS)
    ]
    for name, quality in qualities.items():
        worse = pair_quality(quality[pairs.first], quality[pairs.second])
        curve = error_versus_discard(cosines, pairs.same, worse, fmr=fmr)
        refitted = error_versus_discard(cosines, pairs.same, worse, fmr=fmr, refit_threshold=True)
        areas = [partial_auc(curve, max_discard=end, normalise=True) for end in (0.3, 0.5)]
        rates = [curve.fnmr[np.searchsorted(curve.discard, r, side="right") - 1] for r in (0, *DISCARDS)]
        values = f"{areas[0]:9.3f} {areas[1]:9.3f} {partial_auc(refitted):8.4f}   "
        lines.append(f"  {name:20s}{values}" + " ".join(f"{v:.3f}" for v in rates))
    return "\n".join(lines)


def discard_curves(
    cosines: NDArray[np.floating], pairs: Pairs, qualities: dict[str, NDArray[np.floating]]
) -> dict[str, DiscardCurve]:
    """Error versus discard of several quality measures at a fixed threshold."""
    worse = {name: pair_quality(quality[pairs.first], quality[pairs.second]) for name, quality in qualities.items()}
    return {name: error_versus_discard(cosines, pairs.same, values, fmr=FMR) for name, values in worse.items()}


def laplacian_variance(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sharpness (N,) of crops: the usual hand-made quality."""
    return np.array([cv2.Laplacian(cv2.cvtColor(c, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var() for c in crops])


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation."""
    return float(spearmanr(a, b).statistic)


def damaged(
    crops: NDArray[np.uint8], rng: np.random.Generator, clean: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Crops of which all but a share `clean` are degraded, and how much of the structure was lost (1 − SSIM)."""
    everywhere = np.ones(crops.shape[1:3], bool)
    out = np.stack([crop if rng.random() < clean else degrade(crop, rng) for crop in crops])
    loss = np.array([1 - luma_ssim(after, before, everywhere) for after, before in zip(out, crops)])
    return out, loss


def unseen(crops: IdentityCrops) -> NDArray[np.int64]:
    """Entries of people with a single photo: the recipe trains on the others."""
    return np.flatnonzero(labels_of_several(crops) < 0)


def calibrate(options: argparse.Namespace) -> None:
    """Percentiles on people with a single photo, half of the crops damaged; the folder is rewritten."""
    model = ViTFIQA.from_pretrained(options.weights)
    crops = open_identities("lfw", "train", options.root)
    pictures, _ = damaged(crops.aligned(unseen(crops)), np.random.default_rng(0), CLEAN_SHARE)
    scores = model.score(pictures)
    model.calibrate(scores)
    model.save_pretrained(options.weights)
    print(f"{len(scores)} scores, percentiles 5, 50, 95: {np.percentile(scores, [5, 50, 95]).round(4)}")


def judge(options: argparse.Namespace) -> None:
    """Error versus discard on validation people whose crops are partly damaged."""
    model = ViTFIQA.from_pretrained(options.weights)
    crops = open_identities("lfw", "val", options.root)
    several = np.flatnonzero(labels_of_several(crops) >= 0)
    clean = crops.aligned(several)
    rng = np.random.default_rng(1)
    pictures, loss = damaged(clean, rng, CLEAN_SHARE)
    pairs = many_pairs(crops.subjects[several], seed=1)
    embeddings, scores = model.evaluate(pictures)
    data = (
        f"{len(pictures):,} crops of {len(np.unique(crops.subjects[several]))} validation people of LFW, half damaged"
    )
    correlation = spearman(scores, loss)
    print(f"{data}\nSpearman of the score with the structure lost: {correlation:.3f}")
    qualities = {
        "ViT-FIQA": scores,
        "length of embedding": np.linalg.norm(embeddings, axis=1),
        "Laplacian variance": laplacian_variance(pictures),
        "random": rng.random(len(pictures)),
    }
    for entry in options.judge or ["distilledface"]:
        slug, _, source = entry.partition("=")
        recogniser: Any = system_class(slug).from_pretrained(source or None)
        embedded = recogniser.embed(pictures)
        cosines = (embedded[pairs.first] * embedded[pairs.second]).sum(1)
        print(f"judged by {slug}, {pairs.same.sum()} genuine and {(~pairs.same).sum()} impostor pairs")
        print(discard_table(cosines, pairs, qualities, fmr=FMR))
        if options.record and slug == "distilledface" and not options.weights:
            curves = discard_curves(cosines, pairs, qualities)
            areas = {name: partial_auc(curve, max_discard=0.5, normalise=True) for name, curve in curves.items()}
            values = {f"area to a discard of 0.5, {name}": float(area) for name, area in areas.items()}
            values["rank correlation with the structure lost"] = correlation
            record("vitfiqa", "judge", values, command="python -m reproductions.vitfiqa.run judge --record", data=data)
        if options.pictures:
            target = options.pictures / f"vitfiqa-discard-{slug}.png"
            save_figure(discard_figure(discard_curves(cosines, pairs, qualities)), target, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the labelled collections (else FACEWRIGHT_DATA)")
    commands = parser.add_subparsers(required=True)
    calibrating = commands.add_parser("calibrate")
    calibrating.add_argument("weights", help="folder written by the training")
    calibrating.set_defaults(run=calibrate)
    judging = commands.add_parser("judge")
    judging.add_argument("--weights", help="folder, file or name; the shipped ones when left out")
    judging.add_argument(
        "--judge", action="append", help="slug, or slug=folder, of a recogniser; default distilledface"
    )
    judging.add_argument("--pictures", type=Path, help="folder for the curves, one PNG for each recogniser")
    judging.add_argument("--record", action="store_true", help="write the numbers of the shipped weights to their card")
    judging.set_defaults(run=judge)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
