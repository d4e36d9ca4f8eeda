"""ArcFace, AdaFace, MagFace: input contracts, published checkpoints, ONNX files."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facewright.errors import MissingDependencyError, UsageError, WeightsError
from facewright.nn.iresnet import IResNet
from facewright.nn.mobilefacenet import Bottleneck, MobileFaceNet
from facewright.nn.recognition import create_backbone
from facewright.systems.recognise import published
from facewright.systems.recognise.adaface.network import AdaFace, AdaFaceConfig
from facewright.systems.recognise.arcface.network import ArcFace, ArcFaceConfig
from facewright.systems.recognise.magface.network import MagFace, MagFaceConfig
from facewright.systems.recognise.sface.network import SFace
from facewright.weights.published import recognise

TOLERANCE = 1e-4
SMALL = {ArcFace: ArcFaceConfig("mbf", 16), AdaFace: AdaFaceConfig("ir18", 16), MagFace: MagFaceConfig("iresnet18", 16)}


def deviation(ours: Tensor, theirs: Any) -> float:
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def lively(network: nn.Module) -> nn.Module:
    """With statistics and slopes that matter, so that one put into the wrong place shows; in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.8, 1.2, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.5, generator=generator)
    return network.eval()


# --- input


PIXEL = (255, 51, 0)  # red, green, blue
FED = {ArcFace: (1.0, -0.6, -1.0), AdaFace: (-1.0, -0.6, 1.0), MagFace: (0.0, 0.2, 1.0)}


@pytest.mark.parametrize("kind", SMALL)
def test_pixels_are_fed_in_the_published_order_and_range(kind):
    record = kind.preprocess_for(SMALL[kind])
    assert (record.size, record.crop.template) == (112, "arcface")
    bare = SimpleNamespace(preprocess=record, device=torch.device("cpu"))
    x = kind.normalise(bare, np.full((1, 112, 112, 3), PIXEL, np.uint8))
    np.testing.assert_allclose(x[0, :, 5, 7], FED[kind], atol=1e-6)


def test_embeddings_have_length_one_and_do_not_see_mirroring():
    system = ArcFace(SMALL[ArcFace])  # type: ignore[arg-type]
    lively(system.backbone)
    system.precision = "fp32"
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    embeddings = system.embed(crops)
    assert embeddings.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(system.embed(np.ascontiguousarray(crops[:, :, ::-1])), embeddings, atol=1e-4)
    with torch.no_grad():
        x = system.normalise(crops)
        raw = system(x) + system(x.flip(3))
    np.testing.assert_allclose(embeddings, nn.functional.normalize(raw), atol=1e-4)


def test_foreign_backbones_are_refused():
    for kind, config in (
        (ArcFace, ArcFaceConfig("ir50")),
        (AdaFace, AdaFaceConfig("mbf")),
        (MagFace, MagFaceConfig("mbf")),
    ):
        with pytest.raises(UsageError, match=f"{kind.slug} has no backbone '{config.backbone}'; choose from ir"):
            kind(config)  # type: ignore[arg-type]


def test_magface_trains_the_last_scale_and_arcface_does_not():
    with torch.device("meta"):
        assert MagFace(SMALL[MagFace]).backbone.features.weight.requires_grad  # type: ignore[arg-type, union-attr]
        assert not ArcFace(ArcFaceConfig("iresnet18")).backbone.features.weight.requires_grad  # type: ignore[union-attr]
        assert {m.eps for m in MagFace(SMALL[MagFace]).modules() if isinstance(m, nn.BatchNorm2d)} == {2e-5}  # type: ignore[arg-type]


# --- published checkpoints


@pytest.mark.shared
@torch.no_grad()
def test_insightface_checkpoint_computes_the_same(parity):
    arrays, state, _ = parity("mobilefacenet-insightface")
    system = published.import_published({f"module.{key}": value for key, value in state.items()})
    assert type(system) is ArcFace
    assert system.config == ArcFaceConfig("mbf", 512)
    assert not system.training
    assert deviation(system(torch.from_numpy(arrays["in_image"])), arrays["out_embedding"]) < TOLERANCE


def same(system: nn.Module, source: nn.Module) -> bool:
    ours = system.backbone.state_dict()  # type: ignore[union-attr]
    return all(torch.equal(value, ours[key]) for key, value in source.state_dict().items())


def test_arcface_iresnet_is_bare_and_magface_is_known_by_its_prefix():
    source = create_backbone("iresnet18", 16)
    system = published.import_published(source.state_dict())
    assert type(system) is ArcFace
    assert system.config == ArcFaceConfig("iresnet18", 16)
    assert same(system, source)
    for prefix in ("features.module.", "module.features."):
        state = {prefix + key: value for key, value in source.state_dict().items()} | {"fc.weight": torch.zeros(16, 9)}
        system = published.import_published(state)
        assert type(system) is MagFace
        assert system.config == SMALL[MagFace]
        assert same(system, source)


