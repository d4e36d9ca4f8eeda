"""Inception-ResNet-v1: size, feature maps, blocks, and the names of the published layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facewright.errors import UsageError
from facewright.nn.inception_resnet import Branches, InceptionResNetV1, ResidualInception, Unit, from_facenet_pytorch


@pytest.fixture(scope="module")
def short() -> InceptionResNetV1:
    """One block a stage."""
    torch.manual_seed(0)
    return InceptionResNetV1((1, 1, 1), 16)


def test_full_size_is_the_published_one():
    with torch.device("meta"):
        net = InceptionResNetV1()
    assert sum(p.numel() for p in net.parameters()) == 23_482_624
    assert [len(stage) for stage in (net.blocks_a, net.blocks_b, net.blocks_c)] == [5, 10, 5]
    assert [stage[0].scale for stage in (net.blocks_a, net.blocks_b, net.blocks_c)] == [0.17, 0.10, 0.20]
    assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)} == {1e-3}
    assert net.embed.bias is None


@pytest.mark.parametrize(("size", "sides"), [(160, (17, 8, 3)), (75, (7, 3, 1))])
def test_maps_shrink_as_without_padding(size, sides):
    with torch.device("meta"):
        net = InceptionResNetV1((1, 1, 1), 16).eval()
        a = net.blocks_a(net.stem(torch.zeros(2, 3, size, size)))
        b = net.blocks_b(net.reduce_a(a))
        c = net.last(net.blocks_c(net.reduce_b(b)))
        embedding = net(torch.zeros(2, 3, size, size))
    assert [tuple(x.shape) for x in (a, b, c)] == [
        (2, width, side, side) for width, side in zip((256, 896, 1792), sides)
    ]
    assert embedding.shape == (2, 16)


def test_number_of_stages_is_checked():
    with pytest.raises(UsageError, match="three stages of blocks, not 2"):
        InceptionResNetV1((1, 1))


def test_branches_are_joined_in_order_and_the_pool_comes_last():
    torch.manual_seed(0)
    module = Branches(4, ((Unit(3, (3, 3), 2),), (Unit(2), Unit(5, (3, 3), 2))), pool=True).eval()
    x = torch.randn(1, 4, 9, 9)
    first, second = module.branches[0](x), module.branches[1](x)
    joined = module(x)
    assert joined.shape == (1, 3 + 5 + 4, 4, 4)
    torch.testing.assert_close(joined, torch.cat([first, second, nn.functional.max_pool2d(x, 3, 2)], 1))


def test_kernels_are_height_by_width():
    branch = Branches(4, ((Unit(2, (1, 7)), Unit(2, (7, 1))),)).branches[0]
    assert [unit[0].kernel_size for unit in branch] == [(1, 7), (7, 1)]  # type: ignore[attr-defined]
    assert [unit[0].padding for unit in branch] == [(0, 3), (3, 0)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("linear", [False, True])
def test_residual_is_scaled_before_it_is_added(linear):
    block = ResidualInception(4, ((Unit(2),),), 0.25, linear=linear).eval()
    nn.init.zeros_(block.project.weight)
    nn.init.constant_(block.project.bias, -8.0)
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(block(x), x - 2 if linear else (x - 2).relu())


def test_pictures_of_a_batch_do_not_see_each_other(short):
    x = torch.randn(3, 3, 160, 160)
    with torch.inference_mode():
        together = short.eval()(x)
        torch.testing.assert_close(together[1:2], short(x[1:2]), atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_gradient_reaches_the_input_and_every_weight(short):
    short.train().zero_grad()
    x = torch.randn(3, 3, 96, 96, requires_grad=True)
    (short(x) - 0.3).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    # a constant shift in front of the last batch norm changes nothing
    silent = [name for name, p in short.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-8]
    assert set(silent) <= {"last.project.bias"}


def test_dropout_acts_in_training_only(short):
    short.dropout.p = 0.999
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(short.eval()(x), short(x))
        dropped = short.train().dropout(torch.ones(1000))
    short.dropout.p = 0.6
    assert (dropped == 0).float().mean() > 0.9


def test_published_names():
    names = {
        "conv2d_3b.conv.weight": "stem.4.0.weight",
        "repeat_1.4.branch0.bn.running_var": "blocks_a.4.branches.0.0.1.running_var",
        "repeat_2.9.branch1.2.conv.weight": "blocks_b.9.branches.1.2.0.weight",
        "repeat_3.0.conv2d.bias": "blocks_c.0.project.bias",
        "mixed_6a.branch0.conv.weight": "reduce_a.branches.0.0.0.weight",
        "mixed_7a.branch2.1.bn.bias": "reduce_b.branches.2.1.1.bias",
        "block8.branch1.0.conv.weight": "last.branches.1.0.0.weight",
        "last_linear.weight": "embed.weight",
        "last_bn.num_batches_tracked": "norm.num_batches_tracked",
        "logits.weight": "logits.weight",
        "layer1.0.conv.weight": "layer1.0.conv.weight",
    }
    assert list(from_facenet_pytorch(dict.fromkeys(names, torch.zeros(1)))) == list(names.values())
