"""What the frozen restorer, FRGP, makes of damaged faces and sees in references: what FaceReference is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
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
    """FRGP's encoder on clean crops: its maps at 16 and 32, and the crops at half the size, (N, 3, S/2, S/2)."""

    coarse: Tensor
    fine: Tensor
    pixels: Tensor


def look(frgp: FRGP, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> Looked:
    """Restore (N, S, S, 3) uint8 RGB crops as `FRGP.restore` does, and keep what its decoder saw."""
    restored, aux = frgp.restore_with_features(crops, fidelity=fidelity, seed=seed)
    maps = _by_side(aux)
    return Looked(restored, maps[_COARSE].float(), maps[_FINE].float())


def look_at_reference(frgp: FRGP, crops: NDArray[np.uint8]) -> Reference:
    """What FRGP's encoder sees in (N, S, S, 3) uint8 RGB crops; nothing is restored."""
    maps = _by_side(frgp.taps(crops))
    return Reference(maps[_COARSE].float(), maps[_FINE].float(), halved(crops))


def halved(crops: NDArray[np.uint8]) -> Tensor:
    """(N, S, S, 3) uint8 RGB crops at half their size, (N, 3, S/2, S/2) in [−1, 1]."""
    return F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1, 2)


def _by_side(maps: list[Tensor]) -> dict[int, Tensor]:
    return {int(each.shape[-1]): each for each in maps}
