"""Margin heads: parity with published code, closed forms, gradients, filtering and Partial FC."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError
from facewright.losses import margins
from facewright.losses.margins import (
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    MagFace,
    MarginHead,
    NormalisedSoftmax,
    SFace,
    sample_classes,
)

CLASSES, DIM = 24, 32
ALL = [NormalisedSoftmax, CosFace, ArcFace, AdaFace, MagFace, CurricularFace, SFace]
TOLERANCE = 1e-4


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours.detach() - published).abs().max() / published.abs().max())


def loaded(head: MarginHead, weight: torch.Tensor) -> MarginHead:
    head.load_state_dict(head.state_dict() | {"weight": weight})
    return head.train()


def batch(count: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 5 * torch.randn(count, DIM, generator=generator, dtype=torch.float32)
    return x, torch.randint(0, CLASSES, (count,), generator=generator)


# --- parity


INSIGHTFACE = {
    "arcface": lambda: ArcFace(CLASSES, DIM, straight_through=True),
    "combined_arc": lambda: ArcFace(CLASSES, DIM, straight_through=True),
    "cosface": lambda: CosFace(CLASSES, DIM),
    "combined_cos": lambda: CosFace(CLASSES, DIM),
    "combined_cos_filter": lambda: CosFace(CLASSES, DIM, filter_above=0.4),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", INSIGHTFACE)
def test_arcface_and_cosface_equal_insightface(parity, name):
    arrays, state, _ = parity("arcface-cosface-heads")
    head = loaded(INSIGHTFACE[name](), state["weight"])
    x, labels = torch.from_numpy(arrays["in_embeddings"]).requires_grad_(), torch.from_numpy(arrays["in_labels"])
    logits = head.logits(x, labels)
    assert deviation(logits, arrays[f"out_{name}_logits"]) < TOLERANCE
    known = labels >= 0
    losses = F.cross_entropy(logits[known], labels[known], reduction="none")
    torch.testing.assert_close(head(x, labels), losses.mean())
    # the published mean counts the unlabelled row as 0 and probabilities below 1e-30 as 1e-30
    loss = losses.clamp(max=-math.log(1e-30)).sum() / len(labels)
    loss.backward()
    assert deviation(loss, arrays[f"out_{name}_loss"]) < TOLERANCE
    assert deviation(x.grad, arrays[f"out_{name}_grad_embeddings"]) < TOLERANCE
    assert deviation(head.weight.grad, arrays[f"out_{name}_grad_weight"]) < TOLERANCE


@pytest.mark.shared
def test_adaface_equals_published_while_its_statistics_move(parity):
    arrays, state, _ = parity("adaface-head")
    head = loaded(AdaFace(CLASSES, DIM), state["adaface.kernel"].T)
    labels = torch.from_numpy(arrays["in_labels"])
    for prefix in ("out_adaface", "out_adaface_step2"):
        x = torch.from_numpy(arrays["in_features"]).requires_grad_()
        head.zero_grad()
        loss = head(x, labels)
        loss.backward()
        assert deviation(loss, arrays[f"{prefix}_loss"]) < TOLERANCE
        assert deviation(head.mean[None], arrays[f"{prefix}_batch_mean"]) < TOLERANCE  # type: ignore[index]
        assert deviation(head.std[None], arrays[f"{prefix}_batch_std"]) < TOLERANCE  # type: ignore[index]
        assert deviation(head.logits(x, labels), arrays[f"{prefix}_logits"]) < TOLERANCE
        assert deviation(x.grad, arrays[f"{prefix}_grad_features"]) < TOLERANCE
        assert deviation(head.weight.grad.T, arrays[f"{prefix}_grad_kernel"]) < TOLERANCE


@pytest.mark.shared
def test_arcface_with_its_true_gradient_has_adafaces_logits(parity):
    """AdaFace's repository differentiates through the angle; it stops at π, where ours falls on."""
    arrays, state, _ = parity("adaface-head")
    head = loaded(ArcFace(CLASSES, DIM), state["arcface.kernel"].T)
    x, labels = torch.from_numpy(arrays["in_features"]), torch.from_numpy(arrays["in_labels"])
    own = F.cosine_similarity(x, head.weight[labels])
    inside = (own > -math.cos(0.5) + 0.01) & (own < 1 - 1e-4)
    assert inside.sum() > 20
    logits = head.logits(x, labels)[inside]
    assert deviation(logits, torch.from_numpy(arrays["out_arcface_logits"])[inside]) < TOLERANCE


