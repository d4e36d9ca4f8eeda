"""SFace: recognition with a loss that pulls and pushes only as far as two sigmoids allow.

Paper: Zhong, Deng, Hu, Zhao, Li, Wen, "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition"
(IEEE TIP 2021, arXiv 2205.12010). The loss is `facewright.losses.margins.SFace`; networks and scaling are those of the
published training code (zhongyy/SFace).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ....deprecation import warn_renamed
from ....errors import WeightsError
from ....geometry.crop import CropSpec
from ....nn.recognition import create_backbone
from ....tasks.card import Preprocess
from ..recogniser import Recogniser

if TYPE_CHECKING:
    from pathlib import Path

Backbone = Literal["sface_ir50", "sface_ir101", "mobilefacenet", "iresnet_thin"]

# ten times 1/128: a slip of the published code that its weights have learned to live with
PUBLISHED_MULTIPLIER = 0.078125
_ONCE_ITS_OWN = (None, "compact")


@dataclass(frozen=True)
class SFaceConfig:
    """Shape of an SFace network; the defaults are the paper's IR-50 (43.6 M parameters).

    multiplier: factor after 127.5 is taken off; 0.078125 for weights of the published PyTorch code, 0.0078125 for
        those of its MXNet form and of the OpenCV model zoo.
    """

    backbone: Backbone = "sface_ir50"
    dim: int = 512
    multiplier: float = PUBLISHED_MULTIPLIER

    @classmethod
    def compact(cls) -> Self:
        """The smallest of the published networks, MobileFaceNet (1 M parameters, 128 numbers a face)."""
        return cls("mobilefacenet", 128)

    @classmethod
    def thin(cls) -> Self:
        """This project's, 0.3 M parameters, RGB in [−1, 1]: learns on a processor in minutes."""
        return cls("iresnet_thin", 128, 1 / 127.5)


class SFace(Recogniser):
    """Face recogniser (arXiv 2205.12010); crops of 112 px on the `arcface` template, RGB.

    forward: (N, 3, 112, 112), as `normalise` makes it, to raw embeddings (N, dim).
    """

    slug: ClassVar[str] = "sface"
    Config: ClassVar[type[SFaceConfig]] = SFaceConfig
    config: SFaceConfig

    def __init__(self, config: SFaceConfig | None = None) -> None:
        super().__init__(config)
        self.backbone = create_backbone(self.config.backbone, self.config.dim)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        spread = 1 / config.multiplier
        return Preprocess(CropSpec.aligned(112, "arcface"), scale=1.0, mean=(127.5,) * 3, std=(spread,) * 3)

    @classmethod
    def config_from(cls, config: dict[str, Any]) -> Any:
        """As `System.config_from`; WeightsError for those that are `DistilledFace`'s by their present name."""
        if config.get("backbone") == "thin":
            raise WeightsError("these weights, once called sface, are of distilledface: load them by that name")
        return super().config_from(config)

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, *, commercial: bool = False, local_files_only: bool = False
    ) -> Self:
        """As `System.from_pretrained`. For one more version, no source gives what shipped under this name."""
        if source in _ONCE_ITS_OWN:
            from ..distilledface.network import DistilledFace

            warn_renamed("the embedded recogniser's name sface", "distilledface")
            return DistilledFace.from_pretrained(commercial=commercial)  # type: ignore[return-value]
        return super().from_pretrained(source, commercial=commercial, local_files_only=local_files_only)
