"""GPEN: published keys, shapes and sizes, features in the place of noise, ONNX files, refusals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.loading import create
from facewright.nn.memory import WithoutMemory
from facewright.systems.restore.gpen import network
from facewright.systems.restore.gpen.convert import import_published
from facewright.systems.restore.gpen.network import GPEN, GPENConfig, GPENGraph
from facewright.weights.graphs import GraphSketch
from facewright.weights.published import import_checkpoint, recognise, recognise_tensors

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 284_085_738
WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}


def modulated(key: str, c_in: int, c_out: int, kernel: int) -> SHAPES:
    return {
        f"{key}.conv.weight": (1, c_out, c_in, kernel, kernel),
        f"{key}.conv.modulation.weight": (c_in, 512),
        f"{key}.conv.modulation.bias": (c_in,),
    }


def styled(key: str, c_in: int, c_out: int) -> SHAPES:
    """Features lie beside what the convolution gives, so the bias is for twice its channels."""
    return modulated(key, c_in, c_out, 3) | {f"{key}.noise.weight": (1,), f"{key}.activate.bias": (2 * c_out,)}


def to_rgb(key: str, c_in: int) -> SHAPES:
    return modulated(key, c_in, 3, 1) | {f"{key}.bias": (1, 3, 1, 1)}


def published_shapes() -> SHAPES:
    """The layout of yangxy/GPEN at 512 px, written out from its layer tables."""
    found: SHAPES = {"ecd0.0.0.weight": (64, 3, 1, 1), "ecd0.0.1.bias": (64,)}
    falling = sorted(WIDTHS, reverse=True)
    for number, (a, b) in enumerate(zip(falling, falling[1:]), 1):
        found |= {
            f"ecd{number}.0.0.kernel": (4, 4),
            f"ecd{number}.0.1.weight": (WIDTHS[b], WIDTHS[a], 3, 3),
            f"ecd{number}.0.2.bias": (WIDTHS[b],),
        }
    found |= {"final_linear.0.weight": (512, 8192), "final_linear.0.bias": (512,)}
    for number in range(1, 9):
        found |= {f"generator.style.{number}.weight": (512, 512), f"generator.style.{number}.bias": (512,)}
    found["generator.input.input"] = (1, 512, 4, 4)
    found |= styled("generator.conv1", 512, 512) | to_rgb("generator.to_rgb1", 1024)
    for number, (a, b) in enumerate(zip(sorted(WIDTHS), sorted(WIDTHS)[1:])):
        found |= styled(f"generator.convs.{2 * number}", 2 * WIDTHS[a], WIDTHS[b])
        found |= styled(f"generator.convs.{2 * number + 1}", 2 * WIDTHS[b], WIDTHS[b])
        found |= to_rgb(f"generator.to_rgbs.{number}", 2 * WIDTHS[b])
        found[f"generator.convs.{2 * number}.conv.blur.kernel"] = (4, 4)
        found[f"generator.to_rgbs.{number}.upsample.kernel"] = (4, 4)
    return found


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        assert import_published(state).config == GPENConfig()
    assert recognise_tensors(state).systems == ("gpen",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 400 * len(state)
    del state["generator.to_rgbs.2.conv.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match="is not a complete checkpoint of GPEN"):
        import_published(state)


@pytest.mark.parametrize(("side", "parameters"), sorted(network._PARAMETERS.items()))
def test_numbers_of_parameters_by_which_graphs_are_told(side: int, parameters: int) -> None:
    with WithoutMemory():
        model = GPEN(GPEN.preset(f"bfr_{side}"))
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    assert model.preprocess.size == side


@pytest.fixture
def tiny() -> GPEN:
    torch.manual_seed(0)
    model = GPEN(GPENConfig(size=32, channel_multiplier=1, narrow=0.0625, style_dim=16, mapping_layers=2)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("noise_strength"):  # starts at nothing
                weight.fill_(0.5)
    return model


@torch.inference_mode()
def test_features_of_every_size_reach_the_picture(tiny: GPEN) -> None:
    """The encoder's features lie beside the generator's: without the ones of a size the picture is another."""
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    features = [tiny.stem(image)]
    for down in tiny.downs:
        features.append(down(features[-1]))
    style = F.leaky_relu(tiny.to_style(features[-1].flatten(1)), 0.2) * 2**0.5
    latent = tiny.generator.mapping(style)
    whole = tiny(image)
    torch.testing.assert_close(tiny.generator(latent, features[::-1]), whole)
    for number in range(len(features)):
        without = [f * 0 if i == number else f for i, f in enumerate(features)]
        assert (tiny.generator(latent, without[::-1]) - whole).abs().max() > 1e-3


def test_restores_crops_and_refuses_what_it_does_not_have(tiny: GPEN) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    tiny.precision = "fp32"
    together = tiny.restore(crops)
    assert (together.shape, together.dtype) == (crops.shape, np.uint8)
    assert np.abs(together[1].astype(int) - tiny.restore(crops[1:2])[0]).max() <= 1
    with pytest.raises(UsageError, match="no control of fidelity"):
        tiny.restore(crops, fidelity=0.5)
    with pytest.raises(UsageError, match="draws no noise"):
        tiny.restore(crops, seed=1)
    with pytest.raises(UsageError, match=r"\(N, 3, 32, 32\)"):
        tiny(torch.zeros(1, 3, 64, 64))


# --- ONNX


def sketch(**changes: object) -> GraphSketch:
    shape = [1, 3, 512, 512]
    values: dict[str, object] = {
        "inputs": {"input": shape}, "outputs": {"output": shape}, "operators": Counter(Conv=60, LeakyRelu=30),
        "names": frozenset(), "parameters": 71_050_000,
    }  # fmt: skip
    return GraphSketch(**(values | changes))  # type: ignore[arg-type]


def test_which_graphs_are_gpen() -> None:
    assert GPENGraph.accepts(sketch())
    assert GPENGraph.config_of(sketch()) == GPENConfig()
    for other in (
        sketch(parameters=86_000_000),  # GFPGAN
        sketch(operators=Counter(Conv=60, InstanceNormalization=20)),  # RestoreFormer
        sketch(outputs={"output": [1, 19, 512, 512]}),
        sketch(outputs={"output": [1, 3, 512, 512], "more": [1]}),
        sketch(inputs={"input": [1, 3, 640, 640]}, outputs={"output": [1, 3, 640, 640]}),
    ):
        assert not GPENGraph.accepts(other)


def test_graph_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that turns black to white, in the place of a published one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    values = [helper.make_tensor_value_info(name, 1, [1, 3, 256, 256]) for name in ("input", "output")]
    spare = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "spare")
    graph = helper.make_graph([helper.make_node("Neg", ["input"], ["output"])], "g", values[:1], values[1:], [spare])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = tmp_path / "any.onnx"
    onnx.save(model, str(path))
    monkeypatch.setattr(network, "_PARAMETERS", {256: 1000})
    assert recognise(path).systems == ("gpen",)
    folder = import_checkpoint("gpen", path, tmp_path / "gpen")
    restorer = create("gpen", pretrained=folder)
    assert isinstance(restorer, GPENGraph)
    assert restorer.config == GPENConfig.bfr_256()
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    assert np.array_equal(restorer.restore(crops), 255 - crops)
    with pytest.raises(UsageError, match="draws no noise"):
        restorer.restore(crops, seed=1)
