"""Give a picture the colours of another one that it shows: by its low frequencies, or by mean and spread.

Both are how restorers by diffusion, whose colours drift, are brought back to their input (Wang et al., "Exploiting
Diffusion Prior for Real-World Image Super-Resolution", StableSR, IJCV 2024, section 3.3). The input's own faults of
colour come back with them.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ColourFix = Literal["wavelet", "adain", "none"]
_LEVELS = 5
_TAPS = (0.25, 0.5, 0.25)
_EPS = 1e-5


def recoloured(image: Tensor, like: Tensor, how: ColourFix) -> Tensor:
    """`image` (N, C, H, W) with the colours of `like`, of the same shape."""
    if how == "wavelet":
        return image - low_frequencies(image) + low_frequencies(like)
    if how == "adain":
        return _spread_as(image, like)
    return image


def low_frequencies(image: Tensor, levels: int = _LEVELS) -> Tensor:
    """What is left of (N, C, H, W) after so many blurs by [1, 2, 1]² / 16, each of twice the reach (à trous)."""
    channels = image.shape[1]
    taps = torch.tensor(_TAPS, dtype=image.dtype, device=image.device)
    kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)
    for level in range(levels):
        reach = 2**level
        padded = F.pad(image, (reach, reach, reach, reach), mode="replicate")
        image = F.conv2d(padded, kernel, groups=channels, dilation=reach)
    return image


def _spread_as(image: Tensor, like: Tensor) -> Tensor:
    """Mean and standard deviation of every channel from `like` (AdaIN, Huang, Belongie, ICCV 2017)."""
    mean, wanted = image.mean((2, 3), keepdim=True), like.mean((2, 3), keepdim=True)
    spread, other = ((x.var((2, 3), keepdim=True) + _EPS).sqrt() for x in (image, like))
    return (image - mean) / spread * other + wanted
