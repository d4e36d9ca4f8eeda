"""LPIPS (Zhang et al., CVPR 2018): distance of unit-normalised deep features, weighted per channel.

The weights are not ours to ship. Put into `$FACEWRIGHT_HOME/lpips` (default `~/.cache/facewright/lpips`), or name:

- the ImageNet backbone in torchvision's layout, as `alexnet.pth` or `vgg16.pth` (files `alexnet-owt-7be5be79.pth`,
  `vgg16-397923af.pth` of PyTorch's model zoo), or the same as `.safetensors`;
- LPIPS's linear weights v0.1, as `lpips_alex.pth` or `lpips_vgg.pth` (`alex.pth`, `vgg.pth` of the authors'
  repository richzhang/PerceptualSimilarity), or the same as `.safetensors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError
from ..weights.store import cache_dir, load_published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Network = Literal["alex", "vgg"]

EPSILON = 1e-10
INPUT_SHIFT = (-0.030, -0.088, -0.188)
INPUT_SCALE = (0.458, 0.448, 0.450)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution followed by ReLU; `tap` marks those whose output is compared, `pool` a max pool before it."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: bool = False
    tap: bool = False


ALEXNET = (
    Conv(64, 11, 4, 2, tap=True),
    Conv(192, 5, 1, 2, pool=True, tap=True),
    Conv(384, pool=True, tap=True),
    Conv(256, tap=True),
    Conv(256, tap=True),
)
VGG16 = (
    Conv(64),
    Conv(64, tap=True),
    Conv(128, pool=True),
    Conv(128, tap=True),
    Conv(256, pool=True),
    Conv(256),
    Conv(256, tap=True),
    Conv(512, pool=True),
    Conv(512),
    Conv(512, tap=True),
    Conv(512, pool=True),
    Conv(512),
    Conv(512, tap=True),
)
LAYERS: dict[str, tuple[Conv, ...]] = {"alex": ALEXNET, "vgg": VGG16}
POOL_KERNEL = {"alex": 3, "vgg": 2}
BACKBONE_FILE = {"alex": "alexnet", "vgg": "vgg16"}


class LPIPS(nn.Module):
    """LPIPS v0.1 with the `alex` or `vgg` backbone; build it with `from_files` to have trained weights.

    `forward(a, b)`: two (N, 3, H, W) RGB tensors in [-1, 1] to (N,) distances; differentiable, lower is closer.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: Network = "alex") -> None:
        super().__init__()
        if network not in LAYERS:
            raise UsageError(f"LPIPS has the networks {', '.join(LAYERS)}, not {network!r}")
        self.network = network
        self.features = _backbone(LAYERS[network], POOL_KERNEL[network])
        self.taps = frozenset(_taps(LAYERS[network]))
        self.linear = nn.ParameterList(
            nn.Parameter(torch.ones(layer.channels)) for layer in LAYERS[network] if layer.tap
        )
        self.register_buffer("shift", torch.tensor(INPUT_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(INPUT_SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_files(
        cls, network: Network = "alex", *, backbone: str | Path | None = None, linear: str | Path | None = None
    ) -> Self:
        """LPIPS with the user's weight files; by default those in the cache folder (see the module's description).

        Raises WeightsError that says what is missing and where it goes.
        """
        model = cls(network)
        model.load_backbone(load_published(backbone or _cached(BACKBONE_FILE[network], "ImageNet backbone")))
        model.load_linear(load_published(linear or _cached(f"lpips_{network}", "LPIPS linear layers v0.1")))
        return model

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the convolutions of a torchvision state dict (`features.N.weight`, classifier ignored)."""
        wanted = self.features.state_dict()
        _copy(wanted, {key: state.get(f"features.{key}") for key in wanted}, "features.", self.network)

    def load_linear(self, state: Mapping[str, Tensor]) -> None:
        """Take the linear weights of the authors' layout (`linI.model.1.weight`, (1, C, 1, 1))."""
        wanted = {str(i): weight.data for i, weight in enumerate(self.linear)}
        found = {i: state.get(f"lin{i}.model.1.weight", state.get(f"lins.{i}.model.1.weight")) for i in wanted}
        flat = {i: None if weight is None else weight.flatten() for i, weight in found.items()}
        _copy(wanted, flat, "lin", self.network)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The compared features of (N, 3, H, W) pictures in [-1, 1], each of unit length per pixel."""
        x = (x - self.shift) / self.scale
        kept = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                kept.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + EPSILON))
        return kept

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distance = a.new_zeros(len(a))
        for fa, fb, weight in zip(self.stages(a), self.stages(b), self.linear, strict=True):
            distance = distance + torch.einsum("nchw,c->nhw", (fa - fb) ** 2, weight).mean((1, 2))
        return distance


def _backbone(layers: tuple[Conv, ...], pool_kernel: int) -> nn.Sequential:
    """The layers in torchvision's numbering: convolution, ReLU, and pools in between."""
    modules: list[nn.Module] = []
    previous = 3
    for layer in layers:
        if layer.pool:
            modules.append(nn.MaxPool2d(pool_kernel, 2))
        modules.append(nn.Conv2d(previous, layer.channels, layer.kernel, layer.stride, layer.padding))
        modules.append(nn.ReLU())
        previous = layer.channels
    return nn.Sequential(*modules)


def _taps(layers: tuple[Conv, ...]) -> list[int]:
    """Indices of the ReLUs in `_backbone` whose output is compared."""
    indices, position = [], -1
    for layer in layers:
        position += 3 if layer.pool else 2
        if layer.tap:
            indices.append(position)
    return indices


def _copy(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor | None], prefix: str, network: str) -> None:
    for key, parameter in wanted.items():
        value = found[key]
        if value is None or value.shape != parameter.shape:
            what = "is missing" if value is None else f"has shape {tuple(value.shape)}"
            raise WeightsError(f"weights do not fit LPIPS-{network}: {prefix}{key} {what}; another network's file?")
        parameter.copy_(value)


def _cached(stem: str, what: str) -> Path:
    folder = cache_dir() / "lpips"
    for suffix in (".safetensors", ".pth"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    source = "PyTorch's model zoo" if stem in BACKBONE_FILE.values() else "github.com/richzhang/PerceptualSimilarity"
    raise WeightsError(f"LPIPS needs the weights of its {what}: get them from {source} and save as {folder / stem}.pth")
