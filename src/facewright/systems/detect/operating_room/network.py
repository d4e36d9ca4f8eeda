"""Adapting a face detector to a place it was not trained for, by its own detections (Issenhuth et al., IJCARS 2019).

"Face Detection in the Operating Room: Comparison of State-of-the-art Methods and a Self-supervised Approach" (arXiv
1811.12296) fine-tunes a public detector on unlabelled pictures of an operating room. Its method section could not be
read and there is no code; the recipe here is data distillation (Radosavovic et al. 2018) with an ignore band, built to
fit that claim. A teacher looks at every unlabelled picture in many sizes and mirrored; where the views agree with
confidence there is a face, where they half agree nothing is said, the rest is background. The student learns from these
labels and from labelled pictures of the source side by side, and becomes the next teacher.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ....data.detection import BOX, BOX_ONLY, COLUMNS, IGNORED, LABEL
from ....data.operating_room import MixedScenes
from ....errors import UsageError
from ....metrics.detection import Detections, GroundTruth, average_precision, box_iou, precision_recall
from ....nn.inference import has_bf16
from ..mos.training import MOSTraining

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ....data.detection import Scenes
    from ....face import Face
    from ..mos.network import MOS

    Image = NDArray[np.uint8]
    Rows = NDArray[np.float32]
    Labelled = tuple[Image, Rows]


class Teacher(Protocol):
    """A detector that can be asked for unsure faces as well."""

    def detect(self, image: Image, *, threshold: float) -> list[Face]:
        """(H, W, 3) uint8 RGB to faces scored at least `threshold`, best first."""
        ...


class Student(Teacher, Protocol):
    """A detector that can learn. `MOSStudent` is one; any other needs these three methods."""

    def learn(self, labelled: Sequence[Labelled], *, round_number: int) -> None:
        """Train on pictures with label rows (M, 18) (see `data.detection`) and on its own source data beside them."""
        ...

    def snapshot(self) -> Any:
        """The state to which `restore` returns."""
        ...

    def restore(self, state: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class SelfTraining:
    """The rules of adaptation.

    Views: the picture at all `scales`, each also mirrored if `mirrored`; boxes of different views that overlap by
    `vote_overlap` are one face. Its score is the mean of its `least_views` best views, a missing one counting 0, so a
    face must be found in that many. Labels: a score of `positive` or more is a face, one of `ignored` or more is left
    out; `positive` is replaced by the lowest score at which labelled source pictures are found with `precision`. Frames
    of one sequence are linked where boxes overlap by `link_overlap`: see `link_frames`. Stopping: after `rounds`, when
    labels repeat (`settled` share of them), or when source AP falls by more than `tolerance`, which is undone.
    """

    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    mirrored: bool = True
    vote_overlap: float = 0.5
    least_views: int = 3
    candidate: float = 0.1
    positive: float = 0.7
    ignored: float = 0.2
    precision: float = 0.95
    link_overlap: float = 0.5
    rounds: int = 3
    settled: float = 0.98
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.candidate <= self.ignored <= self.positive < 1:
            raise UsageError("thresholds must rise from candidate over ignored to positive, between 0 and 1")
        if not 1 <= self.least_views <= len(self.scales) * (1 + self.mirrored):
            raise UsageError(f"{self.least_views} views cannot agree: scales and mirroring do not give that many")


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did: `threshold` of its positives, how many boxes were `positives` and `ignored`, the share of
    positives that the round before had too (`repeated`), AP on source pictures after it, and whether it was `kept`."""

    number: int
    threshold: float
    positives: int
    ignored: int
    repeated: float
    source_ap: float
    kept: bool


def adapt(
    student: Student,
    sequences: Sequence[Sequence[Image]],
    holdout: Sequence[Labelled],
    rules: SelfTraining | None = None,
    *,
    report: Callable[[Round, list[Labelled]], None] | None = None,
) -> list[Round]:
    """Adapt a detector, in place, to unlabelled pictures (H, W, 3) uint8 RGB.

    `sequences` are runs of consecutive frames; single pictures are runs of one. `holdout` are labelled source pictures
    that calibrate the threshold and tell when the student forgets; they are not trained on. `report` is shown every
    round with its labels. Raises UsageError when there is no picture, or the detector cannot reach the asked precision.
    """
    rules = rules or SelfTraining()
    if not any(map(len, sequences)) or not holdout:
        raise UsageError("adaptation needs unlabelled pictures and a labelled hold-out of the source; one is missing")
    best = source_ap(student, holdout, rules)
    before: list[Labelled] = []
    rounds: list[Round] = []
    for number in range(rules.rounds):
        threshold = calibrated_threshold(student, holdout, rules)
        labelled = [pair for frames in sequences for pair in label_frames(student, frames, threshold, rules)]
        repeated = repeated_share(before, labelled)
        if repeated >= rules.settled:
            break
        state = student.snapshot()
        student.learn(labelled, round_number=number)
        after = source_ap(student, holdout, rules)
        kept = after >= best - rules.tolerance
        labels = np.concatenate([rows[:, LABEL] for _, rows in labelled])
        positives, ignored = int((labels == BOX_ONLY).sum()), int((labels == IGNORED).sum())
        rounds.append(Round(number, threshold, positives, ignored, repeated, after, kept))
        if report is not None:
            report(rounds[-1], labelled)
        if not kept:
            student.restore(state)
            break
        before = labelled
    return rounds


