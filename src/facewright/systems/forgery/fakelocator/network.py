"""FakeLocator: where a face was changed, as a grey map at full size (Huang et al., TIFS 2022, arXiv 2001.09598).

Generators enlarge small maps to pictures, and the way they do it leaves a texture that can be found locally. So the map
is not a mask but a measure of how much each pixel was changed, and the network keeps a path at full resolution, where
that texture has not been averaged away. A parser of the *input* says where the parts of the face are; its attention
multiplies a feature of the encoder, so that what was learned of one part helps with another.

The code of the paper is not public and its layers are not printed: the encoder and decoder here are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.batching import padded
from ....nn.inference import folded_copy, plain_copy
from ....tasks.card import Preprocess
from ....tasks.forensics import Examination
from ...base import System, batches
from ..features import FixedFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

Trunk = Literal["own", "fixed"]
Attention = Literal["none", "mul", "residual"]
Pooling = Literal["mean", "both"]

REGIONS = 19
"""Classes of the parser whose soft map guides the attention (CelebAMask-HQ)."""
ZOOM, CENTRE = 1.3, (0.5, 0.55)
BATCH = 8


@dataclass(frozen=True, slots=True)
class FakeLocatorConfig:
    """Shape of the network; the defaults are the full size.

    size: side of the crop in pixels, a multiple of 16.
    trunk: `own`, residual blocks from full resolution down; `fixed`, few layers on features that are not learned: the
        local spectrum and the embedded parser's maps.
    widths: channels at strides 1, 2, 4, 8 and 16; blocks: residual blocks at the last four of them. 0 where a fixed
        trunk has none.
    up: channels of the decoder at strides 8, 4, 2 and 1, as far down as the map is drawn before it is enlarged.
    attention: how the parser's soft map acts on the features at stride 8: F·a (`mul`), F·(1 + a) (`residual`), or not.
    kinds: classes of the branch, real first: 2, or 3 where edited and generated faces are told apart.
    pooling: of the branch, mean, or mean and maximum for edits of a small part.
    """

    size: int = 256
    trunk: Trunk = "own"
    widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 256)
    blocks: tuple[int, int, int, int] = (2, 2, 3, 3)
    up: tuple[int, ...] = (256, 128, 64, 32)
    attention: Attention = "residual"
    kinds: int = 2
    pooling: Pooling = "mean"

    @classmethod
    def compact(cls) -> Self:
        """What ships: fixed features, a map at stride 8, edited and generated told apart."""
        return cls(256, "fixed", (0, 0, 0, 48, 96), (0, 0, 1, 1), (48,), "none", 3, "both")


class Located(NamedTuple):
    """`map` (N, 1, S, S): how much each pixel was changed, before the sigmoid. `kind` (N, K): logits, real first."""

    map: Tensor
    kind: Tensor


class FakeLocator(System):
    """Encoder, decoder and branch; see the module's text.

    forward: (N, 3, S, S) RGB in [−1, 1], and the parser's soft map (N, 19, S, S) where attention is on, to `Located`.
    """

    slug: ClassVar[str] = "fakelocator"
    Config: ClassVar[type[FakeLocatorConfig]] = FakeLocatorConfig
    config: FakeLocatorConfig

    def __init__(self, config: FakeLocatorConfig | None = None) -> None:
        super().__init__(config)
        _check(self.config)
        self.encoder = Encoder(self.config) if self.config.trunk == "own" else FixedEncoder(self.config)
        self.decoder = Decoder(self.config)
        channels = self.config.widths[4] * (2 if self.config.pooling == "both" else 1)
        self.kind_head = nn.Linear(channels, self.config.kinds)

    @classmethod
    def preprocess_for(cls, config: FakeLocatorConfig) -> Preprocess:
        """The face from the forehead to below the chin, on FFHQ's template."""
        return Preprocess(CropSpec.aligned(config.size, "ffhq", zoom=ZOOM, centre=CENTRE))

    def forward(self, image: Tensor, regions: Tensor | None = None) -> Located:
        return self.locate(self.encoder(image, regions))

    def locate(self, features: list[Tensor]) -> Located:
        """The encoder's features, deepest last, to the map and the kind."""
        return Located(self.decoder(features), self.kind_head(self.pooled(features[-1])))

    def pooled(self, deepest: Tensor) -> Tensor:
        """(N, C) or (N, 2C) of the encoder's last feature: what the branch and single-sample clustering see."""
        mean = deepest.mean((2, 3))
        return torch.cat([mean, deepest.amax((2, 3))], 1) if self.config.pooling == "both" else mean

    @torch.inference_mode()
    def examine(self, crops: NDArray[np.uint8], regions: NDArray[np.float32] | None = None) -> Examination:
        """(N, S, S, 3) uint8 RGB crops, and the parser's maps (N, 19, S, S) where attention is on, to what is said.

        Raises UsageError for crops of another size, and for soft maps that are missing or not wanted.
        """
        side = self.config.size
        if crops.ndim != 4 or crops.shape[1:] != (side, side, 3) or crops.dtype != np.uint8:
            raise UsageError(f"{self.slug} takes uint8 crops (N, {side}, {side}, 3), not {crops.shape} {crops.dtype}")
        if (regions is None) is not (self.config.attention == "none"):
            raise UsageError(f"{self.slug}: give the parser's maps if, and only if, these weights have attention")
        rows = range(len(crops))
        found = [
            self._examined(crops[part], None if regions is None else regions[part]) for part in batches(rows, BATCH)
        ]
        if not found:
            return Examination.of_kinds(np.zeros((0, self.config.kinds)), np.zeros((0, side, side), np.float32))
        kinds, maps = zip(*found)
        return Examination.of_kinds(np.concatenate(kinds), np.concatenate(maps))

    def _examined(
        self, crops: NDArray[np.uint8], regions: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        dtype = self.picture_dtype
        x = padded(self.normalise(crops).to(dtype if self.config.trunk == "own" else torch.float32))
        network = self.inference(dtype)
        if regions is None:
            found = network(x)
        else:
            found = network(x, padded(torch.from_numpy(regions).to(self.device, dtype)))
        kind = found[1].float().softmax(1)[: len(crops)].double()
        return kind.cpu().numpy(), found[0].float().sigmoid()[: len(crops), 0].cpu().numpy()

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        if self.config.trunk == "own":
            return folded_copy(self, dtype)
        form: Any = plain_copy(self, dtype)
        form.encoder.fixed.trunk = folded_copy(self.encoder.fixed.trunk, dtype)  # type: ignore[arg-type, union-attr]
        return form  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Residual features at strides 1 to 16. The first convolution keeps the size: traces of up-sampling are fine."""

    def __init__(self, config: FakeLocatorConfig) -> None:
        super().__init__()
        widths = config.widths
        self.stem = conv(3, widths[0])
        high_pass(self.stem[0])  # type: ignore[arg-type]
        self.levels = nn.ModuleList(
            level(c_in, c_out, count) for c_in, c_out, count in zip(widths, widths[1:], config.blocks)
        )
        self.attention = None if config.attention == "none" else RegionAttention(widths[3], config.attention)

    def forward(self, image: Tensor, regions: Tensor | None = None) -> list[Tensor]:
        features = [self.stem(image)]
        for number, part in enumerate(self.levels):
            x = part(features[-1])
            if number == 2 and self.attention is not None:
                x = self.attention(x, regions)
            features.append(x)
        return features


class FixedEncoder(nn.Module):
    """A few trained layers on `FixedFeatures`, at strides 8 and 16."""

    def __init__(self, config: FakeLocatorConfig) -> None:
        super().__init__()
        near, far = FixedFeatures.channels
        first, second = config.widths[3:]
        self.fixed = FixedFeatures()
        self.scale = nn.ModuleList([nn.BatchNorm2d(near), nn.BatchNorm2d(far)])
        self.enter = nn.Sequential(conv(near, first, kernel=1), *(Residual(first) for _ in range(config.blocks[2])))
        self.down = conv(first, second, 2)
        self.join = nn.Sequential(
            conv(second + far, second, kernel=1), *(Residual(second) for _ in range(config.blocks[3]))
        )

    def forward(self, image: Tensor, regions: Tensor | None = None) -> list[Tensor]:
        return self.learnt(self.fixed(image))

    def learnt(self, fixed: list[Tensor]) -> list[Tensor]:
        """From the fixed features of a picture, which can be computed once, to the encoder's, deepest last."""
        near = self.enter(self.scale[0](fixed[0]))
        far = self.join(torch.cat([self.down(near), self.scale[1](fixed[1])], 1))
        return [near, far]

    def adopt(self, trunk: nn.Module) -> None:
        """Take the weights of the embedded parser's trunk."""
        state = trunk.state_dict()
        own = self.fixed.trunk
        own.load_state_dict({key: state[key] for key in own.state_dict()})


def level(c_in: int, c_out: int, blocks: int) -> nn.Sequential:
    """Half the size, then residual blocks."""
    return nn.Sequential(conv(c_in, c_out, 2), *(Residual(c_out) for _ in range(blocks)))


class RegionAttention(nn.Module):
    """Weights of features from the parser's soft map: 1×1 convolution, sigmoid, averaged to the features' size."""

    def __init__(self, channels: int, mode: Attention) -> None:
        super().__init__()
        self.proj = nn.Conv2d(REGIONS, channels, 1)
        self.mode = mode

    def forward(self, features: Tensor, regions: Tensor | None) -> Tensor:
        if regions is None:
            raise UsageError("this network attends to the parts of the face: give the parser's soft map of its input")
        pooled = F.adaptive_avg_pool2d(regions.to(features.dtype), (features.shape[-2], features.shape[-1]))
        weight: Tensor = self.proj(pooled).sigmoid()
        return features * weight if self.mode == "mul" else features * (1 + weight)


class Decoder(nn.Module):
    """From stride 16 up, each time joined with the encoder's features, to the map, enlarged to full size."""

    def __init__(self, config: FakeLocatorConfig) -> None:
        super().__init__()
        c_in = config.widths[4]
        layers = []
        for skip, c_out in zip(config.widths[3::-1], config.up):
            layers.append(conv(c_in + skip, c_out))
            c_in = c_out
        self.up = nn.ModuleList(layers)
        self.map_head = nn.Conv2d(c_in, 1, 1)
        nn.init.constant_(self.map_head.bias, -2.0)  # type: ignore[arg-type]  # a sigmoid of nearly nothing at the start
        self.enlarge = map_stride(config)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for number, layer in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = layer(torch.cat([x, features[-2 - number]], 1))
        x = self.map_head(x)
        if self.enlarge > 1:
            x = F.interpolate(x, scale_factor=float(self.enlarge), mode="bilinear", align_corners=False)
        return x


class Residual(nn.Module):
    """Two 3×3 convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels), nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def conv(c_in: int, c_out: int, stride: int = 1, *, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
    )


@torch.no_grad()
def high_pass(layer: nn.Conv2d) -> None:
    """Let half of the first kernels begin without their mean, so that they see texture and no brightness."""
    half = layer.out_channels // 2
    layer.weight[:half] -= layer.weight[:half].mean((2, 3), keepdim=True)


def map_stride(config: FakeLocatorConfig) -> int:
    """Pixels of the crop per pixel of the map before it is enlarged."""
    return 16 >> len(config.up)


def _check(config: FakeLocatorConfig) -> None:
    if config.size % 16 or config.size < 32:
        raise UsageError(f"a crop of {config.size} px is not possible; choose a multiple of 16")
    if not 1 <= len(config.up) <= (4 if config.trunk == "own" else 1):
        raise UsageError(f"a decoder of {len(config.up)} levels does not fit the {config.trunk} trunk")
    if config.trunk not in get_args(Trunk) or (config.trunk == "fixed" and config.attention != "none"):
        raise UsageError(f"trunk {config.trunk!r} does not go with attention {config.attention!r}")
    if config.attention not in get_args(Attention) or config.pooling not in get_args(Pooling):
        raise UsageError(f"unknown attention {config.attention!r} or pooling {config.pooling!r}")
    if config.kinds not in (2, 3):
        raise UsageError(f"faces are of 2 or 3 kinds, not {config.kinds}")
