"""Protocols of presentation attack detection, and how scores are judged by them.

A protocol says which presentations teach, which set the threshold and which are tested; no person is on two of these
sides. Scores are of attack, 0 to 1; frames of a video are averaged first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import UsageError
from ..metrics import presentation as pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    Mask = NDArray[np.bool_]
    Words = NDArray[np.str_]

SIDES = ("train", "calibration", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """Masks (N,) of the crops that teach, that set the threshold, and that are tested."""

    name: str
    train: Mask
    development: Mask
    test: Mask

    def check(self, persons: ArrayLike) -> None:
        """Raise UsageError when a person is on two sides, or a side is empty."""
        people = np.asarray(persons)
        sides = [set(people[mask].tolist()) for mask in (self.train, self.development, self.test)]
        if not all(sides):
            raise UsageError(f"protocol {self.name} has an empty side")
        shared = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2])
        if shared:
            raise UsageError(f"protocol {self.name} has {sorted(shared)[0]!r} on two sides")


def known_instruments(side: Words, chosen: Mask) -> Protocol:
    """All of the chosen presentations, split by person alone."""
    return Protocol("known instruments", *(chosen & (side == name) for name in SIDES))


def unseen_medium(side: Words, species: Words, chosen: Mask) -> Iterator[Protocol]:
    """For every medium (the first word of a species) one protocol whose attacks by it are only in the test."""
    media = np.array([str(name).split()[0] for name in species])
    live = species == pad.BONA_FIDE
    for medium in sorted(set(media[chosen & ~live].tolist())):
        other = chosen & (media != medium)
        tested = chosen & ((media == medium) | live)
        yield Protocol(
            f"unseen {medium}", other & (side == SIDES[0]), other & (side == SIDES[1]), tested & (side == SIDES[2])
        )


def unseen_domain(side: Words, domain: Words, chosen: Mask) -> Iterator[Protocol]:
    """For every way of recording (domain less its medium) one protocol in which it is only in the test."""
    ways = np.array([str(name).rpartition("/")[2] for name in domain])
    for way in sorted(set(ways[chosen].tolist())):
        other, tested = chosen & (ways != way), chosen & (ways == way)
        yield Protocol(
            f"unseen {way}", other & (side == SIDES[0]), other & (side == SIDES[1]), tested & (side == SIDES[2])
        )


def one_class(protocol: Protocol, live: Mask) -> Protocol:
    """The same with live people alone in training."""
    return Protocol(f"{protocol.name}, one class", protocol.train & live, protocol.development, protocol.test)


def all_protocols(side: Words, species: Words, domain: Words, chosen: Mask) -> list[Protocol]:
    """Known instruments, then every unseen medium and every unseen way of recording."""
    return [
        known_instruments(side, chosen),
        *unseen_medium(side, species, chosen),
        *unseen_domain(side, domain, chosen),
    ]


def limited(protocol: Protocol, persons: Words, count: int) -> Protocol:
    """The same with `count` people in training, the first ones by name."""
    names = sorted(set(persons[protocol.train].tolist()))[:count]
    taught = protocol.train & np.isin(persons, names)
    return Protocol(f"{protocol.name}, {len(names)} people", taught, protocol.development, protocol.test)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system does by a protocol, at the development set's equal error threshold.

    hter, interval: of videos, with the range of 95 % of the resamples of people. rates: at that threshold. bpcer10:
    BPCER where the worst species' APCER is 10 %. oracle: HTER at the test's own threshold, as many papers state it.
    """

    protocol: str
    hter: float
    interval: tuple[float, float]
    threshold: float
    rates: pad.ErrorRates
    auc: float
    bpcer10: float
    oracle: float


