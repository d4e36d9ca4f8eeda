"""ArcFace: Deng et al., CVPR 2019, arXiv 1801.07698, in the networks of insightface's `arcface_torch`.

Its margin head is `facewright.losses.margins.ArcFace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ....geometry.crop import CropSpec
from ....nn.iresnet import IRESNET_BLOCKS
from ....nn.recognition import create_backbone
from ....tasks.card import Preprocess
from ..recogniser import Recogniser, check_backbone

VITS = {(256, 12): "vit_t", (512, 12): "vit_s", (512, 24): "vit_b", (768, 24): "vit_l"}
"""Width and depth of insightface's vision transformers, to their names."""


@dataclass(frozen=True)
class ArcFaceConfig:
    """Backbone and width of the embedding; the defaults are the paper's ResNet-100."""

    backbone: str = "iresnet100"
    dim: int = 512

    @classmethod
    def ir_se50(cls) -> Self:
        """IR-SE50 of InsightFace_Pytorch, 43.8 M parameters, which takes BGR."""
        return cls("ir_se50")

    @classmethod
    def compact(cls) -> Self:
        """insightface's MobileFaceNet, 2.1 M parameters."""
        return cls("mbf")

    @classmethod
    def thin(cls) -> Self:
        """This project's, 0.3 M parameters: learns on a processor in minutes."""
        return cls("iresnet_thin", 128)


class ArcFace(Recogniser):
    """insightface's recognisers; crops of 112 px on the `arcface` template, RGB in [−1, 1]; BGR for `ir_se50`.

    forward: (N, 3, 112, 112) to raw embeddings (N, dim). Raises UsageError for a backbone that is not insightface's.
    """

    slug: ClassVar[str] = "arcface"
    Config: ClassVar[type[ArcFaceConfig]] = ArcFaceConfig
    BACKBONES: ClassVar[tuple[str, ...]] = (
        *IRESNET_BLOCKS,
        "mbf",
        "mbf_large",
        "ir_se50",
        "iresnet_thin",
        *VITS.values(),
    )
    config: ArcFaceConfig

    def __init__(self, config: ArcFaceConfig | None = None) -> None:
        super().__init__(config)
        check_backbone(self.slug, self.config.backbone, self.BACKBONES)
        self.backbone = create_backbone(self.config.backbone, self.config.dim)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(112, "arcface"), colour="BGR" if config.backbone == "ir_se50" else "RGB")
