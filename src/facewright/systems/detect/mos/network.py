"""MOS: face boxes, five landmarks and head pose in one pass (Liu et al., BMVC 2021, arXiv 2110.10953).

A light backbone feeds a feature pyramid and SSH context modules; per level six task branches (class, box, landmarks,
yaw, pitch, roll) exchange features in a cross-stitch unit before their heads. Losses were never released; they are
rebuilt in `mos_training` from the paper and from RetinaFace, Hopenet and Stitcher, which it names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ....errors import UsageError
from ....face import Face, Pose
from ....geometry.crop import CropSpec
from ....nn.batching import padded
from ....nn.boxes import containment_nms, decode_boxes, decode_points, make_anchors, nms
from ....nn.deform import ModulatedDeformConv3x3
from ....nn.inference import converted, sharing_copy
from ....nn.sampling import exact
from ....tasks.card import Preprocess
from ...base import Precision, System
from .refiner import PointRefiner, refine_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))
ANCHORS = 2
TASKS = ("class", "box", "points", "yaw", "pitch", "roll")
BINS = 66
BIN_DEGREES = 3.0
LOWEST_ANGLE = -99.0
BACKBONES = ("mobilenetv2", "shufflenetv2")

# inference
_LEAST_ANCHORS = 16
NMS_IOU = 0.4
MOST_CANDIDATES = 1000
PYRAMID_STEP = 5.0  # the network knows faces of 10 to 220 px, so levels may lie this far apart
SMALLEST_SIDE = 320  # levels stop once the long side is below this
COARSE_SMALLEST = 36.0  # px; smaller faces on a coarser level are better seen on the finer one
TILE, TILE_OVERLAP = 1536, 256
REFINEMENTS = 2


@dataclass(frozen=True, slots=True)
class MOSConfig:
    """Size of the network; the defaults are the paper's MOS-M, `mos_s()` its smaller sister.

    `width` scales the backbone, `fpn` is the width of pyramid and branches, `deformable` chooses DCNv2 for the 3×3
    convolutions of pyramid and context modules, `pose_hidden` is the width inside a pose head. The published decoding
    takes the lower edge of each 3° bin as its angle, which biases all angles by −1.5°; `bin_centre` takes the centre.
    `refine` adds our second look at every face (see `refiner`), which is not in the paper.
    """

    backbone: str = "mobilenetv2"
    width: float = 1.0
    fpn: int = 64
    deformable: bool = True
    pose_hidden: int = 128
    bin_centre: bool = False
    refine: bool = False

    @classmethod
    def mos_s(cls) -> Self:
        """The paper's ShuffleNetV2 version."""
        return cls(backbone="shufflenetv2")

    @classmethod
    def compact(cls) -> Self:
        """What ships: the same topology, narrow and with ordinary convolutions, for real time on two CPU cores."""
        return cls("shufflenetv2", width=0.75, fpn=48, deformable=False, pose_hidden=24, bin_centre=True, refine=True)


class Predictions(NamedTuple):
    """Raw outputs for all A anchors of a batch of N images, coded relative to the anchors.

    `logits` (N, A, 2) background and face; `boxes` (N, A, 4); `points` (N, A, 5, 2); `angles` (N, A, 3, 66) logits of
    the bins of yaw, pitch and roll.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    angles: Tensor


def conv_norm(cin: int, cout: int, kernel: int, stride: int = 1, *, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias and its batch norm, to be unpacked into a Sequential (so that they can be fused)."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout)]


class InvertedResidual(nn.Module):
    """Block of MobileNetV2 (Sandler et al. 2018)."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = cin * expansion
        expand = [nn.Sequential(*conv_norm(cin, hidden, 1), nn.ReLU6(inplace=True))] if expansion > 1 else []
        depthwise = nn.Sequential(*conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True))
        self.conv = nn.Sequential(*expand, depthwise, *conv_norm(hidden, cout, 1))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _interleave(a: Tensor, b: Tensor) -> Tensor:
    """Concatenation and two-group channel shuffle in one copy, done channels-last."""
    pair = torch.stack((a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)), dim=-1)
    return pair.flatten(-2).permute(0, 3, 1, 2)


