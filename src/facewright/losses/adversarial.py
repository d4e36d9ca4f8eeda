"""Adversarial losses on discriminator logits and the two regularisers of StyleGAN2 training.

Sources: non-saturating softplus loss (Goodfellow et al. 2014), hinge loss (Lim and Ye 2017), R1 (Mescheder et al.
2018), path length regularisation (Karras et al. 2020, section 3.2). All return scalars averaged over the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def softplus_generator(fake: Tensor) -> Tensor:
    """Non-saturating generator loss, mean softplus(−D(fake))."""
    return F.softplus(-fake).mean()


def softplus_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Mean softplus(−D(real)) + mean softplus(D(fake)); 2·ln 2 when the discriminator knows nothing."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Mean −D(fake)."""
    return -fake.mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """½·(mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake)))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean over the batch of the squared norm of ∂D(x)/∂x; `images` must require gradients.

    The caller multiplies by γ/2, and by the interval when it is applied every k-th step (StyleGAN2: γ 10, k 16).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


class PathLength(nn.Module):
    """Keeps the generator's change per step in w near its running mean, whatever the direction.

    forward: images (N, C, H, W) made from latents (N, L, D) that require gradients. The running mean is a buffer and
    is updated at every call.
    """

    mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        direction = torch.randn_like(images) if noise is None else noise
        direction = direction / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad((images * direction).sum(), latents, create_graph=True)
        lengths = gradient.float().square().sum(2).mean(1).sqrt()
        self.mean.lerp_(lengths.detach().mean(), self.decay)
        return (lengths - self.mean).square().mean()
