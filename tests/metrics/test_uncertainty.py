"""Intervals of means agree with scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from facewright.metrics.uncertainty import Estimate, bootstrap


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2, 2, 80)
    ours = bootstrap(list(values))
    theirs = scipy_bootstrap((values,), np.mean, method="percentile", random_state=1).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.08)
    assert ours.high == pytest.approx(theirs.high, abs=0.08)
    assert bootstrap([3.0]) == bootstrap([3.0, 3.0][:1])
    assert (bootstrap([3.0]).low, bootstrap([3.0]).high) == (3, 3)


def test_text_has_the_asked_digits_and_signs() -> None:
    estimate = Estimate(1.786, -0.204, 3.0, 7)
    assert estimate.text() == "1.79 [-0.20, 3.00]"
    assert estimate.text(1, sign=True) == "+1.8 [-0.2, +3.0]"
