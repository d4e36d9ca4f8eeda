"""SFace: recognition with a loss that pulls and pushes only as far as two sigmoids allow.

Paper: Zhong, Deng, Hu, Zhao, Li, Wen, "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition"
(IEEE TIP 2021, arXiv 2205.12010). The loss is `facewright.losses.margins.SFace`; networks and scaling are those of the
published training code (zhongyy/SFace). The compact form, which ships, is this project's: an IResNet with thin stages
on 2×2 pixel patches, distilled from a public recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.iresnet import IResNet
from ....tasks.card import Preprocess
from ..recogniser import Recogniser

if TYPE_CHECKING:
    from torch import Tensor, nn

Backbone = Literal["sface_ir50", "sface_ir101", "mobilefacenet", "thin"]

# ten times 1/128: a slip of the published code that its weights have learned to live with
PUBLISHED_MULTIPLIER = 0.078125


@dataclass(frozen=True)
class SFaceConfig:
    """Shape of an SFace network; the defaults are the paper's IR-50 (43.6 M parameters).

    backbone: the published ones, or `thin`, an IResNet of `widths` and `blocks` on 2×2 patches.
    multiplier: factor after 127.5 is taken off; 0.078125 for weights of the published PyTorch code, 0.0078125 for
        those of its MXNet form and of the OpenCV model zoo.
    """

    backbone: Backbone = "sface_ir50"
    dim: int = 512
    multiplier: float = PUBLISHED_MULTIPLIER
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()

    @classmethod
    def compact(cls) -> Self:
        """The shipped recogniser: 1.6 M parameters, 128 numbers a face."""
        return cls("thin", 128, 1 / 127.5, widths=(24, 48, 96, 192), blocks=(1, 2, 3, 2))


class SFace(Recogniser):
    """Face recogniser (arXiv 2205.12010); crops of 112 px on the `arcface` template, RGB.

    forward: (N, 3, 112, 112), as `normalise` makes it, to raw embeddings (N, dim).
    """

    slug: ClassVar[str] = "sface"
    Config: ClassVar[type[SFaceConfig]] = SFaceConfig
    config: SFaceConfig

    def __init__(self, config: SFaceConfig | None = None) -> None:
        super().__init__(config)
        self.backbone = _backbone(self.config)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        spread = 1 / config.multiplier
        return Preprocess(CropSpec.aligned(112, "arcface"), scale=1.0, mean=(127.5,) * 3, std=(spread,) * 3)

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """Feature maps of the compact form at 56, 28, 14 and 7 px, as a perceptual loss uses them."""
        if not isinstance(self.backbone, IResNet):
            raise UsageError("only the compact SFace offers feature maps")
        return self.backbone.feature_maps(image)


def _backbone(config: SFaceConfig) -> nn.Module:
    if config.backbone == "thin":
        return IResNet(config.blocks, config.dim, widths=config.widths, patch=2, pooling="depthwise")
    from ....nn.recognition import create_backbone

    return create_backbone(config.backbone, config.dim)
