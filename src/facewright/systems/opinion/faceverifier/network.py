"""FaceVerifier: whether a crop that a detector cut out shows a face at all.

This project's own design; there is no paper. A detector's false alarms look like faces to it, and to every network that
was taught on nothing but crops of faces. This one was taught on the false alarms themselves, and sees about twice the
width of the face: a coin among coins or a stone among stones is told from a face by what is around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ....geometry.crop import CropSpec
from ....nn.batching import padded
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

SIZE = 64
CROP = CropSpec.aligned(SIZE, "ffhq")
BATCH = 32


@dataclass(frozen=True, slots=True)
class FaceVerifierConfig:
    """Width of the first layer; the others have up to six times as many channels."""

    width: int = 24

    @classmethod
    def compact(cls) -> Self:
        return cls(16)


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the first and the shortcut halve the picture."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(cin, cout, 3, 2, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
            nn.Conv2d(cout, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


class FaceVerifier(System):
    """Log odds of a face from an aligned crop of 64×64 with its surroundings."""

    slug: ClassVar[str] = "faceverifier"
    Config = FaceVerifierConfig
    config: FaceVerifierConfig

    def __init__(self, config: FaceVerifierConfig | None = None) -> None:
        super().__init__(config)
        width = self.config.width
        channels = (width, 2 * width, 4 * width, 6 * width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(*(_Block(a, b) for a, b in zip(channels, channels[1:])))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels[-1] * (SIZE // 16) ** 2, 1))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CROP)

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, 64, 64) RGB in [-1, 1] to log odds (N,) of being a face."""
        return self.head(self.stages(self.stem(crops)))[:, 0].float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def verify(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and finds in it to the log odds (N,) of each to be a face.

        A find and its mirror image are looked at, and the mean is taken.
        """
        odds = np.zeros(len(faces))
        for start in range(0, len(faces), BATCH):
            crops = np.stack([CROP.cut(image, face).image for face in faces[start : start + BATCH]])
            odds[start : start + BATCH] = self.verify_crops(crops)
        return odds

    @torch.inference_mode()
    def verify_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The same for (N, 64, 64, 3) uint8 RGB crops, N at least 1."""
        x = self.normalise(padded(torch.from_numpy(crops)).numpy()).to(self.dtype)
        odds = (self(x) + self(x.flip(3))) / 2
        return odds[: len(crops)].cpu().double().numpy()  # type: ignore[no-any-return]
