"""SFace: parity of the published networks, the embedding protocol and the training by distillation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.systems.recognise.recogniser import embedding_distance
from facewright.systems.recognise.sface.convert import import_published
from facewright.systems.recognise.sface.network import SFace, SFaceConfig
from facewright.systems.recognise.sface.training import DistillationTraining


@pytest.fixture(scope="module")
def model() -> SFace:
    torch.manual_seed(0)
    return SFace(SFaceConfig.compact()).eval()


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "backbone"), [("sface-ir50", "sface_ir50"), ("sface-mobilefacenet", "mobilefacenet")])
@torch.no_grad()
def test_equals_published_from_raw_pixels(parity, name: str, backbone: str) -> None:
    arrays, state, _ = parity(name)
    net = import_published(state)
    assert net.config.backbone == backbone
    published = torch.from_numpy(arrays["out_embedding"])
    pixels = torch.from_numpy(arrays["in_image"]).permute(0, 2, 3, 1).numpy()
    assert pixels.max() > 2, "the published input is raw grey levels"
    out = net(net.normalise(pixels))
    assert (out - published).abs().max() < 1e-4 * published.abs().max()


def test_embeddings_are_unit_and_ignore_batching(model: SFace) -> None:
    pictures = crops(35)
    together = model.embed(pictures)
    assert together.shape == (35, 128)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = model.embed(pictures[33:34])
    assert (together[33] * alone[0]).sum() > 0.9995


def test_mirrored_picture_has_the_same_embedding(model: SFace) -> None:
    pictures = crops(3)
    assert np.allclose(model.embed(pictures), model.embed(pictures[:, :, ::-1]), atol=2e-3)


def test_low_precision_agrees_with_full(model: SFace) -> None:
    pictures = crops(4)
    model.precision = "fp32"
    exact = model.embed(pictures)
    model.precision = "bf16"
    rough = model.embed(pictures)
    model.precision = "auto"
    assert ((exact * rough).sum(1) > 0.998).all()


def test_changed_weights_change_the_embedding(model: SFace) -> None:
    pictures = crops(1)
    before = model.embed(pictures)
    kept = model.backbone.fc.weight.detach().clone()  # type: ignore[operator, union-attr]
    with torch.no_grad():
        model.backbone.fc.weight.neg_()  # type: ignore[operator, union-attr]
    assert not np.allclose(before, model.embed(pictures), atol=0.1)
    with torch.no_grad():
        model.backbone.fc.weight.copy_(kept)  # type: ignore[operator, union-attr]
    assert np.allclose(before, model.embed(pictures), atol=1e-3)


def test_no_crops_give_no_embeddings(model: SFace) -> None:
    assert model.embed(crops(0)).shape == (0, 128)


def test_wrong_crop_size_is_named(model: SFace) -> None:
    with pytest.raises(UsageError, match="112"):
        model.embed(np.zeros((1, 96, 96, 3), np.uint8))


def test_published_scaling_is_ten_times_the_usual() -> None:
    assert SFace.preprocess_for(SFaceConfig()).std[0] == pytest.approx(12.8)
    assert SFace.preprocess_for(SFaceConfig(multiplier=0.0078125)).std[0] == pytest.approx(128)


def test_feature_maps_only_of_the_compact_form(model: SFace) -> None:
    maps = model.feature_maps(torch.zeros(1, 3, 112, 112))
    assert [m.shape[-1] for m in maps] == [56, 28, 14, 7]
    with torch.device("meta"):
        full = SFace(SFaceConfig("mobilefacenet"))
    with pytest.raises(UsageError, match="compact"):
        full.feature_maps(torch.zeros(1, 3, 112, 112))


def test_distance_of_embeddings() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    assert torch.allclose(embedding_distance(a, b), torch.tensor([0.0, 2.0, 1.0]))


def test_distillation_brings_the_student_to_the_teacher() -> None:
    torch.manual_seed(0)
    student = SFace(SFaceConfig("thin", 128, 1 / 127.5, widths=(16, 16, 16, 16), blocks=(1, 1, 1, 1)))
    training = DistillationTraining(student, lr=5e-3)
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    teacher = torch.nn.functional.normalize(torch.randn(8, 128), dim=1)
    batch = {"image": torch.from_numpy(crops(8)), "teacher": teacher, "label": torch.full((8,), -1)}
    first = float(training.step(batch, update, 0.0)["distance"])
    for _ in range(25):
        last = float(training.step(batch, update, 0.0)["distance"])
    assert first > 0.8
    assert last < 0.6 * first
