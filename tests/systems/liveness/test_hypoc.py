"""Hyp-OC: parity of encoder and head, pseudo-negatives, pairs, and what is trained."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.liveness.hypoc import training
from facewright.systems.liveness.hypoc.convert import convert_encoder, convert_head, convert_published, import_published
from facewright.systems.liveness.hypoc.network import Head, HypOC, HypOCConfig, VGGFace


def near(found: torch.Tensor, published: object, tolerance: float = 1e-4) -> bool:
    wanted = torch.as_tensor(published)
    return bool((found.detach() - wanted).abs().max() < tolerance * wanted.abs().max())


@pytest.mark.shared
def test_head_losses_and_gradients_equal_published(parity) -> None:
    arrays, state, _ = parity("hypoc-head")
    full = HypOCConfig()
    head = Head(full.feature, full.hidden, full.curvature, full.clip)
    head.load_state_dict(convert_head(state))
    features = torch.from_numpy(arrays["in_features"]).requires_grad_()
    points, logits = head(torch.cat([features, torch.from_numpy(arrays["in_noise"])]))
    assert near(points, arrays["out_ball"])
    assert near(logits, arrays["out_logits"])
    pairs = training.pair_confusion(points[:8], full.curvature)
    told = F.cross_entropy(logits, torch.arange(2).repeat_interleave(8))
    (pairs + told).backward()
    assert near(pairs, arrays["out_hyp_pc"])
    assert near(told, arrays["out_hyp_ce"])
    assert features.grad is not None
    assert near(features.grad[..., ::9], arrays["out_grad_features"])
    assert near(head.ball.base.grad, arrays["out_grad_xp"])
    assert near(head.logits.normals.grad, arrays["out_grad_a_vals"])
    assert near(head.logits.offsets.grad, arrays["out_grad_p_vals"])


@pytest.mark.shared
@pytest.mark.slow
@torch.no_grad()
def test_encoder_equals_published(parity) -> None:
    arrays, state, _ = parity("hypoc-vggface")
    encoder = VGGFace(224, 64, 4096)
    encoder.load_state_dict(convert_encoder(state))
    assert near(encoder(torch.from_numpy(arrays["in_image"])), arrays["out_fc6"])


def published_state(config: HypOCConfig, *, head: bool) -> dict[str, torch.Tensor]:
    """The published layout in the widths of a configuration."""
    state, before = {}, 3
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        width = config.width * min(2 ** (block - 1), 8)
        for layer in range(1, count + 1):
            state[f"conv{block}_{layer}.weight"] = torch.randn(width, before, 3, 3)
            state[f"conv{block}_{layer}.bias"] = torch.randn(width)
            before = width
    flat = before * (config.size // 32) ** 2
    for name, shape in (("fc6", (config.feature, flat)), ("fc7", (7, config.feature)), ("fc8", (5, 7))):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[0])
    if head:
        for i, (a, b) in enumerate(zip((config.feature, *config.hidden), config.hidden)):
            state[f"model.{2 * i}.weight"], state[f"model.{2 * i}.bias"] = torch.randn(b, a), torch.randn(b)
        state["topoincare.xp"] = torch.randn(config.hidden[-1])
        state |= {f"last_layer.{name}_vals": torch.randn(2, config.hidden[-1]) for name in "ap"}
    return state


def test_import_tells_the_sizes() -> None:
    config = HypOCConfig(size=64, width=4, feature=12, hidden=(10, 6))
    state = published_state(config, head=True)
    model = import_published(state)
    assert model.config == config
    assert torch.equal(model.encoder.fc6.weight, state["fc6.weight"])
    assert torch.equal(model.head.logits.normals, state["last_layer.a_vals"])
    del state["conv3_3.bias"]
    with pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)
    with pytest.raises(KeyError):
        convert_published({"other.weight": torch.zeros(1)})


def test_pairs_by_hand() -> None:
    points = torch.tensor([[0.5, 0.0], [0.0, 0.2], [0.0, 0.0], [0.0, -0.1]], requires_grad=True)
    # pairs (0, 2) and (1, 3); from the origin ‖−x ⊕ y‖ is ‖x‖, and of opposite points (a + b) / (1 + c·a·b)
    distances = (0.5, 0.3 / (1 + 0.2 * 0.1))
    loss = training.pair_confusion(points, 1.0)
    assert loss.item() == pytest.approx(sum(2 * math.atan(d) for d in distances) / 4, abs=1e-4)
    exact = training.pair_confusion(points, 1.0, exact=True)
    assert exact.item() == pytest.approx(sum(2 * math.atanh(d) for d in distances) / 4, abs=1e-4)
    loss.backward()
    assert points.grad is not None
    assert float(points.grad[0, 0]) > 0 > float(points.grad[2, 0])  # downhill they come together
    with pytest.raises(UsageError, match="even number"):
        training.pair_confusion(points[:3], 1.0)


def test_negatives_remember_the_last_batch_alone() -> None:
    negatives = training.PseudoNegatives(variance=0.0)
    first, second, third = (torch.full((4, 3), v) for v in (1.0, 2.0, 5.0))
    assert negatives.draw(first).unique().tolist() == pytest.approx([0.2])  # 0.8 · 0 + 0.2 · 1
    assert negatives.draw(second).unique().tolist() == pytest.approx([1.2])  # 0.8 · 1 + 0.2 · 2
    assert negatives.draw(third).unique().tolist() == pytest.approx([2.6])  # 0.8 · 2 + 0.2 · 5: no running mean
    negatives.reset()
    assert negatives.draw(third).unique().tolist() == pytest.approx([1.0])
    generator = torch.Generator().manual_seed(0)
    drawn = training.PseudoNegatives(variance=4.0).draw(torch.zeros(2000, 2, requires_grad=True), generator)
    assert float(drawn.std()) == pytest.approx(2.0, rel=0.05)  # a variance, not a deviation
    assert not drawn.requires_grad
    assert float(training.PseudoNegatives(rectified=True).draw(torch.zeros(50, 2)).min()) == 0.0


def test_only_the_last_block_and_the_head_are_trained() -> None:
    torch.manual_seed(0)
    model = HypOC(HypOCConfig(size=32, width=2, feature=8, hidden=(8, 4)))
    task = training.HypOCTraining(model, lr=1e-3)
    chosen = {id(p) for group in task.optimisers()["model"].param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    assert all(name.startswith(("encoder.blocks.4.", "encoder.fc6.", "head.")) for name in names)
    image = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    losses: list[torch.Tensor] = []
    task.step({"image": image}, lambda name, loss: losses.append(loss), 0.0)
    losses[0].backward()
    assert all(p.grad is not None for p in model.parameters() if id(p) in chosen)


def test_means_are_of_grey_levels_unless_the_published_loader_is_wanted() -> None:
    assert HypOC.preprocess_for(HypOCConfig()).scale == 1.0
    assert HypOC.preprocess_for(HypOCConfig(legacy_norm=True)).scale == 255.0
