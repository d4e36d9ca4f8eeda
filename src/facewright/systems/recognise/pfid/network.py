"""PFID: identification of primates in the wild from few pictures of each individual.

Paper: Shukla, Cheema, Anand, Qureshi, Jhala, "Primate Face Identification in the Wild" (PRICAI 2019, arXiv
1907.02642). A classifier over the known individuals, trained with cross-entropy plus a loss on pairs of its posteriors
(`facewright.losses.pairs.posterior_pair_loss`); its pooled features then serve for individuals it has never seen.
Nothing is added to the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, overload

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError, WeightsError
from ....geometry.crop import CropSpec
from ....nn.resnet import RESNETS, BasicBlock, DenseNet, ResNet, resnet, trunk_state
from ....tasks.card import Preprocess
from ..recogniser import BOX_MARGIN, Recogniser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNKNOWN = -1


@dataclass(frozen=True)
class PFIDConfig:
    """Shape of the network; the defaults are the paper's ResNet-18 (11.2 M parameters) at 224 px.

    backbone: resnet18, resnet34, resnet50, densenet121, or `thin`, a ResNet of one block a stage, `width` channels wide
        at its start. individuals: how many the classifier tells apart; `names` gives theirs, in the order of the
        classes. template: "" for crops around a box, `arcface` for people.
    """

    backbone: str = "resnet18"
    size: int = 224
    template: str = ""
    individuals: int = 24
    names: tuple[str, ...] = ()
    width: int = 64

    @classmethod
    def densenet(cls) -> Self:
        """The paper's other trunk, DenseNet-121."""
        return cls(backbone="densenet121")

    @classmethod
    def compact(cls) -> Self:
        """Box crops of 64 px and a thin trunk: trains in minutes on two processor cores."""
        return cls(backbone="thin", size=64, width=32)


class Posteriors(NamedTuple):
    """Logits (N, individuals) of crops, and the pooled features (N, D) they are computed from."""

    logits: Tensor
    features: Tensor


class PFID(Recogniser):
    """Primate recogniser (arXiv 1907.02642): a classifier of known individuals whose features tell others apart.

    forward: (N, 3, size, size) RGB with ImageNet's mean and deviation to pooled features (N, D), not normalised: D is
    512 for ResNet-18, 1024 for DenseNet-121. `with_logits=True` gives Posteriors, as classification and losses need.
    Raises UsageError when `names` and `individuals` of the configuration disagree.
    """

    slug: ClassVar[str] = "pfid"
    Config: ClassVar[type[PFIDConfig]] = PFIDConfig
    config: PFIDConfig

    def __init__(self, config: PFIDConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.names and len(c.names) != c.individuals:
            raise UsageError(f"{len(c.names)} names were given for {c.individuals} individuals")
        trunk = _trunk(c)
        self.backbone = trunk
        self.fc = nn.Linear(trunk.out_features, c.individuals)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        if config.template:
            crop = CropSpec.aligned(config.size, config.template)
        else:
            crop = CropSpec.boxed(config.size, margin=BOX_MARGIN, level_eyes=True)
        return Preprocess(crop, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    @property
    def dim(self) -> int:
        return self.fc.in_features

    @overload
    def forward(self, image: Tensor) -> Tensor: ...

    @overload
    def forward(self, image: Tensor, *, with_logits: Literal[True]) -> Posteriors: ...

    @overload
    def forward(self, image: Tensor, *, with_logits: bool) -> Tensor | Posteriors: ...

    def forward(self, image: Tensor, *, with_logits: bool = False) -> Tensor | Posteriors:
        features = super().forward(image)
        return Posteriors(self.fc(features), features) if with_logits else features

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 RGB crops to the posteriors (N, individuals) over the individuals of the training."""
        pooled = torch.from_numpy(self.embed_raw(crops)).to(self.device)
        if self.mirror:
            pooled = pooled / 2
        with torch.inference_mode():
            posteriors: Tensor = self.fc(pooled.to(self.dtype)).softmax(1)
        return np.asarray(posteriors.float().cpu().numpy(), np.float32)

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Start from a torchvision classifier of the same trunk, given as its state dict; its last layer is dropped."""
        try:
            self.backbone.load_state_dict(trunk_state(state))
        except RuntimeError as error:
            raise WeightsError(f"these are not torchvision weights of {self.config.backbone}: {error}") from error


def _trunk(config: PFIDConfig) -> ResNet | DenseNet:
    if config.backbone == "thin":
        return ResNet(BasicBlock, (1, 1, 1, 1), width=config.width)
    if config.backbone == "densenet121":
        return DenseNet()
    if config.backbone in RESNETS:
        return resnet(config.backbone)
    raise UsageError(f"PFID has no trunk {config.backbone!r}; choose from {', '.join(RESNETS)}, densenet121, thin")


def gallery_templates(
    embeddings: NDArray[np.floating], individuals: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One unit template (D,) for each individual, from embeddings (N, D) of any length, and whose it is.

    A template is the mean of its pictures' directions, so that a sharp picture with a long feature does not outvote
    the rest. Returns (G, D) and (G,), sorted by individual.
    """
    unit = _unit_rows(embeddings)
    known = np.unique(individuals)
    means = np.stack([unit[individuals == one].mean(0) for one in known])
    return _unit_rows(means).astype(np.float32), known.astype(np.int64)


def identify(
    probes: NDArray[np.floating], templates: NDArray[np.floating], individuals: NDArray[np.integer], *, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The individual of each probe (N, D), or `UNKNOWN` when no template's cosine reaches `threshold`; and that cosine.

    A threshold of −1 makes it closed-set identification.
    """
    cosines = _unit_rows(probes) @ _unit_rows(templates).T
    best = cosines.argmax(1)
    score = cosines[np.arange(len(cosines)), best]
    return np.where(score >= threshold, np.asarray(individuals)[best], UNKNOWN), score


def _unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(rows, np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
