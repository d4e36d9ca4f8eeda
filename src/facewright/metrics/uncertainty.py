"""How far a mean over faces can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` faces with its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2, *, sign: bool = False) -> str:
        """Such as "1.79 [1.63, 1.97]"; `sign` writes a plus before what is not negative."""
        mean, low, high = (f"{v:{'+' if sign else ''}.{digits}f}" for v in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def bootstrap(values: Sequence[float] | NDArray[np.floating[Any]], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean of at least one value and its 95 % percentile bootstrap interval."""
    numbers = np.asarray(values, float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Estimate(mean, mean, mean, len(numbers))
    found = stats.bootstrap(
        (numbers,), np.mean, n_resamples=draws, method="percentile", rng=np.random.default_rng(seed)
    )
    low, high = found.confidence_interval
    return Estimate(mean, float(low), float(high), len(numbers))
