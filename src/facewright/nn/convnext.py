"""ConvNeXt as a source of feature maps (Liu et al., "A ConvNet for the 2020s", CVPR 2022, section 2).

Module names are torchvision's state-dict keys (`mobilenetv3.trunk_state` drops the classifier).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .mobilenetv3 import tapped

NORM_EPS = 1e-6
_SCALE_INIT = 1e-6
CONVNEXTS: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
    "large": (192, (3, 3, 27, 3)),
}
"""Width of the first stage and blocks of each stage, by the paper's names."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Permute(nn.Module):
    """Gives the layers of a block torchvision's numbers."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.order)


class Block(nn.Module):
    """Depthwise 7×7, layer norm, two linear layers with GELU between; scaled per channel and added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            _Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=NORM_EPS),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            _Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), _SCALE_INIT))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.block(x)
        return torch.addcmul(x, self.layer_scale, change)


class ConvNeXt(nn.Module):
    """(N, 3, H, W) to four maps at strides 4, 8, 16 and 32, of `widths` channels, doubled from stage to stage."""

    def __init__(self, width: int = 128, blocks: tuple[int, int, int, int] = (3, 3, 27, 3)) -> None:
        super().__init__()
        self.widths = tuple(width * 2**i for i in range(4))
        modules: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, width, 4, 4), ChannelNorm(width))]
        for index, (channels, count) in enumerate(zip(self.widths, blocks)):
            if index:
                modules.append(nn.Sequential(ChannelNorm(channels // 2), nn.Conv2d(channels // 2, channels, 2, 2)))
            modules.append(nn.Sequential(*(Block(channels) for _ in range(count))))
        self.features = nn.Sequential(*modules)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        return tapped(self.features, (1, 3, 5, 7), x)


def convnext(name: str) -> ConvNeXt:
    """A published size by its name, such as base; raises UsageError for another name."""
    if name not in CONVNEXTS:
        raise UsageError(f"no ConvNeXt is called {name!r}; known: {', '.join(CONVNEXTS)}")
    return ConvNeXt(*CONVNEXTS[name])
