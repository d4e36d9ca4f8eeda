"""The auto-encoder that Stable Diffusion works on: pictures as Gaussians of latents, an eighth of the side ("KL-f8").

Rombach et al. (CVPR 2022), appendix G. Encoder and decoder are those of `nn.vq`; instead of a codebook the encoder says
mean and spread of every latent. `nn.vq.from_taming` maps the published keys, `from_diffusers_kl` those of diffusers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .vq import Decoder, Encoder, VQLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

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


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out"}
_ENDS = {"quant_conv": "before", "post_quant_conv": "after"}


def from_diffusers_kl(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers' AutoencoderKL as that of `KLAutoencoder`; other keys keep their names.

    Its attention is linear; here it is a 1×1 convolution.
    """
    found = {}
    for key, value in state.items():
        name = _own_name(key)
        linear = ".attention." in name and name.endswith("weight") and value.dim() == 2
        found[name] = value[:, :, None, None] if linear else value
    return found


def _own_name(key: str) -> str:
    if match := re.fullmatch(r"(quant_conv|post_quant_conv)\.(\w+)", key):
        return f"{_ENDS[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.([01])\.(.+)", key):
        return f"{match[1]}.middle.{('first', 'second')[int(match[2])]}.{_block_part(match[3])}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(\w+)", key):
        return f"{match[1]}.middle.attention.{_ATTENTION[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", key):
        return f"{match[1].partition('.')[0]}.levels.{match[2]}.blocks.{match[3]}.{_block_part(match[4])}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.(\w+)", key):
        return f"{match[1].partition('.')[0]}.levels.{match[2]}.resample.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.conv_norm_out\.(\w+)", key):
        return f"{match[1]}.norm_out.0.{match[2]}"
    return key


def _block_part(rest: str) -> str:
    return rest.replace("conv_shortcut.", "shortcut.")
