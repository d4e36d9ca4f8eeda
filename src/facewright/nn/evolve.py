"""IR and IR-SE networks in the layout of face.evoLVe: `input_layer`, `body`, `output_layer`.

The same idea as insightface's IResNet (pre-normalised residual blocks, stride in the second convolution, a linear
layer over the 7×7 map), but neither weights nor values are interchangeable: where a block keeps its width, the shortcut
just picks every other pixel. Two versions are in use: face.evoLVe's (also InsightFace_Pytorch and SFace) goes straight
from the first convolution to PReLU; TFace's (also AdaFace) has a batch norm in between, and in the last one no scale
and shift, which here are fixed at 1 and 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .prelu import PReLU

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}
STRIDE = 16
SE_REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Channel gate of Hu et al. (2018) without biases."""

    def __init__(self, channels: int, reduction: int = SE_REDUCTION) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * gate


class IRBlock(nn.Module):
    """Residual block; nothing is applied to the sum."""

    def __init__(self, cin: int, cout: int, stride: int, *, middle_norm: bool, squeeze: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.Conv2d(cin, cout, 3, 1, 1, bias=False),
            *([nn.BatchNorm2d(cout)] if middle_norm else []),
            PReLU(cout),
            nn.Conv2d(cout, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
            *([SqueezeExcite(cout)] if squeeze else []),
        )
        self.shortcut: nn.Module
        if cin == cout:
            self.shortcut = nn.MaxPool2d(1, stride)
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.residual(x) + self.shortcut(x)
        return y


class IRNet(nn.Module):
    """(N, 3, size, size) to (N, dim) embeddings that are not normalised; `size` is a multiple of 16.

    `depth` is 18, 34, 50 or 101; `tface` chooses TFace's version over face.evoLVe's, `squeeze` adds a channel gate to
    every block. Raises UsageError for another depth or size.
    """

    def __init__(
        self,
        depth: int = 50,
        dim: int = 512,
        *,
        tface: bool = True,
        squeeze: bool = False,
        size: int = 112,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise UsageError(f"there is no IR-{depth}; there are: {', '.join(f'IR-{d}' for d in DEPTHS)}")
        if size % STRIDE:
            raise UsageError(f"IR networks take crops whose side is a multiple of {STRIDE}, not {size}")
        cin = widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, cin, 3, 1, 1, bias=False), nn.BatchNorm2d(cin), PReLU(cin))
        blocks = []
        for width, count in zip(widths, DEPTHS[depth]):
            for stride in (2, *(1,) * (count - 1)):
                blocks.append(IRBlock(cin, width, stride, middle_norm=tface, squeeze=squeeze))
                cin = width
        self.body = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.Dropout(0.4 if tface else 0.5),
            nn.Flatten(),
            nn.Linear(cin * (size // STRIDE) ** 2, dim),
            nn.BatchNorm1d(dim),
        )
        self.head[-1].requires_grad_(not tface)
        self._initialise(tface)

    def _initialise(self, tface: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if tface:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.stem(x)))
        return y


_PARTS = {
    "input_layer": "stem",
    "output_layer": "head",
    "res_layer": "residual",
    "shortcut_layer": "shortcut",
    "se_block": "6",
}


def from_evolve(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the names of face.evoLVe, SFace, TFace or AdaFace as ours.

    Raises KeyError at a key of another network.
    """
    for key in state:
        if key.partition(".")[0] not in ("input_layer", "body", "output_layer"):
            raise KeyError(key)
    renamed = {".".join(_PARTS.get(part, part) for part in key.split(".")): value for key, value in state.items()}
    mean = renamed["head.4.running_mean"]
    return {"head.4.weight": torch.ones_like(mean), "head.4.bias": torch.zeros_like(mean)} | renamed
