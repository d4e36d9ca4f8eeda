"""MLCR: action units from two views of a face that are trained to agree and to look at different things.

Paper: Niu, Han, Shan, Chen, "Multi-label Co-regularization for Semi-supervised Facial Action Unit Recognition" (NeurIPS
2019, arXiv 1910.11012).

Two networks see the same face. Each has a linear classifier for every action unit; the classifiers of one view are
exchanged over a graph of how units occur together before they are used. The losses are in `training`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import ActionUnit, FaceActions
from ....geometry.crop import CropSpec
from ....nn.inference import folded_copy, plain_copy
from ....nn.mobilenetv3 import COMPACT, ConvNorm, MobileNetV3
from ....nn.resnet import resnet
from ....tasks.card import Preprocess
from ...base import System, batches
from ...recognise.distilledface.stages import FirstStages, SeenOnce, fourth_stage
from .relations import EMOTIONET, adjacency_of, published_relations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ....face import Face

Graph = Literal["live", "stored", "off"]
COMPACT_UNITS = (
    *("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26", "AU43"),
)
"""Units this project's renders and expressions know of."""
EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""The basic expressions in the order of RAF-DB's labels 1 to 7."""
HIGHEST = 5.0
VIEWS = 2
MEAN, STD = (0.5355, 0.4249, 0.3801), (0.2832, 0.2578, 0.2548)
FRAME, FRAME_CENTRE = 1.35, (0.5, 0.53)
"""How much closer than FFHQ's the frame of 240 px is, and around what. SeetaFace's alignment, which the authors used,
is not public."""
_SLOPE = 0.2
_MILLIONTHS = 1_000_000
_BATCH = 32


@dataclass(frozen=True)
class MLCRConfig:
    """Shape of the network; the defaults are the paper's, with EmotioNet's units (43.1 M parameters).

    size: side of the crop the network sees, the middle of one of `resized`. units: the action units, in order.
    backbone: of each view, `resnet34`; or this project's, `recogniser`, a stage of its own on top of what the compact
        recogniser sees first, or `mobilenet`. features: of these two.
    graph: `live` exchanges the classifiers as they are, which is what the paper means; `stored` exchanges what they
        were when `store_classifiers` was called, as the published code does after its first call; `off` leaves them
        alone, as that code does at its first call.
    fusion: the published forms of the classifier on both views, which no loss of the paper trains: 0 and 1 on both
        features side by side, 2 on their mean, 3 with a hidden layer.
    expressions: whether both views' features also tell one of `EXPRESSIONS` (not in the paper).
    """

    size: int = 224
    resized: int = 240
    units: tuple[str, ...] = EMOTIONET
    backbone: Literal["resnet34", "recogniser", "mobilenet"] = "resnet34"
    features: int = 512
    graph: Graph = "live"
    fusion: Literal[0, 1, 2, 3] = 0
    expressions: bool = False

    @classmethod
    def compact(cls) -> Self:
        """Two small views of the compact recogniser's crops, with more units, and expressions."""
        return cls(112, 112, COMPACT_UNITS, "recogniser", 160, expressions=True)


class RecogniserView(nn.Module):
    """What a view of its own makes of the first stages of the compact recogniser: one more block, widened, averaged."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.deeper = fourth_stage()
        self.widen = ConvNorm(FirstStages.next_width, features, 1, act="hardswish")

    def forward(self, seen: Tensor) -> Tensor:
        pooled: Tensor = self.widen(self.deeper(seen)).mean((2, 3))
        return pooled


class MobileNetView(nn.Module):
    """The shallow part of a small MobileNetV3, widened and averaged over the picture."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.backbone = MobileNetV3(COMPACT[:10], last=0, taps=(10,))
        self.widen = ConvNorm(self.backbone.widths[-1], features, 1, act="hardswish")

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.widen(self.backbone(x)[-1]).mean((2, 3))
        return pooled


BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "resnet34": lambda _: resnet("resnet34"),
    "recogniser": RecogniserView,
    "mobilenet": MobileNetView,
}


class RelationGraph(nn.Module):
    """Two graph convolutions over the classifiers (U, D + 1) of a view, a row of weights and a bias for each unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.first = nn.Parameter(torch.empty(width, width).uniform_(-bound, bound))
        self.second = nn.Parameter(torch.empty(width, width).uniform_(-bound, bound))

    def forward(self, classifiers: Tensor, relations: Tensor) -> Tensor:
        adjacency = adjacency_of(relations).to(classifiers.dtype)
        hidden = F.leaky_relu(adjacency @ (classifiers @ self.first), _SLOPE)
        mixed: Tensor = adjacency @ (hidden @ self.second)
        return mixed


class MLCR(System):
    """Action units of an aligned face (arXiv 1910.11012).

    forward: (N, 3, S, S) RGB, normalised by the preprocess record, to the logits of both views, each (N, U); with
    `return_aux` to a dictionary with `views`, `features` of both, `fused` logits, and `expressions` (N, 7) or None.
    `calibration` (U + 1, 4) holds in millionths what `calibrate` set, 0 before. Raises UsageError for other shapes.
    """

    slug: ClassVar[str] = "mlcr"
    Config: ClassVar[type[MLCRConfig]] = MLCRConfig
    config: MLCRConfig
    relations: Tensor
    stored: Tensor
    calibration: Tensor

    def __init__(self, config: MLCRConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.backbone not in BACKBONES or c.graph not in ("live", "stored", "off") or c.fusion not in (0, 1, 2, 3):
            raise UsageError(f"MLCR has no backbone {c.backbone!r} with graph {c.graph!r} and fusion {c.fusion}")
        count = len(c.units)
        self.views = nn.ModuleList(BACKBONES[c.backbone](c.features) for _ in range(VIEWS))
        self.classifiers = nn.ModuleList(nn.Linear(c.features, count) for _ in range(VIEWS))
        self.graph = RelationGraph(c.features + 1)
        self.fuse = _fusion(c.fusion, c.features, count)
        self.expression = nn.Linear(VIEWS * c.features, len(EXPRESSIONS)) if c.expressions else None
        published = published_relations(c.units)
        self.shared: nn.Module = FirstStages() if c.backbone == "recogniser" else nn.Identity()
        self.register_buffer("relations", torch.eye(count) if published is None else published)
        self.register_buffer("stored", torch.zeros(VIEWS, count, c.features + 1))
        self.register_buffer("calibration", torch.zeros(count + 1, 4, dtype=torch.int32))
        self.store_classifiers()

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        if config.backbone == "recogniser":
            return FirstStages.preprocess(config.size)
        zoom = config.resized / config.size
        crop = CropSpec.aligned(config.size, "ffhq", zoom=zoom * FRAME, centre=FRAME_CENTRE)
        if config.backbone == "mobilenet":
            return Preprocess(crop)
        return Preprocess(crop, mean=MEAN, std=STD)

    @torch.no_grad()
    def store_classifiers(self) -> None:
        """Keep the classifiers as they are now, for the graph `stored`."""
        self.stored.copy_(torch.stack([self.classifier(view) for view in range(VIEWS)]))

    def classifier(self, view: int) -> Tensor:
        """The weights and biases (U, D + 1) of a view's own classifiers, before any exchange."""
        layer = self.classifiers[view]
        return torch.cat([layer.weight, layer.bias[:, None]], 1)  # type: ignore[list-item, index]

    def mixed_classifier(self, view: int) -> Tensor:
        """The classifiers (U, D + 1) with which a view decides, by the configuration's `graph`."""
        own = self.classifier(view)
        if self.config.graph == "off":
            return own
        mixed: Tensor = self.graph(self.stored[view] if self.config.graph == "stored" else own, self.relations)
        return mixed

    def forward(self, image: Tensor, *, return_aux: bool = False) -> Any:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this MLCR takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        seen = self.shared(image)
        return self.decide([view(seen) for view in self.views], return_aux=return_aux)

    def decide(self, features: Sequence[Tensor], *, return_aux: bool = False) -> Any:
        """What `forward` returns, from the features (N, D) of both views."""
        logits = []
        for number, seen in enumerate(features):
            mixed = self.mixed_classifier(number)
            logits.append(F.linear(seen, mixed[:, :-1], mixed[:, -1]))
        if not return_aux:
            return tuple(logits)
        both = torch.cat(list(features), 1)
        return {
            "views": logits,
            "features": list(features),
            "fused": self.fuse(sum(features) / VIEWS if self.config.fusion == 2 else both),
            "expressions": None if self.expression is None else self.expression(both),
        }

    def read_actions(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceActions]:
        """Action units, and expressions where these weights tell them, of each face of an (H, W, 3) uint8 RGB photo."""
        scores = [self._scores(photo, group) for group in batches(faces, _BATCH)]
        return [self.read(units, told) for group in scores for units, told in zip(*group)]

    def read(self, units: NDArray[np.floating[Any]], expressions: NDArray[np.floating[Any]]) -> FaceActions:
        """The mean logits of the units (U,) and the logits of expressions (7,) of one face in words."""
        table = self.calibration.cpu().numpy() / _MILLIONTHS
        known = bool(table.any())
        present, strong = (
            sigmoid(table[:-1, i] * units + table[:-1, i + 1]) if known else sigmoid(units) for i in (0, 2)
        )
        found = {
            name: ActionUnit(HIGHEST * float(strength), float(chance))
            for name, strength, chance in zip(self.config.units, strong, present)
        }
        told: dict[str, float] = {}
        if self.expression is not None:
            chances = np.exp((expressions - expressions.max()) * (table[-1, 0] if known else 1.0))
            told = dict(zip(EXPRESSIONS, (chances / chances.sum()).tolist()))
        return FaceActions(found, told, known)

    def calibrate(self, units: NDArray[np.floating[Any]], expressions: float = 1.0) -> None:
        """Set what `read` uses: of every unit factor and offset of the logit for the probability, and both again for a
        fifth of the intensity (U, 4), and the factor of the logits of expressions.
        """
        table = np.vstack([units, [[expressions, 0, 0, 0]]])
        self.calibration.copy_(torch.from_numpy(np.rint(table * _MILLIONTHS).astype(np.int32)))

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        network = plain_copy(self, dtype)
        network.views = nn.ModuleList(folded_copy(view, dtype) for view in self.views)
        if isinstance(self.shared, FirstStages):
            network.shared = SeenOnce(self.shared, dtype)
        return network

    def _scores(
        self, photo: NDArray[np.uint8], faces: Sequence[Face]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        crop = self.preprocess.crop
        return self.score_crops(np.stack([crop.cut(photo, face).image for face in faces]))

    @torch.inference_mode()
    def score_crops(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of (N, S, S, 3) uint8 RGB crops the logits of the views' mean probabilities of units (N, U), and the logits
        of expressions (N, 7), zeros where these weights tell none.
        """
        pixels, network = self.normalise(crops), self.inference()
        seen = network(pixels.to(self.picture_dtype), return_aux=True)
        chance = torch.stack(list(seen["views"])).float().sigmoid().mean(0)
        found = seen["expressions"]
        told = torch.zeros(len(crops), len(EXPRESSIONS)) if found is None else found.float()
        return chance.logit(1e-6).double().cpu().numpy(), told.double().cpu().numpy()


def _fusion(mode: int, features: int, units: int) -> nn.Module:
    if mode == 3:
        return nn.Sequential(nn.Linear(VIEWS * features, features), nn.ELU(), nn.Linear(features, units))
    return nn.Linear(features if mode == 2 else VIEWS * features, units)


def sigmoid(x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """1 / (1 + e^−x), without overflow."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))
