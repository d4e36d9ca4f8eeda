"""Protocols of presentation attack detection: who is on which side, and thresholds from the development side alone."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.evaluation import liveness as protocols

PERSONS = np.repeat([f"p{i}" for i in range(9)], 6)
SPECIES = np.array(["live", "live", "print", "print", "mobile photo", "mobile video"] * 9)
DOMAIN = np.array(
    [["webcam/live/dark", "webcam/live/light", "a/dark", "a/light", "b/dark", "b/light"][i % 6] for i in range(54)]
)
SIDE = np.repeat(["train", "calibration", "test"], 18)
VIDEOS = np.array([f"v{i}" for i in range(54)])
ALL = np.ones(54, bool)
LIVE = SPECIES == "live"


def test_an_unseen_medium_is_in_the_test_alone() -> None:
    found = list(protocols.unseen_medium(SIDE, SPECIES, ALL))
    assert [p.name for p in found] == ["unseen mobile", "unseen print"]
    for one in found:
        one.check(PERSONS)
        word = one.name.split()[1]
        taught = set(SPECIES[one.train | one.development].tolist())
        assert not any(name.startswith(word) for name in taught)
        assert {name.split()[0] for name in SPECIES[one.test].tolist()} == {word, "live"}


def test_an_unseen_domain_is_in_the_test_alone() -> None:
    found = list(protocols.unseen_domain(SIDE, DOMAIN, ALL))
    assert [p.name for p in found] == ["unseen dark", "unseen light"]
    assert all("dark" not in name for name in DOMAIN[found[0].train].tolist())
    assert all("dark" in name for name in DOMAIN[found[0].test].tolist())


def test_one_class_and_few_people() -> None:
    known = protocols.known_instruments(SIDE, ALL)
    alone = protocols.one_class(known, LIVE)
    assert set(SPECIES[alone.train].tolist()) == {"live"}
    assert set(SPECIES[alone.test].tolist()) == set(SPECIES.tolist())
    few = protocols.limited(known, PERSONS, 2)
    assert set(PERSONS[few.train].tolist()) == {"p0", "p1"}
    source = np.repeat(["a", "b"], 27)
    crossed = protocols.cross_collection(SIDE == "train", SIDE == "calibration", SIDE == "test", source, "a", "b")
    assert set(source[crossed.train | crossed.development].tolist()) == {"a"}
    assert set(source[crossed.test].tolist()) == {"b"}


def test_a_person_on_two_sides_is_refused() -> None:
    people = PERSONS.copy()
    people[-1] = "p0"
    with pytest.raises(UsageError, match="'p0' on two sides"):
        protocols.known_instruments(SIDE, ALL).check(people)
    with pytest.raises(UsageError, match="empty side"):
        protocols.known_instruments(SIDE, SIDE == "test").check(PERSONS)


def test_the_threshold_is_the_development_sides() -> None:
    scores = np.where(LIVE, 0.2, 0.6)
    scores[SIDE == "train"] = np.nan  # never looked at
    scores[SIDE == "test"] += np.where(LIVE[SIDE == "test"], 0.45, 0.3)  # another camera moves the scores
    known = protocols.known_instruments(SIDE, ALL)
    found = protocols.judge(known, scores, SPECIES, PERSONS, VIDEOS, replicates=20)
    assert found.threshold == pytest.approx(0.6)
    assert found.hter == pytest.approx(0.5)  # all attacks are found, and all live people rejected
    assert (found.auc, found.oracle) == (1.0, 0.0)  # what the test's own threshold would have hidden
    assert found.rates.bpcer == 1.0
    assert found.rates.worst_apcer == 0.0
    assert found.interval == (0.5, 0.5)


def two_protocols(flip: bool) -> list[protocols.VideoScores]:
    """Two protocols of four people; scores are right for all of them, or wrong for the last one."""
    found = []
    for noise in (0.0, 0.1):
        species = np.array(["live", "print"] * 4)
        people = np.repeat([f"p{i}" for i in range(4)], 2)
        scores = (species == "print") * 1.0 + noise * np.arange(8) / 8
        if flip:
            scores[-2:] = scores[-2:][::-1]
        found.append(protocols.VideoScores(scores, species, people, 0.5))
    return found


def test_means_over_protocols_and_differences() -> None:
    right, wrong = two_protocols(False), two_protocols(True)
    assert protocols.over_protocols(right).value == 0
    mean = protocols.over_protocols(wrong)
    assert mean.value == pytest.approx(0.25)  # one of four people is wrong both ways
    assert mean.low == 0
    assert mean.high >= 0.5
    gain = protocols.over_protocols(wrong, right)
    assert (gain.value, gain.low) == (pytest.approx(0.25), 0)
    same = protocols.over_protocols(wrong, wrong)  # the same people are drawn for both
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert protocols.over_protocols(right, measure="auc").value == 1
    with pytest.raises(UsageError, match="test the same people"):
        protocols.over_protocols([])
    with pytest.raises(UsageError, match="2 protocols cannot be compared with 1"):
        protocols.over_protocols(right, wrong[:1])


def test_scores_of_a_protocol_are_means_of_videos() -> None:
    known = protocols.known_instruments(SIDE, ALL)
    scores = np.where(LIVE, 0.0, 1.0)
    one = protocols.VideoScores.of(known, scores, SPECIES, PERSONS, VIDEOS)
    assert len(one.scores) == 18
    assert one.hter(np.arange(18)) == 0
    assert protocols.judge(known, scores, SPECIES, PERSONS, VIDEOS).threshold == one.threshold
    everything = protocols.all_protocols(SIDE, SPECIES, DOMAIN, ALL)
    assert [p.name for p in everything] == [
        "known instruments",
        "unseen mobile",
        "unseen print",
        "unseen dark",
        "unseen light",
    ]
    for protocol in everything:
        protocol.check(PERSONS)
