"""IADG: every face is a domain of its own, and its style is taken out of what decides.

Paper: Zhou, Zhang, Yao, Lu, Yi, Ding, Ma, "Instance-Aware Domain Generalization for Face Anti-Spoofing"
(CVPR 2023, arXiv 2304.05640); details as in the published code (qianyuzqy/IADG). Kernels made for each picture, a
classifier and an estimate of depth on the same features, and in training styles assembled from those of the same class
(`Shader`) and a whitening of what they change (`training.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...base import System
from ..votes import votes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ....face import Face

_STRIDE = 8
_EPS = 1e-5


@dataclass(frozen=True)
class IADGConfig:
    """size: side of the crop in pixels. width: of the stem; twice that inside, 3.0625 times in the dynamic layers.

    styles: base styles of each class, for training; 0 leaves the shader out. unit_depth: depth is a sigmoid, so that it
    can be 0 everywhere. The published head ends in an instance norm, which cannot.
    """

    size: int = 256
    width: int = 64
    styles: int = 128
    unit_depth: bool = False

    @classmethod
    def compact(cls) -> Self:
        """96 px and narrow, for a processor."""
        return cls(size=96, width=16, styles=16, unit_depth=True)


class ConvNorm(nn.Sequential):
    """3×3 convolution, or a dynamic layer, then an instance norm without weights, and ReLU."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.instance_norm(self[0](x)))


def _conv(c_in: int, c_out: int) -> ConvNorm:
    return ConvNorm(nn.Conv2d(c_in, c_out, 3, 1, 1))


class DynamicKernels(nn.Module):
    """Half of the channels are filtered by 3×3 kernels made of their means, the others by learnt ones; then mixed."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half = c_in // 2
        self.kernel = nn.Conv2d(1, 9, 1)
        self.rescale = nn.Conv2d(1, 1, 1)
        self.static = nn.Conv2d(half, half, 3, 1, 1)
        self.fuse = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        half = channels // 2
        moving, still = x[:, :half], x[:, half:]
        means = moving.mean((2, 3)).view(count, 1, half, 1)
        kernels = self.rescale(self.kernel(means).transpose(1, 2).reshape(count, 1, half * 9, 1))
        kernels = kernels.reshape(count * half, 1, 3, 3)
        filtered = F.conv2d(moving.reshape(1, count * half, height, width), kernels, padding=1, groups=count * half)
        out: Tensor = self.fuse(torch.cat([filtered.view(count, half, height, width), self.static(still)], 1))
        return out


class Down(nn.Sequential):
    """Convolution, dynamic layer, convolution, and half the side."""

    def __init__(self, c_in: int, width: int) -> None:
        wide = width + width // 2 + width // 32
        super().__init__(_conv(c_in, width), ConvNorm(DynamicKernels(width, wide)), _conv(wide, width), nn.MaxPool2d(2))


class Features(nn.Module):
    """Pictures (N, 3, S, S) to features of three depths at S/8, (N, 6·width, S/8, S/8)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = _conv(3, width)
        self.stages = nn.ModuleList(Down(width if i == 0 else 2 * width, 2 * width) for i in range(3))

    def forward(self, image: Tensor) -> Tensor:
        x, found = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return torch.cat([*(F.adaptive_avg_pool2d(y, x.shape[2:]) for y in found[:-1]), x], 1)


