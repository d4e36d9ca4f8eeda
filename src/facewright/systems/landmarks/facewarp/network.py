"""FaceWarp: 68 landmarks of a face in any style (Liang, Liu, Xu and Luo, CVPR 2024, arXiv 2404.12322).

The landmarker is SLPT (Xia et al., CVPR 2022): local patches of a feature map around every point become tokens, and a
transformer in which the points ask each other says where in its patch each point lies; patches shrink from stage to
stage. The conditional warper bends a labelled real face until its landmarks lie on those predicted for a stylised face,
so that faces without labels can teach; see `facewarp_training` for how the two alternate.

The compact form is ours: a depthwise backbone on crops aligned by five points, a first guess instead of the mean shape,
and a confidence for every point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....face import Landmarks
from ....geometry.crop import CropSpec
from ....geometry.similarity import invert, transform_points
from ....nn.batching import padded
from ....nn.inference import folded_copy
from ....nn.sampling import exact, pixels, sample
from ....render.conventions import weights98
from ....tasks.card import Preprocess
from ...base import System, batches
from ...detect.mos.network import InvertedResidual, conv_norm
from .hrnet import HRNet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ....face import Face

POINTS = 68
PATCH = 7  # places a side at which a patch reads the feature map
BATCH = 32

# fmt: off
_MEAN_SHAPE = (
    (224, 473), (225, 547), (233, 621), (246, 695), (271, 765), (312, 825), (366, 875), (428, 912), (500, 924),
    (572, 912), (634, 875), (688, 825), (729, 765), (754, 695), (767, 621), (775, 547), (776, 473), (281, 420),
    (315, 392), (360, 384), (407, 390), (451, 405), (549, 405), (593, 390), (640, 384), (685, 392), (719, 420),
    (500, 460), (500, 506), (500, 550), (500, 596), (440, 635), (468, 646), (500, 653), (532, 646), (560, 635),
    (332, 472), (363, 455), (397, 455), (428, 475), (396, 483), (362, 483), (572, 475), (603, 455), (637, 455),
    (668, 472), (638, 483), (604, 483), (391, 726), (430, 707), (472, 697), (500, 704), (528, 697), (570, 707),
    (609, 726), (573, 763), (533, 783), (500, 786), (467, 783), (427, 763), (405, 727), (471, 721), (500, 725),
    (529, 721), (595, 727), (531, 747), (500, 750), (469, 747),
)  # thousandths of the FFHQ crop: the mean of frontal press photos and their mirror images
MIRROR_68 = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
])
"""For each of the 68 points (iBUG order) the one that takes its place in the mirror image."""
MIRROR_98 = np.array([
    *range(32, -1, -1), *range(46, 41, -1), *range(50, 46, -1), *range(37, 32, -1), *range(41, 37, -1),
    *range(51, 55), *range(59, 54, -1), 72, 71, 70, 69, 68, 75, 74, 73, 64, 63, 62, 61, 60, 67, 66, 65,
    *range(82, 75, -1), *range(87, 82, -1), *range(92, 87, -1), 95, 94, 93, 97, 96,
])
"""The same for the 98 points of WFLW."""
# fmt: on

# crops of the compact form: the FFHQ crop without most of the hair and background
ZOOM, ZOOM_CENTRE = 1.25, (0.5, 0.62)
BOX_MARGIN = 0.1  # of the full form's crop, on every side, in shares of the box's longer side
MIDDLE_OFFSET = 0.5  # px: the middle of a box lies at size / 2 of the crop
NEAR = 0.03  # of the crop's side, about a tenth of the eye distance: how near is near enough for the confidence


@dataclass(frozen=True, slots=True)
class FaceWarpConfig:
    """Size of the landmarker; the defaults are the published ones.

    size: side of the crop. backbone: `hrnet` on upright box crops, with the mean shape to begin with, or our
        `depthwise` on aligned crops, with a first guess and confidences of its own.
    dim, heads, layers, feedforward, dropout: of the transformer; `dim` is also the width of the feature map.
    half_boxes: per stage, half the side of a patch as a share of the crop.
    wflw: a further head for the 98 points of WFLW.
    """

    size: int = 256
    backbone: Literal["hrnet", "depthwise"] = "hrnet"
    dim: int = 256
    heads: int = 8
    layers: int = 6
    feedforward: int = 1024
    dropout: float = 0.1
    half_boxes: tuple[float, ...] = (1 / 8, 1 / 16, 1 / 32)
    wflw: bool = False

    @classmethod
    def compact(cls) -> Self:
        """What ships: 128 px crops, under a million parameters, fast on a processor."""
        return cls(128, "depthwise", 64, 4, 2, 128, 0.0, half_boxes=(1 / 12, 1 / 24))


class Prediction(NamedTuple):
    """Landmarks of N crops; coordinates are shares of the crop's side, a pixel's centre p being p / side.

    `start` (N, 68, 2) is where the first stage looks, `points` (N, stages, layers, 68, 2) what every layer of every
    stage says; the last is the answer. `scale` (N, 68) is the scale of the error of each point. `wflw` (N, 98, 2).
    """

    start: Tensor
    points: Tensor
    scale: Tensor
    wflw: Tensor | None

    @property
    def last(self) -> Tensor:
        return self.points[:, -1, -1]


def aligned_crop(size: int) -> CropSpec:
    """The crops of the compact form, which it was trained on."""
    return CropSpec.aligned(size, margin=BOX_MARGIN, zoom=ZOOM, centre=ZOOM_CENTRE, offset=MIDDLE_OFFSET)


def mean_shape(config: FaceWarpConfig) -> Tensor:
    """(68, 2) the average face in the crop of a configuration."""
    shape = torch.tensor(_MEAN_SHAPE) / 1000
    if config.backbone == "depthwise":
        return (shape - torch.tensor(ZOOM_CENTRE)) * ZOOM + 0.5
    low, high = shape.amin(0), shape.amax(0)
    return (shape - (low + high) / 2) / ((1 + 2 * BOX_MARGIN) * (high - low).max()) + 0.5


class DepthwiseBackbone(nn.Module):
    """Inverted residuals at three resolutions, summed from coarse to fine: (N, 3, S, S) to (N, dim, S / 4, S / 4)."""

    STEM: ClassVar[int] = 24
    STAGES: ClassVar[tuple[tuple[int, int], ...]] = ((32, 3), (64, 4), (128, 4))  # width, blocks

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, self.STEM, 3, 2), nn.ReLU(inplace=True))
        stages, cin = [], self.STEM
        for width, count in self.STAGES:
            rest = [InvertedResidual(width, width, 1, 2) for _ in range(count - 1)]
            stages.append(nn.Sequential(InvertedResidual(cin, width, 2, 2), *rest))
            cin = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Sequential(*conv_norm(width, dim, 1)) for width, _ in self.STAGES)
        self.smooth = nn.Sequential(*conv_norm(dim, dim, 3, groups=dim), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        levels = []
        for stage, lateral in zip(self.stages, self.lateral):
            x = stage(x)
            levels.append(lateral(x))
        top = levels.pop()
        while levels:
            top = levels.pop() + F.interpolate(top, scale_factor=2.0, mode="bilinear")
        features: Tensor = self.smooth(top)
        return features


class InherentLayer(nn.Module):
    """Pre-norm decoder layer of SLPT: points ask each other, then the patches, then a small network."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tensor, structure: Tensor, query: Tensor) -> Tensor:
        """Points `x` and patch `tokens` (N, 68, D), encodings `structure` and `query` (1, 68, D)."""
        normed = self.norm1(x)
        asking = normed + query
        x = x + self.dropout(self.self_attn(asking, asking, normed, need_weights=False)[0])
        normed = self.norm2(x)
        seen = self.multihead_attn(normed + query, tokens + structure, tokens, need_weights=False)[0]
        x = x + self.dropout(seen)
        hidden = self.dropout(F.relu(self.linear1(self.norm3(x))))
        x = x + self.dropout(self.linear2(hidden))
        return x


