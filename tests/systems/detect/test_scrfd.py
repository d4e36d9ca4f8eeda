"""SCRFD: a graph with the published outputs, decoded by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.systems.detect.scrfd.convert import import_onnx, is_graph
from facewright.weights.published import recognise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 64


def graph(path: Path, *, order: tuple[str, ...] = ("scores", "boxes", "points"), fixed: bool = False) -> Path:
    """Outputs as published (numbers for names, cells times two anchors), with one face on the level of stride 16."""
    helper = onnx.helper
    widths = {"scores": 1, "boxes": 4, "points": 10}
    nodes, outputs = [], []
    for number, (name, stride) in enumerate((n, s) for n in order for s in (8, 16, 32)):
        values = np.zeros((2 * (SIDE // stride) ** 2, widths[name]), np.float32)
        if stride == 16:  # the cell (row 1, column 2), second anchor
            values[2 * (1 * 4 + 2) + 1] = {"scores": 0.9, "boxes": [1, 0.5, 1, 0.75], "points": np.arange(10) / 10}[  # type: ignore[call-overload]
                name
            ]
        key = str(440 + number)
        nodes.append(helper.make_node("Constant", [], [key], value=onnx.numpy_helper.from_array(values, key)))
        outputs.append(helper.make_tensor_value_info(key, 1, list(values.shape)))
    sides: list[Any] = [SIDE, SIDE] if fixed else ["?", "?"]
    given = [helper.make_tensor_value_info("input.1", 1, [1, 3, *sides])]
    model = helper.make_model(
        helper.make_graph(nodes, "scrfd", given, outputs), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("fixed", [False, True])
def test_decoding_by_hand(tmp_path: Path, fixed: bool) -> None:
    """The corner of the cell is (32, 16); distances and offsets are in units of 16 px."""
    path = graph(tmp_path / "det_10g.onnx", fixed=fixed)
    faces = import_onnx(path).detect(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert len(faces) == 1
    assert faces[0].score == pytest.approx(0.9)
    np.testing.assert_allclose(faces[0].box, [16, 8, 48, 28])
    expected = np.array([32, 16]) + 1.6 * np.arange(10).reshape(5, 2)
    np.testing.assert_allclose(faces[0].points5, expected, rtol=1e-5)
    assert recognise(path).systems == ("scrfd",)


def test_graph_with_other_outputs_is_none(tmp_path: Path) -> None:
    assert not is_graph(graph(tmp_path / "a.onnx", order=("boxes", "scores", "points")))


def test_network_is_fed_as_insightface_does(tmp_path: Path) -> None:
    fed = import_onnx(graph(tmp_path / "a.onnx")).normalise(np.full((1, 2, 2, 3), (0, 255, 127), np.uint8))
    np.testing.assert_allclose(fed[0, :, 0, 0], [-127.5 / 128, 127.5 / 128, -0.5 / 128])
