"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573): inverted bottlenecks, and a depthwise kernel instead of pooling.

Two lineages are in use. The classic one (face.evoLVe, SFace, its MXNet original) has the paper's widths and keeps a
bias before the last batch norm. insightface's `mbf` doubles and `mbf_large` quadruples the width of the trunk, but not
of what is inside the bottlenecks, and the second layer sees two channels per group where the paper's is depthwise.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import UsageError
from .prelu import PReLU

if TYPE_CHECKING:
    from collections.abc import Mapping

STRIDE = 16  # of the whole trunk


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, and PReLU unless `linear`."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        linear: bool = False,
        pad: bool = True,
        eps: float = 1e-5,
    ) -> None:
        padding = kernel // 2 if pad else 0
        conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(cout, eps)]
        super().__init__(*layers, *([] if linear else [PReLU(cout)]))


class Bottleneck(nn.Sequential):
    """1×1 to `hidden` channels, 3×3 depthwise, linear 1×1 to `cout`; the input is added where the shape stays."""

    def __init__(self, cin: int, cout: int, hidden: int, stride: int, *, eps: float) -> None:
        super().__init__(
            ConvNorm(cin, hidden, 1, eps=eps),
            ConvNorm(hidden, hidden, 3, stride, groups=hidden, eps=eps),
            ConvNorm(hidden, cout, 1, linear=True, eps=eps),
        )
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self:
            y = layer(y)
        return x + y if self.residual else y


class MobileFaceNet(nn.Module):
    """(N, 3, size, size) to (N, dim) embeddings that are not normalised; `size` is a multiple of 16.

    `width` is the trunk's width before it is doubled (after the third stride), `hidden` the first width inside the
    bottlenecks, `last` that before the global depthwise kernel. `groups` are those of the second layer, which is a run
    of bottlenecks instead if `blocks[0]` is more than one. `bias` is that of the last linear layer, `eps` and
    `last_eps` are those of the batch norms of the trunk and of the embedding.

    Raises UsageError when `size` is not a multiple of 16.
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        size: int = 112,
        width: int = 64,
        hidden: int = 128,
        last: int = 512,
        groups: int = 64,
        blocks: tuple[int, int, int, int] = (1, 4, 6, 2),
        bias: bool = True,
        eps: float = 1e-3,
        last_eps: float = 2e-5,
    ) -> None:
        super().__init__()
        if size % STRIDE:
            raise UsageError(f"MobileFaceNet takes crops whose side is a multiple of {STRIDE}, not {size}")

        def run(channels: int, inside: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(Bottleneck(channels, channels, inside, 1, eps=eps) for _ in range(count)))

        wide = 2 * width
        second = ConvNorm(width, width, 3, groups=groups, eps=eps) if blocks[0] == 1 else run(width, hidden, blocks[0])
        self.body = nn.Sequential(
            ConvNorm(3, width, 3, 2, eps=eps),
            second,
            Bottleneck(width, width, hidden, 2, eps=eps),
            run(width, hidden, blocks[1]),
            Bottleneck(width, wide, 2 * hidden, 2, eps=eps),
            run(wide, 2 * hidden, blocks[2]),
            Bottleneck(wide, wide, 4 * hidden, 2, eps=eps),
            run(wide, 2 * hidden, blocks[3]),
        )
        self.expand = ConvNorm(wide, last, 1, eps=eps)
        self.pool = ConvNorm(last, last, size // STRIDE, groups=last, linear=True, pad=False, eps=eps)
        self.project = nn.Linear(last, dim, bias=bias)
        self.norm = nn.BatchNorm1d(dim, last_eps)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.project(self.pool(self.expand(self.body(x))).flatten(1)))
        return y


def mobilefacenet(dim: int = 512, size: int = 112) -> MobileFaceNet:
    """The classic layout: 1.20 M parameters at `dim` 512."""
    return MobileFaceNet(dim, size=size)


def mbf(dim: int = 512, size: int = 112) -> MobileFaceNet:
    """insightface's `mbf`: 2.06 M parameters at `dim` 512."""
    return MobileFaceNet(dim, size=size, width=128, bias=False, eps=1e-5, last_eps=1e-5)


def mbf_large(dim: int = 512, size: int = 112) -> MobileFaceNet:
    """insightface's `mbf_large`: 6.31 M parameters at `dim` 512."""
    return MobileFaceNet(dim, size=size, width=256, blocks=(2, 8, 12, 4), bias=False, eps=1e-5, last_eps=1e-5)


_INSIGHTFACE = (
    ("features.layers.0.", "pool."),
    ("features.layers.2.", "project."),
    ("features.layers.3.", "norm."),
    ("conv_sep.", "expand."),
    ("layers.", "body."),
)
_CLASSIC_STAGES = ("conv_1", "conv_2_dw", "dconv_23", "res_3", "dconv_34", "res_4", "dconv_45", "res_5")
_CLASSIC = {name: f"body.{i}" for i, name in enumerate(_CLASSIC_STAGES)} | {
    "conv_6sep": "expand",
    "conv_6dw7_7": "pool",
    "pre_fc1": "project",
    "fc1": "norm",
}
_CLASSIC_PARTS = {"conv_sep": "0", "conv_dw": "1", "conv_proj": "2", "conv2d": "0", "batchnorm": "1", "relu": "2"}


def from_insightface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """insightface's state dict of `mbf` or `mbf_large` as ours; raises KeyError at a key of another network."""
    return {_from_insightface(key): value for key, value in state.items()}


def _from_insightface(key: str) -> str:
    for theirs, ours in _INSIGHTFACE:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs).replace("layers.", "")
    raise KeyError(key)


def from_classic(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the names of face.evoLVe and SFace as ours; raises KeyError at a key of another network."""
    return {_from_classic(key): value for key, value in state.items()}


def _from_classic(key: str) -> str:
    stage, *parts = re.sub(r"\.model\.block(\d+)\.", r".\1.", key).split(".")
    return ".".join([_CLASSIC[stage], *(_CLASSIC_PARTS.get(part, part) for part in parts)])
