"""eDifFIQA: published keys and shapes of every size, the score by the formula, ONNX files."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.loading import create
from facewright.nn.iresnet import IRESNET_BLOCKS
from facewright.nn.memory import WithoutMemory
from facewright.systems.quality.ediffiqa import network
from facewright.systems.quality.ediffiqa.convert import import_published
from facewright.systems.quality.ediffiqa.network import EDifFIQA, EDifFIQAConfig, EDifFIQAGraph
from facewright.weights.graphs import GraphSketch
from facewright.weights.published import import_checkpoint, recognise, recognise_tensors

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

SHAPES = dict[str, tuple[int, ...]]


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def head() -> SHAPES:
    return {"mlp.l1.weight": (1024, 512), "mlp.l1.bias": (1024,), "mlp.l2.weight": (1, 1024), "mlp.l2.bias": (1,)}


def iresnet_shapes(blocks: tuple[int, ...]) -> SHAPES:
    """The layout of insightface's iResNet below `base_model`."""
    found: SHAPES = {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (64,)} | norm("bn1", 64)
    c_in = 64
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks), 1):
        for number in range(count):
            key = f"layer{stage}.{number}"
            found |= {f"{key}.conv1.weight": (width, c_in, 3, 3), f"{key}.conv2.weight": (width, width, 3, 3)}
            found |= norm(f"{key}.bn1", c_in) | norm(f"{key}.bn2", width) | norm(f"{key}.bn3", width)
            found |= {f"{key}.prelu.weight": (width,)}
            if number == 0:
                found |= {f"{key}.downsample.0.weight": (width, c_in, 1, 1)} | norm(f"{key}.downsample.1", width)
            c_in = width
    found |= norm("bn2", 512) | {"fc.weight": (512, 25_088), "fc.bias": (512,)} | norm("features", 512)
    return {f"base_model.{key}": shape for key, shape in found.items()} | head()


def conv(key: str, shape: tuple[int, ...], *, linear: bool = False) -> SHAPES:
    found = {f"{key}.conv.weight": shape} | norm(f"{key}.bn", shape[0])
    return found if linear else found | {f"{key}.prelu.weight": (shape[0],)}


def depthwise(key: str, c_in: int, inner: int, c_out: int) -> SHAPES:
    found = conv(f"{key}.conv", (inner, c_in, 1, 1)) | conv(f"{key}.conv_dw", (inner, 1, 3, 3))
    return found | conv(f"{key}.project", (c_out, inner, 1, 1), linear=True)


def mobile_shapes() -> SHAPES:
    """The classic layout of MobileFaceNet below `base_model`."""
    found = conv("conv1", (64, 3, 3, 3)) | conv("conv2_dw", (64, 1, 3, 3)) | depthwise("conv_23", 64, 128, 64)
    for number in range(4):
        found |= depthwise(f"conv_3.model.{number}", 64, 128, 64)
    found |= depthwise("conv_34", 64, 256, 128)
    for number in range(6):
        found |= depthwise(f"conv_4.model.{number}", 128, 256, 128)
    found |= depthwise("conv_45", 128, 512, 128)
    for number in range(2):
        found |= depthwise(f"conv_5.model.{number}", 128, 256, 128)
    found |= conv("conv_6_sep", (512, 128, 1, 1)) | conv("conv_6_dw", (512, 1, 7, 7), linear=True)
    found |= {"linear.weight": (512, 512)} | norm("bn", 512)
    return {f"base_model.{key}": shape for key, shape in found.items()} | head()


LAYOUTS = [
    pytest.param(mobile_shapes(), EDifFIQAConfig.tiny(), id="tiny"),
    pytest.param(iresnet_shapes(IRESNET_BLOCKS["iresnet18"]), EDifFIQAConfig.small(), id="small"),
    pytest.param(iresnet_shapes(IRESNET_BLOCKS["iresnet50"]), EDifFIQAConfig.medium(), id="medium"),
    pytest.param(iresnet_shapes(IRESNET_BLOCKS["iresnet100"]), EDifFIQAConfig.large(), id="large"),
]


