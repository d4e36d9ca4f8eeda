"""Batches of P people with K pictures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from facewright.data.samplers import IdentitySampler
from facewright.errors import UsageError

COUNTS = (1, 2, 3, 4, 5, 8, 20)
LABELS = np.random.default_rng(0).permutation(np.repeat([f"person {i}" for i in range(len(COUNTS))], COUNTS))


def sampler(**options) -> IdentitySampler:
    return IdentitySampler(LABELS, **({"people": 3, "pictures": 4, "seed": 5} | options))


def test_every_batch_is_p_people_with_k_pictures_each():
    s = sampler()
    for number in range(50):
        people = LABELS[s.batch(number)].reshape(3, 4)
        assert (people == people[:, :1]).all()
        assert len(set(people[:, 0])) == 3


def test_an_epoch_sees_all_people():
    s = sampler()
    assert s.batches_per_epoch == 3
    for epoch in range(5):
        seen = [LABELS[i] for n in range(3) for i in s.batch(3 * epoch + n)]
        counts = Counter(seen)
        assert set(counts) == set(LABELS)
        assert sorted(counts.values()) == [4] * 5 + [8] * 2, "two people fill the last batch"


def test_pictures_are_not_repeated_where_there_are_enough():
    s = sampler(people=7)
    owned = Counter(LABELS)
    for number in range(10):
        for hand in np.array(s.batch(number)).reshape(7, 4):
            if owned[LABELS[hand[0]]] % 4 == 0:
                assert len(set(hand)) == 4


def test_all_pictures_are_seen_equally_often():
    s = sampler(people=7)
    seen = Counter(i for number in range(20) for i in s.batch(number))
    for person, owned in Counter(LABELS).items():
        times = [seen[i] for i in np.flatnonzero(person == LABELS)]
        assert sum(times) == 80
        assert max(times) - min(times) <= 1, (person, owned)


def test_epochs_and_seeds_differ():
    s = sampler()
    first, second = ([s.batch(n) for n in numbers] for numbers in (range(3), range(3, 6)))
    assert first != second
    assert first == [sampler().batch(n) for n in range(3)]
    assert first != [sampler(seed=6).batch(n) for n in range(3)]


def test_a_run_goes_on_where_it_stopped():
    whole = list(sampler(stop=20))
    assert list(sampler(stop=8)) + list(sampler(start=8, stop=20)) == whole
    assert len(sampler(start=8, stop=20)) == 12


def test_who_is_left_out_is_told():
    assert sampler().left_out == ()
    s = sampler(at_least=3)
    assert s.left_out == ("person 0", "person 1")
    seen = {LABELS[i] for n in range(10) for i in s.batch(n)}
    assert seen == set(LABELS) - set(s.left_out)


def test_a_data_loader_takes_it():
    loader = DataLoader(np.arange(len(LABELS)), batch_sampler=sampler(stop=5))
    assert [b.tolist() for b in loader] == list(sampler(stop=5))


def test_impossible_batches_are_refused():
    with pytest.raises(UsageError, match="7 people have at least 1"):
        sampler(people=8)
    with pytest.raises(UsageError, match="2 people have at least 6"):
        sampler(at_least=6)
    with pytest.raises(UsageError, match="without end"):
        len(sampler())
