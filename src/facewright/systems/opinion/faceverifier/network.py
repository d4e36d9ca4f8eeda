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
LAYERS = ((1, 2), (2, 2), (2, 1), (4, 2), (4, 1), (4, 2))  # times the width, stride; as in the second look


@dataclass(frozen=True, slots=True)
class FaceVerifierConfig:
    """Channels of the first layer; the others have twice and four times as many."""

    width: int = 32

    @classmethod
    def compact(cls) -> Self:
        return cls(24)


class FaceVerifier(System):
    """Log odds of a face from an aligned crop of 64×64 with its surroundings."""

    slug: ClassVar[str] = "faceverifier"
    Config = FaceVerifierConfig
    config: FaceVerifierConfig

    def __init__(self, config: FaceVerifierConfig | None = None) -> None:
        super().__init__(config)
        width = self.config.width
        layers: list[nn.Module] = []
        cin = 3
        for times, stride in LAYERS:
            cout = times * width
            layers += [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
            cin = cout
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(cin * (SIZE // 16) ** 2, cin),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(cin, 1),
        )

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CROP)

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, 64, 64) RGB in [-1, 1] to log odds (N,) of being a face."""
        return self.head(self.features(crops))[:, 0].float()  # type: ignore[no-any-return]

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
        odds = self(torch.cat([x, x.flip(3)])).reshape(2, -1).mean(0)
        return odds[: len(crops)].cpu().double().numpy()  # type: ignore[no-any-return]