class ShuffleUnit(nn.Module):
    """Block of ShuffleNetV2 (Ma et al. 2018)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.stride = stride
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_norm(cin, cin, 3, stride, groups=cin), *conv_norm(cin, half, 1), nn.ReLU(inplace=True)
            )
        self.branch2 = nn.Sequential(
            *conv_norm(cin if stride > 1 else half, half, 1),
            nn.ReLU(inplace=True),
            *conv_norm(half, half, 3, stride, groups=half),
            *conv_norm(half, half, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            return _interleave(self.branch1(x), self.branch2(x))
        kept, changed = x.chunk(2, dim=1)
        return _interleave(kept, self.branch2(changed))


def _scaled(channels: int, width: float) -> int:
    """A channel count scaled by `width` and rounded to a multiple of four."""
    return 4 * max(4, round(channels * width / 4))


def _mobilenet_stages(width: float) -> tuple[list[nn.Module], list[int]]:
    plan = (  # expansion, channels, blocks, stride of the first
        ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2)),
        ((6, 64, 4, 2), (6, 96, 3, 1)),
        ((6, 160, 3, 2), (6, 320, 1, 1)),
    )
    cin = _scaled(32, width)
    stages: list[nn.Module] = []
    channels = []
    for groups in plan:
        blocks: list[nn.Module] = []
        if not stages:
            blocks.append(nn.Sequential(*conv_norm(3, cin, 3, 2), nn.ReLU6(inplace=True)))
        for expansion, base, count, first_stride in groups:
            for i in range(count):
                cout = _scaled(base, width)
                blocks.append(InvertedResidual(cin, cout, first_stride if i == 0 else 1, expansion))
                cin = cout
        stages.append(nn.Sequential(*blocks))
        channels.append(cin)
    return stages, channels


def _shufflenet_stages(width: float) -> tuple[list[nn.Module], list[int]]:
    cin = _scaled(24, width)
    stem = nn.Sequential(*conv_norm(3, cin, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    stages: list[nn.Module] = []
    channels = []
    for base, count in ((116, 4), (232, 8), (464, 4)):
        cout = _scaled(base, width)
        blocks: list[nn.Module] = [] if stages else [stem]
        blocks += [ShuffleUnit(cin if i == 0 else cout, cout, 2 if i == 0 else 1) for i in range(count)]
        stages.append(nn.Sequential(*blocks))
        channels.append(cout)
        cin = cout
    return stages, channels


class Backbone(nn.Module):
    """The three stages of a classification network that end at strides 8, 16 and 32."""

    def __init__(self, name: str, width: float) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise UsageError(f"unknown backbone {name!r} of mos; known: {', '.join(BACKBONES)}")
        stages, self.channels = _mobilenet_stages(width) if name == "mobilenetv2" else _shufflenet_stages(width)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def context_conv(cin: int, cout: int, deformable: bool, *, relu: bool) -> nn.Sequential:
    """3×3 convolution (DCNv2 with its own bias, or ordinary) with batch norm and perhaps ReLU."""
    layers: list[nn.Module] = conv_norm(cin, cout, 3)
    if deformable:
        layers[0] = ModulatedDeformConv3x3(cin, cout)
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Pyramid(nn.Module):
    """Feature pyramid: lateral 1×1 convolutions, nearest upsampling, a merging 3×3 convolution on the lower levels."""

    def __init__(self, channels: list[int], width: int, deformable: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(*conv_norm(c, width, 1), nn.LeakyReLU(0.1, inplace=True)) for c in channels
        )
        self.merge = nn.ModuleList(context_conv(width, width, deformable, relu=True) for _ in channels[:-1])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(f) for lateral, f in zip(self.lateral, features)]
        for i in reversed(range(len(self.merge))):
            above = F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
            levels[i] = self.merge[i](levels[i] + above)
        return levels


class SSH(nn.Module):
    """Context module (Najibi et al. 2017): 3×3, 5×5 and 7×7 receptive fields side by side."""

    def __init__(self, width: int, deformable: bool) -> None:
        super().__init__()
        quarter = width // 4
        self.conv3 = context_conv(width, width // 2, deformable, relu=False)
        self.trunk5 = context_conv(width, quarter, deformable, relu=True)
        self.conv5 = context_conv(quarter, quarter, deformable, relu=False)
        self.trunk7 = context_conv(quarter, quarter, deformable, relu=True)
        self.conv7 = context_conv(quarter, quarter, deformable, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        trunk = self.trunk5(x)
        return F.relu(torch.cat((self.conv3(x), self.conv5(trunk), self.conv7(self.trunk7(trunk))), dim=1))


class Branches(nn.Module):
    """The six task branches of one level: stitch convolutions, cross-stitch unit, heads.

    A stitch convolution is 1×1 without activation and the cross-stitch unit a per-channel linear mix, so both are one
    1×1 convolution with weights W_i = Σ_j diag(w_ij) S_j; the 1×1 heads of class, box and points fold into it as well.
    """

    def __init__(self, width: int, pose_hidden: int) -> None:
        super().__init__()
        tasks = len(TASKS)
        self.stitch_weight = nn.Parameter(torch.empty(tasks, width, width))
        self.stitch_bias = nn.Parameter(torch.zeros(tasks, width))
        self.cross = nn.Parameter(torch.full((tasks, tasks, width), 0.1))
        self.heads = nn.ModuleDict(
            {"class": nn.Linear(width, 2 * ANCHORS), "box": nn.Linear(width, 4 * ANCHORS)}
            | {"points": nn.Linear(width, 10 * ANCHORS)}
        )
        self.pose = nn.Sequential(
            nn.Conv2d(3 * width, 3 * pose_hidden, 3, padding=1, groups=3, bias=False),
            nn.BatchNorm2d(3 * pose_hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(3 * pose_hidden, 3 * ANCHORS * BINS, 1, groups=3),
        )
        nn.init.kaiming_uniform_(self.stitch_weight, a=5**0.5)
        with torch.no_grad():
            self.cross[range(tasks), range(tasks)] = 0.9

    def mixed(self) -> tuple[Tensor, Tensor]:
        """Weight (6, C, C) and bias (6, C) of stitch convolutions and cross-stitch unit together."""
        with torch.autocast(self.cross.device.type, enabled=False):
            weight = torch.einsum("ijc,jcd->icd", self.cross, self.stitch_weight)
            bias = torch.einsum("ijc,jc->ic", self.cross, self.stitch_bias)
        return weight, bias

    def detection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class (N, a, 2), box (N, a, 4) and point (N, a, 5, 2) outputs of the level's a anchors."""
        weight, bias = self.mixed()
        heads = [cast("nn.Linear", head) for head in self.heads.values()]
        with torch.autocast(self.cross.device.type, enabled=False):
            kernel = torch.cat([h.weight @ weight[i] for i, h in enumerate(heads)])
            shift = torch.cat([h.weight @ bias[i] + h.bias for i, h in enumerate(heads)])
        out = F.conv2d(x, kernel[..., None, None], shift).permute(0, 2, 3, 1)
        logits, boxes, points = torch.split(out, [h.out_features for h in heads], dim=-1)
        n = len(x)
        return logits.reshape(n, -1, 2), boxes.reshape(n, -1, 4), points.reshape(n, -1, 5, 2)

    def pose_features(self, x: Tensor) -> Tensor:
        """The (N, 3·C, H, W) inputs of the pose heads."""
        weight, bias = self.mixed()
        return F.conv2d(x, weight[3:].flatten(0, 1)[..., None, None], bias[3:].flatten())

    def angles(self, x: Tensor) -> Tensor:
        """Bin logits (N, a, 3, 66) of the level's anchors."""
        out: Tensor = self.pose(self.pose_features(x))
        n, _, height, width = out.shape
        out = out.view(n, 3, ANCHORS, BINS, height, width).permute(0, 4, 5, 2, 1, 3)
        return out.flatten(1, 3)


