"""The embedded detector of forgeries and morphs on files and people it never saw, and how its scores are read.

    python -m reproductions.partspectrum.embedded FOLDER SETS --write                # the page and the card's numbers
    python -m reproductions.partspectrum.embedded FOLDER SETS --calibrate --write    # for other weights

FOLDER is what `data.forgeries` wrote, SETS the folder of the data sets. Half of the validation pictures, by a hash of
their names, set how scores are read; all numbers are of the other half. Real and forged pictures take one storage path.
"""

from __future__ import annotations

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from facewright.data.forgeries import RING, SIDE, PackedForgeries
from facewright.data.forgery_crops import ForgeryCrops
from facewright.data.morphs import MorphCrops
from facewright.degrade import apply, sample
from facewright.degrade.forge import Storage, stored
from facewright.metrics.calibration import fit_affine
from facewright.metrics.forensics import coss, iou_and_f1, mmpmr, pointed
from facewright.metrics.presentation import auc, bpcer_at_nearest_apcer, eer
from facewright.pipelines.forensics import (
    ForensicCalibration,
    Judge,
    Kind,
    calibration_of,
)
from facewright.runtime.session import default_session
from facewright.systems.forgery.partspectrum.network import KINDS, PartSpectrum, part_shapes
from facewright.tasks.card import card_path, get_card
from facewright.weights.measure import record

from .. import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from facewright.degrade.forge.morph import MorphFinish

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

RESULT = Path("docs/results/forensics.md")
STORAGE: dict[str, Storage] = {
    "JPEG 90": Storage(quality=90),
    "JPEG 70": Storage(quality=70),
    "reduced by 1.5, JPEG 80": Storage(reduction=1.5, quality=80),
}
"""What happens to real and forged pictures alike before they are judged; the first is what most numbers are of."""
ALARMS, CLEAR = 0.05, 0.85
"""A kind is named above what 95 % of real calibration pictures stay below, and ruled out below what 85 % do."""
FINISHES: tuple[MorphFinish, ...] = ("whole", "hull-feather", "hull-colour", "hull-poisson")
TRIED_ON = (
    "edits by hand of eyes, nose and mouth (CIPLAB)",
    "faces of one generator of the StyleGAN kind",
    "morphs by landmarks of look-alikes: whole, feathered, in matched colours",
)
MORPHS_PER_TOOL = 30


def is_for_calibration(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def counts(name: str, kind: str) -> bool:
    """Whether a picture is judged: all of CIPLAB, and a part of the sets that have more than are needed."""
    return name.startswith("ciplab") or hashlib.sha256(name.encode()).digest()[1] < (
        160 if kind == "generated" else 128
    )


class Judged:
    """Validation pictures with the network's answers after one storage."""

    def __init__(self, network: PartSpectrum, folder: str, how: Storage) -> None:
        data = ForgeryCrops(folder, "val", vary=False)
        data.storage = how
        packed = data.packed
        chosen = [i for i, row in enumerate(data.in_order) if counts(str(packed.names[row]), str(packed.kinds[row]))]
        self.names, self.kinds = packed.names[data.in_order[chosen]], packed.kinds[data.in_order[chosen]]
        items = [data[i] for i in chosen]
        self.crops = [item["image"].numpy() for item in items]
        seen = network.examine(np.stack(self.crops))
        self.maps = seen.maps
        self.truths = np.stack([item["mask"][0].numpy() for item in items]).astype(np.float32) / 255
        self.manipulated, self.generated, self.morphed = (seen.shares[name] for name in KINDS)
        self.calibrates = np.array([is_for_calibration(str(name)) for name in self.names])

    def of(self, kind: str, name: str = "") -> NDArray[np.bool_]:
        """Test pictures of a kind, of one set or of all."""
        return (self.kinds == kind) & ~self.calibrates & np.char.startswith(self.names, name)


# --- how scores are read ----------------------------------------------------------------------------------------------


def log_odds(shares: Floats) -> Floats:
    kept = np.clip(shares, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept / (1 - kept)))


