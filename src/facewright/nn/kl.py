"""The auto-encoder that Stable Diffusion works on: pictures as Gaussians of latents, an eighth of the side ("KL-f8").

Rombach et al. (CVPR 2022), appendix G. Encoder and decoder are those of `nn.vq`; instead of a codebook the encoder says
mean and spread of every latent. `nn.vq.from_taming` maps the published keys.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from .vq import Decoder, Encoder, VQLayout

SCALE = 0.18215
"""What Stable Diffusion multiplies latents by, so that they have about unit spread."""
_MOST_LOG_VARIANCE, _LEAST_LOG_VARIANCE = 20.0, -30.0


def kl_layout(size: int = 512, width: int = 128, multipliers: tuple[int, ...] = (1, 2, 4, 4)) -> VQLayout:
    """The published layout (83.7 M parameters), or a narrower one, with four channels of latents."""
    return VQLayout(size=size, width=width, multipliers=multipliers, attention_at=(), code_dim=4)


class KLAutoencoder(nn.Module):
    """forward: (N, 3, S, S) RGB in [−1, 1] to the reconstruction, unbounded, by the means of its latents."""

    def __init__(self, layout: VQLayout) -> None:
        super().__init__()
        self.layout = layout
        wide = 2 * layout.code_dim
        self.encoder = Encoder(replace(layout, code_dim=wide))
        self.before = nn.Conv2d(wide, wide, 1)
        self.after = nn.Conv2d(layout.code_dim, layout.code_dim, 1)
        self.decoder = Decoder(layout)

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scaled latents (N, D, S/8, S/8): the means, or with a `generator` one draw of the Gaussians."""
        mean, log_variance = self.before(self.encoder(image)[0]).chunk(2, 1)
        if generator is not None:
            spread = (log_variance.clamp(_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE) / 2).exp()
            mean = mean + spread * torch.randn(mean.shape, generator=generator).to(mean)
        latents: Tensor = SCALE * mean
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to an image."""
        image: Tensor = self.decoder(self.after(latents / SCALE))
        return image

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))
