"""Published files of ArcFace, AdaFace and MagFace, the recognisers others are compared with.

They share their idea, one embedding per aligned crop, and differ in backbone, colour order and scaling, which is where
users go wrong; here those are part of the network. The heads they were trained with are in
`facewright.losses.margins`. ArcFace: Deng et al., CVPR 2019, arXiv 1801.07698, in the networks of insightface's
`arcface_torch`. AdaFace: Kim et al., CVPR 2022, arXiv 2204.00964. MagFace: Meng et al., CVPR 2021, arXiv 2103.06627.

Published PyTorch checkpoints come in through `import_published`; ONNX files of insightface's packs and of the OpenCV
zoo's SFace through `import_onnx`, into the same networks.
"""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ...errors import MissingDependencyError, WeightsError
from ...nn import evolve, face_vit, mobilefacenet
from ...nn.iresnet import IRESNET_BLOCKS
from .adaface.network import AdaFace, AdaFaceConfig
from .arcface.network import VITS, ArcFace, ArcFaceConfig
from .magface.network import MagFace, MagFaceConfig
from .recogniser import Recogniser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

R = TypeVar("R", bound=Recogniser)


# --- published PyTorch checkpoints


def import_published(state: Mapping[str, Any], *, colour: str = "") -> ArcFace | AdaFace | MagFace:
    """A network holding a published checkpoint; which system and which backbone is told by its keys.

    insightface's are bare backbones, as is IR-SE50 of InsightFace_Pytorch. AdaFace's come from Lightning and keep the
    network under `model.`, MagFace's keep it under `features.`; their heads are left behind. AdaFace's later
    collection, under `net.`, takes RGB; `colour` overrules what the keys tell of it. Raises KeyError or RuntimeError
    when the keys are of no network known here.
    """
    plain: dict[str, Tensor] = {k.removeprefix("module."): v for k, v in state.get("state_dict", state).items()}
    rgb = "net.input_layer.0.weight" in plain
    kept = {k: v for k, v in plain.items() if not k.startswith("head.")}
    inner = {k.removeprefix("model.").removeprefix("net."): v for k, v in kept.items()}
    if "body.0.res_layer.5.fc1.weight" in plain:
        return _import_arcface(plain)
    if "input_layer.0.weight" in inner:
        return _import_adaface(inner, colour or ("RGB" if rgb else "BGR"))
    below = {k.removeprefix("features.").removeprefix("module."): v for k, v in plain.items() if k[:9] == "features."}
    if "conv1.weight" in below:
        return _filled(MagFace(MagFaceConfig(_iresnet_name(below), _width(below, "features.bias"))), below)
    return _import_arcface(plain)


def _import_adaface(published: Mapping[str, Tensor], colour: str) -> AdaFace:
    state = evolve.from_evolve(published)
    blocks = len({key.split(".")[1] for key in state if key.startswith("body.")})
    depth = next(depth for depth, counts in evolve.DEPTHS.items() if sum(counts) == blocks)
    return _filled(AdaFace(AdaFaceConfig(f"ir{depth}", _width(state, "head.4.running_mean"), colour)), state)


def _import_arcface(published: Mapping[str, Tensor]) -> ArcFace:
    if "conv_sep.layers.0.weight" in published:
        state = mobilefacenet.from_insightface(published)
        name = "mbf_large" if _width(state, "body.0.0.weight") == 256 else "mbf"
        return _filled(ArcFace(ArcFaceConfig(name, _width(state, "norm.bias"))), state)
    if "patch_embed.proj.weight" in published:
        state = face_vit.from_insightface(published)
        depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
        name = VITS[_width(state, "patch.weight"), depth]
        return _filled(ArcFace(ArcFaceConfig(name, _width(state, "head.3.bias"))), state)
    if "input_layer.0.weight" in published:
        state = evolve.from_evolve(published)
        return _filled(ArcFace(ArcFaceConfig("ir_se50", _width(state, "head.4.running_mean"))), state)
    name = _iresnet_name(published)
    return _filled(ArcFace(ArcFaceConfig(name, _width(published, "features.bias"))), published)


def _iresnet_name(state: Mapping[str, Tensor]) -> str:
    """Which IResNet a state dict is of, by its blocks; KeyError if none."""
    blocks = Counter(key.split(".")[0] for key in state if key.startswith("layer") and key.endswith(".conv1.weight"))
    names = {counts: name for name, counts in IRESNET_BLOCKS.items()}
    return names[tuple(blocks[f"layer{stage}"] for stage in range(1, 5))]


def _width(state: Mapping[str, Tensor], key: str) -> int:
    return int(state[key].shape[0])