def source_ap(detector: Teacher, holdout: Sequence[Labelled], rules: SelfTraining) -> float:
    """AP at IoU 0.5 of single looks at labelled pictures."""
    found = [Detections.of(detector.detect(image, threshold=rules.candidate)) for image, _ in holdout]
    return average_precision(found, [wanted(rows) for _, rows in holdout])


def calibrated_threshold(teacher: Teacher, holdout: Sequence[Labelled], rules: SelfTraining) -> float:
    """The lowest score of agreeing views, at least `ignored`, at which labelled pictures are found with precision."""
    found = [agreed(teacher, image, rules) for image, _ in holdout]
    threshold = precision_recall(found, [wanted(rows) for _, rows in holdout]).threshold_for(rules.precision)
    if threshold is None:
        raise UsageError(
            f"the detector finds source pictures with less than {rules.precision:.0%} precision at every threshold; "
            "train it longer or ask for less"
        )
    return max(threshold, rules.ignored)


def wanted(rows: Rows) -> GroundTruth:
    """Label rows (M, 18) as measures take them; padding is left out."""
    rows = rows[rows[:, LABEL] >= BOX_ONLY]
    return GroundTruth(rows[:, BOX].astype(np.float64), rows[:, LABEL] == IGNORED)


class View(NamedTuple):
    """What one view of a picture found, in pixels of the picture: `boxes` (K, 4), `scores` (K,)."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def views(teacher: Teacher, image: Image, rules: SelfTraining) -> list[View]:
    """The detections of every scaled and mirrored view."""
    height, width = image.shape[:2]
    results = []
    for scale in rules.scales:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
        stretch = np.tile((width / size[0], height / size[1]), 2)
        for mirrored in (False, True)[: 1 + rules.mirrored]:
            shown = np.ascontiguousarray(resized[:, ::-1]) if mirrored else resized
            found = Detections.of(teacher.detect(shown, threshold=rules.candidate))
            boxes = found.boxes.copy()
            if mirrored:
                boxes[:, [0, 2]] = size[0] - 1 - boxes[:, [2, 0]]
            results.append(View((boxes + 0.5) * stretch - 0.5, found.scores))
    return results


def agreed(teacher: Teacher, image: Image, rules: SelfTraining) -> Detections:
    """The faces of a picture that its views vote for: score-weighted boxes and scores of agreement."""
    return vote(views(teacher, image, rules), rules)


def vote(looks: Sequence[View], rules: SelfTraining) -> Detections:
    """Gather the boxes of all views, best score first, with at most one of each view in a face."""
    boxes = np.concatenate([look.boxes for look in looks])
    scores = np.concatenate([look.scores for look in looks])
    view = np.repeat(np.arange(len(looks)), [len(look.scores) for look in looks])
    left = np.ones(len(scores), bool)
    merged, strength = [], []
    for seed in np.argsort(-scores, kind="stable"):
        if not left[seed]:
            continue
        close = np.flatnonzero(left & (box_iou(boxes[seed : seed + 1], boxes)[0] >= rules.vote_overlap))
        left[close] = False
        ranked = close[np.argsort(-scores[close], kind="stable")]
        members = ranked[np.unique(view[ranked], return_index=True)[1]]
        merged.append(np.average(boxes[members], axis=0, weights=scores[members]))
        strength.append(np.sort(scores[members])[-rules.least_views :].sum() / rules.least_views)
    return Detections(np.array(merged), np.array(strength)).sorted()


def label_frames(
    teacher: Teacher, frames: Sequence[Image], threshold: float, rules: SelfTraining
) -> list[tuple[Image, Rows]]:
    """A run of frames with the labels its detections make: rows (M, 18), positives as boxes without points."""
    found = [agreed(teacher, image, rules) for image in frames]
    positive = [f.scores >= threshold for f in found]
    if len(frames) > 1:
        positive = link_frames(found, positive, rules.link_overlap)
    return [(image, label_rows(f, p, rules.ignored)) for image, f, p in zip(frames, found, positive)]


def label_rows(found: Detections, positive: NDArray[np.bool_], ignored: float) -> Rows:
    """Label rows of the positives, and of those others that reach `ignored`: nothing is said of them."""
    rows = np.zeros((len(found.boxes), COLUMNS), np.float32)
    rows[:, BOX] = found.boxes
    rows[:, LABEL] = np.where(positive, BOX_ONLY, IGNORED)
    return rows[positive | (found.scores >= ignored)]


def link_frames(
    found: Sequence[Detections], positive: Sequence[NDArray[np.bool_]], overlap: float
) -> list[NDArray[np.bool_]]:
    """Which detections of consecutive frames are faces, by the company they keep.

    Detections are linked to the one of the next frame they overlap most, by at least `overlap`. All members of a track
    are faces if one is sure of it; a sure detection without a neighbour in time is doubted.
    """
    track = [np.arange(len(f.boxes)) for f in found]
    length = 0
    for index, current in enumerate(track):
        current += length
        length += len(current)
        if index and len(current) and len(track[index - 1]):
            shared = box_iou(found[index].boxes, found[index - 1].boxes)
            before = shared.argmax(1)
            mutual = shared.argmax(0)[before] == np.arange(len(current))
            linked = mutual & (shared.max(1) >= overlap)
            current[linked] = track[index - 1][before[linked]]
    members = np.concatenate(track)
    sure = np.zeros(length, bool)
    sure[members[np.concatenate(positive)]] = True
    long_enough = np.bincount(members, minlength=length) > 1
    return [np.asarray((sure & long_enough)[t]) for t in track]


def repeated_share(before: Sequence[Labelled], now: Sequence[Labelled]) -> float:
    """Share of the faces of both sets of labels, of the same pictures, that the other one has too (IoU ≥ 0.5)."""
    both = total = 0
    for (_, old), (_, new) in zip(before, now):
        a, b = (rows[rows[:, LABEL] == BOX_ONLY][:, BOX].astype(np.float64) for rows in (old, new))
        total += len(a) + len(b)
        if len(a) and len(b):
            same = box_iou(a, b) >= 0.5
            both += int(same.any(0).sum() + same.any(1).sum())
    return both / total if total else 0.0


class MOSStudent:
    """MOS as a student: class and boxes of the pseudo-labels, all tasks of the source scenes.

    Every batch is half `source` scenes, half pseudo-labelled pictures in other sizes, mirrored and photographed again
    (`data.operating_room.MixedScenes`). Pseudo-labels say nothing of points and pose; the second look is not changed.
    Batch norms keep their statistics in the first round: labels are worst then. `lr` is a tenth of training's.
    """

    def __init__(
        self,
        model: MOS,
        source: Scenes,
        *,
        steps: int = 500,
        batch_size: int = 16,
        lr: float = 2e-4,
        size: int = 256,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.model, self.source = model, source
        self.steps, self.batch_size, self.lr, self.size = steps, batch_size, lr, size
        self.seed, self.workers = seed, workers

    def detect(self, image: Image, *, threshold: float) -> list[Face]:
        """What the one-pass network finds, without its second look."""
        self.model.eval()
        return self.model.detect_batch([image], threshold=threshold, min_size=8, refine=False)[0]

    def learn(self, labelled: Sequence[Labelled], *, round_number: int) -> None:
        """`steps` steps of MOS's losses with fixed task weights; AdamW, cosine decay to a hundredth."""
        scenes = MixedScenes(self.source, labelled, seed=self.seed + round_number, size=self.size)
        training = MOSTraining(self.model, lr=self.lr, weight_decay=0.01, beta=0.3, uncertainty=False, feedback=False)
        optimiser = training.optimisers()["model"]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps, 0.01 * self.lr)

        def update(_: str, loss: torch.Tensor) -> None:
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
            if torch.isfinite(norm):
                optimiser.step()
            schedule.step()

        loader = DataLoader(
            scenes,
            batch_size=self.batch_size,
            sampler=range(self.steps * self.batch_size),
            num_workers=self.workers,
            collate_fn=MixedScenes.collate,
        )
        torch.manual_seed(self.seed + round_number)
        self.model.train()
        if round_number == 0:
            freeze_statistics(self.model)
        device = self.model.device
        for number, batch in enumerate(loader):
            moved = {key: value.to(device) for key, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
                training.step(moved, update, number / self.steps)
        self.model.eval()

    def snapshot(self) -> dict[str, torch.Tensor]:
        return copy.deepcopy(self.model.state_dict())

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state)


def freeze_statistics(model: nn.Module) -> None:
    """Let batch norms of a network in training use the statistics they have, until `train` is called again."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
