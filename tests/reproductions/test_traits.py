"""What measurements of traits share: how little few photos can say of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

traits = pytest.importorskip("reproductions.traits", reason="reproductions are not part of this installation")


def test_few_photos_show_an_error_even_of_exact_probabilities() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.random(80), rng.random(20000)
    assert traits.least_ece(many) < 0.02 < 0.05 < traits.least_ece(few)
    assert traits.least_ece(np.full(100, 1.0)) == 0
    assert traits.ece(many, rng.random(len(many)) < many) == pytest.approx(traits.least_ece(many), abs=0.01)
