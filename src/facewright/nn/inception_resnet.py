"""Inception-ResNet-v1 (Szegedy et al. 2016, arXiv 1602.07261, sections 3.2 and 3.3) as face recognition uses it.

The form is that of David Sandberg's facenet: to the paper's three stages it adds a last block that is neither scaled
nor rectified, and the classifier is replaced by a linear embedding with a batch norm.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_EPS = 1e-3
_SCALES = (0.17, 0.10, 0.20)
_WIDTHS = (256, 896, 1792)


class Unit(NamedTuple):
    """A convolution of a branch; `kernel` is (height, width). It is padded only where it keeps the size."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


_BLOCK_A = (
    (Unit(32),),
    (Unit(32), Unit(32, (3, 3))),
    (Unit(32), Unit(32, (3, 3)), Unit(32, (3, 3))),
)
_BLOCK_B = ((Unit(128),), (Unit(128), Unit(128, (1, 7)), Unit(128, (7, 1))))
_BLOCK_C = ((Unit(192),), (Unit(192), Unit(192, (1, 3)), Unit(192, (3, 1))))
_REDUCTION_A = ((Unit(384, (3, 3), 2),), (Unit(192), Unit(192, (3, 3)), Unit(256, (3, 3), 2)))
_REDUCTION_B = (
    (Unit(256), Unit(384, (3, 3), 2)),
    (Unit(256), Unit(256, (3, 3), 2)),
    (Unit(256), Unit(256, (3, 3)), Unit(256, (3, 3), 2)),
)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, cin: int, cout: int, kernel: tuple[int, int], stride: int = 1, *, pad: bool = True) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else 0
        conv = nn.Conv2d(cin, cout, kernel, stride, padding, bias=False)
        super().__init__(conv, nn.BatchNorm2d(cout, _EPS), nn.ReLU())


class Branches(nn.Module):
    """Branches that see the same input and are joined along the channels; with `pool`, a max pool of stride 2 too."""

    def __init__(self, cin: int, branches: tuple[tuple[Unit, ...], ...], *, pool: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(cin, units) for units in branches)
        if pool:
            self.branches.append(nn.MaxPool2d(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _branch(cin: int, units: tuple[Unit, ...]) -> nn.Sequential:
    inputs = [cin, *(unit.width for unit in units)]
    return nn.Sequential(*(ConvNorm(c, u.width, u.kernel, u.stride, pad=u.stride == 1) for c, u in zip(inputs, units)))


class ResidualInception(Branches):
    """Branches projected back to the width of the input, scaled and added to it; a ReLU follows unless `linear`."""

    def __init__(
        self, width: int, branches: tuple[tuple[Unit, ...], ...], scale: float, *, linear: bool = False
    ) -> None:
        super().__init__(width, branches)
        self.project = nn.Conv2d(sum(units[-1].width for units in branches), width, 1)
        self.scale = scale
        self.activation = nn.Identity() if linear else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(x + self.scale * self.project(super().forward(x)))
        return y


class InceptionResNetV1(nn.Module):
    """(N, 3, S, S) to (N, dim) embeddings that are not normalised; S is 160 in use and at least 75.

    `blocks` are the numbers of blocks of the three stages, at 17, 8 and 3 px for an input of 160; `dropout` is that in
    front of the embedding. Raises UsageError unless there are three stages.
    """

    def __init__(self, blocks: tuple[int, ...] = (5, 10, 5), dim: int = 512, *, dropout: float = 0.6) -> None:
        super().__init__()
        if len(blocks) != 3:
            raise UsageError(f"an Inception-ResNet-v1 has three stages of blocks, not {len(blocks)}")

        def stage(index: int, branches: tuple[tuple[Unit, ...], ...]) -> nn.Sequential:
            width, scale = _WIDTHS[index], _SCALES[index]
            return nn.Sequential(*(ResidualInception(width, branches, scale) for _ in range(blocks[index])))

        self.stem = nn.Sequential(
            ConvNorm(3, 32, (3, 3), 2, pad=False),
            ConvNorm(32, 32, (3, 3), pad=False),
            ConvNorm(32, 64, (3, 3)),
            nn.MaxPool2d(3, 2),
            ConvNorm(64, 80, (1, 1)),
            ConvNorm(80, 192, (3, 3), pad=False),
            ConvNorm(192, 256, (3, 3), 2, pad=False),
        )
        self.blocks_a = stage(0, _BLOCK_A)
        self.reduce_a = Branches(_WIDTHS[0], _REDUCTION_A, pool=True)
        self.blocks_b = stage(1, _BLOCK_B)
        self.reduce_b = Branches(_WIDTHS[1], _REDUCTION_B, pool=True)
        self.blocks_c = stage(2, _BLOCK_C)
        self.last = ResidualInception(_WIDTHS[2], _BLOCK_C, 1.0, linear=True)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(_WIDTHS[2], dim, bias=False)
        self.norm = nn.BatchNorm1d(dim, _EPS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce_a(self.blocks_a(self.stem(x)))
        x = self.reduce_b(self.blocks_b(x))
        pooled = self.last(self.blocks_c(x)).mean((2, 3))
        y: Tensor = self.norm(self.embed(self.dropout(pooled)))
        return y


_STAGES = {
    "conv2d_1a": "stem.0",
    "conv2d_2a": "stem.1",
    "conv2d_2b": "stem.2",
    "conv2d_3b": "stem.4",
    "conv2d_4a": "stem.5",
    "conv2d_4b": "stem.6",
    "repeat_1": "blocks_a",
    "mixed_6a": "reduce_a",
    "repeat_2": "blocks_b",
    "mixed_7a": "reduce_b",
    "repeat_3": "blocks_c",
    "block8": "last",
    "last_linear": "embed",
    "last_bn": "norm",
}
_PARTS = {"conv": "0", "bn": "1", "conv2d": "project"}


def from_facenet_pytorch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """facenet-pytorch's state dict as ours; keys of its classifier and of other networks stay as they are."""
    return {_from_facenet_pytorch(key): value for key, value in state.items()}


def _from_facenet_pytorch(key: str) -> str:
    stage, _, rest = key.partition(".")
    if stage not in _STAGES:
        return key
    rest = re.sub(r"\bbranch(\d)\.(?=conv|bn)", r"branches.\1.0.", rest)  # a branch of one unit does not number it
    rest = re.sub(r"\bbranch(\d)\.", r"branches.\1.", rest)
    return ".".join([_STAGES[stage], *(_PARTS.get(part, part) for part in rest.split("."))])