class InherentRelation(nn.Module):
    """The transformer over the points: tokens (N, 68, D) to every layer's normalised output, (N, layers, 68, D)."""

    def __init__(self, config: FaceWarpConfig) -> None:
        super().__init__()
        shape = (1, POINTS, config.dim)
        self.structure, self.query = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape))) for _ in range(2))
        self.layers = nn.ModuleList(
            InherentLayer(config.dim, config.heads, config.feedforward, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.zeros_like(tokens)
        outputs = []
        for layer in self.layers:
            x = layer(x, tokens, self.structure, self.query)
            outputs.append(self.norm(x))
        return torch.stack(outputs, 1)


def patch_boxes(centres: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Low and high corners (N, K, 2) of the patches around points (N, K, 2), cut at the crop's border."""
    return (centres - half).clamp(0, 1), (centres + half).clamp(0, 1)


def read_patches(features: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """7×7 bilinear readings of (N, C, H, W) features in K boxes (N, K, 2): (N, K, C · 49), channels first.

    Coordinate 0 is the centre of the first feature pixel and 1 that of the last.
    """
    number, points = low.shape[:2]
    grid = 2 * _patch_places(low, high).flatten(1, 2) - 1
    read = sample(features, grid, padding_mode="border", align_corners=True)
    return read.view(number, -1, points, PATCH * PATCH).transpose(1, 2).flatten(2)


@exact
def _patch_places(low: Tensor, high: Tensor) -> Tensor:
    """(N, K, 7, 7, 2) x and y of the readings in K boxes."""
    steps = torch.linspace(0, 1, PATCH, device=low.device)
    x, y = (low[..., None] + (high - low)[..., None] * steps).unbind(2)
    shape = (*low.shape[:2], PATCH, PATCH)
    return torch.stack([x[:, :, None, :].expand(shape), y[:, :, :, None].expand(shape)], -1)


class WflwHead(nn.Module):
    """The 98 points of WFLW from the 68 and their tokens.

    They start as the fixed mixtures of the 68 that they nearly are, the pupils as the middles of their eyes, and the
    network says how far each one is off.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        pupils = torch.zeros(2, POINTS)
        pupils[0, 36:42] = pupils[1, 42:48] = 1 / 6
        mixture = torch.cat([torch.from_numpy(weights98()), pupils])
        self.mixture: Tensor
        self.register_buffer("mixture", mixture, persistent=False)
        self.mix = nn.Parameter(mixture.clone())
        self.offset = nn.Linear(dim, 2)

    def forward(self, points: Tensor, tokens: Tensor, half: float) -> Tensor:
        """Points (N, 68, 2) and tokens (N, 68, D) to (N, 98, 2); offsets are in units of `half`."""
        offset: Tensor = self.offset(self.mix @ tokens)
        return self.mixture @ points + half * offset


class FaceWarp(System):
    """The landmarker; see the module's text.

    forward: (N, 3, S, S) RGB in [−1, 1] to a `Prediction`. Crops are upright and square around the box for the
    published form, and aligned by five points for the compact one; `preprocess.crop` says exactly how.
    `mirror` averages the answers for a crop and its mirror image in `landmarks`: twice the time, a little more exact.
    """

    slug: ClassVar[str] = "facewarp"
    Config: ClassVar[type[FaceWarpConfig]] = FaceWarpConfig
    config: FaceWarpConfig
    mirror: bool = True

    def __init__(self, config: FaceWarpConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.backbone not in ("hrnet", "depthwise"):
            raise UsageError(f"unknown backbone {c.backbone!r} of facewarp; known: hrnet, depthwise")
        own = c.backbone == "depthwise"
        self.mean: Tensor
        self.register_buffer("mean", mean_shape(c), persistent=False)
        self.backbone: nn.Module = DepthwiseBackbone(c.dim) if own else HRNet(c.dim)
        self.first_guess = _first_guess(c) if own else None
        self.extract = nn.Linear(c.dim * PATCH * PATCH, c.dim, bias=False)
        self.relation = InherentRelation(c)
        self.place = nn.Linear(c.dim, 2)
        self.spread = nn.Linear(c.dim, 1) if own else None
        self.wflw = WflwHead(c.dim) if c.wflw else None
        nn.init.normal_(self.place.weight, std=0.01)
        nn.init.constant_(self.place.bias, 0.5)  # the middle of the patch

    @classmethod
    def preprocess_for(cls, config: FaceWarpConfig) -> Preprocess:
        """Box crops for the published form; for the compact one crops on FFHQ's template, zoomed in."""
        if config.backbone == "depthwise":
            return Preprocess(aligned_crop(config.size))
        return Preprocess(CropSpec.boxed(config.size, margin=BOX_MARGIN, offset=MIDDLE_OFFSET))

    def forward(self, image: Tensor) -> Prediction:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"{self.slug} takes crops (N, 3, {side}, {side}), not {tuple(image.shape)}")
        return self.refine(self.backbone(image))

    def refine(self, features: Tensor) -> Prediction:
        """The prediction from the backbone's features (N, dim, S / 4, S / 4), always in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self._refine(features.float())

    def _refine(self, features: Tensor) -> Prediction:
        start = self.mean.expand(len(features), -1, -1)
        if self.first_guess is not None:
            start = start + self.first_guess(features).view(-1, POINTS, 2)
        at, stages, tokens = start, [], features
        for half in self.config.half_boxes:
            low, high = patch_boxes(at.detach(), half)
            tokens = self.relation(self.extract(read_patches(features, low, high)))
            stages.append(low[:, None] + (high - low)[:, None] * self.place(tokens))
            at = stages[-1][:, -1]
        points, last = torch.stack(stages, 1), tokens[:, -1]
        wflw = None if self.wflw is None else self.wflw(at, last, half)
        return Prediction(start, points, self._scale(points, last), wflw)

    def _scale(self, points: Tensor, tokens: Tensor) -> Tensor:
        """Scale of each point's error as a share of the crop: said by the network, or how much its answers differ."""
        if self.spread is not None:
            said: Tensor = self.spread(tokens).squeeze(-1)
            return NEAR * said.clamp(-8, 4).exp()
        layers = (points[:, -1] - points[:, -1, -1:]).norm(dim=-1).mean(1)
        stages = (points[:, -1, -1] - points[:, -2, -1]).norm(dim=-1)
        differ: Tensor = (layers + stages) / 2
        return differ.clamp_min(1e-4)

    @torch.inference_mode()
    def landmarks(self, crops: NDArray[np.uint8], *, mirror: bool | None = None) -> Landmarks:
        """(N, S, S, 3) uint8 RGB crops, cut by `preprocess.crop`, to landmarks in crop pixels; `mirror` overrules the
        network's own."""
        both = self.mirror if mirror is None else mirror
        found = [self._located(crops[i : i + BATCH], both) for i in range(0, len(crops), BATCH)]
        if not found:
            return Landmarks(np.zeros((0, POINTS, 2), np.float32), np.zeros((0, POINTS), np.float32))
        points, scale = (torch.cat(parts).cpu() for parts in zip(*found))
        return Landmarks(points.numpy(), confidence(scale).numpy())

    def _located(self, crops: NDArray[np.uint8], mirror: bool) -> tuple[Tensor, Tensor]:
        """Points in pixels and their scales, of the crops and perhaps their mirror images together."""
        found = self._predict(crops)
        points, scale = found.last * self.config.size, found.scale
        if mirror:
            other = self._predict(np.ascontiguousarray(crops[:, :, ::-1]))
            points = (points + mirrored(other.last * self.config.size, self.config.size)) / 2
            scale = (scale + other.scale[:, MIRROR_68]) / 2
        return points, scale

    @torch.inference_mode()
    def landmarks98(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) crops to the (N, 98, 2) points of WFLW in crop pixels; UsageError for weights without them."""
        if self.wflw is None:
            raise UsageError("these weights give 68 landmarks; 98 need a network with wflw=True")
        rows = [self._predict(crops[i : i + BATCH]).wflw for i in range(0, len(crops), BATCH)]
        found = torch.cat([row for row in rows if row is not None]) if rows else torch.zeros(0, 98, 2)
        return np.asarray((found * self.config.size).cpu().numpy(), np.float32)

    def _predict(self, crops: NDArray[np.uint8]) -> Prediction:
        side = self.config.size
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3) or crops.dtype != np.uint8:
            raise UsageError(f"{self.slug} takes uint8 crops (N, {side}, {side}, 3), not {crops.shape} {crops.dtype}")
        count = len(crops)
        dtype = self.picture_dtype
        images = padded(self.normalise(crops).to(dtype)).contiguous(memory_format=torch.channels_last)
        found = self.refine(self.inference(dtype)(images).to(self.dtype))
        return Prediction(*(None if part is None else part[:count] for part in found))  # type: ignore[arg-type]

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return folded_copy(self.backbone, dtype)

    def locate(self, image: NDArray[np.uint8], faces: Sequence[Face], *, mirror: bool | None = None) -> list[Landmarks]:
        """Landmarks of the faces of an (H, W, 3) uint8 RGB photo in photo pixels, in the order of the faces.

        Memory is bounded: so many crops are cut at a time as run together. `mirror` overrules the network's own.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"locate needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        located: list[Landmarks] = []
        crop = self.preprocess.crop
        for group in batches(faces, BATCH):
            crops = [crop.cut(image, face) for face in group]
            found = self.landmarks(np.stack([cut.image for cut in crops]), mirror=mirror)
            for cut, points, sure in zip(crops, *found):
                located.append(Landmarks(transform_points(invert(cut.matrix), points).astype(np.float32), sure))
        return located


def _first_guess(config: FaceWarpConfig) -> nn.Sequential:
    """A linear map of coarse features to the offsets of all points from the mean shape."""
    cells = (config.size // 16) ** 2
    reduce = [*conv_norm(config.dim, 32, 1), nn.ReLU(inplace=True), nn.Flatten()]
    last = nn.Linear(32 * cells, 2 * POINTS)
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.AvgPool2d(4), *reduce, last)


def confidence(scale: Tensor) -> Tensor:
    """The probability that a point with an error of that scale (a share of the crop) lies within 3 % of its place.

    The error is taken to be Laplace-distributed in the plane, with a density falling as exp(−distance / scale).
    """
    ratio = NEAR / scale
    return 1 - (1 + ratio) * torch.exp(-ratio)


def mirrored(points: Tensor, side: int) -> Tensor:
    """Landmarks (..., 68 or 98, 2) in pixels of a crop as they lie in its mirror image."""
    table = MIRROR_68 if points.shape[-2] == POINTS else MIRROR_98
    swapped = points[..., table, :]
    return torch.stack([side - 1 - swapped[..., 0], swapped[..., 1]], -1)


# --- the conditional warper ----------------------------------------------------------------------------------------

_RIDGE = 1e-9  # keeps two predicted points that coincide from making the system singular
_GREY = (0.299, 0.587, 0.114)


@exact
def spline_flow(control: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    """Second-order polyharmonic spline through `values` (N, K, 2) at `control` points (N, K, 2), read at `queries`.

    φ(r) = r² log r with an affine part, solved exactly in double precision. Queries are (N, Q, 2); so is the result.
    """
    centre, spread = control.mean(1, keepdim=True), control.detach().std().clamp_min(1e-9)
    points = ((control - centre) / spread).double()
    number, count, _ = points.shape
    affine = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    kernel = _thin_plate(points, points) + _RIDGE * torch.eye(count, dtype=points.dtype, device=points.device)
    zero = points.new_zeros(number, 3, 3)
    system = torch.cat([torch.cat([kernel, affine], 2), torch.cat([affine.transpose(1, 2), zero], 2)], 1)
    right = torch.cat([values.double(), points.new_zeros(number, 3, 2)], 1)
    solved = torch.linalg.solve(system, right).to(queries.dtype)
    at = (queries - centre) / spread
    linear = torch.cat([at, torch.ones_like(at[..., :1])], -1) @ solved[:, count:]
    flow: Tensor = _thin_plate(at, points.to(at.dtype)) @ solved[:, :count] + linear
    return flow


def _thin_plate(a: Tensor, b: Tensor) -> Tensor:
    """r² log r between (N, A, 2) and (N, B, 2); 0 where they coincide, also in its gradient."""
    squared = (a[:, :, None] - b[:, None]).square().sum(-1)
    return 0.5 * squared * squared.clamp_min(1e-12).log()


def warp(images: Tensor, landmarks: Tensor, wanted: Tensor, *, detached: bool = False) -> Tensor:
    """Bend images (N, C, H, W) until their `landmarks` (N, K, 2) lie on the `wanted` ones, in pixels.

    The flow is defined on the output: out(p) = image(p − flow(p)) and flow = wanted − landmarks at the wanted points,
    so the gradient of what is seen reaches `wanted`. `detached` cuts it there, as the published code does (its
    interpolation weights carry no gradient, and only batch statistics move in its warper phase).
    """
    height, width = images.shape[-2:]
    places = pixels(height, width, images).flatten(0, 1).expand(len(images), -1, -1)
    flow = spline_flow(wanted, wanted - landmarks, places)
    if detached:
        flow = flow.detach()
    last = places.new_tensor([width - 1, height - 1])
    grid = (2 * (places - flow) / last - 1).view(-1, height, width, 2)
    return sample(images, grid, padding_mode="border", align_corners=True)


def edges(images: Tensor) -> Tensor:
    """Sobel magnitude (N, 1, H, W) of the luma of RGB images (N, 3, H, W); filters sum to one on either side."""
    grey = torch.einsum("nchw,c->nhw", images, images.new_tensor(_GREY))[:, None]
    across = images.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = torch.stack([across, across.T])[:, None]
    slopes: Tensor = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
    return (slopes.square().sum(1, keepdim=True) + 1e-6).sqrt()


# --- published checkpoints -----------------------------------------------------------------------------------------
