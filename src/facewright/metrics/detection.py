"""Average precision of a face detector: by area, as COCO does, and as WIDER FACE does.

Boxes are (x0, y0, x1, y1) in pixels, scores any numbers of which higher means surer. All measures take one `Detections`
and one `GroundTruth` per picture, in the same order; pictures without faces or without detections belong in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..deprecation import renamed_names
from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ..face import Face

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

if not TYPE_CHECKING:
    __getattr__ = renamed_names(__name__, {"Found": ":Detections", "Wanted": ":GroundTruth"})

COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
COCO_RECALLS = np.linspace(0, 1, 101)
WIDER_THRESHOLDS = 1000


def _no_boxes() -> Floats:
    return np.zeros((0, 4))


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector says of one picture: `boxes` (D, 4) and `scores` (D,), in any order."""

    boxes: Floats = field(default_factory=_no_boxes)
    scores: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", _boxes(self.boxes))
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float64).reshape(-1))
        if len(self.boxes) != len(self.scores) or np.isnan(self.scores).any():
            raise UsageError(f"{len(self.boxes)} detected boxes need as many scores, all numbers; got {self.scores}")

    @classmethod
    def of(cls, faces: Iterable[Face]) -> Detections:
        """The faces a detector returned for one picture."""
        listed = list(faces)
        return cls(np.array([f.box for f in listed]), np.array([f.score for f in listed]))

    def sorted(self) -> Detections:
        """Best score first; equal scores keep their order."""
        order = np.argsort(-self.scores, kind="stable")
        return Detections(self.boxes[order], self.scores[order])


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """The labelled faces of one picture: `boxes` (G, 4).

    Faces that are `ignored` (G,) need not be found, and finding them does no harm. `crowd` (G,) marks boxes around
    many faces: they are ignored too, and any number of detections inside one is forgiven.
    """

    boxes: Floats = field(default_factory=_no_boxes)
    ignored: Flags | None = None
    crowd: Flags | None = None

    def __post_init__(self) -> None:
        boxes = _boxes(self.boxes)
        object.__setattr__(self, "boxes", boxes)
        for name in ("ignored", "crowd"):
            flags = getattr(self, name)
            flags = np.zeros(len(boxes), bool) if flags is None else np.asarray(flags, bool).reshape(-1)
            if len(flags) != len(boxes):
                raise UsageError(f"{len(boxes)} labelled boxes have {len(flags)} flags '{name}'; give one for each")
            object.__setattr__(self, name, flags)

    @property
    def spared(self) -> Flags:
        """(G,) which boxes do not count."""
        assert self.ignored is not None
        assert self.crowd is not None
        return np.asarray(self.ignored | self.crowd)


def _boxes(values: object) -> Floats:
    boxes = np.asarray(values, np.float64)
    if boxes.size == 0:
        return _no_boxes()
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise UsageError(f"boxes must be finite numbers (N, 4) as x0, y0, x1, y1, not an array {boxes.shape}")
    return boxes


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """`precision` and `recall` (T,) of the detections down to each of the `thresholds` (T,), strictest first."""

    thresholds: Floats
    precision: Floats
    recall: Floats

    def area(self) -> float:
        """All-point average precision: the area under the precision envelope (Pascal VOC since 2010)."""
        return _area(self.precision, self.recall)

    def at_recalls(self, recalls: Floats) -> float:
        """Mean of the envelope's precision at the given recalls; 0 where a recall is not reached."""
        envelope = np.append(_envelope(self.precision), 0.0)
        return float(envelope[np.searchsorted(self.recall, recalls, side="left")].mean())

    def threshold_for(self, precision: float) -> float | None:
        """The lowest threshold at which at least this share of the detections is right; None where there is none."""
        good = np.flatnonzero(self.precision >= precision)
        return float(self.thresholds[good[-1]]) if len(good) else None


def precision_recall(
    detections: Sequence[Detections], truths: Sequence[GroundTruth], *, iou: float = 0.5
) -> PrecisionRecall:
    """Precision and recall over all pictures at one overlap, matched as COCO matches.

    Best score first, a detection takes the free face it overlaps most, by at least `iou` in (0, 1]; ignored faces only
    when no counted one is left for it. Raises UsageError when there is no face to be found, or the lists differ.
    """
    return _curve(*_matched(detections, truths, iou, limit=None, sizes=(0.0, np.inf)))


def average_precision(detections: Sequence[Detections], truths: Sequence[GroundTruth], *, iou: float = 0.5) -> float:
    """AP in [0, 1]: the area under the precision envelope at one overlap."""
    return precision_recall(detections, truths, iou=iou).area()


def coco_average_precision(
    detections: Sequence[Detections],
    truths: Sequence[GroundTruth],
    *,
    ious: Sequence[float] = COCO_IOUS,
    limit: int = 100,
    sizes: tuple[float, float] = (0.0, np.inf),
) -> float:
    """AP in [0, 1] as COCO computes it: mean over overlaps 0.5 … 0.95 of the precision at 101 recalls.

    The `limit` best detections of a picture count. `sizes` are square roots of the least and largest area in pixels;
    faces outside are ignored, and so are detections outside that match nothing (COCO's small is (0, 32), medium
    (32, 96), large (96, inf)). Raises UsageError when there is no face to be found.
    """
    matched = (_matched(detections, truths, iou, limit=limit, sizes=sizes) for iou in ious)
    return float(np.mean([_curve(*m).at_recalls(COCO_RECALLS) for m in matched]))


