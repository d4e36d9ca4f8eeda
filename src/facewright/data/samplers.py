"""Which pictures are drawn, and which of them share a batch.

When a loss compares people, a batch is P people with K pictures each. When some kinds of pictures are rare, such as
turned heads, they can be drawn more often than they occur.

Like everything the trainer reads, a batch is a function of its number and the seed alone, so that a run can stop and
go on anywhere, and so that any process can work out any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray


class IdentitySampler(Sampler[list[int]]):
    """Batches of P people with K pictures each, as indices into `labels` (N,), which names each picture's person.

    An epoch visits all people once, in a new random order; the last batch is filled up with people of the same epoch,
    never with the same person twice. Over epochs a person's pictures are dealt like a shuffled deck, so that all are
    seen equally often. Somebody with fewer than K pictures takes part with repeated ones, which is worth nothing to a
    loss over pairs unless pictures are augmented; `at_least` keeps people with fewer pictures than that out, and they
    are listed in `left_out`.

    Iterating gives batches from number `start` on, up to number `stop` or without end; `batch(number)` gives any one.
    Raises UsageError when there are fewer than P people.
    """

    def __init__(
        self,
        labels: ArrayLike,
        people: int,
        pictures: int,
        *,
        seed: int = 0,
        at_least: int = 1,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        names, person, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        order = np.argsort(person, kind="stable")
        decks = np.split(order, np.cumsum(counts)[:-1])
        self.decks: list[NDArray[np.int64]] = [deck for deck in decks if len(deck) >= at_least]
        self.left_out = tuple(names[counts < at_least].tolist())
        self.people, self.pictures = people, pictures
        self.seed, self.start, self.stop = seed, start, stop
        if min(people, pictures) < 1 or len(self.decks) < people:
            raise UsageError(
                f"batches of {people} people with {pictures} pictures cannot be made: "
                f"{len(self.decks)} people have at least {at_least} pictures"
            )

    @property
    def batches_per_epoch(self) -> int:
        """How many batches it takes to see all people once."""
        return -(-len(self.decks) // self.people)

    def __iter__(self) -> Iterator[list[int]]:
        number = self.start
        while self.stop is None or number < self.stop:
            yield self.batch(number)
            number += 1

    def __len__(self) -> int:
        """Batches from `start` to `stop`; raises UsageError without a stop."""
        if self.stop is None:
            raise UsageError("the sampler is endless; give it a stop if you need its length")
        return max(0, self.stop - self.start)

    def batch(self, number: int) -> list[int]:
        """The P·K picture indices of a batch, person by person."""
        epoch, place = divmod(number, self.batches_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.decks))
        wrapped = np.arange(place * self.people, (place + 1) * self.people) % len(self.decks)
        return [index for person in order[wrapped] for index in self._dealt(int(person), epoch)]

    def _dealt(self, person: int, epoch: int) -> list[int]:
        """The K pictures of a person in an epoch: the next K of a pile of decks, each shuffled anew."""
        deck = self.decks[person]
        hand = []
        for place in range(epoch * self.pictures, (epoch + 1) * self.pictures):
            round_, card = divmod(place, len(deck))
            shuffled = np.random.default_rng((self.seed, person, round_)).permutation(deck)
            hand.append(int(shuffled[card]))
        return hand


YAW_EDGES = (15.0, 30.0, 45.0)
"""Degrees of |yaw| at which the bins of pose-balanced sampling, and of results by pose, meet."""


def yaw_bins(yaw: ArrayLike) -> NDArray[np.int64]:
    """Numbers 0…3 of the bins [0, 15), [15, 30), [30, 45), [45, ∞) that |yaw| in degrees falls into."""
    return np.asarray(np.digitize(np.abs(np.asarray(yaw, float)), YAW_EDGES), np.int64)


def inverse_share_weights(bins: ArrayLike, most: float = 4.0) -> NDArray[np.float64]:
    """For every entry the inverse of its bin's share of all entries, at most `most`.

    A limit keeps a handful of pictures in a rare bin from being shown over and over. Raises UsageError for a limit
    below 1, where all weights would be equal.
    """
    if most < 1:
        raise UsageError(f"weights by inverse share are at least 1, so a limit of {most} leaves nothing to balance")
    _, number, counts = np.unique(np.asarray(bins), return_inverse=True, return_counts=True)
    return np.asarray(np.minimum(len(number) / counts, most)[number], np.float64)


class WeightedDraw:
    """Draws entries with probabilities proportional to `weights` (N,), one random number each.

    Raises UsageError for weights that are not finite, below 0, or all 0.
    """

    def __init__(self, weights: ArrayLike) -> None:
        given = np.asarray(weights, np.float64)
        if given.ndim != 1 or not np.isfinite(given).all() or (given < 0).any() or not given.sum() > 0:
            raise UsageError("weights to draw by must be a row of finite numbers of at least 0, not all of them 0")
        self._cumulative = np.cumsum(given / given.sum())

    def __call__(self, rng: np.random.Generator) -> int:
        place = int(np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1], side="right"))
        return min(place, len(self._cumulative) - 1)
