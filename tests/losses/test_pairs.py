"""Pair losses: closed forms, gradients, unbiasedness over all pairings, and the divergence against torch's own."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.losses import pairs


@pytest.fixture
def batch():
    torch.manual_seed(0)
    features = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    return features, torch.tensor([0, 0, 1, 1, 2, 2]), threshold


def matchings(items: list[int]):
    """All ways to split an even list into pairs."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for partner in rest:
        for others in matchings([i for i in rest if i != partner]):
            yield [first, partner, *others]


def test_distances_equal_torch_and_stay_positive():
    torch.manual_seed(1)
    features = torch.randn(7, 3)
    torch.testing.assert_close(
        pairs.squared_distances(features), torch.cdist(features, features).square(), atol=1e-5, rtol=1e-5
    )
    assert pairs.squared_distances(100 + 1e-3 * features).min() >= 0


def test_distances_keep_their_precision_under_autocast():
    torch.manual_seed(1)
    features = 10 + torch.randn(8, 16)
    exact = pairs.squared_distances(features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pairs.squared_distances(features), exact)


def test_hinge_by_hand():
    squared = torch.tensor([1.0, 1.5, 3.5, 1.0, 2.5, 4.0])
    same = torch.tensor([True, True, True, False, False, False])
    hinge = pairs.pair_hinge(squared, same, torch.tensor(2.0), 1.0)
    assert hinge.tolist() == [0.0, 0.5, 2.5, 2.0, 0.5, 0.0]


def test_balanced_loss_by_hand(batch):
    features, labels, threshold = batch
    same, different = [], []
    for i, j in combinations(range(6), 2):
        squared = float((features[i] - features[j]).detach().square().sum())
        if labels[i] == labels[j]:
            same.append(max(0.0, 1 - (6.0 - squared)))
        else:
            different.append(max(0.0, 1 + (6.0 - squared)))
    assert min(max(same), max(different)) > 0
    for share in (0.5, 0.2):
        expected = share * sum(same) / len(same) + (1 - share) * sum(different) / len(different)
        loss = pairs.multibatch_loss(features, labels, threshold, same_share=share).detach()
        assert float(loss) == pytest.approx(expected)
    plain = float(pairs.multibatch_loss(features, labels, threshold, same_share=None).detach())
    assert plain == pytest.approx((sum(same) + sum(different)) / 15)


def test_gradient_is_the_closed_form(batch):
    features, labels, threshold = batch
    pairs.multibatch_loss(features, labels, threshold, same_share=None).backward()
    expected, expected_threshold = torch.zeros_like(features), 0.0
    for i, j in permutations(range(6), 2):
        y = 1.0 if labels[i] == labels[j] else -1.0
        difference = (features[i] - features[j]).detach()
        if 1 - y * (6.0 - float(difference.square().sum())) > 0:
            expected[i] += 2 * y * difference / 30
            expected[j] -= 2 * y * difference / 30
            expected_threshold -= y / 30
    torch.testing.assert_close(features.grad, expected)
    assert float(threshold.grad) == pytest.approx(expected_threshold)


def test_inactive_pairs_have_no_gradient():
    features = torch.tensor([[0.0], [0.1], [9.0], [9.1]], requires_grad=True)
    threshold = torch.tensor(3.0, requires_grad=True)
    loss = pairs.multibatch_loss(features, torch.tensor([0, 0, 1, 1]), threshold)
    loss.backward()
    assert float(loss.detach()) == 0
    assert features.grad.abs().max() == 0
    assert float(threshold.grad) == 0


def test_all_pairs_is_the_mean_of_all_ways_to_pair_up(batch):
    """Unbiased, and exactly: averaging the paired estimator over all 15 matchings gives the multibatch gradient."""
    features, labels, threshold = batch
    ways = list(matchings(list(range(6))))
    assert len(ways) == 15
    paired = sum(pairs.disjoint_pairs_loss(features[w], labels[w], threshold, same_share=None) for w in ways) / 15
    grads = torch.autograd.grad(paired, (features, threshold))  # type: ignore[arg-type]
    whole = pairs.multibatch_loss(features, labels, threshold, same_share=None)
    torch.testing.assert_close(paired, whole)
    for ours, expected in zip(torch.autograd.grad(whole, (features, threshold)), grads):
        torch.testing.assert_close(ours, expected)


def test_all_pairs_vary_less_than_disjoint_pairs():
    """The point of the method, on points in the plane: far less variance from as many pictures."""
    generator = torch.Generator().manual_seed(0)
    threshold = torch.tensor(2.0)
    labels = torch.arange(16).repeat_interleave(4)
    order = torch.cat([torch.stack([4 * torch.arange(16), 4 * torch.arange(16) + 1], 1).flatten(), _across()])
    losses: dict[str, list[Any]] = {"all": [], "disjoint": []}
    for _ in range(200):
        centres = torch.randn(16, 2, generator=generator)
        features = centres[labels] + 0.5 * torch.randn(64, 2, generator=generator)
        losses["all"].append(float(pairs.multibatch_loss(features, labels, threshold)))
        losses["disjoint"].append(float(pairs.disjoint_pairs_loss(features[order], labels[order], threshold)))
    whole, disjoint = (torch.tensor(losses[k]) for k in ("all", "disjoint"))
    assert abs(whole.mean() - disjoint.mean()) < 4 * disjoint.std() / math.sqrt(200)
    assert whole.var() < disjoint.var() / 2


