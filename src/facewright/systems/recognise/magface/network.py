"""MagFace: Meng et al., CVPR 2021, arXiv 2103.06627.

Its margin head is in `facewright.losses.margins`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ....geometry.crop import CropSpec
from ....nn.iresnet import IRESNET_BLOCKS, IResNet
from ....nn.recognition import create_backbone
from ....tasks.card import Preprocess
from ..recogniser import Recogniser, check_backbone

_MAGFACE_EPS = 2e-5
_MAGFACE_DROPOUT = 0.4


@dataclass(frozen=True)
class MagFaceConfig:
    """Backbone and width of the embedding; the defaults are the paper's ResNet-100."""

    backbone: str = "iresnet100"
    dim: int = 512

    @classmethod
    def compact(cls) -> Self:
        """The smallest published one, 24.0 M parameters."""
        return cls("iresnet18")

    @classmethod
    def thin(cls) -> Self:
        """This project's, 0.3 M parameters: learns on a processor in minutes."""
        return cls("iresnet_thin", 128)


class MagFace(Recogniser):
    """Recogniser whose embeddings are the longer, the better the picture; as ArcFace's crops, but BGR in [0, 1].

    forward: (N, 3, 112, 112) to raw embeddings (N, dim). Raises UsageError for a backbone that is not MagFace's.
    """

    slug: ClassVar[str] = "magface"
    Config: ClassVar[type[MagFaceConfig]] = MagFaceConfig
    BACKBONES: ClassVar[tuple[str, ...]] = (*IRESNET_BLOCKS, "iresnet_thin")
    config: MagFaceConfig

    def __init__(self, config: MagFaceConfig | None = None) -> None:
        super().__init__(config)
        check_backbone(self.slug, self.config.backbone, self.BACKBONES)
        network = _network(self.config)
        network.features.weight.requires_grad_(True)  # insightface keeps it at 1, MagFace trains it
        self.backbone = network

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(112, "arcface"), colour="BGR", mean=(0.0,) * 3, std=(1.0,) * 3)


def _network(config: MagFaceConfig) -> IResNet:
    if config.backbone == "iresnet_thin":
        return create_backbone("iresnet_thin", config.dim)  # type: ignore[return-value]
    return IResNet(IRESNET_BLOCKS[config.backbone], config.dim, dropout=_MAGFACE_DROPOUT, eps=_MAGFACE_EPS)
