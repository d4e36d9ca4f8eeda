"""Attacks on recognisers, for auditing one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Attack(Protocol):
    """Makes what an attacker would make who has a recogniser itself, or a template that leaked from it."""

    def attack(self, crops: NDArray[np.uint8], recogniser: Any, *, seed: int = 0) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops, cut by the recogniser's own record, to the attacker's pictures of the same
        people (N, H, W, 3)."""
        ...
