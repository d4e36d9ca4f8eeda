"""MLCR: parity with the published network, its graph and its stored classifiers, losses by worked values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.face import Face
from facewright.systems.action_units.mlcr import convert
from facewright.systems.action_units.mlcr.network import EXPRESSIONS, MLCR, MLCRConfig
from facewright.systems.action_units.mlcr.relations import (
    BP4D,
    EMOTIONET,
    adjacency_of,
    published_relations,
    relations_of,
)
from facewright.systems.action_units.mlcr.training import (
    MLCRTraining,
    co_regularisation,
    multi_view_loss,
    selective_cross_entropy,
)

UNITS = ("AU1", "AU4", "AU12")
SMALL = MLCRConfig(32, 36, UNITS, "mobilenet", 8, expressions=True)
ON_RECOGNISER = MLCRConfig(32, 32, UNITS, "recogniser", 8, expressions=True)


def build(config: MLCRConfig = SMALL) -> MLCR:
    torch.manual_seed(0)
    return MLCR(config).eval()


@pytest.mark.shared
@pytest.mark.parametrize(("graph", "suffix"), [("off", "_first"), ("live", ""), ("stored", "")])
@torch.inference_mode()
def test_equals_published(parity, graph, suffix: str) -> None:
    """The published network leaves classifiers alone at its first call and exchanges them from the second on."""
    arrays, state, _ = parity("mlcr")
    model = convert.import_published({"net": state}, graph=graph)
    model.relations.copy_(torch.from_numpy(arrays["in_relation_emotionet"]))
    seen = model(torch.from_numpy(arrays["in_image"]), return_aux=True)
    found = {"view1": seen["views"][0], "view2": seen["views"][1], "fused": seen["fused"]}
    for name, ours in found.items():
        expected = torch.from_numpy(arrays[f"out_{name}{suffix}"])
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max(), name
    for view in (0, 1):
        expected = torch.from_numpy(arrays[f"out_feat_view{view + 1}"])
        assert (seen["features"][view] - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.shared
def test_published_graph_and_loss(parity) -> None:
    arrays, state, _ = parity("mlcr")
    for units, name in ((EMOTIONET, "emotionet"), (BP4D, "bp4d")):
        matrix = published_relations(units)
        assert matrix is not None
        np.testing.assert_allclose(matrix.numpy(), arrays[f"in_relation_{name}"], atol=6e-5)
    exact = torch.from_numpy(arrays["in_relation_emotionet"])
    np.testing.assert_allclose(adjacency_of(exact).numpy(), arrays["out_adjacency"], atol=1e-6)
    model = convert.import_published(state)
    apart = 400 * multi_view_loss(model.classifier(0), model.classifier(1))
    assert float(apart) == pytest.approx(float(arrays["out_loss_multi_view"][0]), rel=1e-5)


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in MLCR().parameters()) == 43_120_294


def test_other_checkpoints_are_refused() -> None:
    with pytest.raises(WeightsError, match="not a complete checkpoint of MLCR"):
        convert.import_published({"net1.conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(WeightsError, match="emotionet or bp4d"):
        convert.import_published({}, units="disfa")


def test_relations_follow_their_formula() -> None:
    """Of four pictures with the second unit three show the first, of four without it one does: 3/4 − 1/4."""
    labels = torch.tensor([[1, 1]] * 3 + [[-1, 1]] + [[1, -1]] + [[-1, -1]] * 3)
    matrix = relations_of(labels)
    assert matrix[0, 1] == pytest.approx(0.5)
    assert matrix[1, 0] == pytest.approx(0.5)
    unknown = torch.cat([labels, torch.tensor([[0, 1], [1, 0]])])
    torch.testing.assert_close(relations_of(unknown), matrix)
    with pytest.raises(UsageError, match="present on some"):
        relations_of(torch.ones(3, 2, dtype=torch.int64))


def test_the_graph_is_symmetric_only_if_the_relations_are() -> None:
    relations = torch.tensor([[1.0, -0.5], [0.2, 1.0]])
    found = adjacency_of(relations)
    a = np.array([[1, 0.5], [0.2, 1]])
    d = np.diag(a.sum(1) ** -0.5)
    np.testing.assert_allclose(found.numpy(), d @ a.T @ d, rtol=1e-6)
    assert found[0, 1] != found[1, 0]
    torch.testing.assert_close(
        adjacency_of((relations + relations.T) / 2), adjacency_of((relations + relations.T) / 2).T
    )


def test_a_live_graph_follows_the_classifiers_and_a_stored_one_does_not() -> None:
    live, stored = build(), build(dataclasses.replace(SMALL, graph="stored"))
    torch.testing.assert_close(live.mixed_classifier(0), stored.mixed_classifier(0))
    for model in (live, stored):
        with torch.no_grad():
            model.get_parameter("classifiers.0.weight").mul_(-1)
    assert (live.mixed_classifier(0) - stored.mixed_classifier(0)).abs().max() > 1e-3
    loss = live.mixed_classifier(0).square().sum()
    loss.backward()
    assert live.get_parameter("classifiers.0.weight").grad.abs().sum() > 0
    stored.mixed_classifier(0).square().sum().backward()
    assert stored.get_parameter("classifiers.0.weight").grad is None
    torch.testing.assert_close(build(dataclasses.replace(SMALL, graph="off")).mixed_classifier(1), live.classifier(1))


def test_selective_cross_entropy_by_hand() -> None:
    """One positive of four known: 0.5 · 4 = 2 are wanted, so two of the three negatives count, and log 2 each."""
    logits, labels = torch.zeros(5, 1), torch.tensor([[1], [-1], [-1], [-1], [0]])
    loss = selective_cross_entropy(logits, labels, torch.tensor([0.5]))
    assert float(loss) == pytest.approx(3 * np.log(2) / 4)
    # three positives of four known where one is wanted: each weighs a third
    labels = torch.tensor([[1], [1], [1], [-1], [0]])
    loss = selective_cross_entropy(logits, labels, torch.tensor([0.25]))
    assert float(loss) == pytest.approx(2 * np.log(2) / 4)
    assert float(selective_cross_entropy(logits, torch.zeros(5, 1), torch.tensor([0.5]))) == 0


def test_views_that_agree_do_not_diverge() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert float(co_regularisation(logits, logits)) == pytest.approx(0, abs=1e-7)
    sure, unsure = torch.tensor([[2.0]]), torch.tensor([[-2.0]])
    p = 1 / (1 + np.exp(-2.0))
    worked = np.log(2) - (-p * np.log(p) - (1 - p) * np.log(1 - p))
    assert float(co_regularisation(sure, unsure)) == pytest.approx(worked, abs=3e-3)  # 0.001 within the logarithms
    assert float(multi_view_loss(torch.eye(3), torch.eye(3).roll(1, 0))) == 0
    assert float(multi_view_loss(torch.eye(3), -torch.eye(3))) == 1


@pytest.mark.parametrize("config", [SMALL, ON_RECOGNISER])
def test_training_lowers_the_loss_with_and_without_labels(config) -> None:
    model = build(config).train()
    training = MLCRTraining(model, lr=3e-3, multi_view=4.0, agreement=10.0)
    before = {key: value.clone() for key, value in model.shared.state_dict().items()}
    batch = {
        "image": torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8),
        "units": torch.tensor([[1, -1, 1], [-1, 1, -1], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        "expression": torch.tensor([-1, -1, -1, 3, 6, -1]),
    }
    optimiser = training.optimisers()["model"]
    losses = []

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    for _ in range(15):
        training.step(batch, update, 0.0)
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.shared.state_dict().items())
    assert set(training.validate(batch)) == {"f1", "divergence", "expression"}
    alone = dict(batch, units=torch.zeros(6, 3, dtype=torch.int64), expression=torch.full((6,), -1))
    assert np.isfinite(float(training.step(alone, update, 0.5)["divergence"]))


@pytest.mark.parametrize("config", [SMALL, ON_RECOGNISER])
def test_what_is_read_of_a_face(config) -> None:
    model = build(config)
    photo = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    points = np.array([[20, 25], [40, 25], [30, 35], [23, 45], [37, 45]], np.float32)
    face = Face(np.array([10, 10, 50, 55], np.float32), 0.9, points)
    (actions,) = model.read_actions(photo, [face])
    assert list(actions.units) == list(UNITS)
    assert sum(actions.expressions.values()) == pytest.approx(1)
    assert list(actions.expressions) == list(EXPRESSIONS)
    assert not actions.calibrated
    assert model.read_actions(photo, []) == []
    model.calibrate(np.array([[2.0, 1.0, 1.0, -1.0]] * 3), 0.5)
    told = model.read(np.array([1.0, 0.0, -1.0]), np.array([2.0] + [0.0] * 6))
    assert told.calibrated
    assert told.units["AU1"].probability == pytest.approx(1 / (1 + np.exp(-3)))
    assert told.units["AU4"].intensity == pytest.approx(5 / (1 + np.e))
    assert told.expressions["surprise"] == pytest.approx(np.e / (np.e + 6))


@pytest.mark.parametrize("fusion", [0, 1, 2, 3])
def test_every_form_of_the_fused_classifier(fusion) -> None:
    model = build(dataclasses.replace(SMALL, fusion=fusion))
    assert model(torch.zeros(2, 3, 32, 32), return_aux=True)["fused"].shape == (2, 3)
    with pytest.raises(UsageError, match="takes images"):
        model(torch.zeros(2, 3, 40, 40))
