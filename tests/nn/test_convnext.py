"""ConvNeXt: sizes and keys as published, a block by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.nn.convnext import Block, ConvNeXt, convnext

# torchvision's counts without the classifier and the norm before it
COUNTS = {"tiny": 27_818_592, "small": 49_453_152, "base": 87_564_416}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        network = convnext(name)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]


def test_torchvision_keys() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in convnext("base").state_dict().items()}
    expected = {
        "features.0.0.weight": (128, 3, 4, 4),
        "features.0.1.weight": (128,),
        "features.1.0.layer_scale": (128, 1, 1),
        "features.1.0.block.0.weight": (128, 1, 7, 7),
        "features.1.0.block.2.weight": (128,),
        "features.1.0.block.3.weight": (512, 128),
        "features.1.0.block.5.weight": (128, 512),
        "features.2.0.weight": (128,),
        "features.2.1.weight": (256, 128, 2, 2),
        "features.5.26.block.5.bias": (512,),
    }
    assert {k: shapes[k] for k in expected} == expected


def test_strides_and_widths() -> None:
    network = ConvNeXt(8, (1, 1, 2, 1)).eval()
    maps = network(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]


@torch.no_grad()
def test_block_written_out() -> None:
    torch.manual_seed(0)
    block = Block(6)
    block.layer_scale.normal_()
    x = torch.randn(2, 6, 9, 8)
    depthwise, norm, grow, shrink = (block.block[i] for i in (0, 2, 3, 5))
    y = F.conv2d(x, depthwise.weight, depthwise.bias, padding=3, groups=6)  # type: ignore[arg-type]
    mean, deviation = y.mean(1, keepdim=True), (y.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    y = ((y - mean) / deviation) * norm.weight[:, None, None] + norm.bias[:, None, None]  # type: ignore[index]
    y = torch.einsum("dc,nchw->ndhw", grow.weight, y) + grow.bias[:, None, None]  # type: ignore[index]
    y = torch.einsum("cd,ndhw->nchw", shrink.weight, F.gelu(y)) + shrink.bias[:, None, None]  # type: ignore[index]
    torch.testing.assert_close(block(x), x + block.layer_scale * y, atol=1e-5, rtol=1e-4)


def test_unknown_size_is_refused() -> None:
    with pytest.raises(UsageError, match="tiny, small, base"):
        convnext("huge")
