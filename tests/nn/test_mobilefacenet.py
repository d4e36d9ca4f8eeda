"""MobileFaceNet: parity with both published layouts, sizes, and the shapes it can take."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn import mobilefacenet as mfn

TOLERANCE = 1e-4


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


@pytest.mark.shared
@torch.no_grad()
def test_mbf_equals_published(parity):
    arrays, state, _ = parity("mobilefacenet-insightface")
    net = mfn.mbf().eval()
    net.load_state_dict(mfn.from_insightface(state))
    image = torch.from_numpy(arrays["in_image"])
    assert deviation(net.body[:4](image)[:, ::2, ::4, ::4], arrays["out_feat_layer3"]) < TOLERANCE
    assert deviation(net(image), arrays["out_embedding"]) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_classic_layout_equals_published(parity):
    arrays, state, _ = parity("sface-mobilefacenet")
    net = mfn.mobilefacenet().eval()
    net.load_state_dict(mfn.from_classic(state))
    image = (torch.from_numpy(arrays["in_image"]) - 127.5) * 0.078125
    assert deviation(net.body[:4](image)[:, ::2, ::3, ::3], arrays["out_feat_res_3"]) < TOLERANCE
    assert deviation(net(image), arrays["out_embedding"]) < TOLERANCE


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        assert parameters(mfn.mobilefacenet(512)) == 1_201_024
        assert parameters(mfn.mbf(512)) == 2_059_520
        assert 6.30e6 < parameters(mfn.mbf_large(512)) < 6.32e6


def test_large_form_has_bottlenecks_where_the_small_has_a_convolution():
    with torch.device("meta"):
        small, large = mfn.mbf(), mfn.mbf_large()
    assert small.body[1][0].groups == 64  # type: ignore[index]
    assert small.body[1][0].in_channels == 128  # type: ignore[index]
    assert [type(block) for block in large.body[1]] == [mfn.Bottleneck] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [64, 112])
def test_every_size_ends_in_one_pixel(size):
    torch.manual_seed(0)
    net = mfn.MobileFaceNet(32, size=size, width=16, hidden=32, last=64, groups=16).eval()
    x = torch.randn(2, 3, size, size)
    assert net.expand(net.body(x)).shape == (2, 64, size // 16, size // 16)
    assert net(x).shape == (2, 32)


def test_size_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="multiple of 16, not 100"):
        mfn.mbf(size=100)


def test_bottleneck_adds_its_input_only_where_the_shape_stays():
    x = torch.randn(1, 8, 6, 6)
    for stride, expected in ((1, x), (2, torch.zeros(1, 8, 3, 3))):
        block = mfn.Bottleneck(8, 8, 16, stride, eps=1e-5).eval()
        torch.nn.init.zeros_(block[2][1].weight)  # type: ignore[index]
        torch.testing.assert_close(block(x), expected)


def test_keys_of_another_network_are_refused():
    for convert in (mfn.from_insightface, mfn.from_classic):
        with pytest.raises(KeyError, match="input_layer"):
            convert({"input_layer.0.weight": torch.zeros(1)})