def _across() -> torch.Tensor:
    """The third and fourth picture of 16 people, each paired with the next person's."""
    third, fourth = 4 * torch.arange(16) + 2, (4 * torch.arange(16) + 4) % 64 + 3
    return torch.stack([third, fourth], 1).flatten()


def test_order_of_the_batch_does_not_matter(batch):
    features, labels, threshold = batch
    order = torch.randperm(6)
    torch.testing.assert_close(
        pairs.multibatch_loss(features[order], labels[order], threshold),
        pairs.multibatch_loss(features, labels, threshold),
    )


def test_outliers_are_left_out():
    torch.manual_seed(0)
    features = torch.randn(60, 4) * 0.05
    labels = torch.zeros(60, dtype=torch.long)
    labels[30:] = 1
    features[30:, 0] += 1.0
    wrong = labels.clone()
    wrong[0] = 1
    threshold = torch.tensor(0.5)
    clean = pairs.multibatch_loss(features[1:], labels[1:], threshold, margin=0.2)
    spoiled = pairs.multibatch_loss(features, wrong, threshold, margin=0.2)
    guarded = pairs.multibatch_loss(features, wrong, threshold, margin=0.2, outlier_sigma=3)
    assert float(clean) == 0
    assert float(spoiled) > 0.01
    assert float(guarded) == 0


def test_a_batch_of_one_kind_has_one_term():
    features = torch.tensor([[0.0], [1.0], [3.0]])
    threshold = torch.tensor(2.0)
    one_person = pairs.multibatch_loss(features, torch.zeros(3, dtype=torch.long), threshold)
    assert float(one_person) == pytest.approx(0.5 * (0 + (9 - 2 + 1) + (4 - 2 + 1)) / 3)
    strangers = pairs.multibatch_loss(features, torch.arange(3), threshold)
    assert float(strangers) == pytest.approx(0.5 * (1 + 2 - 1) / 3)


def test_odd_batches_cannot_be_paired():
    with pytest.raises(UsageError, match="even number"):
        pairs.disjoint_pairs_loss(torch.zeros(3, 2), torch.zeros(3), torch.tensor(1.0))


def test_statistics_by_hand():
    features = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    labels = torch.tensor([0, 0, 1, 1])
    found = pairs.pair_statistics(features, labels, torch.tensor(3.0))
    # same: D² 1 and 9; different: 4, 25, 1, 16
    assert found.mean_same == pytest.approx(5)
    assert found.mean_different == pytest.approx(46 / 4)
    assert found.active_same == pytest.approx(1 / 2)
    assert found.active_different == pytest.approx(1 / 4)
    assert found.balanced_error == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found.threshold == 3


def test_divergence_equals_torch():
    torch.manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64)
    matrix = pairs.posterior_kl(logits)
    log_p = logits.log_softmax(1)
    for i in range(5):
        for j in range(5):
            # F.kl_div(log q, p) is KL(p ‖ q)
            assert float(matrix[i, j]) == pytest.approx(float(F.kl_div(log_p[j], log_p[i].exp(), reduction="sum")))
    uniform_to_peak = pairs.posterior_kl(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]))[0, 1]
    assert float(uniform_to_peak) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


def test_the_target_of_a_divergence_is_a_constant():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(pairs.posterior_kl(logits)[0, 1], logits)
    p, q = logits.detach().softmax(1)
    torch.testing.assert_close(grad, torch.stack([torch.zeros(4, dtype=torch.float64), q - p]))
    (free,) = torch.autograd.grad(pairs.posterior_kl(logits, detach=False)[0, 1], logits)
    assert free[0].abs().max() > 1e-3


def test_posterior_loss_equals_the_loop_of_the_published_constraint():
    torch.manual_seed(0)
    logits = 3 * torch.randn(6, 8, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    posteriors = logits.softmax(1)
    terms: dict[bool, list[Any]] = {True: [], False: []}
    for i, j in combinations(range(6), 2):
        p, q = posteriors[i], posteriors[j]
        both = [float((a * (a / b).log()).sum()) for a, b in ((p, q), (q, p))]
        same = bool(labels[i] == labels[j])
        terms[same].append(sum(both) if same else sum(max(0.0, 2 - kl) for kl in both))
    expected = sum(sum(v) / len(v) for v in terms.values())
    assert float(pairs.posterior_pair_loss(logits, labels)) == pytest.approx(expected)


def test_posterior_margin_is_reachable():
    logits = torch.zeros(2, 4)
    loss = pairs.posterior_pair_loss(logits, torch.tensor([0, 1]), margin=2.0)
    assert float(loss) == pytest.approx(2 * math.log(4))
    assert float(pairs.posterior_pair_loss(logits, torch.tensor([0, 1]), margin=1.0)) == pytest.approx(2.0)


def test_posterior_loss_survives_certainty():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [200.0, 0.0]], requires_grad=True)
    loss = pairs.posterior_pair_loss(logits, torch.tensor([0, 0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_contrastive_by_hand():
    embeddings = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.6]])
    loss = pairs.contrastive_loss(embeddings, torch.tensor([0, 0, 1]))
    assert float(loss) == pytest.approx(0.25 + ((1 - 0.36) + (1 - 0.61)) / 2)