def judge(
    protocol: Protocol, scores: ArrayLike, species: Words, persons: Words, videos: Words, *, replicates: int = 500
) -> Outcome:
    """Judge scores (N,) of attack; those of training crops are not looked at. Raises UsageError as `Protocol.check`."""
    protocol.check(persons)
    s = np.asarray(scores, np.float64)
    development, test = (_videos(mask, s, species, persons, videos) for mask in (protocol.development, protocol.test))
    threshold = pad.eer(development[0], development[1] != pad.BONA_FIDE).threshold
    values, kinds, people = test

    def half_total(rows: NDArray[np.int64]) -> float:
        return pad.hter(values[rows], kinds[rows] != pad.BONA_FIDE, threshold)

    attack = kinds != pad.BONA_FIDE
    return Outcome(
        protocol.name,
        pad.hter(values, attack, threshold),
        pad.client_bootstrap(half_total, people, replicates=replicates),
        threshold,
        pad.error_rates(values, kinds, threshold),
        pad.auc(values, attack),
        pad.bpcer_at_apcer(values, kinds, 0.1),
        pad.hter_oracle(values, attack),
    )


@dataclass(frozen=True, slots=True, eq=False)
class VideoScores:
    """One system's scores of attack of the tested videos of a protocol: `scores`, `species`, `people` (N,), and the
    development side's equal error threshold."""

    scores: NDArray[np.float64]
    species: Words
    people: Words
    threshold: float

    @classmethod
    def of(cls, protocol: Protocol, scores: ArrayLike, species: Words, persons: Words, videos: Words) -> VideoScores:
        """Average the frames of every video. Raises UsageError as `Protocol.check`."""
        protocol.check(persons)
        s = np.asarray(scores, np.float64)
        kept, told, _ = _videos(protocol.development, s, species, persons, videos)
        return cls(*_videos(protocol.test, s, species, persons, videos), pad.eer(kept, told != pad.BONA_FIDE).threshold)

    def hter(self, rows: NDArray[np.int64]) -> float:
        """HTER of some of the videos."""
        return pad.hter(self.scores[rows], self.species[rows] != pad.BONA_FIDE, self.threshold)

    def auc(self, rows: NDArray[np.int64]) -> float:
        """Area under the ROC curve of some of the videos."""
        return pad.auc(self.scores[rows], self.species[rows] != pad.BONA_FIDE)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over protocols, with the range of 95 % of the resamples of people."""

    value: float
    low: float
    high: float


def over_protocols(
    tests: Sequence[VideoScores],
    other: Sequence[VideoScores] = (),
    *,
    measure: Literal["hter", "auc"] = "hter",
    replicates: int = 500,
) -> Estimate:
    """HTER or AUC averaged over protocols that test the same people, or how much it exceeds that of `other`.

    People are drawn alike for all protocols and for both systems: what is compared has the same people in it.
    Raises UsageError for other protocols or people, or none.
    """
    names = sorted(set(tests[0].people.tolist())) if tests else []
    sides = [tests, other] if other else [tests]
    if not tests or any(sorted(set(t.people.tolist())) != names for side in sides for t in side):
        raise UsageError("means over protocols need some that test the same people")
    if other and len(other) != len(tests):
        raise UsageError(f"{len(tests)} protocols cannot be compared with {len(other)}")

    def mean(drawn: NDArray[np.int64]) -> float:
        values = []
        for side in sides:
            rows = [np.concatenate([np.flatnonzero(t.people == names[i]) for i in drawn]) for t in side]
            values.append(float(np.mean([getattr(t, measure)(r) for t, r in zip(side, rows)])))
        return values[0] - values[1] if other else values[0]

    low, high = pad.client_bootstrap(mean, np.arange(len(names)), replicates=replicates)
    return Estimate(mean(np.arange(len(names))), low, high)


def _videos(
    mask: Mask, scores: NDArray[np.float64], species: Words, persons: Words, videos: Words
) -> tuple[NDArray[np.float64], Words, Words]:
    """Mean scores of the videos of a side, and their species and persons."""
    _, means, first = pad.by_video(scores[mask], videos[mask])
    return means, species[mask][first], persons[mask][first]


def cross_collection(
    train: Mask, development: Mask, test: Mask, source: Words, taught_on: str, tested_on: str
) -> Protocol:
    """Taught on one collection, with a threshold from it, and tested on another."""
    here, there = source == taught_on, source == tested_on
    return Protocol(f"{taught_on} to {tested_on}", train & here, development & here, test & there)
