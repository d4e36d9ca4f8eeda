"""DistilledFace: the compact recogniser that ships, distilled from a public one.

This project's own: an IResNet with thin stages on 2×2 pixel patches that learned to give the embeddings of a public
MobileFaceNet (see `training`). There is no paper, and it has nothing of SFace, under whose name it shipped at first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ....geometry.crop import CropSpec
from ....nn.iresnet import IResNet
from ....tasks.card import Preprocess
from ..recogniser import Recogniser

if TYPE_CHECKING:
    from torch import Tensor

SPREAD = 127.5


@dataclass(frozen=True)
class DistilledFaceConfig:
    """Shape of the network: `blocks` residual blocks of `widths` channels in four stages, `dim` numbers a face.

    The defaults are those of IResNet-18.
    """

    dim: int = 512
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)

    @classmethod
    def compact(cls) -> Self:
        """The shipped size: 1.8 M parameters, 128 numbers a face."""
        return cls(dim=128, widths=(24, 48, 96, 192), blocks=(1, 2, 3, 2))


class DistilledFace(Recogniser):
    """Face recogniser; crops of 112 px on the `arcface` template, RGB.

    forward: (N, 3, 112, 112) in [−1, 1] to raw embeddings (N, dim).
    """

    slug: ClassVar[str] = "distilledface"
    former_slugs: ClassVar[tuple[str, ...]] = ("sface",)
    Config: ClassVar[type[DistilledFaceConfig]] = DistilledFaceConfig
    config: DistilledFaceConfig
    backbone: IResNet

    def __init__(self, config: DistilledFaceConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.backbone = IResNet(c.blocks, c.dim, widths=c.widths, patch=2, pooling="depthwise")

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(112, "arcface"), scale=1.0, mean=(SPREAD,) * 3, std=(SPREAD,) * 3)

    @classmethod
    def config_from(cls, config: dict[str, Any]) -> Any:
        """As `System.config_from`; the entries that weights saved under the name of SFace have besides are left out."""
        if config.get("backbone") == "thin":
            config = {key: value for key, value in config.items() if key not in ("backbone", "multiplier")}
        return super().config_from(config)

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """Feature maps at 56, 28, 14 and 7 px, as a perceptual loss uses them."""
        return self.backbone.feature_maps(image)
