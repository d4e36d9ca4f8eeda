"""FP-Age: apparent age from a face and from what its parser says of it.

Paper: Lin, Shen, Wang, Pantic, "FP-Age: Leveraging Face Parsing Attention for Facial Age Estimation in the Wild" (IEEE
Transactions on Image Processing 2022, arXiv 2106.11145).

A face parser looks at the RoI tanh-polar view. Its deep features are spread over its classes, so that skin, hair and
every other part has channels of its own; a gate weighs the parts; and a small network reads the age from them and from
the parser's shallow features, as a distribution over whole years. Published is the network without its training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import AgeEstimate
from ....geometry.crop import CropSpec
from ....nn.inference import folded_copy, plain_copy
from ....nn.mobilenetv3 import COMPACT, MobileNetV3
from ....nn.sampling import sample
from ....nn.tanh_polar import polar_grid, polar_warp
from ....tasks.card import Preprocess
from ...base import System, batches
from ...parse.rtnet.network import FCNHead, ResNetTrunk
from ...parse.taxonomy import IBUG_14, LAPA_11
from ...recognise.distilledface.stages import FirstStages, SeenOnce, fourth_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

Trunk = Literal["resnet50", "recogniser", "mobilenet"]
CLASSES: dict[Trunk, tuple[str, ...]] = {"resnet50": IBUG_14, "recogniser": LAPA_11, "mobilenet": LAPA_11}
SQUEEZE = 16
STRIDE = 8
"""Of both parsers' maps."""
CROP_BOX = (0.2, 0.25, 0.8, 0.85)
"""Where the face lies in a crop on the `ffhq` template, x0, y0, x1, y1 in shares of its side."""
NEAR, NEAR_CENTRE = 1.25, (0.5, 0.52)
"""How much nearer than FFHQ's the crops are that are not bent, and around what: the hair is still in them."""
COVERAGE = 0.8
_MILLIONTHS = 1_000_000
_BATCH = 32


@dataclass(frozen=True)
class FPAgeConfig:
    """Shape of the network; the defaults are the published one (2.2 M parameters beside a parser of 33.0 M).

    size: side of the view. crop: side of the aligned crop from which the network cuts the view itself, 0 where it is
        fed views cut from whole photos by the detector's boxes. polar: whether views are tanh-polar; else they are the
        aligned crops, nearer to the face.
    trunk: the parser: `resnet50` dilated; or this project's, `recogniser`, which sees faces as the compact recogniser
        does, or `mobilenet`. frozen: whether the parser's weights stay as they are when the age is learned.
    width, hidden, blocks: of the network that reads the age. ages: whole years from 0 on.
    attention: with parsing attention; without it the parser's maps are read as they are.
    mirror: also look at the mirrored face, and average. parity: cut the mirrored view from where the published code
        does, whose helper takes the columns of a box for (y, x) and so mirrors its y about the picture's width.
    """

    size: int = 513
    crop: int = 0
    polar: bool = True
    trunk: Trunk = "resnet50"
    frozen: bool = True
    width: int = 256
    hidden: int = 128
    blocks: int = 4
    ages: int = 97
    attention: bool = True
    mirror: bool = True
    parity: bool = False

    @classmethod
    def compact(cls) -> Self:
        """Crops of the compact recogniser, from whose first stages parts and age are read."""
        return cls(112, 112, polar=False, trunk="recogniser", frozen=False, width=88, hidden=64, blocks=3)

    @classmethod
    def compact_polar(cls) -> Self:
        """Tanh-polar views of 129 px, out of crops of 192 px."""
        return cls(129, 192, trunk="mobilenet", frozen=False, width=96, hidden=64, blocks=3, mirror=False)


