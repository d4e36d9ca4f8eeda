"""SceneDetail: cleans what is not a face, on a processor and at the picture's own size.

This project's own design; there is no paper. It is the network of FaceDetail without the planes that say where in a
face it is, trained on pictures of anything: noise, grain, compression, print screens and blur are taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...restore.facedetail.network import FaceDetail, FaceDetailConfig
from ..tiles import in_tiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SceneDetailConfig(FaceDetailConfig):
    """As of FaceDetail, but never told where it is, nor steered: tiles of one picture must be drawn alike."""

    steered: bool = False
    located: bool = False

    @classmethod
    def compact(cls) -> Self:
        """What ships: the compact FaceDetail without its lowest scale; 1.2 M parameters."""
        return cls(widths=(48, 80, 128), encoder=(1, 2, 2), decoder=(1, 2))


class SceneDetail(FaceDetail):
    """Cleaner of whole pictures; an `Enlarger` of scale 1."""

    slug: ClassVar[str] = "scenedetail"
    Config: ClassVar[type[FaceDetailConfig]] = SceneDetailConfig
    overlap: int = 64  # pixels around a tile that are seen, too: a multiple of the stride, so that tiles agree

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole())

    @property
    def scale(self) -> int:
        """How many times larger: 1, it only cleans."""
        return 1

    def forward(
        self,
        image: Tensor,
        *,
        fidelity: float | Tensor = 1.0,
        place: Tensor | None = None,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As FaceDetail's, for pictures of any size."""
        height, width = image.shape[-2:]
        stride = self.config.stride
        padded = F.pad(image, (0, -width % stride, 0, -height % stride), mode="replicate")
        found = super().forward(padded, fidelity=fidelity, place=place, return_aux=return_aux)
        if isinstance(found, tuple):
            return found[0][..., :height, :width], found[1]
        return found[..., :height, :width]

    @torch.inference_mode()
    def enlarge(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size to the same size."""
        return in_tiles(image, lambda part: self.restore(part[None])[0], self.scale, self.overlap)
