"""FaceNet in the form that is in use: an Inception-ResNet-v1 whose embedding is compared by its angle.

The idea of one embedding per face is of Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face
Recognition and Clustering" (CVPR 2015, arXiv 1503.03832). Their networks and weights were never published. What goes by
the name are the networks that David Sandberg trained as classifiers (davidsandberg/facenet), and their conversion to
PyTorch (timesler/facenet-pytorch), whose two files `import_published` takes: 20180402-114759 (VGGFace2) and
20180408-102900 (CASIA-WebFace). There is no reference vector with published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ....geometry.crop import CropSpec
from ....nn.inception_resnet import InceptionResNetV1
from ....tasks.card import Preprocess
from ..recogniser import BOX_MARGIN, Recogniser

_PIXEL_MIDDLE = 127.5
_PIXEL_SPREAD = 128.0


@dataclass(frozen=True)
class FaceNetConfig:
    """Blocks of the three stages and width of the embedding; the defaults are the published network (23.5 M)."""

    blocks: tuple[int, ...] = (5, 10, 5)
    dim: int = 512

    @classmethod
    def compact(cls) -> Self:
        """One block a stage and the paper's 128 numbers a face, 9.9 M parameters; there are no weights of it."""
        return cls((1, 1, 1), 128)


class FaceNet(Recogniser):
    """Recogniser for crops of 160 px around the face's box, RGB, fed as (p − 127.5) / 128.

    forward: (N, 3, 160, 160) to raw embeddings (N, dim); the published network returns them divided by their length, as
    `embed` does, and does not add the mirror image: `mirror = False` gives its numbers.

    The published networks saw upright boxes of MTCNN, stretched to a square. The crop here is the square around the box
    with 15 % of its longer side added on every side, levelled by the eyes, so a threshold has to be
    calibrated with it.
    """

    slug: ClassVar[str] = "facenet"
    Config: ClassVar[type[FaceNetConfig]] = FaceNetConfig
    config: FaceNetConfig

    def __init__(self, config: FaceNetConfig | None = None) -> None:
        super().__init__(config)
        self.backbone = InceptionResNetV1(self.config.blocks, self.config.dim)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        crop = CropSpec.boxed(160, margin=BOX_MARGIN, level_eyes=True)
        return Preprocess(crop, scale=1.0, mean=(_PIXEL_MIDDLE,) * 3, std=(_PIXEL_SPREAD,) * 3)
