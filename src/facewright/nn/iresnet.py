"""IResNet, the residual network of face recognition (insightface `arcface_torch`), at full size and in a thin form.

Module names are the published state-dict keys, so a published `backbone.pth` loads without a key map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .prelu import PReLU

if TYPE_CHECKING:
    from collections.abc import Sequence

Pooling = Literal["flatten", "depthwise"]

IRESNET_BLOCKS: dict[str, tuple[int, ...]] = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}

STAGES = 4
_INPUT = 112
_INIT_STD = 0.1


class IBasicBlock(nn.Module):
    """Batch norm, 3×3 convolution, batch norm, PReLU, 3×3 convolution (with the stride), batch norm, plus the skip.

    There is no activation after the sum.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, eps: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in, eps=eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out, eps=eps)
        self.prelu = PReLU(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out, eps=eps)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or c_in != c_out:
            shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(c_out, eps=eps))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        residual = self.bn3(self.conv2(residual))
        out: Tensor = residual + (x if self.downsample is None else self.downsample(x))
        return out


class IResNetStages(nn.Module):
    """The first stages of an `IResNet`: aligned face (N, 3, 112, 112) to the map of the last stage.

    `blocks` and `widths` give the stages (112 px halves at the start of each). `patch` 2 rearranges 2×2 pixels into
    channels in place of the first stage's stride, so that no layer works at 112 px: the thin form for CPUs. `eps` of
    the batch norms: 1e-5 as published, 2e-5 for MagFace.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], *, patch: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        if not blocks or len(blocks) != len(widths) or patch not in (1, 2):
            raise UsageError("the stages of an IResNet have a width and a number of blocks each, and patch 1 or 2")
        self.patch = patch
        self.stages = tuple(f"layer{number}" for number in range(1, len(blocks) + 1))
        self.conv1 = nn.Conv2d(3 * patch**2, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0], eps=eps)
        self.prelu = PReLU(widths[0])
        c_in = widths[0]
        for stage, count, width in zip(self.stages, blocks, widths):
            first = 1 if stage == "layer1" and patch == 2 else 2
            strides = [first] + [1] * (count - 1)
            inputs = [c_in] + [width] * (count - 1)
            layer = nn.Sequential(*(IBasicBlock(i, width, s, eps) for i, s in zip(inputs, strides)))
            self.add_module(stage, layer)
            c_in = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, _INIT_STD)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The outputs of the stages, (N, widths[i], 56/28/14/7 px): for perceptual losses."""
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)
        x = self.prelu(self.bn1(self.conv1(x)))
        maps = []
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_maps(x)[-1]


class IResNet(IResNetStages):
    """Aligned face (N, 3, 112, 112) to an embedding (N, dim), not normalised.

    `blocks`, `widths`, `patch` and `eps` as in `IResNetStages`, of four stages. `pooling` is the published `flatten`
    (one linear layer over all positions) or MobileFaceNet's `depthwise` 7×7 convolution, which needs far fewer weights.
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = IRESNET_BLOCKS["iresnet50"],
        dim: int = 512,
        *,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        patch: int = 1,
        pooling: Pooling = "flatten",
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        if len(blocks) != STAGES:
            raise UsageError("an IResNet has four stages")
        super().__init__(blocks, widths, patch=patch, eps=eps)
        last, side = widths[-1], _INPUT // 16
        self.bn2 = nn.BatchNorm2d(last, eps=eps)
        self.pool: nn.Sequential | None = None
        if pooling == "depthwise":
            spatial = nn.Conv2d(last, last, side, groups=last, bias=False)
            nn.init.normal_(spatial.weight, 0, _INIT_STD)
            self.pool = nn.Sequential(spatial, nn.BatchNorm2d(last, eps=eps))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(last if self.pool is not None else last * side**2, dim)
        self.features = nn.BatchNorm1d(dim, eps=eps)
        self.features.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed_map(self.feature_maps(x)[-1])

    def embed_map(self, x: Tensor) -> Tensor:
        """The last feature map to the embedding (N, dim)."""
        x = self.bn2(x)
        if self.pool is not None:
            x = self.pool(x)
        x = self.fc(self.dropout(x.flatten(1)))
        embedding: Tensor = self.features(x)
        return embedding


def iresnet(name: str, dim: int = 512) -> IResNet:
    """A published size by its name, such as `iresnet50`."""
    if name not in IRESNET_BLOCKS:
        raise UsageError(f"no IResNet is called {name!r}; known: {', '.join(IRESNET_BLOCKS)}")
    return IResNet(IRESNET_BLOCKS[name], dim)