@pytest.mark.parametrize(("shapes", "config"), LAYOUTS)
def test_published_layouts_fit(shapes: SHAPES, config: EDifFIQAConfig) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        assert import_published(state).config == config
    assert recognise_tensors(state).systems == ("ediffiqa",)
    del state["mlp.l2.bias"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['head\.2\.bias'\]"):
        import_published(state)


@pytest.mark.parametrize(("name", "parameters"), sorted(network._PARAMETERS.items()))
def test_numbers_of_parameters_by_which_graphs_are_told(name: str, parameters: int) -> None:
    with WithoutMemory():
        model = EDifFIQA(EDifFIQA.preset(name))
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.fixture
def model() -> EDifFIQA:
    torch.manual_seed(0)
    return EDifFIQA(EDifFIQAConfig.compact()).eval()


@torch.inference_mode()
def test_score_by_the_formula(model: EDifFIQA) -> None:
    x = torch.randn(2, 3, 112, 112)
    first, second = (cast("torch.nn.Linear", model.head[i]) for i in (0, 2))
    features = F.normalize(model.backbone(x), dim=1)
    inner = F.gelu(features @ first.weight.t() + first.bias)
    torch.testing.assert_close(model(x), (inner @ second.weight.t() + second.bias)[:, 0])


def test_faces_of_a_photo(model: EDifFIQA, fakes: SimpleNamespace) -> None:
    photo = fakes.textured(200, 240)
    faces = [fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)]
    found = model.rate(photo, faces)
    crops = np.stack([model.preprocess.crop.cut(photo, face).image for face in faces])
    assert [quality.score for quality in found] == pytest.approx(model.score(crops).tolist(), abs=1e-6)
    assert all(0 <= quality.percentile <= 100 for quality in found)
    assert model.rate(photo, []) == []
    assert model.score(crops[:0]).shape == (0,)


def test_refusals(model: EDifFIQA) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, 112, 112\)"):
        model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="choose one of mobilefacenet"):
        EDifFIQA(EDifFIQAConfig("resnet"))  # type: ignore[arg-type]


# --- ONNX


def test_which_graphs_are_ediffiqa() -> None:
    def sketch(side: int, answer: list[int], parameters: int) -> GraphSketch:
        shapes = {"in": [1, 3, side, side]}, {"out": answer}
        return GraphSketch(*shapes, Counter(Conv=1), frozenset(), parameters)

    assert EDifFIQAGraph.accepts(sketch(112, [1, 1], 1_700_000))
    assert not EDifFIQAGraph.accepts(sketch(112, [1, 512], 1_700_000))
    assert not EDifFIQAGraph.accepts(sketch(224, [1, 1], 1_700_000))
    assert EDifFIQAGraph.config_of(sketch(112, [1, 1], 1_700_000)) == EDifFIQAConfig.tiny()
    assert EDifFIQAGraph.config_of(sketch(112, [1, 1], 66_000_000)) == EDifFIQAConfig.large()


def test_graph_scores(tmp_path: Path) -> None:
    """A graph that answers with the mean of its input, in the place of a published one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    given = helper.make_tensor_value_info("input", 1, [1, 3, 112, 112])
    answer = helper.make_tensor_value_info("quality", 1, [1, 1])
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["quality"]),
    ]
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_model(
        helper.make_graph(nodes, "g", [given], [answer], [axis]), opset_imports=[helper.make_opsetid("", 13)]
    )
    graph.ir_version = 8
    path = tmp_path / "any.onnx"
    onnx.save(graph, str(path))
    assert recognise(path).systems == ("ediffiqa",)
    scorer = create("ediffiqa", pretrained=import_checkpoint("ediffiqa", path, tmp_path / "e"))
    assert isinstance(scorer, EDifFIQAGraph)
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    np.testing.assert_allclose(scorer.score(crops), crops.mean((1, 2, 3)) / 127.5 - 1, atol=1e-5)
