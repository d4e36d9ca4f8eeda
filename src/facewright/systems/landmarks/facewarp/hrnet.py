"""HRNet: branches of four resolutions side by side that exchange what they see (Wang et al., TPAMI 2020).

The small form with one module in every stage, as SLPT uses it. Module names are the published state-dict keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....nn.resnet import BasicBlock, Bottleneck

if TYPE_CHECKING:
    from collections.abc import Sequence

STEM = 64
BLOCKS = 4
MOMENTUM = 0.01


def _conv3(cin: int, cout: int, stride: int, *, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def _lift(cin: int, cout: int) -> nn.Sequential:
    """To the channels of a finer branch; its pixels are interpolated afterwards."""
    return nn.Sequential(nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))


def _lower(widths: Sequence[int], source: int, target: int) -> nn.Sequential:
    """From a branch down to a coarser one, halving step by step; the channels change in the last step."""
    steps = target - source
    last = _conv3(widths[source], widths[target], 2, relu=False)
    return nn.Sequential(*(_conv3(widths[source], widths[source], 2) for _ in range(steps - 1)), last)


class Exchange(nn.Module):
    """Four residual blocks in every branch, then every branch receives the sum of all.

    forward: a list of (N, widths[i], H / 2^i, W / 2^i), to the same shapes.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(w, w, 1) for _ in range(BLOCKS))) for w in widths)
        numbers = range(len(widths))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_between(widths, source, target) for source in numbers) for target in numbers
        )

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        features = [branch(level) for branch, level in zip(self.branches, x)]
        fused = []
        for target, layers in enumerate(self.fuse_layers):
            total = features[target]
            for source, layer in enumerate(cast("nn.ModuleList", layers)):
                if source == target:
                    continue
                change = layer(features[source])
                if source > target:
                    change = F.interpolate(change, scale_factor=float(2 ** (source - target)), mode="bilinear")
                total = total + change
            fused.append(F.relu(total))
        return fused


def _between(widths: Sequence[int], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    return _lift(widths[source], widths[target]) if source > target else _lower(widths, source, target)


class HRNet(nn.Module):
    """(N, 3, S, S) normalised crops to features (N, dim, S / 4, S / 4); S is a multiple of 32."""

    def __init__(self, dim: int, widths: tuple[int, ...] = (18, 36, 72, 144)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        blocks = [Bottleneck(STEM if i == 0 else 4 * STEM, STEM, 1) for i in range(BLOCKS)]
        self.layer1 = nn.Sequential(*blocks)
        wide = 4 * STEM
        self.transition1 = nn.ModuleList([_conv3(wide, widths[0], 1), nn.Sequential(_conv3(wide, widths[1], 2))])
        self.stage2 = nn.Sequential(Exchange(widths[:2]))
        self.transition2 = _new_branch(widths[:3])
        self.stage3 = nn.Sequential(Exchange(widths[:3]))
        self.transition3 = _new_branch(widths[:4])
        self.stage4 = nn.Sequential(Exchange(widths[:4]))
        total = sum(widths)
        mix = [nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU()]
        self.head = nn.Sequential(*mix, nn.Conv2d(total, dim, 1))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer1(F.relu(self.bn2(self.conv2(x))))
        levels = self.stage2([transition(x) for transition in self.transition1])
        levels = self.stage3([*levels, self.transition2[-1](levels[-1])])
        levels = self.stage4([*levels, self.transition3[-1](levels[-1])])
        finest = [
            level if i == 0 else F.interpolate(level, scale_factor=float(2**i), mode="bilinear")
            for i, level in enumerate(levels)
        ]
        features: Tensor = self.head(torch.cat(finest, 1))
        return features


def _new_branch(widths: Sequence[int]) -> nn.ModuleList:
    """The coarsest branch made from the one before; the others stay as they are."""
    kept = [nn.Identity() for _ in widths[:-1]]
    return nn.ModuleList([*kept, nn.Sequential(_conv3(widths[-2], widths[-1], 2))])
