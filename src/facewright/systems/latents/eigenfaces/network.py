"""Eigenfaces: small aligned faces as one vector, and any such vector as a face (Turk and Pentland, 1991).

Principal components of lightness and, coarser, of colour. A code is counted in standard deviations, so that codes of
faces are near a normal distribution and a random code is a face of nobody. It is the generator behind audits of
recognisers where no StyleGAN2 is at hand: what a mapping from leaked templates is trained to address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 64
_TO_LIGHTNESS = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class EigenfacesConfig:
    """size: side of the crops in pixels. lightness, colour: how many components of each.

    colour_size: side of the map in which colour is kept.
    """

    size: int = 128
    lightness: int = 512
    colour: int = 64
    colour_size: int = 32

    @property
    def code(self) -> int:
        """Length of the code."""
        return self.lightness + self.colour

    @classmethod
    def compact(cls) -> Self:
        """64 px crops."""
        return cls(size=64, lightness=256, colour=24, colour_size=16)


class Coded(NamedTuple):
    """`image` (N, 3, S, S) in [−1, 1] about, unclamped, and the `code` (N, D) it was drawn from."""

    image: Tensor
    code: Tensor


class Eigenfaces(System):
    """Mean faces and components, each as long as its standard deviation.

    forward: (N, 3, S, S) RGB in [−1, 1], aligned by the `arcface` template, to `Coded`.
    """

    slug: ClassVar[str] = "eigenfaces"
    Config: ClassVar[type[EigenfacesConfig]] = EigenfacesConfig
    config: EigenfacesConfig

    def __init__(self, config: EigenfacesConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.lightness = Components(c.lightness, c.size * c.size)
        self.colour = Components(c.colour, 2 * c.colour_size * c.colour_size)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size, "arcface"))

    def forward(self, image: Tensor) -> Coded:
        code = self.code_of(image)
        return Coded(self.draw(code), code)

    def code_of(self, image: Tensor) -> Tensor:
        """(N, 3, S, S) in [−1, 1] to codes (N, D)."""
        lightness, colour = planes(image, self.config.colour_size)
        return torch.cat([self.lightness.code_of(lightness), self.colour.code_of(colour)], 1)

    def draw(self, code: Tensor) -> Tensor:
        """Codes (N, D) to pictures (N, 3, S, S) in [−1, 1], unclamped."""
        c = self.config
        of_lightness, of_colour = code[:, : c.lightness], code[:, c.lightness :]
        lightness = self.lightness(of_lightness).view(-1, 1, c.size, c.size)
        small = self.colour(of_colour).view(-1, 2, c.colour_size, c.colour_size)
        red, blue = F.interpolate(small.float(), (c.size, c.size), mode="bilinear").to(small.dtype).chunk(2, 1)
        green = -(_TO_LIGHTNESS[0] * red + _TO_LIGHTNESS[2] * blue) / _TO_LIGHTNESS[1]
        image: Tensor = lightness + torch.cat([red, green, blue], 1)
        return image

    @torch.inference_mode()
    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to codes (N, D, 1, 1)."""
        parts = [self.code_of(self.normalise(pictures[part])) for part in batches(np.arange(len(pictures)), BATCH)]
        found = torch.cat([torch.zeros(0, self.config.code), *(part.float().cpu() for part in parts)])
        return found[:, :, None, None].numpy()

    @torch.inference_mode()
    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Codes (N, D, 1, 1) to crops (N, S, S, 3) uint8 RGB."""
        given = torch.from_numpy(np.ascontiguousarray(latents[:, :, 0, 0]))
        parts = [
            self.draw(given[part].to(self.device)).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
            for part in batches(np.arange(len(given)), BATCH)
        ]
        side = self.config.size
        return torch.cat([torch.zeros(0, 3, side, side, dtype=torch.uint8), *parts]).permute(0, 2, 3, 1).numpy()


class Components(nn.Module):
    """A mean (P,) and orthogonal directions (K, P) whose lengths are standard deviations."""

    def __init__(self, count: int, places: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(places))
        self.directions = nn.Parameter(nn.init.orthogonal_(torch.empty(count, places)))

    def code_of(self, x: Tensor) -> Tensor:
        """(N, P) to (N, K), in standard deviations."""
        return (x - self.mean) @ self.directions.t() / self.directions.square().sum(1)

    def forward(self, code: Tensor) -> Tensor:
        """(N, K) to (N, P)."""
        return self.mean + code @ self.directions


def planes(image: Tensor, colour_size: int) -> tuple[Tensor, Tensor]:
    """(N, 3, S, S) RGB to lightness (N, S·S), and what red and blue differ from it, coarser, (N, 2·s·s)."""
    weights = image.new_tensor(_TO_LIGHTNESS).view(1, 3, 1, 1)
    lightness = (image * weights).sum(1, keepdim=True)
    difference = (image[:, ::2] - lightness).float()
    small = F.interpolate(difference, (colour_size, colour_size), mode="bilinear", antialias=True)
    return lightness.flatten(1), small.to(image.dtype).flatten(1)
