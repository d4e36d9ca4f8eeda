"""DDColor: colours for a grey picture from queries that have looked at it at three scales.

Paper: Kang, Yang, Ouyang, Ren, Li, Xie, "DDColor: Towards Photo-Realistic Image Colorization via Dual Decoders" (ICCV
2023, arXiv 2212.11613). A ConvNeXt sees the grey picture; the pixel decoder brings its features back to full size
(section 3.1), the colour decoder makes a hundred colours of learnt queries that attend to the decoder's maps (section
3.2), and every pixel takes what of each colour its features ask for (section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.attention import attend
from ....nn.convnext import CONVNEXTS, ChannelNorm, convnext
from ....nn.inference import AutocastCopy
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDE = 32
_SCALES = 3
_TEMPERATURE = 10_000.0


@dataclass(frozen=True)
class DDColorConfig:
    """Shape of the network; the defaults are the published large one (227.9 M parameters).

    size: side of the square the whole picture is scaled to. trunk: name of the ConvNeXt. width: channels of the pixel
    decoder's first two maps; half of it in the last. queries, layers, heads, hidden: of the colour decoder.
    """

    size: int = 512
    trunk: str = "large"
    width: int = 512
    queries: int = 100
    layers: int = 9
    heads: int = 8
    hidden: int = 2048

    @classmethod
    def tiny(cls) -> Self:
        """On the smallest ConvNeXt (55.0 M parameters)."""
        return cls(trunk="tiny")

    @classmethod
    def compact(cls) -> Self:
        """64 px and narrow decoders, for experiments."""
        return cls(size=64, trunk="tiny", width=64, queries=12, layers=3, heads=4, hidden=64)


class Shuffle(nn.Module):
    """1×1 convolution, ReLU, `scale` times the side by pixel shuffle; each pixel averaged with those above and left.

    `norm` puts a batch norm after the convolution, which then has no bias.
    """

    def __init__(self, c_in: int, c_out: int, scale: int, *, norm: bool) -> None:
        super().__init__()
        wide = c_out * scale**2
        self.conv = nn.Conv2d(c_in, wide, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(wide) if norm else nn.Identity()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.relu(self.norm(self.conv(x))), self.scale)
        return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, 1)


class UpBlock(nn.Module):
    """Twice the side, beside the trunk's features of that side; (N, c_in, H, W) and a skip to (N, c_out, 2H, 2W)."""

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.shuffle = Shuffle(c_in, c_out, 2, norm=True)
        self.norm_skip = nn.BatchNorm2d(c_skip)
        self.conv = nn.Conv2d(c_out + c_skip, c_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        both = F.relu(torch.cat((self.shuffle(x), self.norm_skip(skip)), 1))
        out: Tensor = self.norm(F.relu(self.conv(both)))
        return out


class Attention(nn.Module):
    """Multi-head attention; queries and keys with positions added, values without."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, Q, C), (N, K, C), (N, K, C) to (N, Q, C)."""
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases))
        answer: Tensor = self.out(attend(q, k, v, self.heads))
        return answer


