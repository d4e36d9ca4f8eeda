"""Batches of P people with K pictures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from facewright.data.samplers import IdentitySampler, WeightedDraw, inverse_share_weights, yaw_bins
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
        times = [seen[i] for i in np.flatnonzero(person == LABELS)]  # type: ignore[index]
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
    loader = DataLoader(np.arange(len(LABELS)), batch_sampler=sampler(stop=5))  # type: ignore[arg-type, var-annotated]
    assert [b.tolist() for b in loader] == list(sampler(stop=5))


def test_impossible_batches_are_refused():
    with pytest.raises(UsageError, match="7 people have at least 1"):
        sampler(people=8)
    with pytest.raises(UsageError, match="2 people have at least 6"):
        sampler(at_least=6)
    with pytest.raises(UsageError, match="endless"):
        len(sampler())


def test_yaw_is_binned_by_its_size():
    assert yaw_bins([0, -14.9, 15, -29, 30, -44.9, 45, 90]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_weights_are_inverse_shares_up_to_the_limit():
    bins = np.repeat([0, 1, 2], [5, 4, 1])
    assert inverse_share_weights(bins).tolist() == pytest.approx([2.0] * 5 + [2.5] * 4 + [4.0])
    assert inverse_share_weights(bins, most=100)[-1] == pytest.approx(10)
    shuffled = np.array([2, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    assert inverse_share_weights(shuffled)[[0, 1, 2]].tolist() == pytest.approx([4.0, 2.0, 2.5])
    with pytest.raises(UsageError, match="limit"):
        inverse_share_weights(bins, most=0.5)


def test_without_a_limit_bins_are_drawn_equally_often():
    bins = np.repeat([0, 1, 2], [80, 15, 5])
    draw, rng = WeightedDraw(inverse_share_weights(bins, most=np.inf)), np.random.default_rng(0)
    counts = np.bincount(bins[[draw(rng) for _ in range(6000)]])
    assert counts / 6000 == pytest.approx([1 / 3] * 3, abs=0.025)


def test_entries_are_drawn_by_their_weights():
    draw, rng = WeightedDraw([0, 3, 1, 0]), np.random.default_rng(1)
    counts = np.bincount([draw(rng) for _ in range(4000)], minlength=4)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert counts[1] / 4000 == pytest.approx(0.75, abs=0.03)
    assert [draw(np.random.default_rng(9)) for _ in range(3)] == [draw(np.random.default_rng(9))] * 3


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [1, np.nan], [[1, 2]]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(UsageError, match="weights"):
        WeightedDraw(weights)
