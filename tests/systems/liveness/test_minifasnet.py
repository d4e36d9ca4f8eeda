"""MiniFASNet: published keys, shapes and sizes, channel weights, crops, votes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.loading import create
from facewright.systems.liveness.minifasnet.convert import import_published
from facewright.systems.liveness.minifasnet.network import (
    ChannelWeights,
    MiniFASNet,
    MiniFASNetConfig,
    MiniFASNetGraph,
)
from facewright.weights.graphs import GraphSketch
from facewright.weights.published import import_checkpoint, recognise, recognise_tensors

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

SHAPES = dict[str, tuple[int, ...]]

_AFTER = (26, 26, 128, 26, 26, 128, 308, 308, 128, 26, 26, 128, 26, 26, 128, 512, 512)
V2 = (
    *(32, 32, 103, 103, 64, 13, 13, 64, 13, 13, 64, 13, 13, 64, 13, 13, 64),
    *(231, 231, 128, 231, 231, 128, 52, 52, 128, 26, 26, 128, 77, 77, 128),
    *_AFTER,
)
V1SE = (
    *(32, 32, 103, 103, 64, 13, 13, 64, 26, 26, 64, 13, 13, 64, 52, 52, 64),
    *(231, 231, 128, 154, 154, 128, 52, 52, 128, 26, 26, 128, 52, 52, 128),
    *_AFTER,
)
"""Widths of all convolutions in the published order: what pruning left of MobileFaceNet's."""


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def conv(key: str, shape: tuple[int, ...], *, linear: bool = False) -> SHAPES:
    found = {f"{key}.conv.weight": shape} | norm(f"{key}.bn", shape[0])
    return found if linear else found | {f"{key}.prelu.weight": (shape[0],)}


def depthwise(key: str, c_in: int, inner: int, c_out: int) -> SHAPES:
    found = conv(f"{key}.conv", (inner, c_in, 1, 1)) | conv(f"{key}.conv_dw", (inner, 1, 3, 3))
    return found | conv(f"{key}.project", (c_out, inner, 1, 1), linear=True)


