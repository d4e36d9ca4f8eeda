"""Logistic models of a few named signals, kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """`bias`, and in a subclass a weight for each of its S signals, in their order."""

    bias: float

    def __call__(self, signals: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., S) signals to log odds (...)."""
        return np.asarray(np.asarray(signals, np.float64) @ np.array(astuple(self)[1:]) + self.bias)

    def to_json(self) -> str:
        """The content of the weights' file."""
        return json.dumps({name: round(value, 4) for name, value in asdict(self).items()}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The model of what `to_json` wrote."""
        return cls(**json.loads(text))
