"""What the reproductions of face parsing share: rendered faces with exact labels, a trainer, intervals, verdicts.

Arms of a comparison train from scratch on the same batches and are judged on other rendered people. Intervals say how
a score would vary with other test pictures and other seeds; verdicts come from the intervals alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facewright.data.faces import data_root
from facewright.data.parsing import RENDERS, mirror_pair, parsing_renders
from facewright.metrics.segmentation import SegmentationScores
from facewright.nn.inference import has_bf16
from facewright.systems.parse.taxonomy import IGNORED

from . import common
from .common import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from facewright.data.split import Split

Images = NDArray[np.uint8]
Samples = NDArray[np.float64]
"""A score of the test set as it is, then of its resamples, (1 + draws,)."""

DRAWS = 2000
COVERED = 95.0  # percent of the draws within an interval
DECAY = 1e-4
WARM_UP = 0.1  # of all steps
QUICK_TRAINING = 120  # of the 160 test faces


# --- pictures


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Renders of 288 px, each of another person.

    images (N, H, W, 3) uint8 RGB; labels (N, H, W) uint8 of CelebAMask-HQ's 19 classes; points5 (N, 5, 2) and boxes
    (N, 4) around the 68 landmarks, in pixels; yaw (N,) in degrees.
    """

    images: Images
    labels: Images
    points5: NDArray[np.float64]
    boxes: NDArray[np.float64]
    yaw: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Faces:
        return Faces(*(getattr(self, field.name)[chosen] for field in fields(self)))


def load_faces(*, quick: bool) -> tuple[Faces, Faces]:
    """Faces to train on and to test on, rendered on first use; `quick` takes both from the small set of test faces."""
    if quick:
        few = _load("val")
        return few[:QUICK_TRAINING], few[QUICK_TRAINING:]
    return _load("train"), _load("val")


def _load(split: Split) -> Faces:
    seed, count = RENDERS[split]
    print(f"reading {count} rendered faces of seed {seed}; missing ones are rendered, three a second", flush=True)
    shards = parsing_renders(split, data_root())
    truths = [shards.truth(i) for i in range(count)]
    outlines = np.array([truth["landmarks68"]["xy"] for truth in truths])
    return Faces(
        images=np.stack([shards.picture(i) for i in range(count)]),
        labels=np.stack([shards.mask(i) for i in range(count)]),
        points5=np.array([truth["points5"]["xy"] for truth in truths]),
        boxes=np.concatenate([outlines.min(1), outlines.max(1)], 1),
        yaw=np.array([truth["pose"]["yaw"] for truth in truths]),
    )


def augmented(images: Images, labels: Images, most: int, rng: np.random.Generator) -> tuple[Images, Images]:
    """Every picture, with its labels of 19 classes, mirrored or not and moved by up to `most` pixels.

    What moves in is black and does not count.
    """
    sides = (most, most)
    images = np.pad(images, ((0, 0), sides, sides, (0, 0)))
    labels = np.pad(labels, ((0, 0), sides, sides), constant_values=IGNORED)
    height, width = (side - 2 * most for side in labels.shape[1:])
    pairs = []
    for image, known, (y, x) in zip(images, labels, rng.integers(0, 2 * most + 1, (len(images), 2))):
        pair = image[y : y + height, x : x + width], known[y : y + height, x : x + width]
        pairs.append(mirror_pair(*pair) if rng.random() < 0.5 else pair)
    return np.stack([image for image, _ in pairs]), np.stack([known for _, known in pairs])


# --- training


def half() -> torch.autocast:
    """bfloat16 arithmetic where the processor has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu")))


def train(name: str, network: nn.Module, loss_of: Callable[[int], Tensor], steps: int, lr: float) -> None:
    """AdamW with a warm-up and a cosine; `loss_of(number)` is the loss of a step."""
    common.channels_last(network).train()
    optimiser = torch.optim.AdamW(common.decayed(network, lr, DECAY), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=WARM_UP, cycle_momentum=False)
    began, shown = time.monotonic(), 0.0
    for number in range(steps):
        loss = loss_of(number)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), common.MAX_GRAD_NORM)
        optimiser.step()
        schedule.step()
        seconds = time.monotonic() - began
        if seconds > shown + 20:
            shown = seconds
            left = seconds / (number + 1) * (steps - number - 1)
            print(f"    {name}: {number + 1}/{steps}, loss {float(loss.detach()):.3f}, {left:.0f} s left", flush=True)
    network.eval()


# --- judging


def counted(classes: Sequence[str], labels: Images, predicted: Images) -> list[list[list[int]]]:
    """Pixels of each picture and class that were found, labelled and predicted, (N, 3, C), from maps (N, H, W)."""
    rows = []
    for true, guess in zip(labels, predicted):
        scores = SegmentationScores(classes)
        scores.add(true, guess)
        confusion = scores.confusion
        rows.append([np.diag(confusion).tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()])
    return rows


def f1(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3, C) pixels found, labelled and predicted to F1 (..., C), NaN where a class is nowhere."""
    found, labelled, predicted = np.moveaxis(totals, -2, 0)
    return _ratio(2 * found, labelled + predicted)


def iou(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `f1`, intersection over union."""
    found, labelled, predicted = np.moveaxis(totals, -2, 0)
    return _ratio(found, labelled + predicted - found)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


class Bootstrap:
    """Resamples of test pictures and of training seeds, the same ones for every arm, so that arms can be subtracted."""

    def __init__(self, pictures: int, seeds: int, draws: int = DRAWS) -> None:
        rng = np.random.default_rng(0)
        each, of_seeds = np.full(pictures, 1 / pictures), np.full(seeds, 1 / seeds)
        self.pictures = np.vstack([np.ones(pictures), rng.multinomial(pictures, each, draws)])
        self.seeds = np.vstack([of_seeds, rng.multinomial(seeds, of_seeds, draws) / seeds])

    def score(
        self,
        counts: NDArray[np.integer],
        classes: Sequence[int],
        ratio: Callable[[NDArray[np.float64]], NDArray[np.float64]] = f1,
    ) -> Samples:
        """The mean `ratio` of some classes from counts (seeds, N, 3, C); classes that are nowhere are left out."""
        totals = np.tensordot(self.pictures, counts, (1, 1))  # (1 + draws, seeds, 3, C)
        values = ratio(totals)[..., list(classes)]
        known = ~np.isnan(values)
        means = _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(np.float64))
        return np.asarray((means * self.seeds).sum(1))


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and where most of its resamples lie."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Samples) -> Interval:
        rest = (100 - COVERED) / 2
        low, high = np.nanpercentile(samples[1:], (rest, 100 - rest))
        return cls(float(samples[0]), float(low), float(high))


def percent(samples: Samples) -> str:
    """Value and interval in percent."""
    found = Interval.of(samples)
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def points(samples: Samples) -> str:
    """A difference and its interval in percentage points."""
    found = Interval.of(samples)
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def outcome(difference: Interval, least: float = 0.0) -> Verdict:
    """Whether a difference is above that: decided only where the whole interval lies on one side."""
    if difference.low > least:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if difference.high < least else Verdict.INCONCLUSIVE


def verdict(claim: str, difference: Samples, least: float = 0.0) -> str:
    """One line of a claim's outcome."""
    return common.verdict(claim, outcome(Interval.of(difference), least), f"{points(difference)} points")