class ColourLayer(nn.Module):
    """Queries look at a map, then at each other, then pass two linear layers; a norm after each sum."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross, self.norm_cross = Attention(dim, heads), nn.LayerNorm(dim)
        self.own, self.norm_own = Attention(dim, heads), nn.LayerNorm(dim)
        self.expand, self.reduce, self.norm = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.LayerNorm(dim)

    def forward(self, queries: Tensor, places: Tensor, source: Tensor, positions: Tensor) -> Tensor:
        """queries and their `places` (N, Q, C), a map `source` and its `positions` (N, K, C)."""
        x = self.norm_cross(queries + self.cross(queries + places, source + positions, source))
        x = self.norm_own(x + self.own(x + places, x + places, x))
        out: Tensor = self.norm(x + self.reduce(F.relu(self.expand(x))))
        return out


class ColourDecoder(nn.Module):
    """Colours (N, queries, C) from the pixel decoder's maps, coarse to fine."""

    def __init__(self, widths: tuple[int, ...], dim: int, config: DDColorConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.queries, dim))
        self.places = nn.Parameter(torch.randn(config.queries, dim))
        self.scales = nn.Parameter(torch.randn(_SCALES, dim))
        self.inputs = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)
        self.layers = nn.ModuleList(ColourLayer(dim, config.heads, config.hidden) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, maps: list[Tensor]) -> Tensor:
        count, dim = len(maps[0]), self.queries.shape[1]
        sources = [_tokens(conv(x)) + level for conv, x, level in zip(self.inputs, maps, self.scales)]
        positions = [wave_positions(x.shape[2], x.shape[3], dim, x.device).to(x.dtype) for x in maps]
        queries, places = (x.expand(count, -1, -1) for x in (self.queries, self.places))
        for index, layer in enumerate(self.layers):
            level = index % _SCALES
            queries = layer(queries, places, sources[level], positions[level])
        colours: Tensor = self.head(self.norm(queries))
        return colours


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def wave_positions(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Positions (1, height · width, dim) as sines and cosines of rows, then of columns, each from just above 0 to 2π.

    As in DETR (Carion et al., ECCV 2020): frequencies fall from 1 to 1/10,000.
    """
    half = dim // 2
    step = torch.arange(half, dtype=torch.float32, device=device)
    frequency = _TEMPERATURE ** (-2 * torch.div(step, 2, rounding_mode="floor") / half)
    waves = []
    for count in (height, width):
        place = torch.arange(1, count + 1, dtype=torch.float32, device=device) / (count + 1e-6) * (2 * math.pi)
        phase = place[:, None] * frequency
        waves.append(torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), 2).flatten(1))
    rows, columns = waves
    grid = torch.cat((rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), 2)
    return grid.view(1, height * width, dim)


class DDColor(System):
    """Colouring by two decoders (arXiv 2212.11613).

    forward: a grey picture as RGB (N, 3, H, W), normalised as ImageNet, sides multiples of 32, to the colour channels
    a and b of CIE Lab (N, 2, H, W).
    """

    slug: ClassVar[str] = "ddcolor"
    Config: ClassVar[type[DDColorConfig]] = DDColorConfig
    config: DDColorConfig
    mapped = True

    def __init__(self, config: DDColorConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.size % _STRIDE or c.trunk not in CONVNEXTS:
            raise UsageError(f"DDColor needs a size divisible by {_STRIDE} and a trunk of {', '.join(CONVNEXTS)}")
        self.trunk = convnext(c.trunk)
        fine, middle, coarse, last = self.trunk.widths
        self.norms = nn.ModuleList(ChannelNorm(width) for width in self.trunk.widths)
        half = c.width // 2
        self.ups = nn.ModuleList(
            (UpBlock(last, coarse, c.width), UpBlock(c.width, middle, c.width), UpBlock(c.width, fine, half))
        )
        self.full = Shuffle(half, half, 4, norm=False)
        self.colours = ColourDecoder((c.width, c.width, half), half, c)
        self.mix = nn.Conv2d(c.queries + 3, 2, 1)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        """The whole picture, scaled to a square."""
        return Preprocess(CropSpec.whole(config.size), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % _STRIDE or image.shape[3] % _STRIDE:
            raise UsageError(f"DDColor takes (N, 3, H, W) with sides of {_STRIDE} times n, not {tuple(image.shape)}")
        taps = [norm(x) for norm, x in zip(self.norms, self.trunk(image))]
        maps = []
        x = taps[-1]
        for up, skip in zip(self.ups, reversed(taps[:-1])):
            x = up(x, skip)
            maps.append(x)
        colours = self.colours(maps)
        return self._mixed(image, self.full(x), colours)

    def _mixed(self, image: Tensor, features: Tensor, colours: Tensor) -> Tensor:
        """How much of each colour every pixel asks for, and the picture itself, mixed to two channels.

        Mixing the colours before the pixels ask for them is the same, and makes no map of a hundred channels.
        """
        weight = self.mix.weight.flatten(1)
        asked, plain = weight[:, : self.config.queries], weight[:, self.config.queries :, None, None]
        kernels = asked @ colours
        mixed = torch.einsum("noc,nchw->nohw", kernels.to(features.dtype), features)
        return mixed + F.conv2d(image, plain, self.mix.bias)

    @torch.inference_mode()
    def colourise(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of any size to the same lightness in the colours the network invents."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"colourise needs (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        lightness = _lab(image)[..., 0]
        side = self.config.size
        small: Any = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < min(height, width) else 1)
        grey = _rgb(np.stack([_lab(small)[..., 0], *np.zeros((2, side, side), np.float32)], 2))
        pair = self.inference()(self.normalise(grey[None])).float()
        pair = F.interpolate(pair, (height, width), mode="bilinear", align_corners=False)[0].cpu().numpy()
        return _rgb(np.stack([lightness, pair[0], pair[1]], 2))

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return AutocastCopy(self, dtype, (nn.Conv2d, nn.Linear), self._been_read)


def _lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _rgb(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    found = cv2.cvtColor(np.ascontiguousarray(lab, np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.rint(found * 255).clip(0, 255), np.uint8)
