"""Whether a face detector learns a new place from its own detections, without a label.

    python -m reproductions.operating_room.run [--quick] [--write]

Needs the labelled face collections (FACEWRIGHT_DATA) and half an hour on two processor cores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from facewright.data.detection import BOX, BOX_ONLY, FACE, IGNORED, LABEL, Scenes, box_size
from facewright.data.operating_room import OperatingRoomScenes, render_heads
from facewright.metrics.detection import Detections, average_precision, box_iou, precision_recall
from facewright.nn.inference import has_bf16
from facewright.systems.detect.mos.network import MOS
from facewright.systems.detect.mos.training import to_input
from facewright.systems.detect.operating_room.network import MOSStudent, Round, SelfTraining, adapt, wanted

from .. import common
from ..common import Arms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Labelled = tuple[NDArray[np.uint8], NDArray[np.float32]]

SLUG = "operating_room"
SIZES = (14.0, 24.0, 40.0, 72.0)
SOURCE_ONLY, STATISTICS, NAIVE = "source only", "batch norm statistics", "naive: τ = 0.5, one view, no ignore band"
ADAPTED, SUPERVISED = "self-training", "supervised on the same pictures (upper bound)"
METHODS = (SOURCE_ONLY, STATISTICS, NAIVE, ADAPTED, SUPERVISED)


@dataclass(frozen=True)
class Settings:
    """`pictures` unlabelled ones to adapt to, `tested` ones, `holdout` source ones; `steps` of `batch_size` a round."""

    pictures: int = 400
    tested: int = 400
    holdout: int = 120
    heads: int = 80
    rounds: int = 3
    steps: int = 150
    batch_size: int = 12
    lr: float = 3e-4

    @classmethod
    def quick(cls) -> Settings:
        return cls(pictures=16, tested=24, holdout=24, heads=8, rounds=1, steps=4, batch_size=4)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Labelled pictures of the source (`holdout` to calibrate and stop by, `source` to judge) and of the target.

    No person of `target` is in `unlabelled`; the shipped detector was trained on none of either.
    """

    training: Scenes
    holdout: list[Labelled]
    source: list[Labelled]
    unlabelled: list[Labelled]
    target: list[Labelled]

    @classmethod
    def make(cls, s: Settings) -> World:
        heads = render_heads(2 * s.heads)
        rooms = {
            "adapt": OperatingRoomScenes("adapt", seed=11, heads=heads[: s.heads]),
            "test": OperatingRoomScenes("test", seed=11, heads=heads[s.heads :]),
        }
        validation = Scenes("val", seed=23, smallest=14, largest=72)
        return cls(
            training=Scenes("train", seed=5),
            holdout=[validation.scene(i) for i in range(s.holdout)],
            source=[validation.scene(i) for i in range(s.holdout, s.holdout + s.tested)],
            unlabelled=[rooms["adapt"].scene(i) for i in range(s.pictures)],
            target=[rooms["test"].scene(i) for i in range(s.tested)],
        )


def judge(model: MOS, world: World) -> dict[str, Any]:
    """AP at IoU 0.5 on target and source, and on the target recall by face size at a precision of 0.9."""
    student = MOSStudent(model, world.training)
    found = {
        name: [Detections.of(student.detect(image, threshold=0.02)) for image, _ in pictures]
        for name, pictures in (("target", world.target), ("source", world.source))
    }
    labels = [wanted(rows) for _, rows in world.target]
    threshold = precision_recall(found["target"], labels).threshold_for(0.9)
    return {
        "target": average_precision(found["target"], labels),
        "target at 0.3": average_precision(found["target"], labels, iou=0.3),
        "source": average_precision(found["source"], [wanted(rows) for _, rows in world.source]),
        "recall": recall_by_size(found["target"], world.target, 1.0 if threshold is None else threshold),
    }


