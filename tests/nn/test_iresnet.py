"""IResNet: parity with published code, sizes, the fast PReLU and the folded inference form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.nn.inference import folded_copy
from facewright.nn.iresnet import IResNet, iresnet
from facewright.nn.prelu import PReLU


@pytest.mark.shared
@pytest.mark.parametrize("name", ["iresnet18", "iresnet50"])
@torch.no_grad()
def test_equals_published(parity, name: str) -> None:
    arrays, state, _ = parity(name)
    net = iresnet(name).eval()
    net.load_state_dict(state)
    out = net(torch.from_numpy(arrays["in_image"]))
    published = torch.from_numpy(arrays["out_embedding"])
    assert out.shape == published.shape
    assert (out - published).abs().max() < 1e-4 * published.abs().max()


@pytest.mark.parametrize(
    ("name", "parameters"), [("iresnet18", 24_025_600), ("iresnet50", 43_590_848), ("iresnet100", 65_156_160)]
)
def test_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in iresnet(name).parameters()) == parameters


def test_unknown_size_is_named() -> None:
    with pytest.raises(UsageError, match="iresnet19"):
        iresnet("iresnet19")


def thin() -> IResNet:
    torch.manual_seed(0)
    return IResNet((1, 1, 1, 1), 16, widths=(16, 16, 24, 32), patch=2, pooling="depthwise")


def test_thin_form_has_the_published_scales() -> None:
    maps = thin().eval().feature_maps(torch.zeros(1, 3, 112, 112))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 56, 56), (16, 28, 28), (24, 14, 14), (32, 7, 7)]


def test_last_norm_keeps_its_scale() -> None:
    assert not thin().features.weight.requires_grad


def test_prelu_equals_the_built_in_forward_and_backward() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    weight = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.7], dtype=torch.float64)
    ours = PReLU(5).double()
    with torch.no_grad():
        ours.weight.copy_(weight)
    reference = weight.clone().requires_grad_()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours(a).pow(2).sum().backward()
    F.prelu(b, reference).pow(2).sum().backward()
    assert torch.allclose(a.grad, b.grad)
    assert torch.allclose(ours.weight.grad, reference.grad)
    with torch.no_grad():
        assert torch.equal(ours(x), F.prelu(x, weight))


def test_folded_form_computes_the_same() -> None:
    net = thin()
    x = torch.randn(4, 3, 112, 112)
    with torch.no_grad():
        net(x)  # moves the running statistics away from 0 and 1
    net.train()
    fast = folded_copy(net, torch.float32)
    assert net.training
    with torch.no_grad():
        expected = net.eval()(x)
        assert torch.allclose(fast(x), expected, atol=1e-4)
    norms = [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) < len(before) / 2  # those in front of a convolution cannot be folded (zero padding)
    assert all(m.dtype == torch.bfloat16 for m in folded_copy(net, torch.bfloat16).parameters())