@pytest.mark.shared
def test_magface_equals_published(parity):
    arrays, state, _ = parity("magface-head")
    head = loaded(MagFace(CLASSES, DIM), state["weight"].T)
    x, labels = torch.from_numpy(arrays["in_features"]).requires_grad_(), torch.from_numpy(arrays["in_labels"])
    own = torch.arange(CLASSES) == labels[:, None]
    expected = np.where(own, arrays["out_margin_logits"], arrays["out_cos_logits"])
    assert deviation(head.logits(x, labels), expected) < TOLERANCE
    assert deviation(head.length_penalty(x.norm(dim=1, keepdim=True)), arrays["out_loss_g"]) < TOLERANCE  # type: ignore[operator]
    loss = head(x, labels)
    loss.backward()
    assert deviation(loss, arrays["out_total"]) < TOLERANCE
    assert deviation(x.grad, arrays["out_grad_features"]) < TOLERANCE
    assert deviation(head.weight.grad.T, arrays["out_grad_weight"]) < TOLERANCE


@pytest.mark.shared
def test_sface_equals_published(parity):
    arrays, state, _ = parity("sface-loss")
    head = loaded(SFace(CLASSES, DIM), state["weight"])
    x, labels = torch.from_numpy(arrays["in_embeddings"]).requires_grad_(), torch.from_numpy(arrays["in_labels"])
    logits = head.logits(x, labels)
    assert deviation(logits, arrays["out_logits"]) < TOLERANCE
    pull, push = head.terms(logits / 64, labels)  # type: ignore[operator]
    assert deviation(pull, arrays["out_intra_loss"]) < TOLERANCE
    assert deviation(push, arrays["out_inter_loss"]) < TOLERANCE
    loss = head(x, labels)
    loss.backward()
    assert deviation(loss, arrays["out_loss"]) < TOLERANCE
    assert deviation(x.grad, arrays["out_grad_embeddings"]) < TOLERANCE
    assert deviation(head.weight.grad, arrays["out_grad_weight"]) < TOLERANCE


# --- closed forms


def by_angle(head: MarginHead, angle: float, length: float = 20.0) -> torch.Tensor:
    """Logits (2,) of an embedding at `angle` from its own centre and at right angles to the other."""
    head.load_state_dict(head.state_dict() | {"weight": torch.eye(3)[:2]})
    x = length * torch.tensor([[math.cos(angle), 0.0, math.sin(angle)]])
    return head.logits(x, torch.tensor([0]))[0].detach()


@pytest.mark.parametrize("angle", [0.2, 1.0, 2.4])
def test_margins_are_the_papers(angle):
    def own(head: MarginHead, length: float = 20.0) -> float:
        return float(by_angle(head, angle, length)[0])

    assert own(NormalisedSoftmax(2, 3, scale=10)) == pytest.approx(10 * math.cos(angle), abs=1e-4)
    assert own(CosFace(2, 3, m=0.3, scale=10)) == pytest.approx(10 * (math.cos(angle) - 0.3), abs=1e-4)
    assert own(ArcFace(2, 3, m=0.4, scale=10)) == pytest.approx(10 * math.cos(angle + 0.4), abs=1e-4)
    # MagFace at a length of 60: half way between its margins, and none where the cosine is negative
    mag = math.cos(angle + 0.625) if angle < math.pi / 2 else math.cos(angle)
    assert own(MagFace(2, 3, scale=10), 60.0) == pytest.approx(10 * mag, abs=1e-4)


def test_adaface_is_arcface_for_short_and_cosface_for_usual_embeddings():
    head = AdaFace(2, 3, scale=10)
    head.std.fill_(1.0)
    for length, expected in (
        (10.0, math.cos(1.0 + 0.4)),
        (20.0, math.cos(1.0) - 0.4),
        (30.0, math.cos(1.0 - 0.4) - 0.8),
    ):
        assert float(by_angle(head, 1.0, length)[0]) == pytest.approx(10 * expected, abs=1e-4)


def test_arcface_keeps_falling_beyond_pi_unless_it_copies_insightface():
    angles = np.linspace(2.3, 3.1, 30)
    ours = [float(by_angle(ArcFace(2, 3), a)[0]) for a in angles]
    assert (np.diff(ours) < 0).all()
    theirs = [float(by_angle(ArcFace(2, 3, straight_through=True), a)[0]) for a in angles]
    assert (np.diff(theirs) > 0).any()


def test_curricularface_follows_its_equations():
    head = CurricularFace(3, 3, m=0.5, scale=1.0)
    head.load_state_dict({"weight": torch.eye(3), "t": torch.tensor(0.3)})
    cosine = torch.tensor([0.6, 0.75, 0.1])
    x = torch.cat([cosine[:2], (1 - cosine[:2].square().sum()).sqrt()[None]])[None]
    moved = math.cos(math.acos(0.6) + 0.5)
    third = float(x[0, 2])
    assert third > moved
    expected = [moved, 0.75 * (0.3 + 0.75), third * (0.3 + third)]
    np.testing.assert_allclose(head.logits(x, torch.tensor([0]))[0].detach(), expected, atol=1e-5)
    easy = torch.tensor([[0.99, 0.1, math.sqrt(1 - 0.99**2 - 0.01)]])
    np.testing.assert_allclose(head.logits(easy, torch.tensor([0]))[0, 1:].detach(), easy[0, 1:], atol=1e-5)


