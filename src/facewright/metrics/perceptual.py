"""Perceptual distance in the feature maps of any network, after LPIPS but without its learned weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry.resample import resampled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..systems.parse.segface.network import SegFace


def map_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared difference of the unit feature vectors at every position of (N, C, H, W), mean over positions, (N,).

    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), eq. 1 with all
    channel weights 1.
    """
    return (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean((1, 2))


class ParserFeatures:
    """Distance of two face crops in the maps that a face parser's backbone makes of them.

    A parser knows eyes, lips and hair, but neither who a person is nor what restored faces look like.
    """

    def __init__(self, parser: SegFace) -> None:
        self.parser = parser
        self.maps: Callable[[Tensor], Sequence[Tensor]] = parser.net.backbone

    def __call__(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """Distance of two (S, S, 3) uint8 RGB crops on the `ffhq` template; 0 for equal ones, at most 4."""
        side = self.parser.preprocess.size
        crops = np.stack([resampled(crop, side) for crop in (a, b)])
        with torch.inference_mode():
            maps = self.maps(self.parser.normalise(crops))
            return float(torch.stack([map_distance(m[:1], m[1:]) for m in maps]).mean())
