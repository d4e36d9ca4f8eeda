"""FaceFill: fills holes in aligned faces by a linear model of what faces look like.

Faces are Gaussian: a mean, a number of directions in which they differ (Turk, Pentland, "Eigenfaces for Recognition",
J. Cognitive Neuroscience 1991), and noise (Tipping, Bishop, "Probabilistic Principal Component Analysis", J. Royal
Statistical Society B 1999). Given the pixels around a hole, the likeliest face is the solution of a small linear system
(Everson, Sirovich, "Karhunen–Loève procedure for gappy data", JOSA A 1995). It is drawn small and soft; restorers give
it detail (`pipelines.inpaint`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOISE = 0.2  # standard deviation a pixel starts with, in [−1, 1]


@dataclass(frozen=True)
class FaceFillConfig:
    """Shape of the model; the defaults are for more faces than come with this project.

    size: side of the crop, in pixels. directions: in which faces differ. caution: how many times the noise of a known
    pixel is taken to be what it was in the faces the model was fitted to; neighbouring pixels err alike, so that they
    say less than so many independent ones.
    """

    size: int = 128
    directions: int = 512
    caution: float = 48.0

    @classmethod
    def compact(cls) -> Self:
        """What ships: 1.5 M parameters."""
        return cls(size=64, directions=120)

    def __post_init__(self) -> None:
        if not 0 < self.directions <= 3 * self.size**2:
            raise UsageError(f"faces of {self.size} px cannot differ in {self.directions} directions")
        if not self.caution > 0:
            raise UsageError(f"caution {self.caution:g} is not possible; give a number above 0")


class FaceFill(System):
    """Holes in aligned faces filled by a linear Gaussian model.

    forward: image (N, 3, S, S) RGB in [−1, 1], a crop on the `ffhq` template, and hole (N, 1, S, S), 1 where pixels are
    lost (None: nowhere), to the likeliest face, whole, unclamped. What the image holds inside the hole has no
    influence; where all is lost, it is the mean face.

    `mean` (3, S, S); `directions` (K, 3, S, S), of a length that makes their weights normally distributed; `log_noise`
    (1,), the logarithm of the standard deviation of what they leave.
    """

    slug: ClassVar[str] = "facefill"
    Config: ClassVar[type[FaceFillConfig]] = FaceFillConfig
    config: FaceFillConfig

    def __init__(self, config: FaceFillConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        shape = (3, c.size, c.size)
        self.mean = nn.Parameter(torch.zeros(shape))
        self.directions = nn.Parameter(_NOISE * torch.randn(c.directions, *shape) * c.directions**-0.5)
        self.log_noise = nn.Parameter(torch.full((1,), float(np.log(_NOISE))))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(self, image: Tensor, hole: Tensor | None = None) -> Tensor:
        size = self.config.size
        if image.shape[1:] != (3, size, size):
            raise UsageError(f"FaceFill takes images (N, 3, {size}, {size}), not {tuple(image.shape)}")
        hole = torch.zeros_like(image[:, :1]) if hole is None else hole
        if hole.shape != (len(image), 1, size, size):
            raise UsageError("FaceFill takes one hole (N, 1, S, S) for each image, of its size")
        with torch.autocast(image.device.type, enabled=False):
            weights = self.weights(image.float(), hole.float())
            change = weights @ self.directions.float().flatten(1)
            return self.mean.float() + change.view(-1, 3, size, size)

    def weights(self, image: Tensor, hole: Tensor) -> Tensor:
        """(N, K) of the directions: the mode, and the mean, of what they are given the known pixels."""
        trust = (1 - hole) / (self.config.caution * (2 * self.log_noise.float()).exp())
        trust = trust.expand_as(image).flatten(1)
        directions = self.directions.float().flatten(1)
        seen = (image - self.mean.float()).flatten(1)
        seen = torch.where(trust > 0, seen, 0)
        precision = torch.stack([(directions * own) @ directions.T for own in trust])
        precision = precision + torch.eye(len(directions), device=image.device)
        found: Tensor = torch.linalg.solve(precision, (trust * seen) @ directions.T)
        return found

    @torch.inference_mode()
    def fill(self, crops: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops and (N, S, S) holes to crops as the model draws them, holes filled."""
        mask = torch.from_numpy(np.ascontiguousarray(holes)).to(self.device)[:, None]
        out = self(self.normalise(crops), mask.float())
        drawn = out.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        pixels: NDArray[np.uint8] = drawn.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pixels