class Classifier(nn.Module):
    """Features (N, C, H, W) to logits (N, 2): real, attack."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([_conv(c_in, width), _conv(width, 2 * width), _conv(2 * width, 4 * width)])
        self.last = nn.Linear(4 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.convolutions):
            x = layer(x if number == 0 else F.max_pool2d(x, 2))
        out: Tensor = self.last(x.mean((2, 3)))
        return out


class DepthHead(nn.Module):
    """Features (N, C, H, W) to depth (N, 1, H, W), not negative."""

    def __init__(self, c_in: int, width: int, *, unit: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(_conv(c_in, width), _conv(width, width // 2))
        self.last = nn.Conv2d(width // 2, 1, 3, 1, 1)
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        depth = self.last(self.convolutions(x))
        return depth.sigmoid() if self.unit else F.relu(F.instance_norm(depth))


class StyleAssembly(nn.Module):
    """Adds to features (N, C, H, W) themselves in a mixed style of their class (the paper's CSA).

    Base styles are means and deviations (L, C) of each class; they are 0 until they are first chosen
    (`training.choose_styles`).
    """

    def __init__(self, styles: int, channels: int) -> None:
        super().__init__()
        for name in ("live_mean", "live_std", "attack_mean", "attack_std"):
            self.register_buffer(name, torch.zeros(styles, channels))

    def forward(self, x: Tensor, attack: Tensor, weights: Tensor) -> Tensor:
        """`attack` (N,) tells the class, `weights` (N, L), rows of sum 1, mix its base styles."""
        variance, mean = torch.var_mean(x.detach(), (2, 3), keepdim=True)
        plain = (x - mean) / (variance + _EPS).sqrt()
        chosen = attack.bool()[:, None]
        means, stds = (
            torch.where(chosen, weights @ self.get_buffer(f"attack_{n}"), weights @ self.get_buffer(f"live_{n}"))
            for n in ("mean", "std")
        )
        return x + plain * stds[..., None, None] + means[..., None, None]


class Shader(nn.Module):
    """Two style assemblies and a last convolution; for training alone."""

    def __init__(self, styles: int, channels: int) -> None:
        super().__init__()
        self.styles = styles
        self.assemblies = nn.ModuleList(StyleAssembly(styles, channels) for _ in range(2))
        self.last = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def draw(self, count: int) -> Tensor:
        """Weights (2, N, L) of a Dirichlet distribution whose draws are nearly one style alone."""
        concentration = torch.full((self.styles,), 1 / self.styles)
        drawn: Tensor = torch.distributions.Dirichlet(concentration).sample((2, count))
        return drawn

    def forward(self, x: Tensor, attack: Tensor, weights: Tensor) -> Tensor:
        """(N, C, H, W) in other styles; `weights` (2, N, L) as `draw` gives them."""
        for assembly, mixed in zip(self.assemblies, weights, strict=True):
            x = assembly(x, attack, mixed.to(x))
        out: Tensor = self.last(x)
        return out


class IADG(System):
    """Liveness of a face in a single photo (arXiv 2304.05640).

    forward: (N, 3, S, S) RGB in [−1, 1] to logits (N, 2): real, attack. With `return_aux` a dict of `logits`, `depth`
    (N, 1, S/8, S/8), `features` and `plain`, the features behind the shader's last convolution.
    """

    slug: ClassVar[str] = "iadg"
    Config: ClassVar[type[IADGConfig]] = IADGConfig
    config: IADGConfig

    def __init__(self, config: IADGConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.size % (4 * _STRIDE) or c.size < 8 * _STRIDE:  # the last map has a variance
            raise UsageError(f"IADG takes crops whose side is a multiple of {4 * _STRIDE} from 64, not {c.size}")
        channels = 6 * c.width
        self.features = Features(c.width)
        self.classify = Classifier(channels, 2 * c.width)
        self.depth = DepthHead(channels, 2 * c.width, unit=c.unit_depth)
        self.shader = Shader(c.styles, channels) if c.styles else None

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.boxed(config.size, margin=0.15))

    def forward(self, crop: Tensor, *, return_aux: bool = False) -> Tensor | dict[str, Tensor]:
        side = self.config.size
        if crop.dim() != 4 or tuple(crop.shape[1:]) != (3, side, side):
            raise UsageError(f"this IADG takes images (N, 3, {side}, {side}), not {tuple(crop.shape)}")
        with torch.autocast(crop.device.type, enabled=False):  # norms of nearly even maps blow up what is rounded
            features = self.features(crop.float())
            logits: Tensor = self.classify(features)
            if not return_aux:
                return logits
            found = {"logits": logits, "depth": self.depth(features), "features": features}
            return found if self.shader is None else found | {"plain": self.shader.last(features)}

    def score(self, crops: Tensor) -> Tensor:
        """(N, 3, S, S) to the published score (N,), about 0…2: the vote for real and the mean depth."""
        features = self.features(crops)
        score: Tensor = self.classify(features).softmax(1)[:, 0] + self.depth(features).mean((1, 2, 3))
        return score

    def live(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float64]:
        """(H, W, 3) uint8 RGB and N faces in it to the vote (N,), 0…1, that each is live; no probability.

        It is the classifier's alone: depth has no scale of its own.
        """
        network = self.inference(torch.float32)
        return votes_of(self, photo, faces, lambda crops: network(crops).softmax(1)[:, 0])
