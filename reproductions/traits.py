"""What the measurements of attributes, ages and action units share: intervals by person, groups, damage, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from facewright.metrics.calibration import reliability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

DRAWS = 1000
DAMAGES = ("clean", "mild", "vqfr", "severe")
YAWS = ((0, 15), (15, 30), (30, 60))
LEAST = 20
"""Photos without which nothing is said of a group."""


def by_person(
    people: ArrayLike, measure: Callable[[NDArray[np.int64]], float], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """A measure of the photos numbered by what it is given, and the range of 95 % of its resamples by person."""
    _, owner = np.unique(np.asarray(people), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    photos = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        drawn = rng.integers(0, len(photos), len(photos))
        values.append(measure(np.concatenate([photos[i] for i in drawn])))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return measure(np.arange(len(owner))), float(low), float(high)


def text(estimate: tuple[float, float, float], digits: int = 1, scale: float = 100.0) -> str:
    """Such as "82.4 (81.6 to 83.1)"."""
    value, low, high = (f"{scale * v:.{digits}f}" for v in estimate)
    return f"{value} ({low} to {high})"


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve; NaN where one kind is missing."""
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if p.all() or not p.any():
        return float("nan")
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    count = int(p.sum())
    return float((ranks[p].sum() - count * (count + 1) / 2) / (count * (len(s) - count)))


def balanced_accuracy(found: Flags, true: Flags) -> Floats:
    """(A,) mean of the shares of true and of untrue statements (N, A) told right; NaN where one kind is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        right = found == true
        return np.asarray(((right & true).sum(0) / true.sum(0) + (right & ~true).sum(0) / (~true).sum(0)) / 2)


def ece(probabilities: ArrayLike, true: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error of probabilities, all statements together."""
    return reliability(np.ravel(probabilities), np.ravel(true), bins=bins).ece


def least_ece(probabilities: ArrayLike, *, bins: int = 15, draws: int = 200, seed: int = 0) -> float:
    """The mean calibration error that so many statements would show if their probabilities were exactly right."""
    stated, rng = np.ravel(np.asarray(probabilities, np.float64)), np.random.default_rng(seed)
    return float(np.mean([ece(stated, rng.random(len(stated)) < stated, bins=bins) for _ in range(draws)]))


def groups_of(columns: Mapping[str, Sequence[tuple[str, Flags]]]) -> list[tuple[str, Flags]]:
    """Groups by their names with enough photos in them."""
    found = [(f"{kind}: {name}", member) for kind, members in columns.items() for name, member in members]
    return [(name, member) for name, member in found if int(member.sum()) >= LEAST]


def by_yaw(yaw: ArrayLike) -> list[tuple[str, Flags]]:
    """Photos by |yaw| in degrees."""
    turned = np.abs(np.asarray(yaw, float))
    return [(f"{low}° to {high}°", (turned >= low) & (turned < high)) for low, high in YAWS]


def progress(name: str, done: int, total: int) -> None:
    if done % 320 < 32:
        print(f"{name}: {done} of {total}", flush=True)


def batches_of(dataset: Any, count: int, size: int = 32) -> Any:
    """The first `count` items of a data set, stacked by key, in batches."""
    import torch

    for start in range(0, count, size):
        items = [dataset[i] for i in range(start, min(start + size, count))]
        yield torch.utils.data.default_collate(items)
        progress(type(dataset).__name__, min(start + size, count), count)
