"""Liveness on Replay-Attack: is the protocol leak-free, what do simple systems do, and what does the embedded network?

    python -m facewright.data.presentation REPLAY -o FOUND.npz
    python -m facewright.data.liveness REPLAY FOUND.npz -o CROPS.npz
    python -m reproductions.liveness.run REPLAY FOUND.npz CROPS.npz --write

REPLAY is the folder of Replay-Attack as frames. Needs the labelled face collections (FACEWRIGHT_DATA).
`--calibrate FOLDER` sets the calibration of trained weights by the calibration side instead, and writes them again;
`--old FOLDER` also measures photos of old prints.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from facewright.data.detection import five_points
from facewright.data.faces import open_faces
from facewright.data.liveness import SPEC, PackedCrops
from facewright.data.people import read_rgb
from facewright.data.presentation import FoundFrames
from facewright.evaluation.liveness import Outcome, Protocol, judge, known_instruments, unseen_domain, unseen_medium
from facewright.face import Face
from facewright.systems.attributes.lnet_anet.svm import fit_svm
from facewright.systems.liveness.livecheck.network import LiveCheck
from facewright.systems.liveness.livecheck.training import calibrate
from facewright.weights.measure import record

from .. import common
from . import features

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Images = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

SLUG, PAGE = "livecheck", "liveness"
PHOTOS, FRAMES = 300, 300
DATA = "Replay-Attack (10 development clients), simulated attacks on LFW and UTKFace"


class Machine:
    """A linear support vector machine on standardised features, fitted on the training side of a protocol."""

    def __init__(self, rows: Floats, attack: Mask) -> None:
        self.rows, self.attack = rows, attack

    def __call__(self, taught: Mask) -> Floats:
        """Scores of attack (N,) of all rows, after learning from the `taught` ones."""
        mean, std = self.rows[taught].mean(0), self.rows[taught].std(0) + 1e-6
        x = (self.rows - mean) / std
        weights = fit_svm(x[taught], np.where(self.attack[taught], 1.0, -1.0), cost=1.0, balanced=True)
        return np.asarray(1 / (1 + np.exp(-(x @ weights[:-1] + weights[-1]))))


def network_scores(model: LiveCheck, crops: Images) -> Floats:
    """Probability of attack (N,) of crops."""
    return 1 - model.log_odds(model.cell_logits(crops).mean((2, 3))).sigmoid().double().numpy()


def surroundings_greyed(crops: Images) -> Images:
    """Crops with an oval around the face left as it is, and the rest painted grey."""
    side = crops.shape[1]
    oval = np.zeros((side, side, 1), np.uint8)
    cv2.ellipse(oval, (side // 2, round(0.53 * side)), (round(0.3 * side), round(0.4 * side)), 0, 0, 360, 1, -1)
    return np.asarray(np.where(oval > 0, crops, 128), np.uint8)


def format_changes(model: LiveCheck, root: Path, found: FoundFrames, rows: NDArray[np.int64]) -> Floats:
    """How much the probability (N,) changes when frames are saved as JPEG of quality 95, and not as PNG."""
    crops: list[list[Images]] = [[], []]
    for row in rows:
        frame = read_rgb(root / str(found.frames[row]))
        _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        again = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)
        for kept, picture in zip(crops, (frame, again)):
            kept.append(SPEC.cut(picture, found.face(int(row))).image)
    before, after = (network_scores(model, np.stack(kept)) for kept in crops)
    return np.abs(after - before)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def row_of(system: str, found: Outcome) -> list[str]:
    low, high = found.interval
    worst = f"{percent(found.rates.worst_apcer)} ({found.rates.worst_species})"
    return [
        system,
        found.protocol,
        f"{percent(found.hter)} ({percent(low)} to {percent(high)})",
        worst,
        percent(found.rates.bpcer),
        percent(found.bpcer10),
        percent(found.auc),
        percent(found.oracle),
    ]


HEADER = ["system", "protocol", "HTER % (95 %)", "worst APCER %", "BPCER %", "BPCER10 %", "AUC %", "HTER % of oracle"]


def leaks(root: Path, found: FoundFrames, data: PackedCrops) -> list[list[str]]:
    """HTER and AUC of classifiers that never see a face, one frame of every video of Replay-Attack."""
    _, first = np.unique(found.names, return_index=True)
    part = data.where(first)  # the frames of Replay-Attack come first in the file, in the order of `found`
    protocol = known_instruments(part.side, np.ones(len(part), bool))
    sizes, codec = features.files(root, found, first)
    kinds = {"background": features.backgrounds(root, found, first), "resolution": sizes, "codec": codec}
    rows = []
    for name, values in kinds.items():
        scores = Machine(values, ~part.live)(protocol.train)
        outcome = judge(protocol, scores, part.species, part.person, part.video)
        low, high = outcome.interval
        hter = f"{percent(outcome.hter)} ({percent(low)} to {percent(high)})"
        rows.append([name, hter, percent(outcome.auc)])
    return rows


def live_photos(model: LiveCheck, collection: Literal["lfw", "utkface"]) -> tuple[float, int]:
    """Share of photos of live people, as they are, that are taken for attacks, and how many."""
    faces = open_faces(collection, "val")
    rows = np.random.default_rng(1).permutation(faces.rows)[:PHOTOS]
    crops = []
    for row in rows:
        points = five_points(faces.labels["landmarks68"][row].astype(np.float64)).astype(np.float32)
        crops.append(SPEC.cut(faces.read(int(row)), Face(np.zeros(4, np.float32), 1.0, points)).image)
    return float((network_scores(model, np.stack(crops)) > 0.5).mean()), len(rows)


def old_prints(model: LiveCheck, folder: Path) -> tuple[float, int]:
    """The same of the largest face of every old print."""
    from facewright.runtime.session import Session
    from facewright.tasks.declare import NetworkChoice

    detector = Session().detector(NetworkChoice()).detector
    crops = []
    for path in sorted(folder.rglob("*.png")):
        rgb = read_rgb(path)
        if faces := detector.detect(rgb):
            crops.append(SPEC.cut(rgb, max(faces, key=lambda face: face.width)).image)
    return float((network_scores(model, np.stack(crops)) > 0.5).mean()), len(crops)


def milliseconds(work: Callable[[], object], count: int = 20) -> float:
    """Processor time of a call."""
    work()
    began = time.process_time()
    for _ in range(count):
        work()
    return 1000 * (time.process_time() - began) / count


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("replay", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--calibrate", type=Path, help="folder of trained weights")
    parser.add_argument("--old", type=Path, help="folder of old prints")
    args = parser.parse_args()
    common.begin(args)
    data = PackedCrops.load(args.crops)
    if args.calibrate:
        model = LiveCheck.from_pretrained(args.calibrate)
        chosen = data.where(data.side == "calibration")
        calibrate(model, chosen.images, chosen.live)
        model.save_pretrained(args.calibrate)
        print(f"log odds = {float(model.scale):.3f} x + {float(model.offset):.3f}, written to {args.calibrate}")
        return
    lines, values = report(args, data)
    command = common.finish(args, PAGE, lines, [SLUG], given="REPLAY FOUND CROPS --old OLD")
    if command:
        record(SLUG, "liveness", values, command=command, data=DATA)


def report(args: argparse.Namespace, data: PackedCrops) -> tuple[list[str], dict[str, float]]:
    root, found = Path(args.replay), FoundFrames.load(args.found)
    model = LiveCheck.from_pretrained()
    real, attack = data.real, ~data.live
    protocols = [
        known_instruments(data.side, real),
        *unseen_medium(data.side, data.species, real),
        *unseen_domain(data.side, data.domain, real),
    ]
    texture = Machine(features.binary_patterns(data.images), attack)
    rows = [row_of("LBP + SVM", outcome_of(p, texture(p.train), data)) for p in protocols]
    both = known_instruments(data.side, np.ones(len(data), bool))
    mixed = texture(both.train)
    unknown = simulated(data)
    rows.append(row_of("LBP + SVM", outcome_of(unknown, mixed, data)))
    scores = network_scores(model, data.images)
    known, unseen = (outcome_of(p, scores, data) for p in (protocols[0], unknown))
    alone = outcome_of(protocols[0], network_scores(model, surroundings_greyed(data.images)), data)
    rows += [row_of("LiveCheck", known), row_of("LiveCheck, surroundings greyed", alone), row_of("LiveCheck", unseen)]
    shown = np.random.default_rng(2).permutation(np.flatnonzero(real & (data.side == "test")))[:FRAMES]
    moved = format_changes(model, root, found, shown)
    photos = {"lfw": live_photos(model, "lfw"), "utkface": live_photos(model, "utkface")}
    if args.old:
        photos["old prints"] = old_prints(model, args.old)
    one = data.images[:1]
    cost = {
        "LBP + SVM": milliseconds(lambda: features.binary_patterns(one)),
        "LiveCheck": milliseconds(lambda: model.cell_logits(one)),
    }
    size = sum(p.numel() for p in model.parameters()) * 2 / 1e6
    costs = [
        ["LBP + SVM", f"{cost['LBP + SVM']:.1f}", "0.0"],
        ["LiveCheck", f"{cost['LiveCheck']:.1f}", f"{size:.2f}"],
    ]
    mask = (data.side == "calibration") | (data.side == "test")
    decided = np.abs(scores - 0.5) >= 0.15
    lines = [
        "# Liveness",
        "",
        "Made by `python -m reproductions.liveness.run` (`reproductions/liveness`).",
        "",
        "Replay-Attack: 15 training clients teach, 5 development clients set thresholds, 10 are tested. Frames of a",
        "video are averaged. Thresholds are the equal error ones of the development side; the last column takes the",
        "test's own, as many papers do, and cannot be deployed. Intervals: resamples of the tested people. Simulated",
        "attacks are by instruments and cameras, and on people, that are only tested. LiveCheck and the baseline's",
        "last row learned from both kinds, and so know every medium of Replay-Attack.",
        "",
        *common.table(HEADER, rows),
        "",
        "## Leaks",
        "",
        "Classifiers that see no face, on one frame of every video. Near 50 nothing leaks. The background leaks: an",
        "attack of Replay-Attack shows the room on its own screen or paper, too. So a low error is no proof that faces",
        "were looked at; the row with surroundings greyed is what LiveCheck says without them, though it never learned",
        "such pictures.",
        "",
        *common.table(["what it sees", "HTER % (95 %)", "AUC %"], leaks(root, found, data)),
        "",
        "## Photos of live people",
        "",
        "Share taken for attacks by LiveCheck at a probability of one half, as the photos are.",
        "",
        *common.table(["photos", "taken for attacks %", "number"],
                      [[name, percent(share), str(count)] for name, (share, count) in photos.items()]),
        "",
        "## Formats and cost",
        "",
        f"Saved as JPEG of quality 95 and not as PNG, the probability of {len(moved)} tested frames moves by",
        f"{moved.mean():.4f} on average, by {np.quantile(moved, 0.95):.4f} in one of twenty and by {moved.max():.3f}",
        "at most.",
        f"LiveCheck leaves {percent(float((~decided)[mask].mean()))} % of crops undecided (“it could be either”).",
        "",
        *common.table(["system", "ms a face, one core", "MB"], costs),
        "",
        common.verdict("HTER of at most 5 % on unseen clients", known.hter <= 0.05, f"{percent(known.hter)} %"),
        common.verdict(
            "HTER of at most 15 % on unseen simulated instruments", unseen.hter <= 0.15, f"{percent(unseen.hter)} %"
        ),
        common.verdict(
            "the format moves the probability by less than 0.02", moved.max() < 0.02, f"{moved.max():.3f} at most"
        ),
        common.verdict("at most 25 ms a face", cost["LiveCheck"] <= 25, f"{cost['LiveCheck']:.1f} ms"),
    ]  # fmt: skip
    values = {
        "HTER, unseen clients of Replay-Attack, %": 100 * known.hter,
        "HTER, unseen simulated instruments, %": 100 * unseen.hter,
        "photos of LFW taken for attacks, %": 100 * photos["lfw"][0],
        "photos of UTKFace taken for attacks, %": 100 * photos["utkface"][0],
    }
    return lines, values


def outcome_of(protocol: Protocol, scores: Floats, data: PackedCrops) -> Outcome:
    return judge(protocol, scores, data.species, data.person, data.video)


def simulated(data: PackedCrops) -> Protocol:
    """Tested on simulated attacks by unseen instruments, with a threshold of both kinds of the calibration side."""
    everything = np.ones(len(data), bool)
    both = known_instruments(data.side, everything)
    return Protocol("unseen simulated instruments", both.train, both.development, both.test & ~data.real)


if __name__ == "__main__":
    main()
