"""LNet + ANet: cells and shared patches, windows and peaks, machines and losses by worked values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.face import Face
from facewright.systems.attributes.lnet_anet.localise import best_window, density_peaks, fit_threshold
from facewright.systems.attributes.lnet_anet.network import (
    ATTRIBUTES,
    GroupedConv2d,
    LNetANet,
    LNetANetConfig,
    LocalConv2d,
    attribute_groups,
)
from facewright.systems.attributes.lnet_anet.svm import fit_svm
from facewright.systems.attributes.lnet_anet.training import (
    AttributeTraining,
    IdentityTraining,
    attribute_loss,
    fit_machines,
    similarity_loss,
)

PLAIN = LNetANetConfig(
    scene=67, lnet=(4, 4, 4, 4, 4), size=63, patch=55, anet=(4, 6), local=(5, 4), features=8, attributes=ATTRIBUTES[:3]
)
SMALL = dataclasses.replace(
    LNetANetConfig.compact(), scene=64, lnet=(4, 4, 4, 4, 4), size=96, patch=96, local=(6, 4), features=8,
    attributes=ATTRIBUTES[:3],
)  # fmt: skip


def build(config: LNetANetConfig = PLAIN) -> LNetANet:
    torch.manual_seed(0)
    return LNetANet(config).eval()


def test_equal_cells_are_an_ordinary_convolution() -> None:
    torch.manual_seed(0)
    local = LocalConv2d(3, 4)
    for conv in local.convs[1:]:
        conv.load_state_dict(local.convs[0].state_dict())
    x = torch.randn(2, 3, 14, 14)
    torch.testing.assert_close(local(x), local.convs[0](x))
    with torch.no_grad():
        local.convs.get_parameter("4.weight").add_(1)  # the middle cell alone
    changed = (local(x) - local.convs[0](x)).abs().sum((0, 1)) > 0
    assert changed[4:8, 4:8].all()
    assert changed.sum() == 16
    with pytest.raises(UsageError, match="equal cells"):
        local(torch.randn(1, 3, 15, 15))


def test_groups_see_two_by_two_cells() -> None:
    torch.manual_seed(0)
    grouped = GroupedConv2d(2, 3)
    x = torch.randn(1, 2, 12, 12)
    seen = grouped(x)
    assert seen.shape == (1, 4, 3, 6, 6)
    torch.testing.assert_close(seen[:, 1], grouped.convs[1](x[:, :, :8, 4:]))
    torch.testing.assert_close(seen[:, 2], grouped.convs[2](x[:, :, 4:, :8]))


@torch.inference_mode()
def test_patches_that_share_their_maps_give_the_same_features() -> None:
    model = build()
    image = torch.randn(2, 3, 75, 79)
    places = [(0, 0), (4, 8), (20, 24)]
    shared = model.anet.interweaved(image, places, 55)
    alone = torch.stack([model.anet(image[:, :, y : y + 55, x : x + 55]) for y, x in places])
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="multiples of 4"):
        model.anet.interweaved(image, [(2, 0)], 55)


@torch.inference_mode()
def test_scores_are_the_mean_over_patches() -> None:
    model = build()
    image = torch.randn(1, 3, 63, 63)
    assert model.places == [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    each = [model.svm(model.anet(image[:, :, y : y + 55, x : x + 55])) for y, x in model.places]
    torch.testing.assert_close(model(image), torch.stack(each).mean(0))


@torch.inference_mode()
def test_a_tag_map_is_the_tag_layer_as_a_convolution() -> None:
    model = build()
    x = torch.randn(1, 3, 67, 67)
    tags = model.lnet_o(x)[1]
    mean = model.lnet_o.tag_map(x, 2).mean() + model.lnet_o.tags.bias[2]
    assert float(mean) == pytest.approx(float(tags[0, 2]), abs=1e-5)
    response = model.lnet_o(x)[0]
    torch.testing.assert_close(response, model.lnet_o.maps(x).mean(1))
    assert (response >= 0).all()


def test_the_window_holds_the_response() -> None:
    response = np.zeros((40, 40))
    response[10:22, 20:32] = 1
    window = best_window(response)
    assert window.x1 - window.x0 == pytest.approx(12, abs=2)
    assert ((window.x0 + window.x1) / 2, (window.y0 + window.y1) / 2) == pytest.approx((26, 16), abs=1.1)
    lone = np.zeros((40, 40))
    lone[5, 5] = 1
    side = best_window(lone).x1 - best_window(lone).x0
    assert side >= 6  # a tiny window on a peak does not win: 15 % of the side is the least


def test_peaks_of_two_faces_and_of_one() -> None:
    ys, xs = np.mgrid[:40, :60]

    def blob(y: float, x: float) -> np.ndarray:
        return np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / 40)

    assert sorted(density_peaks(blob(12, 14) + 0.8 * blob(26, 46))) == [(12, 14), (26, 46)]
    assert density_peaks(blob(12, 14) + 0.8 * blob(26, 46))[0] == (12, 14)
    assert density_peaks(blob(20, 30) + 0.1 * blob(5, 5)) == [(20, 30)]
    assert density_peaks(np.zeros((5, 5))) == []


def test_threshold_lies_between_the_modes() -> None:
    rng = np.random.default_rng(0)
    threshold = fit_threshold(rng.normal(10, 1, 500), rng.normal(4, 1, 500))
    assert 6 < threshold < 8
    with pytest.raises(UsageError, match="with and of pictures without"):
        fit_threshold([], [1.0])


def test_machine_separates_and_a_start_is_kept_without_evidence() -> None:
    """Two points at ±1 on one axis: with a large cost the margin is exactly 1."""
    weights = fit_svm([[2.0, 0.0], [-2.0, 0.0]], [1, -1], cost=1e6)
    np.testing.assert_allclose(weights, [0.5, 0, 0], atol=1e-3)
    start = np.array([3.0, -2.0, 0.5])
    np.testing.assert_allclose(fit_svm([[1.0, 0.0], [-1.0, 0.0]], [1, -1], cost=1e-9, start=start), start, atol=1e-4)
    with pytest.raises(UsageError, match="both 1 and -1"):
        fit_svm([[1.0], [2.0]], [1, 1])


def test_losses_by_hand() -> None:
    logits, labels = torch.zeros(2, 3), torch.ones(2, 3)
    assert float(attribute_loss(logits, labels)) == pytest.approx(3 * np.log(2))
    sure = attribute_loss(torch.tensor([[2.0]]), torch.tensor([[-1.0]]))
    assert float(sure) == pytest.approx(float(F.softplus(torch.tensor(2.0))))
    assert float(attribute_loss(logits, labels, smoothing=0.2)) == pytest.approx(3 * np.log(2))
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert float(similarity_loss(features, torch.tensor([7, 7, 8]))) == 25
    assert float(similarity_loss(features, torch.tensor([1, 2, 3]))) == 0


def test_machines_are_calibrated_on_scores_of_others() -> None:
    model = build()
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (600, 8))
    chance = 1 / (1 + np.exp(-2 * features[:, :3]))
    labels = np.where(rng.random((600, 3)) < chance, 1, -1)
    labels[:, 2] = 1  # never absent: nothing to learn
    fit_machines(model, features, labels)
    scores = features @ model.svm.weight.detach().numpy().T + model.svm.bias.detach().numpy()
    told = np.array([list(model.read(row).probabilities.values()) for row in scores])
    assert np.abs(told[:, :2] - chance[:, :2]).mean() < 0.06
    torch.testing.assert_close(model.svm.weight[2], model.tags.weight[2])
    assert model.calibration[2].tolist() == [1_000_000, 0]


@pytest.mark.parametrize("pictures", [{"image": 96}, {"scene": 64, "head": 64}])
def test_training_lowers_the_loss(pictures: dict[str, int]) -> None:
    model = build(SMALL).train()
    training = AttributeTraining(model, lr=1e-2)
    labels = torch.tensor([[1, -1, 1], [-1, 1, 1], [1, 1, -1], [-1, -1, -1]])
    shown = {name: torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8) for name, side in pictures.items()}
    batch = {"attributes": labels, **shown}
    optimiser = training.optimisers()["model"]
    losses = []

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    for _ in range(25):
        training.step(batch, update, 0.0)
    assert losses[-1] < 0.8 * losses[0]
    assert set(training.validate(batch)) == {"accuracy", "balanced"}


def test_identities_come_first() -> None:
    model = build(dataclasses.replace(PLAIN, identities=5)).train()
    training = IdentityTraining(model)
    batch = {
        "image": torch.randint(0, 256, (4, 63, 63, 3), dtype=torch.uint8),
        "label": torch.tensor([0, 0, 3, 4]),
    }
    seen: list[torch.Tensor] = []
    logs = training.step(batch, lambda name, loss: seen.append(loss), 0.0)
    assert float(seen[0]) == pytest.approx(float(logs["identity"]) + 1e-3 * float(logs["similarity"]))


def test_faces_found_by_statements_alone() -> None:
    """LNets whose response is how green a place is find the green square, and nothing in a grey picture."""
    model = build()

    class Green(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return F.relu(F.avg_pool2d(x[:, 1] - x[:, 0], 4)), x.new_zeros(len(x), 3)

    model.lnet_o, model.lnet_s = Green(), Green()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="no trained LNets"):
        model.localise(np.zeros((9, 9, 3), np.uint8))
    model.threshold.fill_(500_000)
    photo = np.full((200, 300, 3), 90, np.uint8)
    assert model.localise(photo) == []
    photo[60:140, 180:260, 1] = 250
    (face,) = model.localise(photo)
    assert isinstance(face, Face)
    overlap = np.maximum(0, np.minimum(face.box[2:], [260, 140]) - np.maximum(face.box[:2], [180, 60])).prod()
    union = face.width * face.height + 80 * 80 - overlap
    assert overlap / union > 0.5
    (said,) = model.describe_faces(photo, [face])  # crops follow its box, for its points say nothing
    assert list(said.probabilities) == list(ATTRIBUTES[:3])
    assert not said.calibrated


def test_alike_classifiers_form_groups() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (10, 4))
    weights[:5, 0] += 3
    weights[5:, 2] += 2
    groups = attribute_groups(weights, 2)
    assert len(set(groups[:5])) == len(set(groups[5:])) == 1
    assert groups[0] != groups[9]