class DilatedParser(nn.Module):
    """The published parser: ResNet-50 at stride 8 with a fully convolutional head of 14 classes."""

    low_width, high_width = 512, 512

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResNetTrunk()
        self.head = FCNHead(self.trunk.widths, len(IBUG_14))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Polar views (N, 3, S, S) to shallow features, deep features and logits, all at stride 8."""
        maps = self.trunk(views)
        high = maps[-1]
        for index in range(3):  # convolution, norm and ReLU; after them come dropout and the classes
            high = self.head[index](high)
        return maps[1], high, self.head[4](high)


class PartsOfMaps(nn.Module):
    """Maps of a small backbone, shallow to deep, added up: features and logits as of `DilatedParser`."""

    def __init__(self, widths: Sequence[int], out: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(width, out, 1, bias=False) for width in widths)
        self.norm = nn.BatchNorm2d(out)
        self.logits = nn.Conv2d(out, len(LAPA_11), 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        mixed = [project(features) for project, features in zip(self.project, maps)]
        size = mixed[0].shape[2:]
        larger = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in mixed[1:]]
        high = F.relu(self.norm(sum(larger, mixed[0])))
        return maps[0], high, self.logits(high)


class RecogniserParser(nn.Module):
    """This project's: the first stages of the compact recogniser, and a stage of its own on top of them."""

    low_width, high_width = FirstStages.width, 132

    def __init__(self) -> None:
        super().__init__()
        self.stages = FirstStages()
        self.deeper = fourth_stage()
        self.parts = PartsOfMaps((FirstStages.width, FirstStages.next_width), self.high_width)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `DilatedParser`."""
        return self.read(self.stages(views))

    def read(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` returns, from the map of the first stages."""
        found: tuple[Tensor, Tensor, Tensor] = self.parts([seen, self.deeper(seen)])
        return found


class MobileNetParser(nn.Module):
    """This project's for polar views: a small MobileNetV3 with maps at strides 8, 16 and 32."""

    low_width, high_width = 48, 132

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MobileNetV3(COMPACT, last=0, taps=(6, 10, 13))
        self.parts = PartsOfMaps(self.backbone.widths, self.high_width)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `DilatedParser`."""
        found: tuple[Tensor, Tensor, Tensor] = self.parts(self.backbone(views))
        return found


Parser = DilatedParser | RecogniserParser | MobileNetParser
PARSERS: dict[Trunk, type[Parser]] = {
    "resnet50": DilatedParser,
    "recogniser": RecogniserParser,
    "mobilenet": MobileNetParser,
}


class ParsingAttention(nn.Module):
    """Deep features (N, D, h, w) and logits (N, C, h, w) to features (N, G·C, h, w) of which channel j·C + c is of
    class c: weighed by the class's probability at the place, and by one gate for each class (section III-B).
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes, self.group = classes, width // classes
        self.out = self.group * classes
        squeezed = self.out // SQUEEZE
        self.project = nn.Conv2d(width, self.out, 1)
        self.gate = nn.Sequential(nn.Linear(self.out, squeezed), nn.ReLU(), nn.Linear(squeezed, classes), nn.Sigmoid())

    def forward(self, high: Tensor, logits: Tensor) -> Tensor:
        parts = self.project(high).unflatten(1, (self.group, self.classes)) * logits.softmax(1)[:, None]
        gates = self.gate(parts.flatten(1, 2).mean((2, 3)))
        weighed: Tensor = (parts * gates[:, None, :, None, None]).flatten(1, 2)
        return weighed


