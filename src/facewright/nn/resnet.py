"""Residual and densely connected trunks for whole-picture features.

ResNet: He et al., CVPR 2016, with the stride of a bottleneck in its 3×3 convolution as torchvision has it. DenseNet:
Huang et al., CVPR 2017. Module names are torchvision's state-dict keys, so weights made with it load without a key map
(`trunk_state` drops the classifier and renames the DenseNet files of its first years).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a skip."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        skip = x if self.downsample is None else self.downsample(x)
        return F.relu(residual + skip)


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1, the last of which widens four times."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = _shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        skip = x if self.downsample is None else self.downsample(x)
        return F.relu(residual + skip)


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """Picture (N, 3, H, W) to pooled features (N, `out_features`), or to logits (N, classes) when there are classes.

    `block` and `blocks` give the four stages, at 1/4, 1/8, 1/16 and 1/32 of the picture; stage i is `width` · 2^i
    wide, times the expansion of the block.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        *,
        width: int = 64,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if len(blocks) != 4:
            raise UsageError(f"a ResNet has four stages, not {len(blocks)}")
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        c_in = width
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                layer.append(block(c_in, width * 2**stage, stride))
                c_in = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", layer)
        self.out_features = c_in
        self.fc = nn.Linear(c_in, classes) if classes else None
        _initialise(self)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The outputs of the four stages."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.feature_maps(x)[-1].mean((2, 3))
        return pooled if self.fc is None else cast("Tensor", self.fc(pooled))


def resnet(name: str, classes: int = 0) -> ResNet:
    """A published size by its name: resnet18, resnet34 or resnet50; raises UsageError for another name."""
    if name not in RESNETS:
        raise UsageError(f"no ResNet is called {name!r}; known: {', '.join(RESNETS)}")
    block, blocks = RESNETS[name]
    return ResNet(block, blocks, classes=classes)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1×1 convolution; norm, ReLU, 3×3 convolution; the result is appended to the input's channels."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        hidden = 4 * growth
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], 1)


def _transition(c_in: int, c_out: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("norm", nn.BatchNorm2d(c_in))
    layers.add_module("relu", nn.ReLU())
    layers.add_module("conv", nn.Conv2d(c_in, c_out, 1, bias=False))
    layers.add_module("pool", nn.AvgPool2d(2))
    return layers


class DenseNet(nn.Module):
    """Picture (N, 3, H, W) to pooled features (N, `out_features`), or to logits (N, classes) when there are classes.

    The defaults are DenseNet-121: every layer adds `growth` channels, and a transition between two blocks halves
    channels and size.
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = (6, 12, 24, 16),
        *,
        growth: int = 32,
        width: int = 64,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, width, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(width))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        channels = width
        for index, count in enumerate(blocks, start=1):
            block = nn.Sequential()
            for number in range(1, count + 1):
                block.add_module(f"denselayer{number}", DenseLayer(channels, growth))
                channels += growth
            self.features.add_module(f"denseblock{index}", block)
            if index < len(blocks):
                self.features.add_module(f"transition{index}", _transition(channels, channels // 2))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.out_features = channels
        self.classifier = nn.Linear(channels, classes) if classes else None
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.relu(self.features(x)).mean((2, 3))
        return pooled if self.classifier is None else cast("Tensor", self.classifier(pooled))


def trunk_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet or DenseNet state dict as that of the trunk here with `classes=0`."""
    trunk = {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier."))}
    # `norm.1` is how the files of 2017 wrote `norm1`
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", k): v for k, v in trunk.items()}


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
