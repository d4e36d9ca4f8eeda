"""Landmark graphs that answer with coordinates: which are ours, crops as published, points back in the photo."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.loading import create
from facewright.systems.landmarks.insight68.network import Insight68, Insight68Config
from facewright.systems.landmarks.pfld.network import PFLD, PFLDConfig
from facewright.weights.graphs import GraphSketch
from facewright.weights.published import import_checkpoint, recognise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

BOX = np.array([100.0, 60.0, 180.0, 180.0])


def graph(path: Path, side: int, row: np.ndarray) -> Path:
    """A graph that answers with this row whatever it is shown."""
    helper = onnx.helper
    ends = [helper.make_tensor_value_info("input", 1, [1, 3, side, side])]
    ends.append(helper.make_tensor_value_info("output", 1, [1, len(row)]))
    value = onnx.numpy_helper.from_array(row[None].astype(np.float32), "row")
    nodes = [helper.make_node("Constant", [], ["output"], value=value)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


POINTS = np.random.default_rng(0).uniform(0.2, 0.8, (68, 2))  # in shares of the crop
MESH = np.concatenate([np.full((1103 - 68, 3), 9.0), np.column_stack([2 * POINTS - 1, np.zeros(68)])])


@pytest.mark.parametrize(("slug", "side", "row"), [("pfld", 112, POINTS.ravel()), ("insight68", 192, MESH.ravel())])
def test_points_return_to_the_photo(
    slug: str, side: int, row: np.ndarray, tmp_path: Path, fakes: SimpleNamespace
) -> None:
    path = graph(tmp_path / "any.onnx", side, row)
    assert recognise(path).systems == (slug,)
    model: Any = create(slug, pretrained=import_checkpoint(slug, path, tmp_path / slug))
    photo, faces = fakes.textured(200, 240), [fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)]
    found = model.locate(photo, faces)
    for face, marks in zip(faces, found):
        x0, y0, x1, y1 = face.box
        length = max(x1 - x0, y1 - y0) * (1.1 if slug == "pfld" else 1.5)
        expected = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + (POINTS - 0.5) * length
        np.testing.assert_allclose(marks.points, expected, atol=1e-2)
        assert (marks.confidence == 1).all()
    assert model.locate(photo, []) == []
    with pytest.raises(UsageError, match=r"\(H, W, 3\) uint8"):
        model.locate(np.zeros((4, 4), np.uint8), faces)


@pytest.mark.parametrize(
    ("spec", "size", "factor"),
    [(Insight68.preprocess_for(Insight68Config()), 192, 1.5), (PFLD.preprocess_for(PFLDConfig()), 112, 1.1)],
)
def test_crops_are_the_published_ones(spec: Any, size: int, factor: float) -> None:
    """As large as the longer side of the box times a factor, with the middle of the box at half the crop's side."""
    matrix = spec.crop.around(BOX)
    assert matrix[0, 0] == pytest.approx(size / (factor * 120))
    np.testing.assert_allclose(matrix @ [140, 120, 1], [size / 2, size / 2])


@pytest.mark.parametrize(
    ("cls", "side", "outputs", "mine"),
    [
        (Insight68, 192, [[1, 3309]], True),
        (Insight68, 192, [[1, 212]], False),  # its sister's 106 points
        (Insight68, 128, [[1, 3309]], False),
        (PFLD, 112, [["batch", 136]], True),
        (PFLD, 112, [[1, 64, 28, 28], [1, 136]], True),
        (PFLD, 112, [[1, 196]], False),
        (PFLD, 112, [[]], False),
    ],
)
def test_which_graphs_are_ours(cls: Any, side: int, outputs: list[list[Any]], mine: bool) -> None:
    shapes = {f"out{number}": shape for number, shape in enumerate(outputs)}
    assert cls.accepts(GraphSketch({"x": [1, 3, side, side]}, shapes, Counter(), frozenset(), 1)) == mine
