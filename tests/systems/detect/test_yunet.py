"""YuNet: a graph with the published inputs and outputs, decoded as OpenCV decodes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.loading import create
from facewright.systems.detect.yunet.convert import import_onnx, is_graph
from facewright.systems.detect.yunet.network import YuNet
from facewright.weights.published import import_checkpoint, recognise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from pathlib import Path


def graph(path: Path, names: tuple[str, ...] = ("cls", "obj", "bbox", "kps")) -> Path:
    """An ONNX file with the published names and shapes, whose outputs are linear in the mean colour of each cell."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(3)
    nodes, constants, outputs = [], [], []
    widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    for stride in (8, 16, 32):
        side = [stride, stride]
        nodes.append(helper.make_node("AveragePool", ["input"], [f"p{stride}"], kernel_shape=side, strides=side))
        for name in names:
            width = widths.get(name, 1)
            key = f"{name}_{stride}"
            scale = 0.004 if width == 1 else 0.01
            weight = rng.normal(0, scale, (width, 3, 1, 1)).astype(np.float32)
            bias = rng.normal(0.3, 0.2, width).astype(np.float32)
            constants += [numpy_helper.from_array(weight, key + "w"), numpy_helper.from_array(bias, key + "b")]
            shape = np.array([1, (640 // stride) ** 2, width], np.int64)
            constants.append(numpy_helper.from_array(shape, key + "s"))
            nodes += [
                helper.make_node("Conv", [f"p{stride}", key + "w", key + "b"], [key + "c"]),
                helper.make_node("Transpose", [key + "c"], [key + "t"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [key + "t", key + "s"], [key]),
            ]
            outputs.append(helper.make_tensor_value_info(key, 1, shape.tolist()))
    outputs.sort(key=lambda value: [n + f"_{s}" for n in names for s in (8, 16, 32)].index(value.name))
    given = [helper.make_tensor_value_info("input", 1, [1, 3, 640, 640])]
    model = helper.make_model(
        helper.make_graph(nodes, "yunet", given, outputs, constants), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.fixture
def photo() -> np.ndarray:
    """Patches of any colour."""
    small = np.random.default_rng(5).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (640, 640), interpolation=cv2.INTER_NEAREST))


def test_decodes_as_opencv(tmp_path: Path, photo: np.ndarray) -> None:
    """Without suppression, which OpenCV does on whole pixels."""
    path = graph(tmp_path / "yunet.onnx")
    theirs = cv2.FaceDetectorYN.create(str(path), "", (640, 640), 0.75, 1.0, 50_000)
    _, rows = theirs.detect(photo[..., ::-1].copy())
    model = import_onnx(path)
    model.overlap = 1.0
    faces = model.detect(photo, threshold=0.75, min_size=0)
    assert len(faces) == len(rows) > 100
    ours = np.array([[*f.box[:2], *(f.box[2:] - f.box[:2]), *f.points5.ravel(), f.score] for f in faces])
    np.testing.assert_allclose(ours[np.lexsort(ours[:, :4].T)], rows[np.lexsort(rows[:, :4].T)], atol=1e-2)


def test_saved_fetched_and_created_like_any_system(tmp_path: Path, photo: np.ndarray, monkeypatch: Any) -> None:
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path / "home"))
    path = graph(tmp_path / "of_unknown_name.onnx")
    assert recognise(path).systems == ("yunet",)
    folder = import_checkpoint("yunet", path, tmp_path / "out")
    assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "model.onnx"]
    before = import_onnx(path).detect(photo)
    for source in (folder, path):
        model: Any = create("yunet", pretrained=source).to(torch.device("cpu"))
        assert [f.to_dict() for f in model.detect(photo)] == [f.to_dict() for f in before]
        assert len(model.weights_sha256) == 64


def test_photos_of_any_size_are_fitted(tmp_path: Path, photo: np.ndarray) -> None:
    model = import_onnx(graph(tmp_path / "yunet.onnx"))
    whole = model.detect(photo, threshold=0.8, min_size=0)
    large = model.detect(photo.repeat(2, 0).repeat(2, 1), threshold=0.8, min_size=0)
    assert len(whole) == len(large)
    for a, b in zip(whole, large):
        np.testing.assert_allclose(b.box, (a.box + 0.5) * 2 - 0.5, atol=0.1)
    assert isinstance(model.detect(photo[:31, :77]), list)


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert not is_graph(graph(tmp_path / "other.onnx", ("cls", "bbox")))
    with pytest.raises(WeightsError, match="but not one of yunet"):
        import_onnx(tmp_path / "other.onnx")
    (tmp_path / "page.onnx").write_text("<html>")
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        import_onnx(tmp_path / "page.onnx")
    with pytest.raises(WeightsError, match="no ONNX file at"):
        import_onnx(tmp_path / "none.onnx")


def test_without_its_graph_it_says_where_to_get_one() -> None:
    with pytest.raises(WeightsError, match="facewright download yunet"):
        YuNet().detect(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(WeightsError, match="no graph to save"):
        YuNet().save_pretrained("nowhere")
    with pytest.raises(UsageError, match="detect needs"):
        YuNet().detect(np.zeros((64, 64), np.uint8))
