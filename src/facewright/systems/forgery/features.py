"""Features that detectors of forgeries need not learn: the local spectrum, and what the parser sees."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.mobilenetv3 import COMPACT, MobileNetV3

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PARSER_TAPS = (6, 10)
"""Modules of the embedded parser's trunk whose maps, at strides 8 and 16, the compact encoder reads."""
LUMA = (0.299, 0.587, 0.114)
CHROMA_TERMS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
"""Rows and columns of the chroma's DCT that are looked at; the rest is lost where a JPEG halves chroma."""


SPECTRUM = 64 + 2 * len(CHROMA_TERMS)
"""Channels of the spectrum."""


class FixedFeatures(nn.Module):
    """Spectrum and parser's maps at strides 8 and 16.

    The spectrum is the logarithm of the magnitude of the 8×8 DCT of every block of 8×8 pixels: all of luma's 64
    coefficients, the first of both chromas'. Blurred, enlarged, pasted and generated parts differ from their
    surroundings in it. The parser's maps are those of the embedded SegFace's trunk at strides 8 and 16.
    """

    channels = (SPECTRUM + COMPACT[PARSER_TAPS[0] - 1].out, COMPACT[PARSER_TAPS[1] - 1].out)
    full_precision: ClassVar[tuple[str, ...]] = ("mean", "std", "kernels")

    def __init__(self) -> None:
        super().__init__()
        self.trunk = MobileNetV3(COMPACT[: PARSER_TAPS[-1]], last=0, taps=PARSER_TAPS)
        self.mean: Tensor
        self.std: Tensor
        self.kernels: Tensor
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("kernels", spectrum_kernels(), persistent=False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)  # its statistics stay as they are

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, S, S) RGB in [−1, 1] to features at strides 8 and 16."""
        dtype = next(self.trunk.parameters()).dtype
        near, far = self.trunk(((image * 0.5 + 0.5 - self.mean) / self.std).to(dtype))
        with torch.autocast(image.device.type, enabled=False):  # fine differences of grey levels
            blocks = F.pixel_unshuffle(image.float() * 127.5, 8)  # faster than a convolution of stride 8
            levels = F.conv2d(blocks, self.kernels.flatten(1)[..., None, None])
            spectrum = (levels.abs() + 0.5).log2()
        return [torch.cat([spectrum.to(near.dtype), near], 1), far]


def spectrum_kernels() -> Tensor:
    """(76, 3, 8, 8): orthonormal DCT of luma, all terms, and of blue and red differences, `CHROMA_TERMS`."""
    place = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((place[None] + 0.5) * place[:, None] * torch.pi / 8) / 2
    basis[0] /= 2**0.5
    blocks = torch.einsum("uy,vx->uvyx", basis, basis)
    luma = torch.tensor(LUMA, dtype=torch.float64)
    kernels = [blocks[u, v] * luma[:, None, None] for u in range(8) for v in range(8)]
    for axis, scale in ((2, 0.564), (0, 0.713)):
        colour = torch.eye(3, dtype=torch.float64)[axis] - luma
        kernels += [blocks[u, v] * scale * colour[:, None, None] for u, v in CHROMA_TERMS]
    return torch.stack(kernels).float()
