"""EfficientNetV2-M: size and keys as published."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.efficientnet import Block, EfficientNetV2, Stage


def test_published_size_and_keys() -> None:
    with torch.device("meta"):
        network = EfficientNetV2()
    assert sum(p.numel() for p in network.parameters()) == 52_858_356  # torchvision's, without the classifier
    assert network.widths == (48, 80, 176, 1280)
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    expected = {
        "features.0.0.weight": (24, 3, 3, 3),
        "features.1.2.block.0.0.weight": (24, 24, 3, 3),
        "features.2.0.block.0.0.weight": (96, 24, 3, 3),
        "features.2.0.block.1.0.weight": (48, 96, 1, 1),
        "features.4.0.block.1.0.weight": (320, 1, 3, 3),
        "features.4.0.block.2.fc1.weight": (20, 320, 1, 1),
        "features.4.0.block.3.1.running_var": (160,),
        "features.7.4.block.0.0.weight": (3072, 512, 1, 1),
        "features.8.0.weight": (1280, 512, 1, 1),
    }
    assert {k: shapes[k] for k in expected} == expected


def test_strides() -> None:
    stages = (Stage(True, 1, 1, 8, 1), Stage(True, 2, 2, 8, 2), Stage(False, 2, 2, 16, 1), Stage(False, 2, 2, 16, 2))
    network = EfficientNetV2(stages, taps=(1, 2, 3, 5)).eval()
    maps = network(torch.zeros(1, 3, 64, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 32, 16), (8, 16, 8), (16, 8, 4), (1280, 4, 2)]
    with pytest.raises(UsageError, match="modules 0 to 5"):
        EfficientNetV2(stages, taps=(6,))


@torch.inference_mode()
def test_separable_block_written_out() -> None:
    torch.manual_seed(0)
    block = Block(8, Stage(False, 4, 1, 8, 1), 1).eval()
    x = torch.randn(1, 8, 6, 6)
    silu = torch.nn.functional.silu
    root = (1 + 1e-3) ** 0.5  # of the fresh norms
    y = silu(torch.nn.functional.conv2d(x, block.block[0][0].weight) / root)  # type: ignore[index]
    y = silu(torch.nn.functional.conv2d(y, block.block[1][0].weight, padding=1, groups=32) / root)  # type: ignore[index]
    squeeze = block.block[2]
    y = y * squeeze.fc2(silu(squeeze.fc1(y.mean((2, 3), keepdim=True)))).sigmoid()  # type: ignore[operator]
    y = torch.nn.functional.conv2d(y, block.block[3][0].weight) / root  # type: ignore[index]
    torch.testing.assert_close(block(x), x + y, atol=1e-5, rtol=1e-4)
