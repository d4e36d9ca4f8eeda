from __future__ import annotations
from dataclasses import dataclass
import numpy as np
from numpy.typing import NDArray

@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    kinds: NDArray[np.float64]
    maps: NDArray[np.float32]
TASKS = ()