def wider_average_precision(
    detections: Sequence[Detections],
    truths: Sequence[GroundTruth],
    counted: Sequence[NDArray[np.integer]] | None = None,
) -> float:
    """AP in [0, 1] as WIDER FACE's evaluation tools compute it (Yang et al., CVPR 2016), at overlap 0.5.

    `counted` are, per picture, the indices (from 0) of the faces of one difficulty: easy, medium or hard; without it
    those that are not ignored. Three things differ from other measures: overlaps count pixels, so that a box is one
    pixel wider than its corners differ; a detection belongs to the face it overlaps most, even if that one is taken,
    and then is a false alarm; and precision is taken at 1000 thresholds between the set's lowest and highest score.
    Pictures without a labelled face are left out, whatever was detected there. Raises UsageError when there is nothing
    to find.
    """
    _check(detections, truths)
    chosen = [
        np.flatnonzero(~w.spared) if counted is None else np.asarray(counted[i], int) for i, w in enumerate(truths)
    ]
    faces = sum(len(indices) for indices in chosen)
    if not faces:
        raise UsageError("no labelled face is of this difficulty: average precision has nothing to measure")
    scores = np.concatenate([f.scores for f in detections])
    if not len(scores):
        return 0.0
    low, span = scores.min(), max(float(np.ptp(scores)), 1e-12)
    counts = np.zeros((WIDER_THRESHOLDS, 2))
    for found, labels, indices in zip(detections, truths, chosen):
        if len(found.boxes) and len(labels.boxes):
            found = found.sorted()
            normalised = (found.scores - low) / span
            counts += _wider_counts(found.boxes, normalised, labels.boxes, indices)
    proposed, right = counts.T
    return _area(right / np.maximum(proposed, 1), right / faces)


def _wider_counts(boxes: Floats, scores: Floats, truth: Floats, counted: NDArray[np.integer]) -> Floats:
    """(1000, 2) numbers of proposals and of faces found in one picture, by falling threshold."""
    pixels = np.array([0, 0, 1, 1])
    overlap = box_iou(boxes + pixels, truth + pixels)
    best, is_counted = overlap.argmax(1), np.isin(np.arange(len(truth)), counted)
    hit = overlap.max(1) >= 0.5
    credited = hit & is_counted[best]
    first = np.zeros(len(boxes), bool)
    first[np.unique(np.where(credited, best, -1), return_index=True)[1]] = True
    totals = np.cumsum(np.stack([~(hit & ~is_counted[best]), first & credited], 1), axis=0)
    thresholds = 1 - np.arange(1, WIDER_THRESHOLDS + 1) / WIDER_THRESHOLDS
    reached = np.searchsorted(-scores, -thresholds, side="right")
    return np.concatenate([np.zeros((1, 2)), totals])[reached]


def box_iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union (N, M) of (N, 4) and (M, 4) boxes."""
    shared = _shared(a, b)
    union = _areas(a)[:, None] + _areas(b)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-12))


def _shared(a: Floats, b: Floats) -> Floats:
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.asarray(np.clip(sides, 0, None).prod(-1))


def _areas(boxes: Floats) -> Floats:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1))


def _check(detections: Sequence[Detections], truths: Sequence[GroundTruth]) -> None:
    if len(detections) != len(truths):
        raise UsageError(f"detections of {len(detections)} pictures do not fit labels of {len(truths)}")


def _matched(
    detections: Sequence[Detections],
    truths: Sequence[GroundTruth],
    iou: float,
    *,
    limit: int | None,
    sizes: tuple[float, float],
) -> tuple[Floats, Flags, int]:
    """Scores (D,) of all detections that count, whether each is right (D,), and the number of faces to be found."""
    _check(detections, truths)
    if not 0 < iou <= 1:
        raise UsageError(f"an overlap to match by must be in (0, 1], not {iou}")
    scores, right, faces = [], [], 0
    for found, labels in zip(detections, truths):
        spared = labels.spared | _outside(labels.boxes, sizes)
        faces += int((~spared).sum())
        best = found.sorted()
        best = Detections(best.boxes[:limit], best.scores[:limit])
        match = _match(best.boxes, labels, spared, iou)
        harmless = np.where(match >= 0, np.append(spared, False)[match], _outside(best.boxes, sizes))
        scores.append(best.scores[~harmless])
        right.append(match[~harmless] >= 0)
    if not faces:
        raise UsageError("there is no labelled face to be found: average precision has nothing to measure")
    return np.concatenate(scores), np.concatenate(right), faces


def _outside(boxes: Floats, sizes: tuple[float, float]) -> Flags:
    sides = np.sqrt(_areas(boxes))
    return np.asarray((sides < sizes[0]) | (sides > sizes[1]))


def _match(boxes: Floats, labels: GroundTruth, spared: Flags, iou: float) -> NDArray[np.int64]:
    """(D,) index of the face each box gets, best box first, or −1."""
    crowd = labels.crowd
    assert crowd is not None
    overlap = box_iou(boxes, labels.boxes)
    within = _shared(boxes, labels.boxes) / np.maximum(_areas(boxes)[:, None], 1e-12)
    overlap[:, crowd] = within[:, crowd]
    free = np.ones(len(labels.boxes), bool)
    match = np.full(len(boxes), -1, np.int64)
    for row, values in enumerate(overlap):
        for group in (~spared, spared):
            candidates = np.flatnonzero(group & (free | crowd) & (values >= iou))
            if len(candidates):
                match[row] = candidates[values[candidates].argmax()]
                free[match[row]] = False
                break
    return match


def _curve(scores: Floats, right: Flags, faces: int) -> PrecisionRecall:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    return PrecisionRecall(scores[order], hits / np.arange(1, len(hits) + 1), hits / faces)


def _envelope(precision: Floats) -> Floats:
    """Precision made to never rise with recall."""
    return np.asarray(np.maximum.accumulate(precision[::-1])[::-1])


def _area(precision: Floats, recall: Floats) -> float:
    return float(np.sum(np.diff(np.append(0.0, recall)) * _envelope(precision)))