def test_adaface_checkpoint_is_taken_out_of_its_wrapping():
    source = create_backbone("ir18", 16)
    names = {"stem": "input_layer", "head": "output_layer", "residual": "res_layer", "shortcut": "shortcut_layer"}
    state: dict[str, Tensor] = {"head.kernel": torch.zeros(16, 9)}
    for key, value in source.state_dict().items():
        if key not in ("head.4.weight", "head.4.bias"):
            state["model." + ".".join(names.get(part, part) for part in key.split("."))] = value
    system = published.import_published({"state_dict": state})
    assert type(system) is AdaFace
    assert system.config == AdaFaceConfig("ir18", 16)
    assert same(system, source)


def test_vision_transformer_is_told_by_width_and_depth():
    with torch.device("meta"):
        source = create_backbone("vit_t", 16).state_dict()
    renamed = {"positions": "pos_embed", "attention.project": "attn.proj", "attention": "attn", "head": "feature"}
    renamed |= {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    state = {}
    for key, value in source.items():
        key = key.replace("patch.", "patch_embed.proj.")
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        state[key] = torch.zeros(value.shape, dtype=value.dtype)
    system = published.import_published(state)
    assert system.config == ArcFaceConfig("vit_t", 16)


def test_state_of_something_else_is_refused():
    with pytest.raises(KeyError):
        published.import_published({"conv1.weight": torch.zeros(1)})


# --- ONNX


class Exporter:
    """Writes our networks as ONNX graphs, as the exporters of PyTorch (`fold`) and of MXNet do."""

    def __init__(self, *, fold: bool) -> None:
        import onnx

        self.onnx, self.fold = onnx, fold
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.ascontiguousarray(torch.as_tensor(value).detach().numpy().astype(np.float32))
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, **options: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **options))
        return name

    def norm(self, x: str, norm: Any) -> str:
        parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return self.node("BatchNormalization", x, *map(self.constant, parts), epsilon=norm.eps)

    def conv(self, x: str, conv: nn.Conv2d, norm: Any) -> str:
        options = {
            "kernel_shape": conv.kernel_size,
            "strides": conv.stride,
            "pads": conv.padding * 2,
            "group": conv.groups,
        }
        if not self.fold:
            return self.norm(self.node("Conv", x, self.constant(conv.weight), **options), norm)
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight, bias = conv.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain
        return self.node("Conv", x, self.constant(weight), self.constant(bias), **options)

    def slope(self, x: str, slope: nn.PReLU) -> str:
        return self.node("PRelu", x, self.constant(slope.weight[:, None, None]))

    def head(self, x: str, linear: nn.Linear, norm: Any) -> str:
        x = self.node("Flatten", x)
        if linear.bias is None:
            x = self.node("MatMul", x, self.constant(linear.weight.T))
        elif self.fold:
            x = self.node("Gemm", x, self.constant(linear.weight), self.constant(linear.bias), transB=1)
        else:
            x = self.node("Gemm", x, self.constant(linear.weight.T), self.constant(linear.bias))
        return self.norm(x, norm)

    def unit(self, x: str, unit: nn.Sequential) -> str:
        x = self.conv(x, unit[0], unit[1])  # type: ignore[arg-type]
        return self.slope(x, unit[2]) if len(unit) > 2 else x  # type: ignore[arg-type]

    def mobilefacenet(self, x: str, net: MobileFaceNet) -> str:
        for stage in net.body:
            for part in stage if isinstance(stage[0], Bottleneck) else [stage]:  # type: ignore[index, union-attr]
                y = x
                for unit in part if isinstance(part, Bottleneck) else [part]:
                    y = self.unit(y, unit)  # type: ignore[arg-type]
                x = self.node("Add", x, y) if isinstance(part, Bottleneck) and part.residual else y
        return self.head(self.unit(self.unit(x, net.expand), net.pool), net.project, net.norm)

    def iresnet(self, x: str, net: IResNet) -> str:
        """With the shortcut before the block where MXNet puts it, and behind where PyTorch does."""
        x = self.slope(self.conv(x, net.conv1, net.bn1), net.prelu)
        for block in (b for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for b in stage):  # type: ignore[union-attr]
            early = self.shortcut(x, block) if not self.fold else ""
            y = self.slope(self.conv(self.norm(x, block.bn1), block.conv1, block.bn2), block.prelu)
            y = self.conv(y, block.conv2, block.bn3)
            x = self.node("Add", y, early or self.shortcut(x, block))
        return self.head(self.norm(x, net.bn2), net.fc, net.features)

    def shortcut(self, x: str, block: Any) -> str:
        return x if block.downsample is None else self.conv(x, *block.downsample)

    def save(self, output: str, path: Any) -> Any:
        helper, float_type = self.onnx.helper, self.onnx.TensorProto.FLOAT
        ends = [helper.make_tensor_value_info(n, float_type, None) for n in ("data", output)]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], self.constants)
        self.onnx.save(helper.make_model(graph), str(path))
        return path


@pytest.fixture
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="reading ONNX files needs the onnx package, which is not installed")