def judge_of(forged: Floats, real: Floats, alarming: Floats | None = None) -> Judge:
    """Logistic regression of log odds, both sides weighing alike; clear by the real pictures' quantiles, and alarm by
    theirs or those of `alarming`, real pictures too."""
    scores = log_odds(np.concatenate([forged, real]))
    fit = fit_affine(scores, np.arange(len(scores)) < len(forged))
    first = Judge(fit.scale, fit.offset, 0.0, 1.0)
    chances = np.array([first.probability(float(value)) for value in real])
    loud = chances if alarming is None else np.array([first.probability(float(value)) for value in alarming])
    alarm = max(0.5, float(np.quantile(loud, 1 - ALARMS)))
    return Judge(fit.scale, fit.offset, float(np.quantile(chances, CLEAR)), alarm)


def calibrate(network: PartSpectrum, folder: str, judged: Sequence[Judged]) -> None:
    """Write how scores are read, from one half of the pictures."""
    judges: dict[Kind, Judge] = {}
    for kind, source in (("manipulated", "edited"), ("generated", "generated")):
        forged, real = (
            np.concatenate([getattr(j, kind)[(j.kinds == name) & j.calibrates] for j in judged])
            for name in (source, "real")
        )
        judges[kind] = judge_of(forged, real)  # type: ignore[index]
    shares = {kind: morph_shares(network, folder, kind, 0) for kind in ("bona fide", *FINISHES[:3])}
    judges["morphed"] = judge_of(
        np.concatenate([shares[tool] for tool in FINISHES[:3]]), shares["bona fide"], worn_shares(network, judged)
    )
    assert network.weights_sha256 is not None
    path = card_path("partspectrum").with_name("compact.calibration.json")
    ForensicCalibration(network.weights_sha256, judges, TRIED_ON).save(path)
    print(path.read_text(encoding="utf-8"))


def worn_shares(network: PartSpectrum, judged: Sequence[Judged]) -> Floats:
    """Shares of "morphed" of real calibration pictures, as stored and damaged: blur is what both have in common."""
    rng = np.random.default_rng(1)
    plain = [crop for crop, on in zip(judged[0].crops, judged[0].calibrates & (judged[0].kinds == "real")) if on][:40]
    worn = [apply(crop, sample(preset, rng, SIDE, scaled=True)) for preset in ("mild", "vqfr") for crop in plain]
    stored_well = [each.morphed[each.calibrates & (each.kinds == "real")] for each in judged]
    return np.concatenate([*stored_well, network.examine(np.stack(worn)).shares["morphed"]])


# --- morphs -----------------------------------------------------------------------------------------------------------


@cache
def morph_crops(folder: str, kind: str, half: int) -> tuple[list[Image], list[tuple[str, ...]]]:
    """Bona fide validation portraits, or morphs of one tool, of one half of the draws, stored as JPEG 90."""
    data = MorphCrops(folder, "val", tools=(kind,) if kind != "bona fide" else FINISHES, vary=False)  # type: ignore[arg-type]
    inside = np.s_[RING : RING + SIDE, RING : RING + SIDE]
    made = []
    for number in range(MORPHS_PER_TOOL):
        rng = np.random.default_rng((half, number, int(kind == "bona fide")))
        made.append(data.bona_fide(rng) if kind == "bona fide" else data.morph(rng))
    crops = [stored(np.ascontiguousarray(each.image[inside]), STORAGE["JPEG 90"]) for each in made]
    return crops, [each.parents for each in made]


def morph_shares(network: PartSpectrum, folder: str, kind: str, half: int) -> Floats:
    crops, _ = morph_crops(folder, kind, half)
    return np.asarray(network.examine(np.stack(crops)).shares["morphed"])