def recall_by_size(found: Sequence[Detections], labelled: Sequence[Labelled], threshold: float) -> list[float]:
    """Share of the faces of each size that a detection above the threshold overlaps by half."""
    hits: list[list[bool]] = [[] for _ in SIZES[1:]]
    for detections, (_, rows) in zip(found, labelled):
        boxes = detections.boxes[detections.scores >= threshold]
        for box in rows[rows[:, LABEL] == FACE][:, BOX].astype(np.float64):
            place = int(np.searchsorted(SIZES, box_size(box), side="right")) - 1
            hit = bool(len(boxes)) and bool((box_iou(box[None], boxes) >= 0.5).any())
            hits[min(max(place, 0), len(hits) - 1)].append(hit)
    return [float(np.mean(h)) if h else float("nan") for h in hits]


def student_of(world: World, s: Settings, steps: int, workers: int) -> MOSStudent:
    return MOSStudent(
        MOS.from_pretrained(), world.training, steps=steps, batch_size=s.batch_size, lr=s.lr, seed=1, workers=workers
    )


def source_only(world: World) -> dict[str, Any]:
    return judge(MOS.from_pretrained(), world)


@torch.no_grad()
def statistics(world: World, s: Settings) -> dict[str, Any]:
    """Only the batch norms' means and variances move, to those of the target's pictures."""
    model = MOS.from_pretrained()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
            module.reset_running_stats()
    for start in range(0, len(world.unlabelled) - s.batch_size + 1, s.batch_size):
        images = np.stack([image for image, _ in world.unlabelled[start : start + s.batch_size]])
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
            model(to_input(torch.from_numpy(images).permute(0, 3, 1, 2)))
    return judge(model.eval(), world)


def naive(world: World, s: Settings, workers: int) -> dict[str, Any]:
    """One set of labels from single looks; all that is not a face is background."""
    student = student_of(world, s, s.steps * s.rounds, workers)
    labelled = []
    for image, _ in world.unlabelled:
        found = Detections.of(student.detect(image, threshold=0.5))
        rows = np.zeros((len(found.boxes), world.unlabelled[0][1].shape[1]), np.float32)
        rows[:, BOX], rows[:, LABEL] = found.boxes, BOX_ONLY
        labelled.append((image, rows))
    student.learn(labelled, round_number=0)
    return judge(student.model, world) | label_quality(labelled, world.unlabelled)


def self_training(world: World, s: Settings, workers: int) -> dict[str, Any]:
    student = student_of(world, s, s.steps, workers)
    log: list[dict[str, Any]] = []

    def report(done: Round, labelled: list[Labelled]) -> None:
        log.append(asdict(done) | label_quality(labelled, world.unlabelled))
        print("   ", log[-1], flush=True)

    pictures = [[image] for image, _ in world.unlabelled]
    adapt(student, pictures, world.holdout, SelfTraining(rounds=s.rounds), report=report)
    return judge(student.model, world) | {"rounds": log}


def supervised(world: World, s: Settings, workers: int) -> dict[str, Any]:
    """The true boxes of the unlabelled pictures, for as many steps; points and pose are not told here either."""
    labelled = []
    for image, rows in world.unlabelled:
        told = rows.copy()
        told[told[:, LABEL] == FACE, LABEL] = BOX_ONLY
        labelled.append((image, told))
    student = student_of(world, s, s.steps * s.rounds, workers)
    student.learn(labelled, round_number=0)
    return judge(student.model, world)


def label_quality(labelled: Sequence[Labelled], truth: Sequence[Labelled]) -> dict[str, Any]:
    """Precision of the positives and their coverage of the true faces, also by size."""
    found = [
        Detections(rows[rows[:, LABEL] == BOX_ONLY][:, BOX], np.ones(sum(rows[:, LABEL] == BOX_ONLY)))
        for _, rows in labelled
    ]
    right = total = 0
    for detections, (_, rows) in zip(found, truth):
        if len(detections.boxes) == 0:
            continue
        overlap = box_iou(detections.boxes, rows[:, BOX].astype(np.float64))
        of_faces = (overlap[:, rows[:, LABEL] == FACE] >= 0.5).any(1)
        of_others = (overlap[:, rows[:, LABEL] == IGNORED] >= 0.5).any(1)
        right += int(of_faces.sum())
        total += int((of_faces | ~of_others).sum())
    return {"precision": right / max(1, total), "coverage": recall_by_size(found, truth, 0.5)}


