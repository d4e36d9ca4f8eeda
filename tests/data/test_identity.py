"""Identity crops: degradation, labels of people with several photos, and verification pairs without leaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facewright.align import template_points
from facewright.data import identity
from facewright.data.identity import MARGIN, SIZE, labels_of_several, padded_crop, verification_pairs

SUBJECTS = np.repeat(np.arange(60), np.r_[np.full(30, 1), np.full(20, 3), np.full(10, 8)])


def test_labels_number_people_with_several_photos_without_gaps() -> None:
    crops: Any = SimpleNamespace(subjects=np.array([4, 0, 4, 2, 1, 2]))
    assert labels_of_several(crops).tolist() == [1, -1, 1, 0, -1, 0]


def test_pairs_are_balanced_true_and_never_share_people_between_folds() -> None:
    pairs = verification_pairs(SUBJECTS, folds=5, per_fold=20, per_person=5)
    assert (pairs.people == SUBJECTS[np.stack([pairs.first, pairs.second], 1)]).all()
    assert ((pairs.people[:, 0] == pairs.people[:, 1]) == pairs.same).all()
    assert (pairs.first != pairs.second).all()
    folds = np.array_split(np.arange(len(pairs.same)), 5)
    assert len({len(f) for f in folds}) == 1
    people = [set(pairs.people[f].ravel()) for f in folds]
    assert all(not (a & b) for i, a in enumerate(people) for b in people[i + 1 :])
    assert all(pairs.same[f].mean() == 0.5 for f in folds)


def test_pairs_are_the_same_every_time_and_differ_by_seed() -> None:
    first, again = verification_pairs(SUBJECTS, folds=5), verification_pairs(SUBJECTS, folds=5)
    other = verification_pairs(SUBJECTS, folds=5, seed=1)
    assert np.array_equal(first.first, again.first)
    assert not np.array_equal(first.first, other.first)


def test_nobody_gives_a_second_pair_before_everybody_gave_one() -> None:
    pairs = verification_pairs(SUBJECTS, folds=2, per_fold=20)
    for fold in np.array_split(np.arange(len(pairs.same)), 2):
        people = pairs.people[fold][pairs.same[fold], 0]
        assert len(set(people)) == len(people)


def test_crop_puts_the_eyes_on_the_template() -> None:
    points = template_points("arcface", SIZE) + 40
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48] = points[0], points[1]
    landmarks[30], landmarks[48], landmarks[54] = points[2], points[3], points[4]
    photo = np.zeros((200, 200, 3), np.uint8)
    centre = np.rint(identity.five_points(landmarks)[0]).astype(int)
    photo[centre[1] - 1 : centre[1] + 2, centre[0] - 1 : centre[0] + 2] = 255
    crop = padded_crop(photo, landmarks)
    assert crop.shape == (SIZE + 2 * MARGIN, SIZE + 2 * MARGIN, 3)
    y, x = np.unravel_index(crop[..., 0].argmax(), crop.shape[:2])
    assert np.hypot(*(np.array([x, y]) - template_points("arcface", SIZE)[0] - MARGIN)) < 2


@pytest.mark.parametrize("seed", range(6))
def test_degrading_is_seeded_and_loses_detail(seed: int, astronaut: np.ndarray) -> None:
    crop = np.ascontiguousarray(astronaut[60:172, 170:282])
    first = identity.degrade(crop, np.random.default_rng(seed))
    assert first.shape == crop.shape
    assert np.array_equal(first, identity.degrade(crop, np.random.default_rng(seed)))
    assert not np.array_equal(first, crop)