def test_curriculum_moves_with_the_mean_own_cosine():
    head = CurricularFace(CLASSES, DIM).train()
    x, labels = batch()
    mean = F.cosine_similarity(x, head.weight[labels]).mean()
    head(x, labels)
    torch.testing.assert_close(head.t, 0.01 * mean)


def gradient_by_cosine(head: MarginHead, own: float, other: float) -> torch.Tensor:
    """(2,) gradient of the loss by cos θ_y and cos θ_j, for one embedding of length 20."""
    cosine = torch.tensor([[own, other]], dtype=torch.float64, requires_grad=True)
    labels, lengths = torch.tensor([0]), torch.tensor([[20.0]], dtype=torch.float64)
    head.loss(head.margin(cosine, lengths, labels), lengths, labels).backward()
    return cosine.grad[0]


def test_sface_gradients_are_the_sigmoids():
    head = SFace(2, DIM, k=80, a=0.87, b=1.2)
    for own_angle, other_angle in ((0.86, 1.19), (0.9, 1.22), (0.3, 1.0), (1.5, 1.5)):
        gradient = gradient_by_cosine(head, math.cos(own_angle), math.cos(other_angle))
        expected = [
            -64 / (1 + math.exp(-80 * (own_angle - 0.87))),
            64 / (1 + math.exp(80 * (other_angle - 1.2))),
        ]
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_sface_leaves_far_centres_alone():
    head = SFace(CLASSES, DIM).train()
    x, labels = torch.eye(DIM)[:1], torch.tensor([0])
    head.load_state_dict({"weight": torch.eye(DIM)[:CLASSES] + 0.01})
    head(x, labels).backward()
    assert head.weight.grad[1:].abs().max() < 1e-10


def test_angular_margin_scales_the_gradient_unless_straight_through():
    """dL/dcosθ_y of softmax is s(p_y − 1) times the margin's derivative sin(θ + m) / sin θ, or 1 straight through."""
    own, other, m, s = math.cos(0.8), 0.1, 0.5, 4.0
    target = math.cos(0.8 + m)
    p = 1 / (1 + math.exp(s * (other - target)))
    slope = math.sin(0.8 + m) / math.sin(0.8)
    for straight, factor in ((False, slope), (True, 1.0)):
        head = ArcFace(2, DIM, m=m, scale=s, straight_through=straight)
        expected = [s * (p - 1) * factor, s * (1 - p)]
        np.testing.assert_allclose(gradient_by_cosine(head, own, other), expected, rtol=1e-6)


def test_magface_rewards_length_by_its_closed_form():
    head = MagFace(CLASSES, DIM)
    a = torch.tensor([[20.0], [60.0], [5.0], [200.0]], requires_grad=True)
    head.length_penalty(a).backward()
    inside = (1 / 110**2 - 1 / np.array([20.0, 60.0]) ** 2) / 4
    np.testing.assert_allclose(a.grad[:, 0], [*inside, 0, 0], rtol=1e-5)


# --- what holds for all