@pytest.mark.parametrize("fold", [True, False])
@torch.no_grad()
def test_insightface_mobilefacenet_from_onnx(onnx, tmp_path, fold):
    net = lively(create_backbone("mbf", 16))
    exporter = Exporter(fold=fold)
    path = exporter.save(exporter.mobilefacenet("data", net), tmp_path / "w600k_mbf.onnx")  # type: ignore[arg-type]
    system = published.import_onnx(path)
    assert recognise(path).systems == ("arcface",)
    assert type(system) is ArcFace
    assert system.config == ArcFaceConfig("mbf", 16)
    x = torch.randn(2, 3, 112, 112)
    assert deviation(system(x), net(x)) < TOLERANCE


@pytest.mark.parametrize("fold", [True, False])
@torch.no_grad()
def test_residual_networks_are_matched_whichever_branch_comes_first(onnx, tmp_path, fold):
    source, target = (IResNet((2, 1, 1, 2), 16, widths=(8, 8, 12, 16)) for _ in range(2))
    lively(source)
    exporter = Exporter(fold=fold)
    path = exporter.save(exporter.iresnet("data", source), tmp_path / "thin.onnx")
    published.fill_from_graph(target, published.read_graph(path).layers)
    x = torch.randn(1, 3, 112, 112)
    assert deviation(target.eval()(x), source(x)) < TOLERANCE


def test_networks_are_told_by_their_convolutions():
    for (count, width), name in published._BY_CONVOLUTIONS.items():
        with torch.device("meta"):
            convolutions = [m for m in create_backbone(name).modules() if isinstance(m, nn.Conv2d)]
        assert (len(convolutions), convolutions[0].out_channels) == (count, width)


def pixels_scaled(exporter: Exporter, offset: float, factor: float) -> str:
    x = exporter.node("Sub", "data", exporter.constant(offset))
    return exporter.node("Mul", x, exporter.constant(factor))


@torch.no_grad()
def test_opencv_sface_from_onnx_with_the_scaling_of_its_graph(onnx, tmp_path):
    net = lively(create_backbone("mobilefacenet", 128))
    exporter = Exporter(fold=False)
    start = pixels_scaled(exporter, 127.5, 0.0078125)
    path = exporter.save(exporter.mobilefacenet(start, net), tmp_path / "face_recognition_sface.onnx")  # type: ignore[arg-type]
    system = published.import_onnx(path)
    assert type(system) is SFace
    assert (system.config.backbone, system.config.dim) == ("mobilefacenet", 128)
    assert system.config.multiplier == 0.0078125
    pixels = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), dtype=np.uint8)
    expected = net((torch.from_numpy(pixels).permute(0, 3, 1, 2) - 127.5) * 0.0078125)
    assert deviation(system(system.normalise(pixels)), expected) < TOLERANCE


@torch.no_grad()
def test_arcface_with_scaling_in_the_graph_takes_it_into_the_first_layer(onnx, tmp_path):
    net = lively(create_backbone("mbf", 16))
    exporter = Exporter(fold=True)
    path = exporter.save(exporter.mobilefacenet(pixels_scaled(exporter, 127.5, 1 / 128), net), tmp_path / "a.onnx")  # type: ignore[arg-type]
    system = published.import_onnx(path)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), dtype=np.uint8)
    expected = net((torch.from_numpy(pixels).permute(0, 3, 1, 2) - 127.5) / 128)
    assert deviation(system(system.normalise(pixels)), expected) < TOLERANCE


def test_onnx_files_that_do_not_fit_are_refused(onnx, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        published.import_onnx(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        published.import_onnx(tmp_path / "missing.onnx")

    exporter = Exporter(fold=True)
    small = MobileFaceNet(8, width=8, hidden=8, last=8, groups=8)
    path = exporter.save(exporter.mobilefacenet("data", small), tmp_path / "small.onnx")
    with pytest.raises(WeightsError, match="not one of the networks known as ONNX: iresnet18"):
        published.import_onnx(path)

    classic = create_backbone("mobilefacenet", 8)
    for offset, message in ((None, "does not declare how pixels are scaled"), (100.0, "takes 100.0 off every pixel")):
        exporter = Exporter(fold=True)
        start = "data" if offset is None else pixels_scaled(exporter, offset, 0.01)
        path = exporter.save(exporter.mobilefacenet(start, classic), tmp_path / "classic.onnx")  # type: ignore[arg-type]
        with pytest.raises(WeightsError, match=message):
            published.import_onnx(path)

    other = MobileFaceNet(8, width=128, hidden=64, groups=64)  # as many convolutions as mbf, of other shapes
    exporter = Exporter(fold=True)
    path = exporter.save(exporter.mobilefacenet("data", other), tmp_path / "other.onnx")
    with pytest.raises(WeightsError, match="not the mbf it looks like: it has no conv of shape"):
        published.import_onnx(path)


def test_without_the_onnx_package_its_name_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match="pip install onnx"):
        published.import_onnx(tmp_path / "x.onnx")


# --- cards


@pytest.mark.parametrize("kind", SMALL)
def test_card_names_the_class_and_claims_no_weights(kind):
    card = kind.card()
    assert card.entry == f"{kind.__module__}:{kind.__name__}"
    assert card.checkpoints == ()
    assert card.parity


def test_insightface_weights_are_said_to_be_non_commercial():
    assert any("non-commercial" in limit for limit in ArcFace.card().limits)
