"""SUR-LID: the published trunk, losses, selection and alignment, and what its parts do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.systems.forgery.surlid.convert import convert_published, import_published
from facewright.systems.forgery.surlid.network import SurLid, SurLidConfig
from facewright.systems.forgery.surlid.training import (
    SurLidTraining,
    SurLidWeights,
    align_heads,
    distillation_loss,
    feature_distance,
    grid_shuffled,
    grown,
    isolated_classes,
    isolation_loss,
    nearest_centre,
    refilled,
    sparse_uniform,
    stability,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASKS = torch.tensor([0] * 6 + [1] * 6 + [2] * 8)


@pytest.mark.shared
def test_trunk_agrees_with_the_published_one(parity: Callable[[str], Any]) -> None:
    arrays, state, _ = parity("surlid-backbone")
    state |= {f"efficientnet.{key}": torch.tensor(0) for key in _counters()}
    model = import_published(state)
    assert sum(p.numel() for p in model.parameters()) == 17_552_202
    with torch.inference_mode():
        maps = model.backbone(torch.from_numpy(arrays["in_image"]))
        logits = model.vote(maps.mean((2, 3)))
    assert maps.shape == (1, 1792, 8, 8)
    assert (maps[:, :, ::2, ::2] - torch.from_numpy(arrays["out_maps"])).abs().max() < 1e-5
    assert (logits - torch.from_numpy(arrays["out_logits"])).abs().max() < 1e-6


def _counters() -> list[str]:
    """The counters of the published batch norms, which a vector does not hold."""
    state = SurLid(SurLidConfig(tasks=1, learnt=1)).backbone.state_dict()
    return [key for key in state if key.endswith("num_batches_tracked")]


class Published:
    """The vector of the heads: features, labels, heads and what the released code made of them."""

    def __init__(self, loaded: tuple[dict[str, np.ndarray], dict[str, Tensor], Any]) -> None:
        self.arrays, state, _ = loaded
        self.heads = [nn.Linear(48, 2) for _ in range(4)]
        for number, head in enumerate(self.heads):
            head.load_state_dict({key: state[f"fc_groups.{number}.{key}"] for key in ("weight", "bias")})
        self.maps = torch.from_numpy(self.arrays["in_feat"]).requires_grad_()
        self.features = self.maps.mean((2, 3))
        self.known = torch.from_numpy(self.arrays["in_teacher_feat"]).mean((2, 3))
        replay = torch.tensor([1, 1, 1, 0, 0, 0] * 2)
        self.labels = torch.cat([replay, torch.from_numpy(self.arrays["in_new_labels"])])
        self.logits = torch.stack([self.heads[int(t)](f) for t, f in zip(TASKS, self.features)])

    def out(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[f"out_{name}"]))

    def refilled(self) -> Tensor:
        unit = F.normalize(self.features, dim=1)
        groups = [refilled(group, group[0], "neighbours") for group in unit[:12].split(3)]
        return F.normalize(torch.cat([*groups, unit[12:]]), dim=1)


@pytest.fixture
def published(parity: Callable[[str], Any]) -> Published:
    return Published(parity("surlid-head"))


@pytest.mark.shared
@pytest.mark.parametrize("protocol", ["P1", "P2"])
def test_losses_and_gradients_are_those_of_the_released_code(protocol: str, published: Published) -> None:
    assert torch.allclose(published.logits, published.out("train_logits"), atol=1e-6)
    classes = isolated_classes(TASKS, published.labels, shared_reals=protocol == "P2")
    terms = {
        "ce": F.cross_entropy(published.logits, published.labels),
        "supcon": isolation_loss(published.refilled(), classes),
        "fd": feature_distance(published.features[:12], published.known),
        # the released code's divergence is none; see `distillation_loss`
        "kd": 0.7 * F.cross_entropy(published.logits[:12], published.labels[:12]),
    }
    for name, value in terms.items():
        assert float(value) == pytest.approx(float(published.out(f"{protocol}_loss_{name}")), abs=2e-6), name
    released = SurLidWeights.released()
    overall = (
        released.detection * terms["ce"]
        + released.isolation * terms["supcon"]
        + released.features * terms["fd"]
        + released.answers * terms["kd"]
    )
    assert float(overall) == pytest.approx(float(published.out(f"{protocol}_overall")), abs=5e-6)
    overall.backward()
    assert published.maps.grad is not None
    assert (published.maps.grad - published.out(f"{protocol}_grad_feat")).abs().max() < 2e-6
    for number in (0, 2):
        grad = published.heads[number].weight.grad
        assert grad is not None
        assert (grad - published.out(f"{protocol}_grad_head{number}")).abs().max() < 2e-6


@pytest.mark.shared
@pytest.mark.parametrize(("count", "name"), [(2, "two"), (3, "three"), (4, "four")])
def test_alignment_is_the_released_codes(count: int, name: str, published: Published) -> None:
    lengths = [head.weight.norm(dim=1) for head in published.heads]
    align_heads(published.heads[:count])
    for number, head in enumerate(published.heads):
        assert (head.weight - published.out(f"ida_{name}_weights")[number]).abs().max() < 2e-6
        assert torch.allclose(head.weight.norm(dim=1), lengths[number], atol=1e-6)


@pytest.mark.shared
def test_selection_refilling_and_shuffling_are_the_released_codes(published: Published) -> None:
    arrays = published.arrays
    kept = sparse_uniform(arrays["in_sel_features"], arrays["in_sel_stability"], 24, distance="dot")
    assert kept.tolist() == arrays["out_selected_sparse_robust"].tolist()
    central = nearest_centre(arrays["in_sel_features"], 12, distance="dot")
    assert central.tolist() == arrays["out_selected_center"].tolist()
    group = F.normalize(published.features, dim=1)[:3]
    assert (refilled(group, group[0], "neighbours") - published.out("refill_v2")).abs().max() < 1e-6
    image = torch.from_numpy(arrays["in_grid_image"])
    shuffled = grid_shuffled(image, arrays["out_grid_permutation"].tolist())
    assert torch.equal(shuffled[:, :, ::8, ::8], published.out("grid_shuffled_8th"))


# --- on our own ---------------------------------------------------------------------------------------------------


def test_isolation_of_two_pairs_by_hand() -> None:
    """Two orthogonal pairs: every sample has its partner at cosine 1 and two others at 0."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    expected = -0.5 * float(torch.log(torch.exp(torch.tensor(2.0)) / (torch.exp(torch.tensor(2.0)) + 2)))
    assert float(isolation_loss(features, torch.tensor([0, 0, 1, 1]), 0.5)) == pytest.approx(expected, abs=1e-6)
    alone = isolation_loss(features[:3], torch.tensor([0, 0, 7]), 0.5)  # the third has no partner and does not count
    assert float(alone) == pytest.approx(-0.5 * float(torch.log(torch.sigmoid(torch.tensor(2.0)))), abs=1e-6)