@pytest.mark.parametrize("kind", ALL)
def test_loss_depends_on_directions_of_centres_only(kind):
    torch.manual_seed(0)
    head = kind(CLASSES, DIM).eval()
    x, labels = batch()
    before = head(x, labels)
    with torch.no_grad():
        head.weight.mul_(torch.linspace(0.5, 3, CLASSES)[:, None])
    torch.testing.assert_close(head(x, labels), before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_unlabelled_rows_do_not_count(kind):
    torch.manual_seed(0)
    head = kind(CLASSES, DIM).eval()
    x, labels = batch()
    marked = labels.clone()
    marked[[1, 4]] = -1
    known = marked >= 0
    torch.testing.assert_close(head(x, marked), head(x[known], labels[known]))
    torch.testing.assert_close(head.logits(x, marked)[known], head.logits(x, labels)[known])
    assert float(head(x, torch.full_like(labels, -1)).detach()) == 0


@pytest.mark.parametrize("kind", ALL)
def test_gradients_are_finite_at_the_centre_and_opposite_to_it(kind):
    head = kind(3, 4).train()
    x = torch.cat([head.weight[:1], -head.weight[:1]]).detach().requires_grad_()
    head(x, torch.tensor([0, 0])).backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize("kind", ALL)
def test_only_training_moves_statistics(kind):
    head = kind(CLASSES, DIM)
    x, labels = batch()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    head.eval()(x, labels)
    head.train().logits(x, labels)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
    head(x, labels)
    moved = {k for k, v in head.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {AdaFace: {"mean", "std"}, CurricularFace: {"t"}}.get(kind, set())


def test_adaface_survives_a_batch_of_one():
    head = AdaFace(CLASSES, DIM).train()
    x, labels = batch(1)
    assert torch.isfinite(head(x, labels))
    assert float(head.std) == 100


@pytest.mark.parametrize("kind", ALL)
def test_autocast_changes_nothing(kind):
    torch.manual_seed(0)
    head = kind(CLASSES, DIM).eval()
    x, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = head(x, labels)
    torch.testing.assert_close(low, head(x, labels))


@pytest.mark.parametrize("kind", ALL)
def test_a_head_teaches_embeddings_to_separate(kind):
    torch.manual_seed(0)
    head = kind(4, 8, scale=16.0).train()
    x = (10 * torch.randn(16, 8)).requires_grad_()
    labels = torch.arange(16) % 4
    optimiser = torch.optim.Adam([x, *head.parameters()], 0.2)
    for _ in range(100):
        optimiser.zero_grad()
        head(x, labels).backward()
        optimiser.step()
    assert (NormalisedSoftmax.logits(head, x, labels).argmax(1) == labels).all()


def test_filtering_silences_near_strangers():
    head = CosFace(3, 3, filter_above=0.5, scale=1.0, m=0.0)
    head.load_state_dict({"weight": torch.eye(3)})
    x = F.normalize(torch.tensor([[0.7, 0.6, 0.3]]), dim=1)
    logits = head.logits(x, torch.tensor([0]))[0]
    np.testing.assert_allclose(logits.detach(), [float(x[0, 0]), 0, float(x[0, 2])], atol=1e-6)
    head(x, torch.tensor([0])).backward()
    assert head.weight.grad[1].abs().max() == 0
    assert head.weight.grad[2].abs().max() > 0


# --- Partial FC


def test_sampled_identities_hold_the_batch_and_relabel_it():
    torch.manual_seed(0)
    labels = torch.tensor([9, 3, 9, 17])
    seen = set()
    for _ in range(50):
        chosen, local = sample_classes(labels, 20, 0.3)
        assert len(chosen) == 6
        assert torch.equal(chosen, chosen.unique())
        assert torch.equal(chosen[local], labels)
        seen |= set(chosen.tolist())
    assert seen == set(range(20))


def test_a_batch_of_more_identities_than_the_sample_keeps_them_all():
    labels = torch.tensor([5, 1, 8, 3, 1])
    chosen, local = sample_classes(labels, 10, 0.2)
    assert chosen.tolist() == [1, 3, 5, 8]
    assert local.tolist() == [2, 0, 3, 1, 0]


@pytest.mark.parametrize("kind", ALL)
def test_partial_fc_equals_the_head_over_the_chosen_identities(kind):
    x, labels = batch()
    torch.manual_seed(0)
    head = kind(CLASSES, DIM, sample_rate=0.5).train()
    torch.manual_seed(1)
    chosen, local = sample_classes(labels, CLASSES, 0.5)
    small = kind(len(chosen), DIM).train()
    small.load_state_dict(head.state_dict() | {"weight": head.weight[chosen].detach()})
    torch.manual_seed(1)
    loss = head(x, labels)
    torch.testing.assert_close(loss, small(x, local))
    loss.backward()
    untouched = torch.ones(CLASSES, dtype=torch.bool)
    untouched[chosen] = False
    assert head.weight.grad[untouched].abs().max() == 0
    assert head.weight.grad[chosen].abs().max() > 0
    whole = kind(CLASSES, DIM).eval()
    whole.load_state_dict(head.state_dict())
    torch.testing.assert_close(head.eval()(x, labels), whole(x, labels), msg="evaluation sees all identities")


def test_impossible_sample_rate_is_refused():
    for rate in (0.0, 1.5):
        with pytest.raises(UsageError, match="sample_rate"):
            ArcFace(CLASSES, DIM, sample_rate=rate)


def test_centres_start_as_published():
    torch.manual_seed(0)
    assert float(SFace(500, 64).weight.detach().std()) == pytest.approx(2 * math.sqrt(2 / 500), rel=0.02)
    assert float(ArcFace(500, 64).weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    torch.testing.assert_close(AdaFace(50, 8).weight.norm(dim=1), torch.ones(50))
    assert margins.MagFace(50, 8).weight.norm(dim=1).sub(1).abs().max() < 1e-6