def morph_match(folder: str) -> dict[str, tuple[float, float]]:
    """MMPMR of every tool against the embedded recogniser at a FAR of 0.1 %, and the mean of the least similarity."""
    session = default_session()
    recogniser = session.network("distilledface")
    from facewright.pipelines.identity import calibration_of as identity_calibration

    known = identity_calibration(recogniser)
    assert known is not None
    threshold = known.point(0.001).threshold
    packed = PackedForgeries.open(folder)
    place = {str(name): row for row, name in enumerate(packed.names)}
    found: dict[str, tuple[float, float]] = {}
    for tool in FINISHES:
        crops, parents = morph_crops(folder, tool, 1)
        inside = np.s_[RING : RING + SIDE, RING : RING + SIDE]

        def embedded(images: Sequence[Image]) -> Floats:
            return np.asarray(recogniser.embed(np.stack([as_arcface(image) for image in images])), np.float64)

        morphs = embedded(crops)
        similar = []
        for side in (0, 1):
            own = embedded([np.ascontiguousarray(packed.crops[place[pair[side]]][inside]) for pair in parents])
            similar.append((morphs * own).sum(1))
        both = np.stack(similar, 1)
        found[tool] = (mmpmr(both, threshold), float(both.min(1).mean()))
    return found


def as_arcface(crop: Image) -> Image:
    """A forensic crop as recognisers want it."""
    from facewright.data.forgeries import FORENSIC_CROP
    from facewright.geometry.crop import CropSpec, template_face
    from facewright.geometry.resample import crop_by_matrix
    from facewright.geometry.similarity import transform_points

    points = template_face(512).points5
    matrix = FORENSIC_CROP.align(points)
    there = transform_points(matrix, points.astype(np.float64))
    spec = CropSpec.aligned(112, "arcface")
    return crop_by_matrix(crop, spec.align(there), 112, "arcface").image


# --- the page ---------------------------------------------------------------------------------------------------------