def test_shared_reals_are_one_class() -> None:
    tasks, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert isolated_classes(tasks, labels).tolist() == [0, 10, 11, 21]
    assert isolated_classes(tasks, labels, shared_reals=True).tolist() == [0, 0, 11, 21]


def test_distillation_is_a_divergence() -> None:
    """None between equal answers, and the worked value of two that differ."""
    labels = torch.tensor([0])
    same = torch.tensor([[2.0, 1.0]])
    ce = float(F.cross_entropy(same, labels))
    assert float(distillation_loss(same, same, labels)) == pytest.approx(0.7 * ce)
    other = torch.tensor([[0.0, 0.0]])
    p = torch.softmax(other / 20, 1)
    kl = float((p * (p.log() - torch.log_softmax(same / 20, 1))).sum())
    assert float(distillation_loss(same, other, labels)) == pytest.approx(0.6 * 400 * kl + 0.7 * ce, rel=1e-4)
    assert kl > 0


def test_replay_is_spread_over_all_distances() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6)) * np.linspace(0.1, 3, 200)[:, None]
    stable = rng.random(200)
    kept = sparse_uniform(features, stable, 20)
    away = np.linalg.norm(features - features.mean(0), axis=1)
    ranks = np.argsort(np.argsort(away))
    assert np.bincount(ranks[kept] // 20).tolist() == [2] * 10
    assert ranks[nearest_centre(features, 20)].max() == 19
    firsts = kept[::2]
    for number, row in enumerate(firsts):
        part = np.flatnonzero(ranks // 20 == number)
        assert stable[row] == stable[part].max()
    with pytest.raises(UsageError, match="even number"):
        sparse_uniform(features, stable, 7)


def test_stability_is_one_for_what_does_not_care_for_order() -> None:
    image = torch.rand(2, 3, 8, 8)
    pooled = image.mean((2, 3))
    assert torch.allclose(stability(pooled, grid_shuffled(image, [3, 2, 0, 1]).mean((2, 3))), torch.ones(2))
    assert torch.equal(grid_shuffled(image, [0, 1, 2, 3]), image)


def test_refilled_features_stay_between_what_they_are_made_of() -> None:
    group, centre = torch.eye(3), torch.zeros(3)
    moved = refilled(group, centre, "mean", torch.Generator().manual_seed(0))
    changed = (moved != group).any(1)
    assert changed.sum() == 1
    assert torch.allclose(moved[changed], torch.full((1, 3), 1 / 3))
    pulled = refilled(group, centre, "centre", torch.Generator().manual_seed(0)).diagonal()
    assert ((pulled >= 0.5) & (pulled <= 1)).all()


def test_one_head_is_not_turned() -> None:
    head = nn.Linear(4, 2)
    before = head.weight.detach().clone()
    align_heads([head])
    assert torch.equal(head.weight, before)


def _batch(old: int) -> dict[str, Tensor]:
    count = 6 * old + 4
    rng = np.random.default_rng(0)
    label = torch.tensor([1, 1, 1, 0, 0, 0] * old + [1, 0, 1, 0])
    task = torch.tensor([t for t in range(old) for _ in range(6)] + [old] * 4)
    image = torch.from_numpy(rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8))
    return {"image": image, "label": label, "task": task}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_trains_the_heads_of_its_tasks_unless_they_are_frozen(frozen: bool) -> None:
    torch.manual_seed(0)
    model, teacher = SurLid(SurLidConfig.compact()), SurLid(SurLidConfig.compact())
    training = SurLidTraining(model, teacher=teacher, align=False, frozen_heads=frozen, lr=1e-2)
    before = [layer.weight.detach().clone() for layer in model.heads]  # type: ignore[operator]
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: Tensor) -> None:
        assert torch.isfinite(loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    terms = training.step(_batch(1), update, 0.0)
    assert float(terms["features"]) > 0
    assert float(terms["answers"]) > 0
    moved = [not torch.equal(head.weight, old) for head, old in zip(model.heads, before)]  # type: ignore[arg-type]
    assert moved[:2] == [not frozen] * 2
    assert all(p.grad is None for p in teacher.parameters())


def test_the_first_task_has_nothing_to_remember() -> None:
    training = SurLidTraining(SurLid(SurLidConfig.compact()))
    terms = training.step(_batch(0), lambda name, loss: loss.backward(), 0.0)
    assert float(terms["features"]) == 0
    assert float(terms["answers"]) == 0


def test_only_learnt_heads_vote() -> None:
    torch.manual_seed(0)
    model = SurLid(SurLidConfig(size=96, backbone="compact", learnt=2)).eval()
    features = torch.randn(3, 128)
    expected = sum(head(features) for head in list(model.heads)[:2]) / 2
    assert torch.allclose(model.vote(features), expected)
    task = torch.tensor([3, 0, 1])
    assert torch.equal(model.by_task(features, task)[0], list(model.heads)[3](features)[0])
    with pytest.raises(UsageError, match="heads"):
        SurLid(SurLidConfig(size=96, backbone="compact", learnt=5))


def test_examined_crops_have_a_probability_and_a_map() -> None:
    torch.manual_seed(0)
    model = SurLid(SurLidConfig.compact()).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    found = model.examine(crops)
    assert found.maps.shape == (3, 96, 96)
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1
    with torch.inference_mode():
        expected = model(model.normalise(crops)).softmax(1)
    assert np.allclose(found.shares["manipulated"], expected[:, 1], atol=1e-5)
    assert model.examine(crops[:0]).maps.shape == (0, 96, 96)
    with pytest.raises(UsageError, match="uint8 crops"):
        model.examine(crops[:, :90])


def test_checkpoints_without_heads_are_refused() -> None:
    state = {"teacher.efficientnet._conv_stem.weight": torch.zeros(48, 3, 3, 3)}
    with pytest.raises(WeightsError, match="does not hold its heads"):
        import_published(state)
    with pytest.raises(KeyError):
        convert_published({"classifier.weight": torch.zeros(2)})


def test_distillation_is_exact_in_half_precision() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(12, 2).bfloat16(), torch.randn(12, 2).bfloat16()
    labels = torch.zeros(12, dtype=torch.long)
    exact = distillation_loss(student.float(), teacher.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(distillation_loss(student, teacher, labels)) == pytest.approx(float(exact), abs=0.02)


def test_the_next_task_starts_where_the_last_ended(tmp_path: Path) -> None:
    before = SurLid(SurLidConfig(size=32, backbone="compact", tasks=3, learnt=1)).eval()
    after = grown(before, 2).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = before.features(image)
        assert torch.equal(after.features(image), features)
        heads = [head(features) for head in before.heads]
        assert torch.allclose(after.vote(features), (heads[0] + heads[1]) / 2)
    assert (before.config.learnt, after.config.learnt) == (1, 2)
    with pytest.raises(UsageError):
        grown(before, 4)
    training = SurLidTraining(
        after, weights={"detection": 2.0}, teacher=str(before.save_pretrained(tmp_path / "before"))
    )
    assert training.weights == SurLidWeights(detection=2.0)
    assert training.teacher is not None
    with torch.inference_mode():
        assert torch.equal(training.teacher.features(image), features)
