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
