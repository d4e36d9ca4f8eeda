"""BiSeNet: published keys and shapes, its own order of the classes, ONNX files."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.errors import WeightsError
from facewright.loading import create
from facewright.nn.memory import WithoutMemory
from facewright.render.conventions import CELEBAMASK_19
from facewright.systems.parse.bisenet import network
from facewright.systems.parse.bisenet.convert import import_published
from facewright.systems.parse.bisenet.network import BiSeNet, BiSeNetConfig, BiSeNetGraph
from facewright.systems.parse.taxonomy import mirrored
from facewright.weights.graphs import GraphSketch
from facewright.weights.published import import_checkpoint, recognise, recognise_tensors

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 53_289_463


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def conv(key: str, c_in: int, c_out: int, kernel: int) -> SHAPES:
    return {f"{key}.conv.weight": (c_out, c_in, kernel, kernel)} | norm(f"{key}.bn", c_out)


def published_shapes() -> SHAPES:
    """The layout of zllrunning/face-parsing.PyTorch, written out from its layer tables."""
    found: SHAPES = {"cp.resnet.conv1.weight": (64, 3, 7, 7)} | norm("cp.resnet.bn1", 64)
    c_in = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for number in range(2):
            key = f"cp.resnet.layer{stage}.{number}"
            found |= {f"{key}.conv1.weight": (width, c_in, 3, 3), f"{key}.conv2.weight": (width, width, 3, 3)}
            found |= norm(f"{key}.bn1", width) | norm(f"{key}.bn2", width)
            if c_in != width:
                found |= {f"{key}.downsample.0.weight": (width, c_in, 1, 1)} | norm(f"{key}.downsample.1", width)
            c_in = width
    for name, c_in in (("arm16", 256), ("arm32", 512)):
        found |= conv(f"cp.{name}.conv", c_in, 128, 3) | norm(f"cp.{name}.bn_atten", 128)
        found |= {f"cp.{name}.conv_atten.weight": (128, 128, 1, 1)}
    found |= (
        conv("cp.conv_head32", 128, 128, 3) | conv("cp.conv_head16", 128, 128, 3) | conv("cp.conv_avg", 512, 128, 1)
    )
    found |= conv("ffm.convblk", 256, 256, 1)
    found |= {"ffm.conv1.weight": (64, 256, 1, 1), "ffm.conv2.weight": (256, 64, 1, 1)}
    for name, c_in, width in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        found |= conv(f"{name}.conv", c_in, width, 3) | {f"{name}.conv_out.weight": (19, width, 1, 1)}
    return found


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == BiSeNetConfig()
    assert recognise_tensors(state).systems == ("bisenet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 250 * len(state)


def test_incomplete_file_is_refused() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    del state["ffm.conv2.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['net\.ffm\.conv2\.weight'\]"):
        import_published(state)


def test_classes_are_celebamask_hqs_in_another_order() -> None:
    model = BiSeNet(BiSeNetConfig.compact())
    assert sorted(model.classes) == sorted(CELEBAMASK_19)
    assert model.classes != CELEBAMASK_19
    swapped = mirrored(model.classes)
    assert [model.classes[swapped[i]] for i in (2, 3, 10)] == ["r_brow", "l_brow", "nose"]


def test_side_outputs_have_the_size_of_the_picture() -> None:
    model = BiSeNet(BiSeNetConfig.compact()).eval()
    with torch.inference_mode():
        x = torch.randn(1, 3, 96, 128)
        main, *sides = model(x, return_aux=True)
        assert torch.equal(main, model(x))
    assert {part.shape for part in (main, *sides)} == {(1, 19, 96, 128)}
    crops = np.zeros((1, 64, 64, 3), np.uint8)
    assert model.parse(crops).shape == (1, 64, 64)


# --- ONNX


@pytest.mark.parametrize(("name", "parameters"), sorted(network._PARAMETERS.items()))
def test_numbers_of_parameters_by_which_graphs_are_told(name: str, parameters: int) -> None:
    with WithoutMemory():
        model = BiSeNet(BiSeNet.preset(name))
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_which_graphs_are_bisenet() -> None:
    def sketch(outputs: dict[str, list[object]], parameters: int = 23_400_000) -> GraphSketch:
        return GraphSketch({"input": [1, 3, 512, 512]}, outputs, Counter(Conv=60), frozenset(), parameters)

    maps: list[object] = [1, 19, 512, 512]
    assert BiSeNetGraph.accepts(sketch({"output": maps}))
    assert BiSeNetGraph.accepts(sketch({"output": maps, "16": maps, "32": maps}))
    assert BiSeNetGraph.accepts(sketch({"output": ["batch", 19, "height", "width"]}))
    assert BiSeNetGraph.config_of(sketch({"output": maps})) == BiSeNetConfig.resnet34()
    assert BiSeNetGraph.config_of(sketch({"output": maps}, 13_200_000)) == BiSeNetConfig.resnet18()
    for other in (
        sketch({"output": [1, 11, 512, 512]}),
        sketch({"output": [1, 19, 128, 128]}),
        sketch({"output": maps}, 80_000_000),
        sketch({}),
    ):
        assert not BiSeNetGraph.accepts(other)


def test_graph_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that gives red to the skin, green to the nose and blue to the hair, in the place of a published one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    weight = np.zeros((19, 3, 1, 1), np.float32)
    weight[1, 0], weight[10, 1], weight[17, 2] = 9, 9, 9
    given = helper.make_tensor_value_info("input", 1, [1, 3, 512, 512])
    answer = helper.make_tensor_value_info("output", 1, [1, 19, 512, 512])
    nodes = [helper.make_node("Conv", ["input", "w"], ["output"])]
    graph = helper.make_model(
        helper.make_graph(nodes, "g", [given], [answer], [onnx.numpy_helper.from_array(weight, "w")]),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    graph.ir_version = 8
    path = tmp_path / "any.onnx"
    onnx.save(graph, str(path))
    monkeypatch.setattr(network, "_PARAMETERS", {"resnet18": weight.size, "resnet34": 10**6})
    assert recognise(path).systems == ("bisenet",)
    parser = create("bisenet", pretrained=import_checkpoint("bisenet", path, tmp_path / "b"))
    assert isinstance(parser, BiSeNetGraph)
    assert parser.classes[17] == "hair"
    crop = np.zeros((1, 96, 96, 3), np.uint8)
    crop[0, :32, :, 0], crop[0, 32:64, :, 1], crop[0, 64:, :, 2] = 255, 255, 255
    labels = parser.parse(crop)
    assert labels.shape == (1, 96, 96)
    assert [int(labels[0, row, 48]) for row in (10, 48, 86)] == [1, 10, 17]
    np.testing.assert_allclose(parser.probabilities(crop).sum(1), 1, atol=1e-5)
