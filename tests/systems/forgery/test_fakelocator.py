"""FakeLocator: shapes, the losses by hand, attention, what is fixed, clustering, and what is said of crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

from facewright.data.forgeries import FORENSIC_CROP
from facewright.errors import UsageError
from facewright.systems.forgery.fakelocator.network import (
    REGIONS,
    FakeLocator,
    FakeLocatorConfig,
    RegionAttention,
)
from facewright.systems.forgery.fakelocator.training import (
    FakeLocatorTraining,
    map_loss,
    single_sample_clustering,
)
from facewright.systems.forgery.features import FixedFeatures

SMALL = FakeLocatorConfig(64, widths=(4, 8, 8, 8, 8), blocks=(1, 1, 1, 1), up=(8, 8, 8, 8))


def crops(count: int = 2, side: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_the_full_size_draws_at_full_resolution() -> None:
    with torch.device("meta"):
        model = FakeLocator()
        found = model(torch.zeros(1, 3, 256, 256), torch.zeros(1, REGIONS, 256, 256))
    assert 8e6 < sum(p.numel() for p in model.parameters()) < 12e6
    assert found.map.shape == (1, 1, 256, 256)
    assert found.kind.shape == (1, 2)
    strides = [1, 2, 4, 8, 16]
    with torch.device("meta"):
        features = model.encoder(torch.zeros(1, 3, 256, 256), torch.zeros(1, REGIONS, 256, 256))
    assert [256 // f.shape[-1] for f in features] == strides


def test_what_it_sees_is_what_the_training_crops_show() -> None:
    assert FakeLocator.preprocess_for(FakeLocatorConfig.compact()).crop == FORENSIC_CROP


def test_maps_begin_near_zero() -> None:
    torch.manual_seed(0)
    model = FakeLocator(replace(SMALL, attention="none")).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, 64, 64)).map.sigmoid().mean() < 0.35


def test_map_losses_by_hand() -> None:
    logits, truth = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    assert float(map_loss(logits, truth, "l1")) == pytest.approx((5 * 0.5 + 1 * 0.5) / 2)
    assert float(map_loss(logits, truth, "l2")) == pytest.approx((5 * 0.25 + 1 * 0.25) / 2)
    assert float(map_loss(logits, truth, "bce")) == pytest.approx(np.log(2))
    grey = torch.full((1, 1, 1, 2), 0.5)
    assert float(map_loss(logits, grey, "l1")) == 0  # grey truths are not rounded
    with pytest.raises(UsageError, match="unknown loss"):
        map_loss(logits, truth, "dice")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["mul", "residual"])
def test_attention_follows_its_formula(mode: str) -> None:
    torch.manual_seed(0)
    attention = RegionAttention(5, mode)  # type: ignore[arg-type]
    features, regions = torch.randn(2, 5, 4, 4), torch.rand(2, REGIONS, 16, 16)
    weight = torch.sigmoid(attention.proj(F.avg_pool2d(regions, 4)))
    expected = features * weight if mode == "mul" else features * (1 + weight)
    assert torch.allclose(attention(features, regions), expected, atol=1e-6)
    with pytest.raises(UsageError, match="soft map"):
        attention(features, None)


def test_the_fixed_spectrum_is_the_dct_of_blocks() -> None:
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    spectrum = FixedFeatures()(image)[0][0, :64].numpy()
    luma = np.tensordot([0.299, 0.587, 0.114], image[0].numpy() * 127.5, 1)
    for row, column in ((0, 0), (2, 3)):
        block = luma[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        expected = np.log2(np.abs(dctn(block, norm="ortho")).ravel() + 0.5)
        assert np.abs(spectrum[:, row, column] - expected).max() < 2e-3


def test_a_reduced_part_is_seen_in_the_spectrum() -> None:
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    soft = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2.0, mode="bilinear")
    image[:, :, :, 32:] = soft[:, :, :, 32:]
    fine = FixedFeatures()(image)[0][0, 63]  # the finest term
    assert fine[:, :4].mean() - fine[:, 4:].mean() > 2


def test_what_is_fixed_is_never_trained() -> None:
    torch.manual_seed(0)
    model = FakeLocator(FakeLocatorConfig.compact())
    training = FakeLocatorTraining(model, loss="bce", start_from="segface", lr=1e-2)
    before = {name: value.clone() for name, value in model.encoder.fixed.state_dict().items()}  # type: ignore[union-attr]
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    model.train()
    batch = {
        "image": torch.from_numpy(crops()),
        "mask": torch.zeros(2, 1, 256, 256, dtype=torch.uint8),
        "kind": torch.tensor([0, 2]),
    }
    plain = training.step(batch, update, 0.0)
    after = model.encoder.fixed.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(torch.isfinite(value) for value in plain.values())  # type: ignore[arg-type]


def test_features_computed_before_give_the_same_losses() -> None:
    torch.manual_seed(0)
    model = FakeLocator(FakeLocatorConfig.compact()).eval()
    training = FakeLocatorTraining(model, loss="bce")
    batch = {
        "image": torch.from_numpy(crops()),
        "mask": torch.full((2, 1, 256, 256), 255, dtype=torch.uint8),
        "kind": torch.tensor([1, 0]),
    }
    with torch.inference_mode():
        near, far = model.encoder.fixed(model.normalise(crops()))  # type: ignore[operator]
        stored = {"fixed8": near, "fixed16": far, "mask": batch["mask"], "kind": batch["kind"]}
        direct, before = training.validate(batch), training.validate(stored)
    assert direct == pytest.approx(before, abs=1e-4)
    assert direct["auc"] in (0.0, 0.5, 1.0)


def test_three_kinds_are_two_for_a_network_that_knows_two() -> None:
    torch.manual_seed(0)
    model = FakeLocator(replace(SMALL, attention="none"))
    training = FakeLocatorTraining(model)
    assert training._kind({"kind": torch.tensor([0, 1, 2])}).tolist() == [0, 1, 1]


def test_clustering_needs_one_label() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (20, 10)), rng.normal(4, 1, (30, 10))])
    fake = np.arange(50) >= 20
    assert (single_sample_clustering(features, 45, True) == fake).all()
    assert (single_sample_clustering(features, 3, False) == fake).all()
    assert (single_sample_clustering(features, 3, True) == ~fake).all()  # a wrong label turns everything round
    with pytest.raises(UsageError, match="cannot be parted"):
        single_sample_clustering(features[:2], 0, True)


def test_crops_are_examined_in_any_number() -> None:
    torch.manual_seed(0)
    model = FakeLocator(FakeLocatorConfig.compact()).eval()
    model.precision = "fp32"
    found = model.examine(crops(3))
    assert found.shares.keys() == {"manipulated", "generated"}
    assert found.maps.shape == (3, 256, 256)
    with torch.inference_mode():
        direct = model(model.normalise(crops(3)))
    kinds = direct.kind.softmax(1).numpy()
    for number, name in ((1, "manipulated"), (2, "generated")):
        expected = kinds[:, number] / (kinds[:, number] + kinds[:, 0])
        assert np.allclose(found.shares[name], expected, atol=1e-4)
    assert np.allclose(found.maps, direct.map[:, 0].sigmoid(), atol=1e-3)
    assert model.examine(crops(0)).maps.shape == (0, 256, 256)
    with pytest.raises(UsageError, match="uint8 crops"):
        model.examine(crops(1, 128))
    with pytest.raises(UsageError, match="attention"):
        model.examine(crops(1), np.zeros((1, REGIONS, 256, 256), np.float32))


def test_networks_with_attention_need_the_parsers_map() -> None:
    torch.manual_seed(0)
    model = FakeLocator(SMALL).eval()
    with pytest.raises(UsageError, match="attention"):
        model.examine(crops(1, 64))
    regions = np.random.default_rng(1).random((1, REGIONS, 64, 64), np.float32)
    assert model.examine(crops(1, 64), regions).maps.shape == (1, 64, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 250},
        {"up": ()},
        {"up": (8,) * 5},
        {"trunk": "fixed"},
        {"trunk": "none"},
        {"attention": "add"},
        {"pooling": "max"},
        {"kinds": 4},
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        FakeLocator(replace(SMALL, **wrong))  # type: ignore[arg-type]
