"""Generators that a mapping can be trained for: a fixed network from styles to faces.

The paper's is a StyleGAN, whose `W` the mapping addresses. Codes of eigenfaces are near a normal distribution, so that
they need no mapping of their own to be drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from ....geometry.crop import template_face

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ....face import Face
    from ...latents.eigenfaces.network import Eigenfaces
    from ...synthesise.stylegan2.network import StyleGAN2


class Prior(Protocol):
    """A generator that stays as it is.

    `template` and `size`: where its faces are. `style_dim`: of what it draws. `signed`: whether styles are spread
    around 0 instead of being what a leaky ReLU leaves.
    """

    network: nn.Module
    template: str
    size: int
    style_dim: int
    signed: bool

    def draw(self, styles: Tensor) -> Tensor:
        """(N, style_dim) to pictures (N, 3, size, size) in [−1, 1], unclamped, with gradients."""
        ...

    def real(self, count: int, device: torch.device) -> Tensor:
        """`count` of the generator's own styles, (count, style_dim)."""
        ...

    def styles_of(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Styles (N, style_dim) that draw pictures (N, size, size, 3) uint8 RGB; None where it cannot tell."""
        ...


class StyleGanPrior:
    """StyleGAN2, addressed in W."""

    signed = False

    def __init__(self, generator: StyleGAN2) -> None:
        self.network: nn.Module = generator
        self.generator = generator.generator
        self.template, self.size = generator.preprocess.crop.template, generator.config.size
        self.style_dim = generator.config.style_dim

    def draw(self, styles: Tensor) -> Tensor:
        return self.generator(styles)  # type: ignore[no-any-return]

    def real(self, count: int, device: torch.device) -> Tensor:
        return self.generator.mapping(torch.randn(count, self.style_dim, device=device))  # type: ignore[no-any-return]

    def styles_of(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        return None


class CodePrior:
    """Eigenfaces."""

    signed = True

    def __init__(self, coder: Eigenfaces) -> None:
        self.network: nn.Module = coder
        self.coder = coder
        self.template, self.size, self.style_dim = coder.preprocess.crop.template, coder.config.size, coder.config.code

    def draw(self, styles: Tensor) -> Tensor:
        return self.coder.draw(styles)

    def real(self, count: int, device: torch.device) -> Tensor:
        return torch.randn(count, self.style_dim, device=device)

    def styles_of(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        return self.coder.encode(pictures)[:, :, 0, 0]


def prior_of(generator: StyleGAN2 | Eigenfaces) -> Prior:
    """The generator as a mapping is trained for it."""
    from ...latents.eigenfaces.network import Eigenfaces

    return CodePrior(generator) if isinstance(generator, Eigenfaces) else StyleGanPrior(generator)


@torch.inference_mode()
def paint(prior: Prior, styles: Tensor) -> NDArray[np.uint8]:
    """Styles (N, style_dim) to pictures (N, size, size, 3) uint8 RGB."""
    levels = prior.draw(styles).float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def face_of(prior: Prior) -> Face:
    """Where the face is in any of its pictures."""
    return template_face(prior.size, prior.template)
