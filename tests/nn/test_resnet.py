"""ResNet and DenseNet: published sizes and key names, parity with networks built on torchvision's ResNets."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.inference import folded_copy
from facewright.nn.resnet import BasicBlock, DenseNet, ResNet, resnet, trunk_state

TOLERANCE = 1e-4


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


def load_part(network: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str) -> None:
    part = trunk_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    expected = network.state_dict()
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    assert set(expected) - counters == set(part) - counters
    network.load_state_dict(part, strict=False)


@pytest.mark.shared
@torch.inference_mode()
def test_resnet18_equals_published(parity):
    arrays, state, _ = parity("dlif")
    network = resnet("resnet18").eval()
    load_part(network, state, "v_encoder.")
    maps = network.feature_maps(torch.from_numpy(arrays["in_image"]))
    assert deviation(maps[3][..., ::2, ::2], arrays["out_feat_v_layer4"]) < TOLERANCE


@pytest.mark.shared
@torch.inference_mode()
def test_resnet34_equals_published(parity):
    arrays, state, _ = parity("mlcr")
    image = torch.from_numpy(arrays["in_image"])
    for view, stage in (("net1", 2), ("net2", 4)):
        network = resnet("resnet34").eval()
        load_part(network, state, f"{view}.")
        features = network.feature_maps(image)[stage - 1]
        stride = {2: 5, 4: 3}[stage]
        assert deviation(features[..., ::stride, ::stride], arrays[f"out_feat_{view}_layer{stage}"]) < TOLERANCE
        assert deviation(network(image), arrays[f"out_feat_view{view[-1]}"]) < TOLERANCE


@pytest.mark.shared
@torch.inference_mode()
def test_resnet50_equals_published(parity):
    arrays, state, _ = parity("s2td-recon")
    network = resnet("resnet50").eval()
    load_part(network, state, "backbone.")
    image = torch.from_numpy(arrays["in_image"])
    maps = network.feature_maps(image)
    assert deviation(maps[0][:, ::3, ::7, ::7], arrays["out_feat_layer1"]) < TOLERANCE
    assert deviation(maps[3][:, ::17], arrays["out_feat_layer4"]) < TOLERANCE
    assert deviation(network(image), arrays["out_feat_avgpool"][:, :, 0, 0]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "parameters", "entries"),
    [("resnet18", 11_689_512, 122), ("resnet34", 21_797_672, 218), ("resnet50", 25_557_032, 320)],
)
def test_published_sizes(name, parameters, entries):
    with torch.device("meta"):
        network = resnet(name, classes=1000)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


def test_densenet121_has_the_published_size_and_keys():
    with torch.device("meta"):
        network = DenseNet(classes=1000)
    state = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == 7_978_856
    assert len(state) == 727
    shapes = {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.norm0.running_mean": (64,),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1),
        "features.denseblock3.denselayer24.conv2.weight": (32, 128, 3, 3),
        "features.denseblock4.denselayer16.norm1.weight": (992,),
        "features.transition1.norm.bias": (256,),
        "features.transition3.conv.weight": (512, 1024, 1, 1),
        "features.norm5.running_var": (1024,),
        "classifier.weight": (1000, 1024),
    }
    assert {k: tuple(state[k].shape) for k in shapes} == shapes


@torch.inference_mode()
def test_densenet_layer_by_layer_on_the_paper_definition():
    """Every layer sees all earlier maps of its block: written out on concatenated lists instead of a running tensor."""
    torch.manual_seed(0)
    network = DenseNet((2, 2), growth=4, width=6).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    part = dict(network.features.named_children())
    x = torch.randn(2, 3, 32, 32)
    maps = [part["pool0"](part["norm0"](part["conv0"](x)).relu())]
    for layer in part["denseblock1"]:  # type: ignore[attr-defined]
        maps.append(layer.conv2(layer.norm2(layer.conv1(layer.norm1(torch.cat(maps, 1)).relu())).relu()))
    maps = [part["transition1"](torch.cat(maps, 1))]
    for layer in part["denseblock2"]:  # type: ignore[attr-defined]
        maps.append(layer.conv2(layer.norm2(layer.conv1(layer.norm1(torch.cat(maps, 1)).relu())).relu()))
    expected = part["norm5"](torch.cat(maps, 1)).relu().mean((2, 3))
    torch.testing.assert_close(network(x), expected)
    assert expected.shape == (2, network.out_features) == (2, (6 + 8) // 2 + 8)


def test_trunk_state_drops_the_classifier_and_knows_the_old_densenet_names():
    torch.manual_seed(0)
    full = DenseNet((2, 1), growth=4, width=8, classes=5)
    old = {}
    for key, value in full.state_dict().items():
        for name in ("norm1", "conv1", "norm2", "conv2"):
            key = key.replace(f".{name}.", f".{name[:-1]}.{name[-1]}.") if "denselayer" in key else key
        old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    trunk = DenseNet((2, 1), growth=4, width=8)
    trunk.load_state_dict(trunk_state(old))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(full.classifier(trunk.eval()(x)), full.eval()(x))


def test_strides_and_widths_of_the_stages():
    network = ResNet(BasicBlock, (1, 1, 1, 1), width=8).eval()
    maps = network.feature_maps(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]
    assert network.out_features == 64


@torch.inference_mode()
@pytest.mark.parametrize(
    "build", [lambda: ResNet(BasicBlock, (1, 1, 1, 1), width=8), lambda: DenseNet((2, 2), width=8)]
)
def test_folded_form_is_the_same_function(build):
    torch.manual_seed(0)
    network = build().eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(folded_copy(network, torch.float32)(x), network(x), atol=1e-5, rtol=1e-4)


def test_wrong_names_and_shapes_are_refused():
    with pytest.raises(UsageError, match="resnet18, resnet34, resnet50"):
        resnet("resnet19")
    with pytest.raises(UsageError, match="four stages"):
        ResNet(BasicBlock, (2, 2))