def _filled(system: R, state: Mapping[str, Tensor]) -> R:
    system.backbone.load_state_dict(dict(state))
    return system.eval()


# --- ONNX


@dataclass(slots=True, eq=False)
class GraphLayer:
    """A layer with weights of an ONNX graph.

    `conv` and `linear` hold weight and bias, `slope` the slopes of a PReLU, `norm` scale, shift, mean and variance, the
    latter with epsilon added. A norm that reads a convolution or linear layer is kept with that as its `norm`.
    """

    kind: str
    tensors: tuple[Tensor, ...]
    norm: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The layers of an ONNX graph in order, and what it does to pixels first: (p − offset) · factor, or nothing."""

    layers: list[GraphLayer]
    offset: float | None
    factor: float | None


# (number of convolutions, width of the first) of the networks found as ONNX files
_BY_CONVOLUTIONS = {
    (21, 64): "iresnet18",
    (37, 64): "iresnet34",
    (53, 64): "iresnet50",
    (103, 64): "iresnet100",
    (49, 128): "mbf",
    (90, 256): "mbf_large",
    (49, 64): "mobilefacenet",
}
_PIXEL_MIDDLE = 127.5


def import_onnx(path: str | Path) -> Recogniser:
    """A network holding the weights of an ONNX file: ArcFace for insightface's packs, SFace for the OpenCV zoo's.

    Layers are matched by order and shape, so names do not matter; batch norms that the file has merged with the
    convolution before them stay so. Constants of the graph that scale the pixels are read, not assumed. Raises
    MissingDependencyError without the `onnx` package, WeightsError when the file is none or holds another network.
    """
    graph = read_graph(path)
    convolutions = [layer for layer in graph.layers if layer.kind == "conv"]
    size = (len(convolutions), len(convolutions[0].tensors[0]) if convolutions else 0)
    if size not in _BY_CONVOLUTIONS:
        raise WeightsError(f"{path} is not one of the networks known as ONNX: {', '.join(_BY_CONVOLUTIONS.values())}")
    width = len(graph.layers[-1].tensors[0])
    try:
        system = _system_for(_BY_CONVOLUTIONS[size], width, graph)
        fill_from_graph(system.backbone, graph.layers)
    except ValueError as error:
        raise WeightsError(f"{path} is not the {_BY_CONVOLUTIONS[size]} it looks like: {error}") from error
    if isinstance(system, ArcFace) and graph.factor is not None:
        _rescale_input(system.backbone, graph.factor * _PIXEL_MIDDLE)
    return system.eval()


def is_graph(path: str | Path, slug: str) -> bool:
    """Whether an ONNX file holds a recogniser of that system, by the number and widths of its layers."""
    try:
        graph = read_graph(path)
    except (WeightsError, MissingDependencyError):
        return False
    convolutions = [layer for layer in graph.layers if layer.kind == "conv"]
    size = (len(convolutions), len(convolutions[0].tensors[0]) if convolutions else 0)
    name = _BY_CONVOLUTIONS.get(size)
    return name is not None and slug == ("sface" if name == "mobilefacenet" else "arcface")


def _system_for(name: str, dim: int, graph: Graph) -> Recogniser:
    if graph.factor is not None and graph.offset != _PIXEL_MIDDLE:
        raise ValueError(f"it takes {graph.offset} off every pixel instead of {_PIXEL_MIDDLE}")
    if name != "mobilefacenet":
        return ArcFace(ArcFaceConfig(name, dim))
    if graph.factor is None:
        raise ValueError("it does not declare how pixels are scaled")
    from .sface.network import SFace, SFaceConfig

    return SFace(SFaceConfig("mobilefacenet", dim, graph.factor))


@torch.no_grad()
def _rescale_input(backbone: nn.Module, factor: float) -> None:
    """Make a network scale its input; exact, because padding is 0 before and after."""
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    first.weight.mul_(factor)


def read_graph(path: str | Path) -> Graph:
    """The layers of an ONNX file; raises MissingDependencyError without `onnx`, WeightsError when it is unreadable."""
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise MissingDependencyError("reading ONNX files needs the onnx package: pip install onnx") from error
    try:
        graph = onnx.load(str(path)).graph
        constants = _constants(graph, onnx.numpy_helper.to_array)
        layers = _layers(graph, constants)
        offset, factor = (_pixel_constant(graph, constants, kind) for kind in ("Sub", "Mul"))
    except Exception as error:  # a damaged file fails in every way protobuf knows
        raise WeightsError(f"{path} is not a readable ONNX file ({type(error).__name__}: {error})") from error
    return Graph(layers, offset, factor)


def _constants(graph: Any, to_array: Callable[[Any], Any]) -> dict[str, Tensor]:
    """All named constants as float32 tensors, also those that are only passed on or reshaped."""
    found = {entry.name: torch.tensor(to_array(entry)).float() for entry in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = torch.tensor(to_array(node.attribute[0].t)).float()
        elif node.op_type in ("Identity", "Unsqueeze", "Squeeze", "Reshape") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _layers(graph: Any, constants: Mapping[str, Tensor]) -> list[GraphLayer]:
    layers: list[GraphLayer] = []
    products: dict[str, GraphLayer] = {}
    for node in graph.node:
        tensors = tuple(constants[name] for name in node.input[1:] if name in constants)
        options = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "PRelu":
            layers.append(GraphLayer("slope", (tensors[0].flatten(),)))
        elif node.op_type in ("Conv", "Gemm", "MatMul") and tensors:
            weight, bias = tensors if len(tensors) > 1 else (tensors[0], None)
            kind = "conv" if node.op_type == "Conv" else "linear"
            if kind == "linear" and not ("transB" in options and options["transB"].i):
                weight = weight.T
            layers.append(GraphLayer(kind, (weight, torch.zeros(len(weight)) if bias is None else bias)))
            products[node.output[0]] = layers[-1]
        elif node.op_type == "BatchNormalization":
            scale, shift, mean, variance = tensors
            norm = (scale, shift, mean, variance + options["epsilon"].f)
            if node.input[0] in products:
                products[node.input[0]].norm = norm
            else:
                layers.append(GraphLayer("norm", norm))
    return layers


def _pixel_constant(graph: Any, constants: Mapping[str, Tensor], kind: str) -> float | None:
    """The scalar that a `Sub` or `Mul` applies to the input before the first convolution."""
    for node in graph.node:
        if node.op_type == "Conv":
            return None
        if node.op_type == kind:
            return next(float(constants[name]) for name in node.input if name in constants)
    return None


@torch.no_grad()
def fill_from_graph(network: nn.Module, layers: list[GraphLayer]) -> None:
    """Put the weights of graph layers into a network, each into the first layer of ours it fits in running order.

    Raises ValueError when one of either side is left over.
    """
    unused = list(layers)

    def take(kind: str, shape: torch.Size) -> GraphLayer:
        for layer in unused:
            if layer.kind == kind and layer.tensors[0].shape == shape:
                unused.remove(layer)
                return layer
        raise ValueError(f"it has no {kind} of shape {tuple(shape)} where one should be")

    for module, norm in _running_order(network):
        if isinstance(module, nn.PReLU):
            module.weight.copy_(take("slope", module.weight.shape).tensors[0])
        elif isinstance(module, nn.Conv2d | nn.Linear) and norm is not None:
            kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
            _fill_product(module, norm, take(kind, module.weight.shape))
        elif isinstance(module, _Norm):
            _fill_norm(module, *take("norm", module.weight.shape).tensors)
    if unused:
        raise ValueError(f"{len(unused)} of its layers have no place")


_Norm = nn.BatchNorm1d | nn.BatchNorm2d


def _running_order(network: nn.Module) -> Iterator[tuple[nn.Module, _Norm | None]]:
    """Layers with weights as a forward pass meets them; a norm right behind a product comes along with that."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.PReLU | _Norm)]
    hooks = [m.register_forward_hook(lambda m, args, out: calls.append((m, args[0], out))) for m in layers]
    training = network.training
    network.eval()(torch.zeros(1, 3, 112, 112))
    network.train(training)
    for hook in hooks:
        hook.remove()
    norms = {id(source): module for module, source, _ in calls if isinstance(module, _Norm)}
    products = {id(result) for module, _, result in calls if isinstance(module, nn.Conv2d | nn.Linear)}
    for module, source, result in calls:
        if isinstance(module, _Norm) and id(source) in products:
            continue
        yield module, norms.get(id(result)) if isinstance(module, nn.Conv2d | nn.Linear) else None


def _fill_product(module: nn.Conv2d | nn.Linear, norm: _Norm, layer: GraphLayer) -> None:
    """Weight and bias of a product; where ours has no bias, the norm behind it takes it over."""
    weight, bias = layer.tensors
    module.weight.copy_(weight)
    if module.bias is not None:
        module.bias.copy_(bias)
        bias = torch.zeros_like(bias)
    one, zero = torch.ones_like(bias), torch.zeros_like(bias)
    scale, shift, mean, variance = layer.norm or (one, zero, zero, one)
    _fill_norm(norm, scale, shift, mean - bias, variance)


def _fill_norm(norm: _Norm, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Fill a batch norm; `variance` has its epsilon in it already."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight.copy_(scale)
    norm.bias.copy_(shift)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance - norm.eps)
