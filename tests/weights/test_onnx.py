"""ONNX files compute what PyTorch computes, say what they are, and are refused or removed when they do not."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock

from facewright.errors import UsageError, WeightsError
from facewright.systems.base import system_class
from facewright.systems.quality.vitfiqa.network import ViTFIQA, ViTFIQAConfig
from facewright.systems.restore.frgp.network import FRGP, FRGPConfig
from facewright.weights import onnx as onnx_room
from facewright.weights.onnx import export_onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from facewright.systems.base import System

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def frgp() -> FRGP:
    torch.manual_seed(0)
    config = FRGPConfig(
        size=64,
        patch=4,
        style_dim=8,
        mapping_layers=0,
        latent_rank=4,
        encoder_widths=(8, 8, 8),
        generator_widths=(8, 8, 8),
        injection="sft_full",
        residual=True,
        quality_head=True,
        light=(0, 1, 1),
    )
    return FRGP(config).eval()


def test_restorer_takes_any_batch_and_agrees(frgp: FRGP, tmp_path: Path) -> None:
    report = export_onnx(frgp, tmp_path / "frgp.onnx")
    assert set(report.difference) == {"restored", "degradation"}
    assert max(report.difference.values()) < 1e-5
    assert report.bytes == (tmp_path / "frgp.onnx").stat().st_size
    session = onnxruntime.InferenceSession(str(tmp_path / "frgp.onnx"), providers=["CPUExecutionProvider"])
    notes = json.loads(session.get_modelmeta().custom_metadata_map["facewright"])
    assert notes["slug"] == "frgp"
    assert notes["preprocess"]["crop"]["template"] == "ffhq"
    image = torch.rand(5, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        expected = frgp(image)
    np.testing.assert_allclose(session.run(["restored"], {"image": image.numpy()})[0], expected.numpy(), atol=1e-5)


def exported(model: System, path: Path) -> None:
    """Write the file; parts that are named by keywords (the detector's) stay where they are in the network."""
    before = list(model.state_dict())
    report = export_onnx(model, path)
    assert max(report.difference.values()) < 1e-3
    assert list(model.state_dict()) == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[System, Path]]:
    """Embedded networks and their files, each written once by whichever process of the run needs it first."""
    made: dict[str, tuple[System, Path]] = {}
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def get(slug: str) -> tuple[System, Path]:
        if slug not in made:
            path = folder / f"{slug}.onnx"
            model = system_class(slug).from_pretrained()
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    exported(model, path)
            made[slug] = model, path
        return made[slug]

    return get


def pictures(model: System, count: int, size: tuple[int, int]) -> torch.Tensor:
    pixels = np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return model.normalise(np.stack([cv2.GaussianBlur(one, (0, 0), 2) for one in pixels])).contiguous()


def run(path: Path, image: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})


def expected(model: System, image: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        return [out.numpy() for out in onnx_room._Plain(model)(image)]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("slug", list(onnx_room.FORMS))
def test_batches(trained: Callable[[str], tuple[System, Path]], slug: str, count: int) -> None:
    model, path = trained(slug)
    size = (model.preprocess.size,) * 2 if model.preprocess.size else (160, 128)
    image = pictures(model, count, size)
    for found, wanted in zip(run(path, image), expected(model, image), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("size", [(33, 65), (97, 131), (241, 320)])
def test_detector_takes_odd_sizes(trained: Callable[[str], tuple[System, Path]], size: tuple[int, int]) -> None:
    model, path = trained("mos")
    image = pictures(model, 1, size)
    for found, wanted in zip(run(path, image), expected(model, image), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("operators", [None, ["MatMul", "Gemm"]], ids=["all", "products"])
@pytest.mark.parametrize("slug", list(onnx_room.FORMS))
def test_dynamic_quantisation(
    trained: Callable[[str], tuple[System, Path]], slug: str, operators: list[str] | None, tmp_path: Path
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    model, path = trained(slug)
    narrow = tmp_path / "int8.onnx"
    quantize_dynamic(path, narrow, op_types_to_quantize=operators)
    assert operators or narrow.stat().st_size < 0.6 * path.stat().st_size  # the detector has no products
    image = pictures(model, 2, (model.preprocess.size,) * 2 if model.preprocess.size else (160, 128))
    for found, wanted in zip(run(narrow, image), run(path, image), strict=True):
        cosine = (found * wanted).sum() / (np.linalg.norm(found) * np.linalg.norm(wanted))
        assert cosine >= 0.998


def test_a_file_that_computes_something_else_is_not_kept(
    frgp: FRGP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_room, "_relative", lambda got, want: 0.5)
    with pytest.raises(WeightsError, match=r"differs from PyTorch: restored by 5\.0e-01"):
        export_onnx(frgp, tmp_path / "frgp.onnx")
    assert not list(tmp_path.iterdir())


def test_difference_is_relative_and_of_shape_infinite() -> None:
    assert onnx_room._relative(np.array([1.0, 3.5]), np.array([1.0, 4.0])) == pytest.approx(0.125)
    assert onnx_room._relative(np.zeros(3), np.zeros(2)) == float("inf")


def test_systems_without_a_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vitfiqa has no ONNX form; there is one for distilledface, frgp, mos"):
        export_onnx(ViTFIQA(ViTFIQAConfig.compact()), tmp_path / "x.onnx")
