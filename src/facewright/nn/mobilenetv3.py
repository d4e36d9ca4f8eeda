"""MobileNetV3 as a source of feature maps (Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2).

Module names are torchvision's state-dict keys, so that `features.*` of its weights load without a key map
(`trunk_state` drops the classifier). The building blocks also serve EfficientNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Activation = Literal["relu", "hardswish", "silu", "none"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
NORM_EPS, NORM_MOMENTUM = 1e-3, 0.01


class ConvNorm(nn.Sequential):
    """Convolution without bias that keeps the size (or divides it by the stride), batch norm, activation."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, groups: int = 1, act: Activation = "none"
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out, NORM_EPS, NORM_MOMENTUM),
        ]
        super().__init__(*layers, *([] if act == "none" else [ACTIVATIONS[act]()]))


class SqueezeExcite(nn.Module):
    """Channel weights from the mean of each channel (Hu et al., CVPR 2018), by two 1×1 convolutions."""

    def __init__(self, channels: int, squeezed: int, *, act: Activation = "relu", hard: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = ACTIVATIONS[act]()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * weights


class Row(NamedTuple):
    """One row of the paper's tables: kernel, expanded width, output width, squeeze and excite, activation, stride."""

    kernel: int
    hidden: int
    out: int
    excite: bool
    act: Activation
    stride: int


LARGE = (
    Row(3, 16, 16, False, "relu", 1),
    Row(3, 64, 24, False, "relu", 2),
    Row(3, 72, 24, False, "relu", 1),
    Row(5, 72, 40, True, "relu", 2),
    Row(5, 120, 40, True, "relu", 1),
    Row(5, 120, 40, True, "relu", 1),
    Row(3, 240, 80, False, "hardswish", 2),
    Row(3, 200, 80, False, "hardswish", 1),
    Row(3, 184, 80, False, "hardswish", 1),
    Row(3, 184, 80, False, "hardswish", 1),
    Row(3, 480, 112, True, "hardswish", 1),
    Row(3, 672, 112, True, "hardswish", 1),
    Row(5, 672, 160, True, "hardswish", 2),
    Row(5, 960, 160, True, "hardswish", 1),
    Row(5, 960, 160, True, "hardswish", 1),
)
"""MobileNetV3-Large."""

COMPACT = (
    Row(3, 32, 16, False, "relu", 1),
    Row(3, 64, 32, False, "hardswish", 2),
    Row(3, 96, 32, False, "hardswish", 1),
    Row(3, 128, 48, True, "hardswish", 2),
    Row(3, 192, 48, True, "hardswish", 1),
    Row(3, 192, 48, True, "hardswish", 1),
    Row(3, 240, 96, False, "hardswish", 2),
    Row(3, 288, 96, False, "hardswish", 1),
    Row(3, 288, 96, False, "hardswish", 1),
    Row(3, 384, 96, True, "hardswish", 1),
    Row(3, 480, 160, True, "hardswish", 2),
    Row(3, 480, 160, True, "hardswish", 1),
    Row(3, 480, 160, True, "hardswish", 1),
)
"""A small relative without 5×5 kernels, on which this project's parser and what grew from it stand."""


class InvertedResidual(nn.Module):
    """1×1 to `row.hidden` channels, depthwise, squeeze and excite, linear 1×1; the input is added where it fits."""

    def __init__(self, c_in: int, row: Row) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.hidden != c_in:
            layers.append(ConvNorm(c_in, row.hidden, 1, act=row.act))
        layers.append(ConvNorm(row.hidden, row.hidden, row.kernel, row.stride, groups=row.hidden, act=row.act))
        if row.excite:
            layers.append(SqueezeExcite(row.hidden, multiple_of_8(row.hidden / 4)))
        layers.append(ConvNorm(row.hidden, row.out, 1))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and c_in == row.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """(N, 3, H, W) to the maps after the modules numbered `taps`; the defaults tap Large at strides 4, 8, 16 and 32.

    Module 0 is the stem, a 3×3 convolution of stride 2; one module per row; last a 1×1 convolution to `last` channels
    (six times the last row's for Large), left out where it is 0. `widths` are the channels of the maps. Raises
    UsageError for taps beyond the last module.
    """

    def __init__(
        self,
        rows: Sequence[Row] = LARGE,
        *,
        stem: int = 16,
        last: int = 960,
        taps: tuple[int, ...] = (3, 6, 12, 16),
    ) -> None:
        super().__init__()
        modules: list[nn.Module] = [ConvNorm(3, stem, 3, 2, act="hardswish")]
        channels = [stem]
        for row in rows:
            modules.append(InvertedResidual(channels[-1], row))
            channels.append(row.out)
        if last:
            modules.append(ConvNorm(channels[-1], last, 1, act="hardswish"))
            channels.append(last)
        if max(taps) >= len(modules):
            raise UsageError(f"this MobileNetV3 has modules 0 to {len(modules) - 1}; taps {taps} go beyond them")
        self.features = nn.Sequential(*modules)
        self.taps = taps
        self.widths = tuple(channels[tap] for tap in taps)
        initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        return tapped(self.features, self.taps, x)


def tapped(features: Iterable[nn.Module], taps: Sequence[int], x: Tensor) -> list[Tensor]:
    """The outputs of the numbered modules of a chain."""
    maps = []
    for number, module in enumerate(features):
        x = module(x)
        if number in taps:
            maps.append(x)
    return maps


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and not more than 10 % below `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def trunk_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict of MobileNetV3 or EfficientNet as that of the trunk here."""
    return {key: value for key, value in state.items() if not key.startswith("classifier.")}


def initialise(network: nn.Module) -> None:
    """Kaiming's normal for convolutions, zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