class MOS(System):
    """Face detector with landmarks and head pose; see the module's text."""

    slug: ClassVar[str] = "mos"
    Config: ClassVar[type[Any]] = MOSConfig
    precision: Precision = "fp32"  # landmarks place every later crop

    def __init__(self, config: MOSConfig | None = None) -> None:
        super().__init__(config)
        c: MOSConfig = self.config
        self.backbone = Backbone(c.backbone, c.width)
        self.pyramid = Pyramid(self.backbone.channels, c.fpn, c.deformable)
        self.context = nn.ModuleList(SSH(c.fpn, c.deformable) for _ in STRIDES)
        self.branches = nn.ModuleList(Branches(c.fpn, c.pose_hidden) for _ in STRIDES)
        self.refiner = PointRefiner().requires_grad_(False) if c.refine else None  # trained apart, on crops

    @classmethod
    def preprocess_for(cls, config: MOSConfig) -> Preprocess:
        """Whole photos of any size, BGR, 0–255 minus the ImageNet mean."""
        return Preprocess(CropSpec.whole(), colour="BGR", scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))

    def _branches(self) -> list[Branches]:
        return [cast("Branches", branch) for branch in self.branches]

    def features(self, images: Tensor) -> list[Tensor]:
        """The three levels (N, fpn, ceil(H / stride), ceil(W / stride)) the branches read."""
        levels = self.pyramid(self.backbone(images))
        return [context(level) for context, level in zip(self.context, levels)]

    def forward(self, images: Tensor) -> Predictions:
        """(N, 3, H, W) normalised images (see `preprocess`) to raw predictions for every anchor."""
        levels = self.features(images)
        branches = self._branches()
        detections = [branch.detection(x) for branch, x in zip(branches, levels)]
        logits, boxes, points = (torch.cat(parts, dim=1) for parts in zip(*detections))
        angles = torch.cat([branch.angles(x) for branch, x in zip(branches, levels)], dim=1)
        return Predictions(logits, boxes, points, angles)

    def angles_at(self, level: int, features: Tensor, image: Tensor, cell: Tensor, anchor: Tensor) -> Tensor:
        """Yaw, pitch, roll (K, 3) in degrees (Hopenet's signs) of K anchors of one level only.

        The pose heads hold half of the network's arithmetic and are needed for a handful of anchors: their 3×3
        neighbourhoods are gathered (`image`, `cell` (row · width + column), `anchor`: all (K,)) and only these run.
        """
        if len(cell) == 0:
            return features.new_zeros((0, 3))
        count = len(cell)
        image, cell, anchor = (padded(index, _LEAST_ANCHORS) for index in (image, cell, anchor))
        branch = self._branches()[level]
        height, width = features.shape[-2:]
        steps = torch.arange(3, device=cell.device)
        rows = (cell // width)[:, None, None] + steps[:, None]
        columns = (cell % width)[:, None, None] + steps
        patches = F.pad(features, (1, 1, 1, 1))[image[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
        inside = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
        first = cast("nn.Conv2d", branch.pose[0])
        stitched = branch.pose_features(patches) * inside[:, None]
        out = F.conv2d(stitched, first.weight, first.bias, groups=first.groups)
        out = branch.pose[1:](out)
        bins = out.view(-1, 3, ANCHORS, BINS)[torch.arange(len(cell), device=cell.device), :, anchor]
        return expected_angle(bins, centre=self.config.bin_centre)[:count]

    @torch.inference_mode()
    def detect(
        self, image: NDArray[np.uint8], *, threshold: float = 0.5, min_size: float = 12, max_side: int = 1280
    ) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB photo of any size, best score first; empty when there are none.

        `threshold` in (0, 1) is the least score; faces smaller than `min_size` photo pixels (geometric mean of the box
        sides) are left out. The photo is looked at with its long side at most `max_side` and on coarser levels for
        large faces: raise it to find faces below about 10/1280 of a large photo's long side (time and memory of one
        pass stay bounded: large levels are cut into overlapping tiles).
        """
        return self.detect_batch([image], threshold=threshold, min_size=min_size, max_side=max_side)[0]

    @torch.inference_mode()
    def follow(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[Face]:
        """Where faces of an earlier frame are in this one, (H, W, 3) uint8 RGB, given nearly right places.

        The refiner looks once at each; `score` is its probability of a face. Boxes move with the points. Without a
        refiner the faces come back as they are.
        """
        if self.refiner is None or not faces:
            return list(faces)
        looks = refine_points(self.refiner, image, [face.points5 for face in faces])
        return [_shifted(face, points, angles, score) for face, (points, angles, score) in zip(faces, looks)]

    @torch.inference_mode()
    def detect_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        threshold: float = 0.5,
        min_size: float = 12,
        max_side: int = 1280,
        refine: bool = True,
    ) -> list[list[Face]]:
        """`detect` for several photos; those of equal size (video frames) run together.

        `refine=False` gives what the one-pass network says, also where there is a refiner.
        """
        refiner = self.refiner if refine else None
        first = threshold if refiner is None else threshold**2  # the joint score cannot be above its root
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise UsageError(f"detect needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
            groups.setdefault(image.shape, []).append(index)
        results: list[list[Face]] = [[] for _ in images]
        for indices in groups.values():
            candidates = self._pyramid_candidates(np.stack([images[i] for i in indices]), first, max_side)
            for position, index in enumerate(indices):
                results[index] = select_faces(candidates.of_image(position), min_size)
                if refiner is not None:
                    results[index] = second_look(refiner, images[index], results[index], threshold)
        return results

    def _pyramid_candidates(self, images: NDArray[np.uint8], threshold: float, max_side: int) -> Candidates:
        """Candidates of all pyramid levels and tiles, in photo pixels."""
        height, width = images.shape[1:3]
        found = [Candidates.none(self.device)]
        for number, (rows, columns) in enumerate(level_sizes(height, width, max_side)):
            level = resize_all(images, rows, columns)
            stretch = (width / columns, height / rows)
            for top, left in tile_corners(rows, columns):
                tile = level[:, top : top + TILE, left : left + TILE]
                candidates = self._candidates(tile, threshold)
                if number > 0:
                    candidates = candidates.where(candidates.sizes() >= COARSE_SMALLEST)
                found.append(candidates.moved((left, top), stretch))
        return Candidates(*(torch.cat(parts) for parts in zip(*found)))

    def _candidates(self, images: NDArray[np.uint8], threshold: float) -> Candidates:
        """Decoded anchors above the threshold, in pixels of the (N, H, W, 3) images."""
        network = cast("MOS", self.inference())
        levels = network.features(self.normalise(images).to(self.picture_dtype))
        height, width = images.shape[1:3]
        found = [Candidates.none(self.device)]
        for number, (branch, features) in enumerate(zip(network._branches(), levels)):
            logits, boxes, points = branch.detection(features)
            scores = logits.float().softmax(-1)[..., 1]
            image, index = (scores > threshold).nonzero(as_tuple=True)
            if not len(image):
                continue
            best = scores[image, index].topk(min(len(image), MOST_CANDIDATES * len(images))).indices
            image, index = image[best], index[best]
            anchors = make_anchors(height, width, STRIDES[number : number + 1], ANCHOR_SIZES[number : number + 1])
            anchors = anchors.to(self.device)[index]
            found.append(
                Candidates(
                    image,
                    scores[image, index],
                    decode_boxes(boxes[image, index].float(), anchors),
                    decode_points(points[image, index].float(), anchors),
                    network.angles_at(number, features, image, index // ANCHORS, index % ANCHORS),
                )
            )
        return Candidates(*(torch.cat(parts) for parts in zip(*found)))

    def _inference_form(self, dtype: torch.dtype) -> MOS:
        """With batch norms folded into their convolutions."""
        twin = sharing_copy(self)
        fuse_norms(twin)
        return converted(twin, dtype)


class Candidates(NamedTuple):
    """Decoded anchors of a batch: `image` (K,) index, `scores` (K,), `boxes` (K, 4), `points` (K, 5, 2), `angles`
    (K, 3) yaw, pitch, roll in Hopenet's signs."""

    image: Tensor
    scores: Tensor
    boxes: Tensor
    points: Tensor
    angles: Tensor

    @classmethod
    def none(cls, device: torch.device) -> Candidates:
        empty = torch.zeros(0, device=device)
        return cls(empty.long(), empty, empty.view(0, 4), empty.view(0, 5, 2), empty.view(0, 3))

    def where(self, choice: Tensor) -> Candidates:
        """The candidates of a mask or an index."""
        return Candidates(*(part[choice] for part in self))

    def of_image(self, index: int) -> Candidates:
        return self.where(self.image == index)

    def sizes(self) -> Tensor:
        """Geometric mean of the box sides (K,)."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).clamp(min=0).prod(-1).sqrt()

    def moved(self, corner: tuple[int, int], stretch: tuple[float, float]) -> Candidates:
        """From pixels of a tile to pixels of the photo its level was made from (pixel centres at integers)."""
        shift = torch.tensor(corner, device=self.boxes.device) + 0.5
        scale = torch.tensor(stretch, device=self.boxes.device)
        points = (self.points + shift) * scale - 0.5
        boxes = (self.boxes.view(-1, 2, 2) + shift) * scale - 0.5
        return self._replace(points=points, boxes=boxes.flatten(1))


@exact
def expected_angle(bins: Tensor, *, centre: bool) -> Tensor:
    """Expectation in degrees over the last axis of bin logits; `centre` counts a bin at its centre, else its edge."""
    edges = LOWEST_ANGLE + BIN_DEGREES * torch.arange(BINS, device=bins.device, dtype=torch.float32)
    return bins.float().softmax(-1) @ (edges + BIN_DEGREES / 2 if centre else edges)


def fuse_norms(module: nn.Module) -> None:
    """Fold every batch norm that follows a convolution in a Sequential into it, in place (evaluation mode)."""
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        layers = list(parent)
        for i, (layer, following) in enumerate(zip(layers, layers[1:])):
            if isinstance(following, nn.BatchNorm2d) and isinstance(layer, (nn.Conv2d, ModulatedDeformConv3x3)):
                norm = following
                assert norm.running_mean is not None
                assert norm.running_var is not None
                layer.weight, layer.bias = fuse_conv_bn_weights(
                    layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                parent[i + 1] = nn.Identity()


def level_sizes(height: int, width: int, max_side: int) -> list[tuple[int, int]]:
    """(rows, columns) of the pyramid's levels, finest first; none for pictures too small to hold a face."""
    if min(height, width) < STRIDES[0]:
        return []
    side = float(min(max(height, width), max_side))
    sizes = []
    while True:
        factor = side / max(height, width)
        sizes.append((max(1, round(height * factor)), max(1, round(width * factor))))
        if side <= SMALLEST_SIDE or min(sizes[-1]) < 2 * COARSE_SMALLEST:
            return sizes
        side /= PYRAMID_STEP


def tile_corners(rows: int, columns: int) -> list[tuple[int, int]]:
    """(top, left) of overlapping tiles that cover a level."""

    def starts(length: int) -> list[int]:
        if length <= TILE:
            return [0]
        count = -(-(length - TILE_OVERLAP) // (TILE - TILE_OVERLAP))
        return [round(i * (length - TILE) / (count - 1)) for i in range(count)]

    return [(top, left) for top in starts(rows) for left in starts(columns)]


def resize_all(images: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """(N, H, W, 3) pictures area-averaged to (N, rows, columns, 3)."""
    if images.shape[1:3] == (rows, columns):
        return images
    size = (columns, rows)
    return np.stack([np.asarray(cv2.resize(i, size, interpolation=cv2.INTER_AREA), np.uint8) for i in images])


def plausible(boxes: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of K boxes (K, 4) carry points (K, 5, 2) that can be a face's, at any turn of the head.

    Points lie in or near the box; in the face's own frame the eyes are above the mouth, not crossed, and the nose is
    between; distances fit the box. The eye distance may shrink to almost nothing (profile).
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    size = np.sqrt(sides.prod(-1))
    relative = (points - boxes[:, None, :2]) / sides[:, None]
    near = ((relative > -0.25) & (relative < 1.25)).all((1, 2))
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    across, down = points[:, 1] - points[:, 0], mouth - eyes
    height = np.maximum(np.hypot(*down.T), 1e-6)
    uncrossed = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0] > -0.1 * height**2
    nose = ((points[:, 2] - eyes) * down).sum(-1) / height**2
    eye_distance = np.hypot(*across.T)
    fits = (height > 0.15 * size) & (height < 0.9 * size) & (eye_distance > 0.02 * size) & (eye_distance < 0.75 * size)
    return np.asarray(near & uncrossed & (nose > -0.15) & (nose < 1.2) & fits, bool)


def _shifted(face: Face, points: NDArray[np.float32], angles: NDArray[np.float64], score: float) -> Face:
    """A face whose points were corrected, its box moved with their middle."""
    shift = (points - face.points5).mean(0)
    box = (face.box + np.tile(shift, 2)).astype(np.float32)
    return replace(face, box=box, points5=points, pose=Pose(*(float(a) for a in angles)), score=score)


def second_look(refiner: PointRefiner, image: NDArray[np.uint8], faces: list[Face], threshold: float) -> list[Face]:
    """Faces with corrected points and pose; those whose joint score falls below the threshold are dropped.

    The joint score is the geometric mean of detector and refiner. The second correction starts from the first, so its
    crop is better placed.
    """
    for _ in range(REFINEMENTS):
        looks = refine_points(refiner, image, [face.points5 for face in faces])
        faces = [
            replace(face, points5=points, pose=Pose(*(float(a) for a in angles)))
            for face, (points, angles, _) in zip(faces, looks)
        ]
    joint = [float(np.sqrt(face.score * look[2])) for face, look in zip(faces, looks)] if faces else []
    kept = [replace(face, score=score) for face, score in zip(faces, joint) if score >= threshold]
    return sorted(kept, key=lambda face: -face.score)


def select_faces(candidates: Candidates, min_size: float) -> list[Face]:
    """Candidates of one photo to faces: plausible landmarks, NMS, no face within a face, best score first."""
    chosen = candidates.where(candidates.sizes() >= min_size)
    chosen = chosen.where(chosen.scores.argsort(descending=True)[:MOST_CANDIDATES])
    likely = plausible(chosen.boxes.cpu().numpy(), chosen.points.cpu().numpy())
    chosen = chosen.where(torch.from_numpy(likely).to(chosen.scores.device))
    chosen = chosen.where(nms(chosen.boxes, chosen.scores, NMS_IOU))
    chosen = chosen.where(containment_nms(chosen.boxes, chosen.scores))
    faces = []
    for score, box, points, angles in zip(*(part.cpu().numpy() for part in chosen[1:])):
        yaw, pitch, roll = (float(a) for a in angles)
        faces.append(Face(box, float(score), points, Pose(-yaw, pitch, roll)))
    return faces


# --- published checkpoints --------------------------------------------------------------------------------------
