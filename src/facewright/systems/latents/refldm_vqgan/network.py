"""The auto-encoder of ReF-LDM: faces of 512 px as maps of 64×64 codes, between which its diffusion works.

Paper: Hsiao, Liu, Yang, Kuo, Jou, Chen, "ReF-LDM: A Latent Diffusion Model for Reference-based Face Image Restoration"
(NeurIPS 2024, arXiv 2412.05043), section 3; the network is a VQGAN (Esser, Rombach, Ommer, CVPR 2021) without attention
but in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....nn.vq import Quantised, VQAutoencoder, VQLayout, inference_copy
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RefLDMVQGANConfig:
    """Shape of the auto-encoder; the defaults are the published ones (57.2 M parameters). As in `VQLayout`."""

    size: int = 512
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    codes: int = 8192
    code_dim: int = 8

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and narrow levels, for experiments."""
        return cls(size=64, width=32, multipliers=(1, 1, 2), codes=128, code_dim=4)

    @property
    def layout(self) -> VQLayout:
        return VQLayout(
            size=self.size,
            width=self.width,
            multipliers=self.multipliers,
            attention_at=(),
            codes=self.codes,
            code_dim=self.code_dim,
        )


class RefLDMVQGAN(System):
    """VQGAN of faces with eight channels of latents (arXiv 2412.05043).

    forward: image (N, 3, H, W) RGB in [−1, 1], aligned by the `ffhq` template, H and W multiples of 8, to the
    reconstruction of the same shape, unclamped, and what the quantiser says.
    """

    slug: ClassVar[str] = "refldm_vqgan"
    Config: ClassVar[type[RefLDMVQGANConfig]] = RefLDMVQGANConfig
    config: RefLDMVQGANConfig
    mapped = True

    def __init__(self, config: RefLDMVQGANConfig | None = None) -> None:
        super().__init__(config)
        self.net = VQAutoencoder(self.config.layout)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(self, image: Tensor) -> tuple[Tensor, Quantised]:
        found: tuple[Tensor, Quantised] = self.net(image)
        return found

    @torch.inference_mode()
    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to latents (N, D, S/8, S/8) as they are before their codes are looked up.

        In full precision: half of it would change codes.
        """
        net: Any = self.inference(torch.float32).net
        found = [net.encode(self.normalise(one[None]))[0].float().cpu() for one in pictures]
        sides = [side // self.config.layout.stride for side in pictures.shape[1:3]]
        return torch.cat([torch.zeros(0, self.config.code_dim, *sides), *found]).numpy()

    @torch.inference_mode()
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Latents (N, D, h, w) to crops (N, 8 h, 8 w, 3) uint8 RGB; every position becomes its nearest code first."""
        stride = self.config.layout.stride
        pictures = np.empty((len(latents), latents.shape[2] * stride, latents.shape[3] * stride, 3), np.uint8)
        net: Any = self.inference().net
        for index, one in enumerate(latents):
            codes = net.quantiser(torch.from_numpy(one[None]).to(self.device)).features
            image = net.decode(codes.to(self.picture_dtype))[0].float()
            pixels = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            pictures[index] = pixels.permute(1, 2, 0).cpu().numpy()
        return pictures

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return inference_copy(self, dtype, (), self._been_read)