class ConcatBlock(nn.Module):
    """Three 3×3 convolutions after norm and ReLU, each on the one before; their outputs side by side are added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, half, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(quarter), nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return x + torch.cat([first, second, third], 1)


class AgeNet(nn.Module):
    """Shallow features, deep features and logits of a parser to logits of the ages (N, A)."""

    def __init__(self, low: int, high: int, classes: int, config: FPAgeConfig) -> None:
        super().__init__()
        self.attention = ParsingAttention(high, classes) if config.attention else None
        seen = low + (self.attention.out if self.attention else high + classes)
        self.reduce = nn.Conv2d(seen, config.width, 1)
        self.blocks = nn.ModuleList(ConcatBlock(config.width) for _ in range(config.blocks))
        self.head = nn.Sequential(
            nn.Linear(config.width, config.hidden),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.ages),
        )

    def forward(self, low: Tensor, high: Tensor, logits: Tensor) -> Tensor:
        parts = [high, logits.softmax(1)] if self.attention is None else [self.attention(high, logits)]
        x = self.reduce(torch.cat([low, *parts], 1))
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
        ages: Tensor = self.head(x.mean((2, 3)))
        return ages


class FPAge(System):
    """Apparent age as a distribution over years (arXiv 2106.11145).

    forward: polar views (N, 3, S, S), or aligned crops where the configuration says so, in [−1, 1], BGR as published or
    RGB if compact, to logits of the ages 0, 1, … (N, A); with `return_aux` also the parser's logits (N, C, h, w) at
    stride 8.
    `temperature` divides the logits before an interval is read from them, in millionths; 0 until `calibrate` sets it.
    Raises UsageError for other shapes.
    """

    slug: ClassVar[str] = "fpage"
    Config: ClassVar[type[FPAgeConfig]] = FPAgeConfig
    config: FPAgeConfig
    temperature: Tensor

    def __init__(self, config: FPAgeConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.trunk not in PARSERS:
            raise UsageError(f"FP-Age has no parser {c.trunk!r}; choose one of {', '.join(PARSERS)}")
        if not c.polar and c.crop != c.size:
            raise UsageError("views that are not polar are aligned crops: give both the same side")
        self.parser = PARSERS[c.trunk]()
        self.parser.requires_grad_(not c.frozen)
        self.age_net = AgeNet(self.parser.low_width, self.parser.high_width, len(CLASSES[c.trunk]), c)
        self.register_buffer("temperature", torch.zeros(1, dtype=torch.int32))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        colour = "BGR" if config.trunk == "resnet50" else "RGB"
        if not config.crop:
            return Preprocess(CropSpec.whole(config.size), colour=colour)
        if config.polar:
            return Preprocess(CropSpec.aligned(config.crop), colour=colour)
        if config.trunk == "recogniser":
            return FirstStages.preprocess(config.crop)
        return Preprocess(CropSpec.aligned(config.crop, zoom=NEAR, centre=NEAR_CENTRE), colour=colour)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the parser's classes in the order of its logits."""
        return CLASSES[self.config.trunk]

    def train(self, mode: bool = True) -> Self:
        """As of every module, but a frozen parser stays in evaluation mode: its norms must not follow the batch."""
        super().train(mode)
        self.parser.train(mode and not self.config.frozen)
        return self

    def forward(self, image: Tensor, *, return_aux: bool = False) -> Any:
        side = self.config.crop or self.config.size
        if image.dim() != 4 or image.shape[1] != 3 or (self.config.crop and image.shape[2:] != (side, side)):
            raise UsageError(f"FP-Age takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        cut = self.config.crop and self.config.polar
        views = sample(image, self.grid(image, self.config.size), align_corners=True) if cut else image
        low, high, parsing = self.parser(views)
        logits = self.age_net(low, high, parsing)
        return (logits, parsing) if return_aux else logits

    def grid(self, crops: Tensor, size: int) -> Tensor:
        """(N, size, size, 2) where in aligned crops a polar view finds its pixels, for `nn.sampling.sample`."""
        box = crops.new_tensor([CROP_BOX], dtype=torch.float32) * crops.shape[3] - 0.5
        return polar_grid(box, size, size, crops.shape[2:]).expand(len(crops), -1, -1, -1)

    def expected(self, logits: Tensor) -> Tensor:
        """(N, A) logits to the mean age of each distribution (N,), in years."""
        years = torch.arange(self.config.ages, device=logits.device, dtype=torch.float32)
        return logits.float().softmax(1) @ years

    def estimate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[AgeEstimate]:
        """Apparent age of each face of an (H, W, 3) uint8 RGB photo, with an interval where it was calibrated."""
        return [
            age
            for group in batches(faces, _BATCH)
            for age in self.read(self._scores(photo, group).double().cpu().numpy())
        ]

    def read(self, logits: NDArray[np.floating[Any]]) -> list[AgeEstimate]:
        """(N, A) logits to mean ages, and the middle 80 % of the distributions at the calibrated temperature."""
        years = np.arange(self.config.ages)
        ages = softmax(logits) @ years
        scale = int(self.temperature) / _MILLIONTHS
        if not scale:
            return [AgeEstimate(float(age), None, None) for age in ages]
        low, high = interval(softmax(logits / scale))
        lowest = np.clip(low, 0, ages)  # the year 0 begins half a year before birth
        return [AgeEstimate(*map(float, row)) for row in zip(ages, lowest, np.maximum(high, ages))]

    def calibrate(self, logits: NDArray[np.floating[Any]], ages: NDArray[np.floating[Any]]) -> float:
        """Choose the temperature at which the intervals of (N, A) logits hold 80 % of the true ages (N,); returns it.

        Use people the network never saw, and measure the coverage on others again.
        """
        true = np.clip(ages, 0, self.config.ages - 1)
        scales = np.geomspace(0.2, 8, 200)
        held = [coverage(softmax(logits / scale), true) for scale in scales]
        best = float(scales[int(np.argmin(np.abs(np.array(held) - COVERAGE)))])
        self.temperature.fill_(round(best * _MILLIONTHS))
        return best

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        network = plain_copy(self, dtype)
        if isinstance(network.parser, RecogniserParser) and isinstance(self.parser, RecogniserParser):
            network.parser.stages = SeenOnce(self.parser.stages, dtype)  # type: ignore[assignment]
            network.parser.deeper = folded_copy(self.parser.deeper, dtype)  # type: ignore[assignment]
        else:
            network.parser = folded_copy(self.parser, dtype)  # type: ignore[assignment]
        return network

    @torch.inference_mode()
    def _scores(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> Tensor:
        if not faces:
            return torch.zeros(0, self.config.ages)
        sides = (False, True) if self.config.mirror else (False,)
        return self._mean([self._look(photo, faces, mirrored=mirrored) for mirrored in sides])

    @torch.inference_mode()
    def score_crops(self, crops: NDArray[np.uint8]) -> Tensor:
        """Logits of the ages (N, A) of (N, S, S, 3) uint8 RGB crops, of both sides where the configuration says so."""
        return self._mean([crops, crops[:, :, ::-1]] if self.config.mirror else [crops])

    def _mean(self, looks: Sequence[NDArray[np.uint8]]) -> Tensor:
        network, dtype = self.inference(), self.picture_dtype
        scores: list[Tensor] = [network(self.normalise(look).to(dtype)).float() for look in looks]
        if len(scores) == 1:
            return scores[0]
        # the mean of the two distributions, not of their logits: its expectation is the mean of the two ages
        return torch.stack([s.softmax(1) for s in scores]).mean(0).clamp_min(1e-12).log()

    def _look(self, photo: NDArray[np.uint8], faces: Sequence[Face], *, mirrored: bool) -> NDArray[np.uint8]:
        """What the network is fed of the faces, or of the mirrored ones."""
        crop = self.preprocess.crop
        if crop.kind == "template":
            cut = np.stack([crop.cut(photo, face).image for face in faces])
            return cut[:, :, ::-1] if mirrored else cut
        boxes = np.stack([face.box for face in faces]).astype(np.float32)
        if mirrored:
            boxes = mirrored_boxes(boxes, photo.shape[1], parity=self.config.parity)
            photo = photo[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float()
        size = self.config.size
        views = [polar_warp(pixels, torch.from_numpy(box[None]), size, size)[0] for box in boxes]
        return torch.stack(views).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def mirrored_boxes(boxes: NDArray[np.float32], width: int, *, parity: bool = False) -> NDArray[np.float32]:
    """Boxes (N, 4) x0, y0, x1, y1 in the mirrored picture of that width; `parity` is for the published helper's."""
    first, second = (1, 3) if parity else (0, 2)
    edge = width if parity else width - 1  # theirs counts edges, ours the centres of pixels
    moved = boxes.copy()
    moved[:, first], moved[:, second] = edge - boxes[:, second], edge - boxes[:, first]
    return moved


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities (N, A) of logits (N, A)."""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, 1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def interval(
    probabilities: NDArray[np.float64], held: float = COVERAGE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ages below and above which the same share of (N, A) probabilities lies, so that `held` is between them.

    The probability of a year is spread evenly from half a year before it to half a year after.
    """
    edges = np.arange(probabilities.shape[1] + 1) - 0.5
    rising = np.concatenate([np.zeros((len(probabilities), 1)), probabilities.cumsum(1)], 1)
    low, high = (np.array([np.interp(q, row, edges) for row in rising]) for q in ((1 - held) / 2, (1 + held) / 2))
    return low, high


def coverage(probabilities: NDArray[np.float64], ages: NDArray[np.floating[Any]]) -> float:
    """The share of the ages (N,) inside the intervals of their distributions (N, A)."""
    low, high = interval(probabilities)
    return float(((ages >= low) & (ages <= high)).mean())
