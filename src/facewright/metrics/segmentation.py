"""Segmentation measures from one confusion matrix that is summed over all pictures of a test set.

F1 of a class is 2·TP / (labelled + predicted), also called Dice; IoU is TP / (labelled + predicted − TP). Face parsing
papers report the mean F1 over the classes without background, semantic segmentation the mean IoU over all classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class SegmentationScores:
    """Counts pixels of one class that were given another; pixels labelled `ignored` never count.

    A class that was neither labelled nor predicted has NaN for a score and is left out of means.
    """

    def __init__(self, classes: Sequence[str], *, ignored: int = 255, background: int | None = 0) -> None:
        """`background` is the class that `mean_f1` leaves out, None for none."""
        self.classes, self.ignored, self.background = tuple(classes), ignored, background
        self.confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def add(self, labels: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Count arrays of equal shape; rows of `confusion` are labels, columns predictions.

        Raises UsageError where shapes differ or a value is not a class.
        """
        if labels.shape != predicted.shape:
            raise UsageError(f"labels of shape {labels.shape} cannot be compared with {predicted.shape}")
        counted = labels != self.ignored
        true, guess = labels[counted].astype(np.int64), predicted[counted].astype(np.int64)
        count = len(self.classes)
        if true.size and (min(true.min(), guess.min()) < 0 or max(true.max(), guess.max()) >= count):
            raise UsageError(f"labels and predictions must be 0 to {count - 1}, or {self.ignored} for ignored labels")
        self.confusion += np.bincount(true * count + guess, minlength=count**2).reshape(count, count)

    @property
    def f1(self) -> dict[str, float]:
        """F1 of every class, 0..1."""
        return self._named(_ratio(2 * self._hits, self._labelled + self._predicted))

    @property
    def iou(self) -> dict[str, float]:
        """Intersection over union of every class, 0..1."""
        return self._named(_ratio(self._hits, self._labelled + self._predicted - self._hits))

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the classes that are not background."""
        return _mean([v for i, v in enumerate(self.f1.values()) if i != self.background])

    @property
    def mean_iou(self) -> float:
        """Mean IoU of all classes."""
        return _mean(list(self.iou.values()))

    @property
    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that were given their label."""
        return float(_ratio(self._hits.sum(), self.confusion.sum()))

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diag(self.confusion)

    @property
    def _labelled(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion.sum(1))

    @property
    def _predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion.sum(0))

    def _named(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.classes, values.tolist()))


def _ratio(part: NDArray[np.int64] | np.int64, whole: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / np.asarray(whole, np.float64))


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