def report_lines(s: Settings, results: dict[str, dict[str, Any]]) -> list[str]:
    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    rows = [
        [name, percent(r["target"]), percent(r["target at 0.3"]), percent(r["source"]), *map(percent, r["recall"])]
        for name, r in results.items()
    ]
    sizes = [f"{low:g}–{high:g} px" for low, high in zip(SIZES, SIZES[1:])]
    rounds = results[ADAPTED]["rounds"]
    log = [
        [
            str(r["number"] + 1),
            f"{r['threshold']:.2f}",
            str(r["positives"]),
            str(r["ignored"]),
            percent(r["precision"]),
            *map(percent, r["coverage"]),
            percent(r["source_ap"]),
            "kept" if r["kept"] else "undone",
        ]
        for r in rounds
    ]
    base, ours, plain = (results[name] for name in (SOURCE_ONLY, ADAPTED, NAIVE))
    gain = ours["target"] - base["target"]
    small = ours["recall"][0] - base["recall"][0]
    worst = min(r["precision"] for r in rounds)
    return [
        "# A detector adapts to the operating room by itself",
        "",
        "Made by `python -m reproductions.operating_room.run --write`. The operating room is made by code: masks,",
        "caps, side views, rendered heads, a dim ceiling camera, in pictures of 256 px.",
        f"{s.pictures} pictures are unlabelled, {s.tested} with other people are tested on.",
        f"{s.rounds} rounds of {s.steps} steps with batches of {s.batch_size}. "
        "All start from the shipped compact MOS, used without its second look.",
        "",
        "AP at IoU 0.5 (and 0.3) in percent, and recall of target faces by size where precision is 90 %.",
        "",
        *common.table(["", "target AP", "at IoU 0.3", "source AP", *sizes], rows),
        "",
        "The labels of every round: threshold, faces, boxes left out, and in percent their precision, the share of the",
        "true faces among them by size, and source AP after the round.",
        "",
        *common.table(["round", "threshold", "faces", "left out", "precision", *sizes, "source AP", ""], log),
        "",
        f"The naive labels have a precision of {percent(plain['precision'])} %.",
        "",
        common.verdict("target AP rises by 5 points or more", gain >= 0.05, f"{100 * gain:+.1f}"),
        common.verdict(
            "it is a point or more above naive labels",
            ours["target"] >= plain["target"] + 0.01,
            f"{100 * (ours['target'] - plain['target']):+.1f}",
        ),
        common.verdict(
            "source AP falls by 2 points at most",
            ours["source"] >= base["source"] - 0.02,
            f"{100 * (ours['source'] - base['source']):+.1f}",
        ),
        common.verdict("labels are at least 90 % right in every round", worst >= 0.9, f"worst {percent(worst)} %"),
        common.verdict("the smallest faces gain as well", small > 0, f"{100 * small:+.1f} points of recall"),
    ]


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    arms = Arms(common.arms_file(args, SLUG), s, len(METHODS))
    world = World.make(s)
    work: dict[str, Callable[[], dict[str, Any]]] = {
        SOURCE_ONLY: partial(source_only, world),
        STATISTICS: partial(statistics, world, s),
        NAIVE: partial(naive, world, s, args.workers),
        ADAPTED: partial(self_training, world, s, args.workers),
        SUPERVISED: partial(supervised, world, s, args.workers),
    }
    results = {name: arms.run(name, call) for name, call in work.items()}
    common.finish(args, "operating_room", report_lines(s, results), ["mos"])


if __name__ == "__main__":
    main()
