"""AdaFace: Kim et al., CVPR 2022, arXiv 2204.00964.

Its margin head is in `facewright.losses.margins`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ....geometry.crop import CropSpec
from ....nn import evolve
from ....nn.recognition import create_backbone
from ....tasks.card import Preprocess
from ..recogniser import Recogniser, check_backbone


@dataclass(frozen=True)
class AdaFaceConfig:
    """Backbone and width of the embedding; the defaults are the paper's ResNet-100.

    colour: order of the channels; "BGR" for the paper's weights, "RGB" for those of the author's later collection.
    """

    backbone: str = "ir101"
    dim: int = 512
    colour: str = "BGR"

    @classmethod
    def compact(cls) -> Self:
        """The smallest published one, 24.0 M parameters."""
        return cls("ir18")

    @classmethod
    def thin(cls) -> Self:
        """This project's, 0.3 M parameters: learns on a processor in minutes."""
        return cls("iresnet_thin", 128)


class AdaFace(Recogniser):
    """Recogniser trained with a margin that follows the picture's quality; as ArcFace's crops, but BGR.

    forward: (N, 3, 112, 112) to raw embeddings (N, dim). The published network divides by the length, which is what
    tells the quality, and returns it beside. Raises UsageError for a backbone that is not AdaFace's.
    """

    slug: ClassVar[str] = "adaface"
    Config: ClassVar[type[AdaFaceConfig]] = AdaFaceConfig
    BACKBONES: ClassVar[tuple[str, ...]] = (*(f"ir{depth}" for depth in evolve.DEPTHS), "iresnet_thin")
    config: AdaFaceConfig

    def __init__(self, config: AdaFaceConfig | None = None) -> None:
        super().__init__(config)
        check_backbone(self.slug, self.config.backbone, self.BACKBONES)
        self.backbone = create_backbone(self.config.backbone, self.config.dim)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(112, "arcface"), colour=config.colour)
