"""StyleGAN2: faces of nobody, and the prior that restorers lean on.

Paper: Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, "Analyzing and Improving the Image Quality of StyleGAN"
(CVPR 2020, arXiv 1912.04958). The network itself is in `facewright.nn.stylegan2`; here are its use on its own and the
checkpoints of three published code bases: rosinality/stylegan2-pytorch, BasicSR and GFPGAN (original and clean), and
NVlabs/stylegan2-ada-pytorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....io.provenance import LEAST_MARKED, embed_watermark
from ....nn.stylegan2 import (
    Generator,
    Upsample,
    truncate,
)
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray


_BATCH = 16


@dataclass(frozen=True)
class StyleGAN2Config:
    """Shape of the generator; the defaults are the paper's configuration F (1024 px, 30.4 M parameters).

    channel_multiplier, narrow: the width rule of `channel_widths`; `widths` (channels at 4, 8, …, size) replaces it.
    style_dim, mapping_layers: of the mapping network. upsample: `fir` as in the paper, `bilinear` as the priors of
    clean restorers. equalised: learning-rate scales at run time (for training), or folded into the weights.
    """

    size: int = 1024
    channel_multiplier: float = 2
    narrow: float = 1.0
    widths: tuple[int, ...] = ()
    style_dim: int = 512
    mapping_layers: int = 8
    upsample: Upsample = "fir"
    equalised: bool = True

    @classmethod
    def compact(cls) -> Self:
        """128 px and a quarter of the widths (an eighth from 64 px on), to be trained on a processor."""
        return cls(size=128, channel_multiplier=0.5, narrow=0.25, style_dim=256)


class StyleGAN2(System):
    """Generator of faces on the `ffhq` template (arXiv 1912.04958).

    forward: z (N, style_dim) of normal random numbers to images (N, 3, S, S) RGB, about [−1, 1], unclamped.
    `truncation` in [0, 1] pulls the styles towards their mean: 1 leaves them, 0 gives the mean face. In training mode
    the noise is drawn anew for every picture, otherwise it is that of the weights.

    `precision`: arithmetic of `sample` and `paint`; `auto` takes bfloat16 where the processor has it.
    """

    slug: ClassVar[str] = "stylegan2"
    Config: ClassVar[type[StyleGAN2Config]] = StyleGAN2Config
    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.generator = Generator(
            c.size,
            style_dim=c.style_dim,
            channel_multiplier=c.channel_multiplier,
            narrow=c.narrow,
            widths=c.widths,
            mapping_layers=c.mapping_layers,
            upsample=c.upsample,
            equalised=c.equalised,
            noise="random",
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """What the pictures are that come out."""
        return Preprocess(CropSpec.aligned(config.size))

    def train(self, mode: bool = True) -> Self:
        self.generator.noise = "random" if mode else "fixed"
        return super().train(mode)

    def forward(self, z: Tensor, *, truncation: float = 1.0) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.config.style_dim:
            raise UsageError(f"this StyleGAN2 takes z (N, {self.config.style_dim}), not {tuple(z.shape)}")
        image: Tensor = self.generator(self._truncated(self.generator.mapping(z), truncation))
        return image

    def _truncated(self, latents: Tensor, truncation: float) -> Tensor:
        if not 0 <= truncation <= 1:
            raise UsageError(f"truncation {truncation} is outside 0…1")
        return latents if truncation == 1 else truncate(latents, self.generator.mean_latent().to(latents), truncation)

    # Use

    @torch.inference_mode()
    def latents(self, count: int, *, seed: int = 0, truncation: float = 1.0) -> Tensor:
        """Styles w (N, style_dim) of random people; the same for the same seed."""
        if count < 1:
            raise UsageError(f"cannot make {count} faces; ask for at least one")
        z = torch.randn(count, self.config.style_dim, generator=torch.Generator().manual_seed(seed))
        return self._truncated(self.generator.mapping(z.to(self.device)), truncation)

    @torch.inference_mode()
    def paint(self, latents: Tensor) -> NDArray[np.uint8]:
        """Styles w (N, D) or w⁺ (N, num_latents, D) to pictures (N, S, S, 3) uint8 RGB, not marked."""
        pictures = []
        for part in batches(latents, _BATCH):  # type: ignore[arg-type]
            with self.picture_autocast():
                image = self.generator(part)
            pixels = image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            pictures.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures)

    def sample(
        self, count: int, *, seed: int = 0, truncation: float = 0.7, watermark: bool = True
    ) -> NDArray[np.uint8]:
        """Pictures (N, S, S, 3) uint8 RGB of people who do not exist, marked invisibly (from 32 px on).

        The same for the same seed and a network in evaluation mode. Raises UsageError for a count below 1 or a
        truncation outside 0…1.
        """
        pictures = self.paint(self.latents(count, seed=seed, truncation=truncation))
        if not watermark or self.config.size < LEAST_MARKED:
            return pictures
        marked = [embed_watermark(picture.astype(np.float32)) for picture in pictures]
        return np.stack([np.rint(picture).astype(np.uint8) for picture in marked])


# Published checkpoints
