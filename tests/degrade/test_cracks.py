"""Damage of prints: what is called lost is lost, the rest is as it was."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.degrade.cracks import damage_print


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_where_the_mask_says(seed: int) -> None:
    picture = np.full((96, 128, 3), 0.5, np.float32)
    damaged, lost = damage_print(picture, np.random.default_rng(seed))
    assert damaged.shape == picture.shape
    assert damaged.dtype == np.float32
    assert 0 < lost.mean() < 0.5
    change = np.abs(damaged - picture).max(-1)
    assert change[lost].mean() > 0.1
    assert change[~lost].mean() < 0.05
    assert damaged.min() >= 0
    assert damaged.max() <= 1


def test_the_same_seed_gives_the_same_damage() -> None:
    picture = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    first, again = (damage_print(picture, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
