"""What MOS's three ideas are worth: pose loss, uncertainty weights and online feedback sampling, each left out once.

    python -m reproductions.mos.run [--quick] [--write]

Needs the labelled face collections (FACEWRIGHT_DATA) and half an hour on two processor cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facewright.data.detection import (
    BOX,
    FACE,
    IGNORED,
    LABEL,
    POINTS,
    POSE,
    FaceSource,
    LabelledFace,
    Scenes,
    box_size,
)
from facewright.data.operating_room import render_heads
from facewright.metrics.detection import Detections, GroundTruth, average_precision, box_iou
from facewright.systems.detect.mos.network import MOS
from facewright.training.trainer import Recipe, Trainer

from .. import common
from ..common import Arms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from facewright.data.split import Split
    from facewright.face import Face

    Labelled = tuple[NDArray[np.uint8], NDArray[np.float32]]

SLUG = "mos-ablation"
SMALL = 24.0  # px
TURNED = 45.0  # degrees of yaw
RENDERED_SHARE = 0.35
NETWORK = {"backbone": "shufflenetv2", "width": 0.35, "fpn": 32, "deformable": False, "pose_hidden": 16}
ALL = "all three"
NO_POSE, NO_BALANCE, NO_FEEDBACK = "without pose loss", "without uncertainty weights", "without feedback sampling"
ARMS: dict[str, dict[str, Any]] = {
    ALL: {},
    NO_POSE: {"pose": False},
    NO_BALANCE: {"uncertainty": False},
    NO_FEEDBACK: {"feedback": False},
}


@dataclass(frozen=True)
class Settings:
    """`steps` of `batch_size` scenes for every arm and seed; `tested` scenes."""

    steps: int = 900
    batch_size: int = 8
    lr: float = 2e-3
    heads: int = 100
    tested: int = 300
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def quick(cls) -> Settings:
        return cls(steps=4, batch_size=4, heads=4, tested=8)


class LargePoseFaces(FaceSource):
    """Faces of the collections and rendered heads at any yaw, which press photos hardly have."""

    def __init__(self, split: Split, heads: int) -> None:
        super().__init__(split)
        self.heads = render_heads(heads, seed=100 + int(split == "val"))

    def any(self, rng: Generator) -> LabelledFace:
        if rng.random() >= RENDERED_SHARE:
            return super().any(rng)
        face = self.heads[int(rng.integers(len(self.heads)))].face
        return face.mirrored() if rng.random() < 0.5 else face


class LargePoseScenes(Scenes):
    """Scenes of 256 px with faces of 10 to 100 px, some of them turned far."""

    def __init__(self, split: Split, *, seed: int = 0, heads: int = 100) -> None:
        super().__init__(split, seed=seed, smallest=10, largest=100)
        self.source = LargePoseFaces(split, heads)


def train(name: str, seed: int, s: Settings, folder: Path, workers: int) -> MOS:
    """A small network trained from scratch with one idea left out; scenes and first weights are the same for all."""
    recipe = Recipe(
        system="mos",
        config=NETWORK | {"bin_centre": True},
        training={
            "entry": "facewright.systems.detect.mos.training:MOSTraining",
            "options": {"lr": s.lr, "weight_decay": 0.01, "beta": 0.3, **ARMS[name]},
        },
        data={"entry": "reproductions.mos.run:LargePoseScenes", "options": {"heads": s.heads}},
        steps=s.steps,
        batch_size=s.batch_size,
        warmup=max(1, s.steps // 20),
        max_grad_norm=10.0,
        ema=0.99,
        seed=seed,
        workers=workers,
        validation_batches=1,
        validate_every=s.steps,
        checkpoint_every=s.steps,
    )
    return MOS.from_pretrained(Trainer(recipe, folder).run(resume=False))


def arm(name: str, seed: int, s: Settings, scenes: Sequence[Labelled], folder: Path, workers: int) -> dict[str, Any]:
    model = train(name, seed, s, folder, workers)
    faces = [model.detect(image, threshold=0.05, min_size=6) for image, _ in scenes]
    return judge(faces, [rows for _, rows in scenes])


def judge(faces: Sequence[list[Face]], labels: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    """AP at IoU 0.5 of all and of small faces; of those found, point errors in shares of the face's size (all, and
    turned by more than 45°) and mean pose error in degrees."""
    found = [Detections.of(f) for f in faces]
    pairs = [pair for f, rows in zip(faces, labels) for pair in matched(f, rows)]
    points = np.array([point_error(face, row) for face, row in pairs])
    turned = np.array([abs(row[POSE][0]) > TURNED for _, row in pairs], bool)
    return {
        "ap": average_precision(found, [wanted(rows, np.inf) for rows in labels]),
        "small": average_precision(found, [wanted(rows, SMALL) for rows in labels]),
        "points": float(points.mean()) if len(points) else float("nan"),
        "turned": float(points[turned].mean()) if turned.any() else float("nan"),
        "pose": float(np.mean([pose_error(face, row) for face, row in pairs])) if pairs else float("nan"),
        "counts": [len(pairs), int(turned.sum())],
    }


def wanted(rows: NDArray[np.float32], largest: float) -> GroundTruth:
    """The labels of a scene; faces of `largest` pixels and more are ignored."""
    boxes = rows[:, BOX].astype(np.float64)
    large = np.array([box_size(box) >= largest for box in boxes], bool)
    return GroundTruth(boxes, large | (rows[:, LABEL] == IGNORED))


def matched(faces: list[Face], rows: NDArray[np.float32]) -> list[tuple[Face, NDArray[np.float32]]]:
    """Every labelled face with the best scored detection that overlaps it by half."""
    pairs = []
    for row in rows[rows[:, LABEL] == FACE]:
        overlap = [box_iou(face.box[None].astype(float), row[None, BOX].astype(float))[0, 0] for face in faces]
        hits = [face for face, value in zip(faces, overlap) if value >= 0.5]
        if hits:
            pairs.append((hits[0], row))
    return pairs


def point_error(face: Face, row: NDArray[np.float32]) -> float:
    distance = np.linalg.norm(face.points5 - row[POINTS].reshape(5, 2), axis=1).mean()
    return float(distance / box_size(row[BOX].astype(np.float64)))


def pose_error(face: Face, row: NDArray[np.float32]) -> float:
    assert face.pose is not None
    return float(np.abs(np.array([face.pose.yaw, face.pose.pitch, face.pose.roll]) - row[POSE]).mean())


def pose_cell(name: str, degrees: float) -> str:
    """Nobody asked a network without pose loss for a pose."""
    return "–" if name == NO_POSE else f"{degrees:.1f}"


def report_lines(s: Settings, results: dict[str, list[dict[str, Any]]]) -> list[str]:
    mean = {
        name: {key: float(np.mean([r[key] for r in runs])) for key in ("ap", "small", "points", "turned", "pose")}
        for name, runs in results.items()
    }
    rows = [
        [name, *(f"{100 * m[key]:.1f}" for key in ("ap", "small", "points", "turned")), pose_cell(name, m["pose"])]
        for name, m in mean.items()
    ]
    full, no_pose, fixed, plain = (mean[name] for name in (ALL, NO_POSE, NO_BALANCE, NO_FEEDBACK))
    counts = results[ALL][0]["counts"]
    return [
        "# MOS with one idea left out",
        "",
        "Made by `python -m reproductions.mos.run --write`. A narrow ShuffleNetV2 (width 0.35, pyramid of 32) from",
        f"scratch, {s.steps} steps of {s.batch_size} scenes with faces of 10 to 100 px, a third of the cut-out heads",
        f"rendered at any yaw; judged on {s.tested} scenes of other people and heads.",
        f"Seeds: {', '.join(map(str, s.seeds))}.",
        "",
        f"AP at IoU 0.5 in percent, of all faces and of those below {SMALL:g} px. Point errors of the faces found",
        f"({counts[0]}, and {counts[1]} turned by more than {TURNED:g}°), in percent of the face's size; pose in °.",
        "",
        *common.table(["", "AP", f"AP < {SMALL:g} px", "points", f"points, > {TURNED:g}°", "pose"], rows),
        "",
        common.verdict(
            "the pose loss lowers point errors of turned faces by 5 % or more, and AP by half a point at most",
            full["turned"] <= 0.95 * no_pose["turned"] and full["ap"] >= no_pose["ap"] - 0.005,
            f"{100 * (full['turned'] / no_pose['turned'] - 1):+.0f} %, {100 * (full['ap'] - no_pose['ap']):+.1f} of AP",
        ),
        common.verdict(
            "uncertainty weights lower the pose error, and raise AP",
            full["pose"] < fixed["pose"] and full["ap"] > fixed["ap"],
            f"{full['pose'] - fixed['pose']:+.1f}°, {100 * (full['ap'] - fixed['ap']):+.1f} points",
        ),
        common.verdict(
            "feedback sampling raises AP of small faces by 2 points or more",
            full["small"] >= plain["small"] + 0.02,
            f"{100 * (full['small'] - plain['small']):+.1f}",
        ),
    ]


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    args = parser.parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    validation = LargePoseScenes("val", seed=3, heads=s.heads)
    scenes = [validation.scene(i) for i in range(s.tested)]
    arms = Arms(common.arms_file(args, SLUG), s, len(ARMS) * len(s.seeds))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    for number, name in enumerate(ARMS):
        for seed in s.seeds:
            folder = Path(args.work) / f"{SLUG}{'-quick' if args.quick else ''}-{number}-{seed}"
            results[name].append(arms.run(f"{name}, seed {seed}", arm, name, seed, s, scenes, folder, args.workers))
    common.finish(args, "mos-ablation", report_lines(s, results))


if __name__ == "__main__":
    main()
