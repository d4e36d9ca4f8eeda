"""Pairs of pictures: true, balanced, without leaks between folds, and the same every time."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import numpy as np
import pytest

from facewright.data.pairs import Pairs, exhaustive_pairs, many_pairs, verification_pairs

SUBJECTS = np.repeat(np.arange(60), np.r_[np.full(30, 1), np.full(20, 3), np.full(10, 8)])
CROWD = np.random.default_rng(7).permutation(
    np.repeat(np.arange(300), np.r_[np.full(120, 1), np.full(120, 3), np.full(60, 8)])
)
OF_SEVERAL = np.flatnonzero(np.bincount(SUBJECTS)[SUBJECTS] >= 2)


def people(pairs: Pairs, subjects: np.ndarray = SUBJECTS) -> np.ndarray:
    return subjects[np.stack([pairs.first, pairs.second], 1)]


def fingerprint(pairs: Pairs) -> str:
    parts = (pairs.first, pairs.second, pairs.same)
    return sha256(b"".join(np.ascontiguousarray(p, np.int64).tobytes() for p in parts)).hexdigest()[:16]


@pytest.mark.parametrize(
    "pairs",
    [
        verification_pairs(SUBJECTS, folds=5, per_fold=20, per_person=5),
        exhaustive_pairs(SUBJECTS, OF_SEVERAL, folds=5, per_fold=20),
    ],
)
def test_folds_are_balanced_true_and_never_share_people(pairs: Pairs) -> None:
    who = people(pairs)
    assert ((who[:, 0] == who[:, 1]) == pairs.same).all()
    assert (pairs.first != pairs.second).all()
    folds = np.split(np.arange(len(pairs.same)), 5)
    assert all(pairs.same[fold].mean() == 0.5 for fold in folds)
    inside = [set(who[fold].ravel()) for fold in folds]
    assert all(not (a & b) for i, a in enumerate(inside) for b in inside[i + 1 :])


def test_draws_are_the_same_every_time_and_differ_by_seed() -> None:
    """Published tables rest on these draws."""
    several = np.flatnonzero(np.bincount(CROWD)[CROWD] >= 2)
    few = several[np.bincount(CROWD)[CROWD[several]] <= 4]
    assert fingerprint(exhaustive_pairs(CROWD, few, per_fold=60)) == "0f21c917397977b0"
    assert fingerprint(exhaustive_pairs(CROWD, several, per_fold=200, seed=3)) == "bed070d9832c9b60"
    assert fingerprint(verification_pairs(CROWD, folds=5, per_fold=40)) == "f66521806eac5480"
    assert fingerprint(verification_pairs(CROWD, folds=5, per_fold=40, seed=1)) != "f66521806eac5480"


def test_nobody_gives_a_second_pair_before_everybody_gave_one() -> None:
    pairs = verification_pairs(SUBJECTS, folds=2, per_fold=20)
    for fold in np.split(np.arange(len(pairs.same)), 2):
        genuine = people(pairs)[fold][pairs.same[fold], 0]
        assert len(set(genuine)) == len(genuine)


def test_the_scarcest_fold_sets_the_length() -> None:
    subjects = np.repeat(np.arange(4), [2, 2, 2, 2])
    assert len(verification_pairs(subjects, folds=2, per_fold=100).same) == 8
    assert len(exhaustive_pairs(subjects, np.arange(8), folds=2, per_fold=100).same) == 8


def test_only_the_given_pictures_are_paired() -> None:
    pairs = exhaustive_pairs(SUBJECTS, OF_SEVERAL[::2], folds=2, per_fold=40)
    assert set(pairs.first) | set(pairs.second) <= set(OF_SEVERAL[::2])


def test_many_pairs_are_all_genuine_ones_up_to_a_limit_and_strangers() -> None:
    pairs = many_pairs(SUBJECTS, per_person=10, impostors=500)
    who = people(pairs)
    assert ((who[:, 0] == who[:, 1]) == pairs.same).all()
    counts = Counter(who[pairs.same, 0].tolist())
    assert [counts[person] for person in (0, 30, 59)] == [0, 3, 10]
    assert (~pairs.same).sum() == 500
    genuine = np.stack([pairs.first, pairs.second], 1)[pairs.same]
    assert len(np.unique(genuine, axis=0)) == len(genuine)


def test_many_pairs_take_names_as_well_as_numbers() -> None:
    by_name, by_number = (many_pairs(s, impostors=50) for s in (SUBJECTS.astype(str), SUBJECTS))
    assert by_name.same.sum() == by_number.same.sum()
