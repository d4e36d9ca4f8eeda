"""What the frozen restorer, FRGP, makes of damaged faces and sees in references: what FaceReference is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ...restore.frgp.network import FRGP

_COARSE, _FINE = 16, 32  # sides of the feature maps in use


class Looked(NamedTuple):
    """FRGP on damaged crops: the `restored` crops (N, S, S, 3) uint8, and the maps of its decoder at 16 and 32."""

    restored: NDArray[np.uint8]
    coarse: Tensor
    fine: Tensor


class Reference(NamedTuple):
    """FRGP's encoder on clean crops: its maps at 16 and 32."""

    coarse: Tensor
    fine: Tensor


def look(frgp: FRGP, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> Looked:
    """Restore (N, S, S, 3) uint8 RGB crops as `FRGP.restore` does, and keep what its decoder saw."""
    restored, aux = frgp.restore_with_features(crops, fidelity=fidelity, seed=seed)
    maps = _by_side(aux)
    return Looked(restored, maps[_COARSE].float(), maps[_FINE].float())


def look_at_reference(frgp: FRGP, crops: NDArray[np.uint8]) -> Reference:
    """What FRGP's encoder sees in (N, S, S, 3) uint8 RGB crops; nothing is restored."""
    maps = _by_side(frgp.taps(crops))
    return Reference(maps[_COARSE].float(), maps[_FINE].float())


def _by_side(maps: list[Tensor]) -> dict[int, Tensor]:
    return {int(each.shape[-1]): each for each in maps}
