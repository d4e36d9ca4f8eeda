"""What an ONNX file of unknown origin is taken for: sketches, outlines, and which systems are nearest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import WeightsError
from facewright.nn.memory import WithoutMemory
from facewright.systems.base import system_class
from facewright.weights import published
from facewright.weights.graphs import GraphSketch, Outline, likeness, sketch

onnx = pytest.importorskip("onnx")

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 80


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were three systems: making all of them takes its time."""
    found = [pair for pair in published._converters() if pair[0].slug in ("minifasnet", "facenet", "scunet")]
    monkeypatch.setattr(published, "_converters", lambda: found)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A graph of no system here: the crop, the numbers and the operators of a MiniFASNet, but nine answers."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    with WithoutMemory():
        outline = Outline.of(system_class("minifasnet")(), SIDE)
    counts = {kind: count for kind, count in outline.operators.items() if kind in ("Conv", "PRelu")}
    weight, slope = np.zeros((3, 3, 1, 1), np.float32), np.zeros((3, 1, 1), np.float32)
    stored = [to_tensor(weight, "w"), to_tensor(slope, "s"), to_tensor(np.zeros(outline.parameters, np.int8), "spare")]
    nodes: list[Any] = []
    last = "input"
    for kind, constant in (("Conv", "w"), ("PRelu", "s")):
        for number in range(counts[kind]):
            nodes.append(helper.make_node(kind, [last, constant], [f"{kind}{number}"]))
            last = f"{kind}{number}"
    nodes.append(helper.make_node("Concat", [last] * 3, ["output"], axis=1))
    ends = [helper.make_tensor_value_info("input", 1, [1, 3, SIDE, SIDE])]
    ends.append(helper.make_tensor_value_info("output", 1, [1, 9, SIDE, SIDE]))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, str(tmp_path / "unknown.onnx"))
    return tmp_path / "unknown.onnx"


def test_nearest_systems_of_an_unknown_graph_are_named(few: None, written: Path, run: Any) -> None:
    found = published.recognise(written)
    assert found.systems == ()
    assert found.near == ("minifasnet",)  # facenet takes another picture, scunet has no slopes
    code, _, said = run("import", written)
    assert code == 2
    assert "does not belong to any known system; nearest: minifasnet; see 'facewright models'" in said


def test_sketch_says_what_goes_in_and_out(written: Path) -> None:
    found = sketch(written)
    assert (found.side, found.picture) == (SIDE, [1, 3, SIDE, SIDE])
    assert list(found.outputs.values()) == [[1, 9, SIDE, SIDE]]
    assert found.names == {"w", "s", "spare"}
    assert found.operators["Conv"] > 15


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x07\x12\x00broken"])
def test_files_that_are_no_graphs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match="is not a readable ONNX file"):
        published.recognise(tmp_path / "a.onnx")


def a_graph(**changes: Any) -> GraphSketch:
    values: dict[str, Any] = {
        "inputs": {"x": [1, 3, 64, 64]}, "outputs": {"y": [1]}, "operators": Counter(Conv=8, Gemm=2),
        "names": frozenset({"model.stem.weight"}), "parameters": 1000,
    }  # fmt: skip
    return GraphSketch(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1.0),
        ({"parameters": 500}, (1 + 0.5 + 1 + 1) / 4),
        ({"inputs": {"x": [1, 3, 32, 32]}}, (0 + 1 + 1 + 1) / 4),
        ({"inputs": {"x": [1, 3, "h", "w"]}}, (0.5 + 1 + 1 + 1) / 4),
        ({"operators": Counter(Conv=4, MatMul=2, Relu=9)}, (1 + 1 + 0.6 + 1) / 4),
        ({"names": frozenset({"onnx::Conv_12"})}, 1.0),  # renamed by its exporter, which says nothing
    ],
)
def test_likeness_is_the_mean_of_its_parts(changes: dict[str, Any], expected: float) -> None:
    outline = Outline(64, 1000, Counter(Conv=8, Gemm=2), (r"stem\.",))
    assert likeness(a_graph(**changes), outline) == pytest.approx(expected)