def against(attacks: NDArray[np.float64], real: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of both, and which of them are attacks."""
    return np.concatenate([attacks, real]), np.arange(len(attacks) + len(real)) < len(attacks)


def detection_rows(judged: dict[str, Judged]) -> tuple[list[list[str]], dict[str, float]]:
    rows, metrics = [], {}
    for number, (name, j) in enumerate(judged.items()):
        real_ciplab, real = j.of("real", "ciplab"), j.of("real")
        edited, generated = j.of("edited"), j.of("generated")
        told_edited = against(j.manipulated[edited], j.manipulated[real_ciplab])
        told_generated = against(j.generated[generated], j.generated[real])
        edits, made = auc(*told_edited), auc(*told_generated)
        hits = float(np.mean([pointed(m, t) for m, t in zip(j.maps[edited], j.truths[edited])]))
        blind = np.mean([[pointed(shape, t) for t in j.truths[edited]] for shape in part_shapes().numpy()], 1)
        rows.append(
            [
                name,
                f"{edits:.3f}",
                f"{100 * eer(*told_edited, 'convex').rate:.1f}",
                f"{100 * hits:.1f}",
                f"{100 * blind.max():.1f}",
                f"{made:.3f}",
                f"{100 * eer(*told_generated, 'convex').rate:.1f}",
            ]
        )
        if number == 0:
            metrics = {
                "edits_auc": round(edits, 4),
                "edits_pointing_game": round(hits, 4),
                "generated_auc": round(made, 4),
                "edits_iou": round(
                    float(np.nanmean([iou_and_f1(m, t)[0] for m, t in zip(j.maps[edited], j.truths[edited])])), 4
                ),
                "edits_coss": round(
                    float(np.nanmean([coss(m, t) for m, t in zip(j.maps[edited], j.truths[edited])])), 4
                ),
            }
    return rows, metrics


def alarm_shares(network: PartSpectrum, crops: Sequence[Image]) -> dict[str, float]:
    """Share of pictures in which each kind would be named."""
    calibration = calibration_of(get_card("partspectrum"), network)
    assert calibration is not None
    shares = network.examine(np.stack(crops)).shares
    return {
        kind: float(np.mean([judge.probability(float(share)) >= judge.alarm for share in shares[kind]]))
        for kind, judge in calibration.judges.items()
    }


def price(network: PartSpectrum, folder: str, sets: Path) -> tuple[list[list[str]], dict[str, float]]:
    """False alarms on real pictures that were damaged, restored, taken by phones' beauty filters, or are old."""
    packed = PackedForgeries.open(folder)
    rows = [row for row in packed.rows("real", "val") if not is_for_calibration(str(packed.names[row]))]
    inside = np.s_[RING : RING + SIDE, RING : RING + SIDE]
    plain = [stored(np.ascontiguousarray(packed.crops[row][inside]), STORAGE["JPEG 90"]) for row in rows]
    rng = np.random.default_rng(0)
    kinds: dict[str, list[Image]] = {"as they are": plain}
    for preset in ("mild", "vqfr", "severe", "old-photo"):
        kinds[f"damaged: {preset}"] = [apply(crop, sample(preset, rng, SIDE, scaled=True)) for crop in plain[:40]]
    kinds["smoothed skin (bilateral filter)"] = [
        np.asarray(cv2.bilateralFilter(c, 9, 40, 5), np.uint8) for c in plain[:40]
    ]
    kinds["restored by facewright, mark ignored"] = restored([*kinds["damaged: vqfr"][:8]])
    kinds["old prints and photos of 1850–1960"] = old_faces(sets, network)
    table, metrics = [], {}
    for name, crops in kinds.items():
        if not crops:
            continue
        found = alarm_shares(network, crops)
        table.append(
            [name, str(len(crops)), *(f"{100 * found[kind]:.1f}" for kind in ("manipulated", "generated", "morphed"))]
        )
        metrics[name] = found["manipulated"]
    return table, {
        "false_alarms_real_percent": round(100 * metrics["as they are"], 2),
        "false_alarms_damaged_vqfr_percent": round(100 * metrics["damaged: vqfr"], 2),
    }


def restored(crops: Sequence[Image]) -> list[Image]:
    """Damaged forensic crops restored whole by the embedded restorer, without its mark."""
    from facewright.pipelines.restore_result import RestoreResult
    from facewright.runtime.runners import run_edit
    from facewright.tasks.declare import NetworkChoice
    from facewright.tasks.restore import RestoreOptions

    found = []
    for crop in crops:
        made = run_edit("restore", crop, None, RestoreOptions(), NetworkChoice(), overwrite=False)
        assert isinstance(made, RestoreResult)
        found.append(made.image.rgb())
    return found


def old_faces(sets: Path, network: PartSpectrum) -> list[Image]:
    from facewright.data.people import read_rgb
    from facewright.pipelines.forensics import obstacle
    from facewright.tasks.declare import NetworkChoice

    detector = default_session().detector(NetworkChoice())
    found = []
    for folder in ("old", "deoldify"):
        files = [
            path for path in sorted((sets / folder).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        ]
        for path in files[::8]:
            rgb = read_rgb(path)
            for face in detector.detect(rgb):
                cut = network.preprocess.crop.cut(rgb, face)
                if not obstacle(face, cut):
                    found.append(cut.image)
    return found


def seconds_a_face(network: PartSpectrum, crops: Sequence[Image]) -> float:
    """Processor seconds, which other programs do not change."""
    network.examine(np.stack(crops[:1]))
    began = time.process_time()
    for crop in crops[:10]:
        network.examine(crop[None])
    return (time.process_time() - began) / len(crops[:10])


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("folder", help="what data.forgeries wrote")
    parser.add_argument("sets", type=Path, help="folder of the data sets")
    parser.add_argument(
        "--calibrate", action="store_true", help="first write how scores are read, after other weights were packed"
    )
    chosen = parser.parse_args()
    common.begin(chosen)
    network = PartSpectrum.from_pretrained()
    with torch.inference_mode():
        judged = {name: Judged(network, chosen.folder, how) for name, how in STORAGE.items()}
        if chosen.calibrate:
            calibrate(network, chosen.folder, list(judged.values()))
        lines, metrics = page(network, chosen.folder, chosen.sets, judged)
    if command := common.finish(chosen, "forensics", lines, ["partspectrum", "distilledface"]):
        record("partspectrum", "embedded", metrics, command=command, data="validation files of CIPLAB, CelebA-HQ, SCUT")


def page(
    network: PartSpectrum, folder: str, sets: Path, judged: dict[str, Judged]
) -> tuple[list[str], dict[str, float]]:
    rows, metrics = detection_rows(judged)
    first = judged["JPEG 90"]
    counts = {kind: int(first.of(kind).sum()) for kind in ("real", "edited", "generated")}
    prices, price_metrics = price(network, folder, sets)
    spent = 1000 * seconds_a_face(network, list(np.zeros((10, SIDE, SIDE, 3), np.uint8)))
    lines: list[str] = [
        "# Was this face made or changed?",
        "",
        "```",
        "python -m reproductions.partspectrum.embedded FOLDER SETS --write",
        "```",
        "",
        "The embedded detector on files and people it never saw. Half of the validation pictures set how scores are",
        f"read; what follows is of the other half: {counts['real']} real faces, {counts['edited']} edits by hand and",
        f"{counts['generated']} generated faces. Real and forged pictures are cut, reduced and compressed alike.",
        "",
        "## Edits and generated faces",
        "",
        "Edits against real pictures of the same set (CIPLAB), generated faces against all real ones. An edit counts",
        "as found where the map's maximum lies on a part that was edited. Most edits change several parts: always",
        "pointing to the likeliest part is right as often as the column after it says.",
        "",
        *common.table(
            [
                "stored as",
                "edits: AUC",
                "EER %",
                "found where %",
                "always the likeliest part %",
                "generated: AUC",
                "EER %",
            ],
            rows,
        ),
        "",
        f"Map against mask of the edits: IoU {metrics['edits_iou']:.2f} at ½, cosine {metrics['edits_coss']:.2f}.",
        f"One face takes {spent:.0f} ms of one processor core.",
        "",
        "## The price: false alarms",
        "",
        "Share of real pictures in which a kind would be named. Thresholds were set so that it is one in twenty of the",
        "calibration pictures, for morphs with damaged ones among them, which look alike.",
        "",
        *common.table(["real pictures", "number", "called edited %", "generated %", "morphed %"], prices),
        "",
        'The column of morphs is what the detector alone would say: the command answers "cannot tell" where a face',
        "lacks the detail of its size, as most damaged ones do.",
        "",
        "A photo that facewright restored is recognised by its mark before the detector is asked.",
    ]
    morph_lines, morph_metrics = morphs(network, folder)
    return [*lines, *morph_lines], metrics | price_metrics | morph_metrics


def morphs(network: PartSpectrum, folder: str) -> tuple[list[str], dict[str, float]]:
    real = morph_shares(network, folder, "bona fide", 1)
    matches = morph_match(folder)
    table, metrics = [], {}
    for tool in FINISHES:
        shares = morph_shares(network, folder, tool, 1)
        told = against(shares, real)
        suspected, reached = bpcer_at_nearest_apcer(*told, 0.1)
        table.append(
            [
                tool,
                "" if tool in FINISHES[:3] else "unseen",
                f"{auc(*told):.3f}",
                f"{100 * eer(*told, 'convex').rate:.1f}",
                f"{100 * suspected:.1f} (at {100 * reached:.1f})",
                f"{100 * matches[tool][0]:.0f}",
                f"{matches[tool][1]:.2f}",
            ]
        )
        metrics[f"morph_auc_{tool.replace('-', '_')}"] = round(auc(*told), 4)
    lines = [
        "",
        "## Morphs",
        "",
        f"{MORPHS_PER_TOOL} morphs of every tool, of validation people paired with the most alike of {80}, and as many",
        "bona fide portraits. MMPMR: share of morphs that the embedded recogniser takes for both people at a FAR of",
        "0.1 %; a tool whose morphs match nobody would be no threat, and easy to detect.",
        "",
        *common.table(
            ["tool", "", "AUC", "EER %", "BPCER % at APCER 10 %", "MMPMR %", "least similarity, mean"], table
        ),
    ]
    return lines, metrics


if __name__ == "__main__":
    main()
