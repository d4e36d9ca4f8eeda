"""DistilledFace: the embedding protocol, the training by distillation, and its weights of when it was called SFace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import facewright as fw
from facewright.errors import UsageError, WeightsError
from facewright.gallery.records import RecogniserId
from facewright.systems.recognise.distilledface.network import DistilledFace, DistilledFaceConfig
from facewright.systems.recognise.distilledface.training import DistillationTraining
from facewright.systems.recognise.recogniser import embedding_distance
from facewright.systems.recognise.sface.network import SFace
from facewright.weights.store import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model() -> DistilledFace:
    torch.manual_seed(0)
    return DistilledFace(DistilledFaceConfig.compact()).eval()


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def test_embeddings_are_unit_and_ignore_batching(model: DistilledFace) -> None:
    pictures = crops(35)
    together = model.embed(pictures)
    assert together.shape == (35, 128)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = model.embed(pictures[33:34])
    assert (together[33] * alone[0]).sum() > 0.9995


def test_mirrored_picture_has_the_same_embedding(model: DistilledFace) -> None:
    pictures = crops(3)
    assert np.allclose(model.embed(pictures), model.embed(pictures[:, :, ::-1]), atol=2e-3)


def test_low_precision_agrees_with_full(model: DistilledFace) -> None:
    pictures = crops(4)
    model.precision = "fp32"
    exact = model.embed(pictures)
    model.precision = "bf16"
    rough = model.embed(pictures)
    model.precision = "auto"
    assert ((exact * rough).sum(1) > 0.998).all()


def test_changed_weights_change_the_embedding(model: DistilledFace) -> None:
    pictures = crops(1)
    before = model.embed(pictures)
    kept = model.backbone.fc.weight.detach().clone()
    with torch.no_grad():
        model.backbone.fc.weight.neg_()
    assert not np.allclose(before, model.embed(pictures), atol=0.1)
    with torch.no_grad():
        model.backbone.fc.weight.copy_(kept)
    assert np.allclose(before, model.embed(pictures), atol=1e-3)


def test_no_crops_give_no_embeddings(model: DistilledFace) -> None:
    assert model.embed(crops(0)).shape == (0, 128)


def test_wrong_crop_size_is_named(model: DistilledFace) -> None:
    with pytest.raises(UsageError, match="112"):
        model.embed(np.zeros((1, 96, 96, 3), np.uint8))


def test_distance_of_embeddings() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    assert torch.allclose(embedding_distance(a, b), torch.tensor([0.0, 2.0, 1.0]))


def test_distillation_brings_the_student_to_the_teacher() -> None:
    torch.manual_seed(0)
    student = DistilledFace(DistilledFaceConfig(128, (16, 16, 16, 16), (1, 1, 1, 1)))
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


def test_feature_maps_halve_from_stage_to_stage(model: DistilledFace) -> None:
    assert [m.shape[-1] for m in model.feature_maps(torch.zeros(1, 3, 112, 112))] == [56, 28, 14, 7]


def test_weights_saved_as_sface_are_its_own(tmp_path: Path) -> None:
    """Folders that people trained by the old recipe."""
    state, meta = load_file(
        DistilledFace(DistilledFaceConfig.compact()).save_pretrained(tmp_path / "new") / "model.safetensors"
    )
    old = meta | {"slug": "sface", "config": meta["config"] | {"backbone": "thin", "multiplier": 1 / 127.5}}
    (tmp_path / "old").mkdir()
    save_file(state, tmp_path / "old/model.safetensors", old)
    (tmp_path / "old/config.json").write_text(json.dumps(old))
    loaded = DistilledFace.from_pretrained(tmp_path / "old").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())
    with pytest.raises(WeightsError, match="are of distilledface"):
        SFace.from_pretrained(tmp_path / "old")


def test_the_old_name_still_loads_it_and_says_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="sface is deprecated; use distilledface"):
        old = fw.create("sface", pretrained=True)
    assert isinstance(old, DistilledFace)
    assert old.weights_sha256 == fw.create("distilledface", pretrained=True).weights_sha256
    assert type(fw.create("sface", preset=None)) is SFace


def test_galleries_of_the_old_name_take_it() -> None:
    now, old = (RecogniserId(slug, "ab" * 32, 128) for slug in ("distilledface", "sface"))
    assert now.is_same(old)
    assert old.is_same(now)
    assert not now.is_same(RecogniserId("sface", "cd" * 32, 128))
    assert not now.is_same(RecogniserId("arcface", "ab" * 32, 128))