def published_shapes(widths: tuple[int, ...], *, weighed: bool) -> SHAPES:
    """The layout of minivision-ai/Silent-Face-Anti-Spoofing, written out from its table of widths."""
    found = conv("conv1", (widths[0], 3, 3, 3)) | conv("conv2_dw", (widths[1], 1, 3, 3))
    place, c_in = 2, widths[1]
    for halving, run, count in (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2)):
        for number in range(count + 1):
            inner, c_out = widths[place], widths[place + 2]
            key = halving if number == 0 else f"{run}.model.{number - 1}"
            found |= depthwise(key, c_in, inner, c_out)
            place, c_in = place + 3, c_out
        if weighed:
            key = f"{run}.model.{count - 1}.se_module"
            found |= {f"{key}.fc1.weight": (c_in // 4, c_in, 1, 1), f"{key}.fc2.weight": (c_in, c_in // 4, 1, 1)}
            found |= norm(f"{key}.bn1", c_in // 4) | norm(f"{key}.bn2", c_in)
    found |= conv("conv_6_sep", (512, c_in, 1, 1)) | conv("conv_6_dw", (512, 1, 5, 5), linear=True)
    return found | {"linear.weight": (128, 512)} | norm("bn", 128) | {"prob.weight": (3, 128)}


@pytest.mark.parametrize(
    ("widths", "weighed", "published", "config"),
    [(V2, False, 1_849_453, MiniFASNetConfig.v2()), (V1SE, True, 1_856_130, MiniFASNetConfig.v1se())],
    ids=["v2", "v1se"],
)
def test_published_layouts_fit(
    widths: tuple[int, ...], weighed: bool, published: int, config: MiniFASNetConfig
) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes(widths, weighed=weighed).items()}
    with torch.device("meta"):
        assert import_published(state).config == config
    assert recognise_tensors(state).systems == ("minifasnet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < published - size < 400 * len(state)
    del state["conv_4.model.5.project.conv.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)


@torch.inference_mode()
def test_channel_weights_by_the_formula() -> None:
    torch.manual_seed(0)
    weigh = ChannelWeights(8).eval()
    x = torch.randn(2, 8, 5, 6)
    first, norm1, second, norm2 = (cast("Any", weigh.layers[i]) for i in (1, 2, 4, 5))
    inner = torch.relu(x.mean((2, 3)) @ first.weight[:, :, 0, 0].t() / (1 + norm1.eps) ** 0.5)
    share = torch.sigmoid(inner @ second.weight[:, :, 0, 0].t() / (1 + norm2.eps) ** 0.5)
    torch.testing.assert_close(weigh(x), x * share[..., None, None])


@pytest.fixture
def model() -> MiniFASNet:
    torch.manual_seed(0)
    return MiniFASNet(MiniFASNetConfig.compact()).eval()


def test_votes_are_the_share_of_the_second_class(model: MiniFASNet, fakes: SimpleNamespace) -> None:
    photo = fakes.textured(200, 240)
    faces = [fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)]
    votes = model.live(photo, faces)
    assert votes.shape == (2,)
    crops = np.stack([model.preprocess.crop.cut(photo, face).image for face in faces])
    with torch.inference_mode():
        logits = model(torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2).float())  # BGR, 0…255
    np.testing.assert_allclose(votes, logits.softmax(1)[:, 1], atol=1e-6)
    assert model.live(photo, []).shape == (0,)


def published_crop(photo: np.ndarray, box: np.ndarray, scale: float, size: int) -> np.ndarray:
    """The published crop, from its description: the box grows about its middle, less where the photo ends; ends of it
    that stick out move it back, and it is stretched to a square."""
    height, width = photo.shape[:2]
    x, y, across, down = box[0], box[1], box[2] - box[0], box[3] - box[1]
    scale = min((height - 1) / down, (width - 1) / across, scale)
    new_width, new_height = across * scale, down * scale
    left, top = x + across / 2 - new_width / 2, y + down / 2 - new_height / 2
    right, bottom = left + new_width, top + new_height
    left, right = (0, right - left) if left < 0 else (left, right)
    top, bottom = (0, bottom - top) if top < 0 else (top, bottom)
    left, right = (left - (right - width + 1), width - 1) if right > width - 1 else (left, right)
    top, bottom = (top - (bottom - height + 1), height - 1) if bottom > height - 1 else (top, bottom)
    return cv2.resize(photo[int(top) : int(bottom) + 1, int(left) : int(right) + 1], (size, size))


@pytest.mark.parametrize("centre", [(120.0, 100.0), (30.0, 40.0), (215.0, 170.0)])
@pytest.mark.parametrize("config", [MiniFASNetConfig.v2(), MiniFASNetConfig.v1se()], ids=["2.7", "4.0"])
def test_crops_are_the_published_ones(
    centre: tuple[float, float], config: MiniFASNetConfig, fakes: SimpleNamespace
) -> None:
    photo, face = fakes.textured(200, 240), fakes.face_at(centre, 20.0)
    box = np.rint(face.box)  # the published program's boxes are whole pixels
    crop = MiniFASNet.preprocess_for(config).crop.cut(photo, replace(face, box=box)).image
    theirs = published_crop(photo, box, config.scale, config.size)
    assert crop.shape == (80, 80, 3)
    assert np.array_equal(crop, theirs)


# --- ONNX


def test_graph_votes(tmp_path: Path, fakes: SimpleNamespace) -> None:
    """A graph whose logits are the means of blue, green and red, in the place of a published one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(*end) for end in (("input", 1, [1, 3, 80, 80]), ("output", 1, [1, 3]))]
    nodes = [helper.make_node("ReduceMean", ["input"], ["output"], axes=[2, 3], keepdims=0)]
    graph = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 13)]
    )
    graph.ir_version = 8
    onnx.save(graph, str(tmp_path / "any.onnx"))
    assert recognise(tmp_path / "any.onnx").systems == ("minifasnet",)
    estimator = create("minifasnet", pretrained=import_checkpoint("minifasnet", tmp_path / "any.onnx", tmp_path / "m"))
    assert isinstance(estimator, MiniFASNetGraph)
    assert estimator.config == MiniFASNetConfig.v2()
    photo, faces = fakes.textured(200, 240), [fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)]
    crops = np.stack([estimator.preprocess.crop.cut(photo, face).image for face in faces])
    means = torch.from_numpy(crops[..., ::-1].mean((1, 2)))
    np.testing.assert_allclose(estimator.live(photo, faces), means.softmax(1)[:, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "mine"),
    [
        ({}, True),
        ({"operators": Counter(Conv=40, Sigmoid=3)}, True),
        ({"operators": Counter(Conv=40, Softmax=1)}, False),  # its answers are no logits
        ({"outputs": {"output": [1, 2]}}, False),
        ({"inputs": {"input": [1, 3, 128, 128]}}, False),
    ],
)
def test_which_graphs_are_minifasnet(changes: dict[str, object], mine: bool) -> None:
    values: dict[str, object] = {
        "inputs": {"input": ["batch", 3, 80, 80]}, "outputs": {"output": ["batch", 3]},
        "operators": Counter(Conv=40), "names": frozenset(), "parameters": 430_000,
    }  # fmt: skip
    sketch = GraphSketch(**(values | changes))  # type: ignore[arg-type]
    assert MiniFASNetGraph.accepts(sketch) == mine
    assert MiniFASNetGraph.config_of(sketch).variant == ("v1se" if sketch.operators["Sigmoid"] else "v2")


def test_refusals(model: MiniFASNet) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, 48, 48\)"):
        model(torch.zeros(1, 3, 80, 80))
    with pytest.raises(UsageError, match="choose one of v2, v1se"):
        MiniFASNet(MiniFASNetConfig("v3"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="multiple of 16"):
        MiniFASNet(MiniFASNetConfig(size=50))
