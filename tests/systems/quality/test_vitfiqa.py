"""ViT-FIQA: parity with the published code, the quality token's path, masking, losses and use on photos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu

from facewright.errors import UsageError, WeightsError
from facewright.face import Reason
from facewright.systems.quality.vitfiqa.convert import convert_published, import_published
from facewright.systems.quality.vitfiqa.network import ViTFIQA, ViTFIQAConfig
from facewright.systems.quality.vitfiqa.training import (
    UtilityHead,
    ViTFIQATraining,
    certainty_ratio,
    quality_loss,
)
from facewright.training.validation import ranked_right

TOLERANCE = 1e-4
SMALL = {"size": 32, "patch": 8, "dim": 16, "depth": 2, "heads": 2, "embedding": 8}


def small(**options) -> ViTFIQA:
    torch.manual_seed(0)
    return ViTFIQA(ViTFIQAConfig(**(SMALL | options))).eval()


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours.detach() - published).abs().max() / published.abs().max())


# --- parity


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vitfiqa", "vitfiqa-crfiqa-mode"])
@torch.inference_mode()
def test_network_equals_published(parity, name):
    arrays, state, notes = parity(name)
    net = import_published(state)
    assert sum(p.numel() for p in net.parameters()) == notes["parameters"]
    assert net.config == ViTFIQAConfig(mode="token" if name == "vitfiqa" else "crfiqa")
    assert net.vit.positions.shape == (1, 145 if name == "vitfiqa" else 144, 512)
    image = torch.from_numpy(arrays["in_image"])
    embedding, quality = net(image)
    assert deviation(embedding, arrays["out_embedding"]) < TOLERANCE
    assert deviation(quality, arrays["out_quality"][:, 0]) < TOLERANCE
    assert deviation(net.encode(image)[:, ::4, ::5], arrays["out_feat_norm"]) < TOLERANCE


@pytest.mark.shared
def test_objective_equals_published(parity):
    arrays, state, _ = parity("vitfiqa-loss")
    head = UtilityHead(32, 24)
    head.cosface.weight.data = state["weight"]
    embeddings = torch.from_numpy(arrays["in_embeddings"]).requires_grad_()
    quality = torch.from_numpy(arrays["in_quality"]).requires_grad_()
    labels = torch.from_numpy(arrays["in_labels"])
    identity, target = head(embeddings, labels)
    assert deviation(target, arrays["out_cr_target"][:, 0]) < TOLERANCE
    assert deviation(target, arrays["out_arc_cr_target"][:, 0]) < TOLERANCE
    fiq = quality_loss(quality[:, 0], target)
    assert deviation(fiq, arrays["out_fiq_loss"]) < TOLERANCE
    (identity + 10 * fiq).backward()
    assert deviation(embeddings.grad, arrays["out_grad_embeddings"]) < TOLERANCE
    assert deviation(quality.grad, arrays["out_grad_quality"]) < TOLERANCE
    assert deviation(head.cosface.weight.grad, arrays["out_grad_weight"]) < TOLERANCE
    # the published value, unlike its gradient, stops where a probability falls below 1e-30
    each = F.cross_entropy(head.cosface.logits(embeddings, labels), labels, reduction="none")
    capped = each.clamp(max=-np.log(1e-30)).mean() + 10 * fiq
    assert deviation(capped, arrays["out_total"]) < TOLERANCE


# --- the network


@pytest.mark.parametrize(("mode", "positions", "flat"), [("token", 17, 256), ("crfiqa", 16, 256), ("full", 17, 272)])
def test_modes_differ_in_tokens_and_heads(mode, positions, flat):
    net = small(mode=mode)
    assert net.vit.positions.shape == (1, positions, 16)
    assert net.vit.head[0].weight.shape == (16, flat)
    assert net.quality[1].weight.shape == (1, 16 if mode == "token" else 8)


def test_compact_fits_two_megabytes():
    net = ViTFIQA(ViTFIQAConfig.compact())
    assert sum(p.numel() for p in net.parameters()) * 2 < 2_000_000


def gradient_of_first_token(mode: str) -> torch.Tensor:
    """How strongly the embedding hangs on each token after the last norm, (tokens,)."""
    net = small(mode=mode)
    kept: dict[str, Any] = {}
    trunk = net.vit.trunk
    net.vit.trunk = lambda tokens: kept.setdefault("tokens", trunk(tokens).detach().requires_grad_())  # type: ignore[method-assign]
    net(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
    return kept["tokens"].grad.abs().sum((0, 2))


def test_embedding_ignores_the_quality_token_unless_full():
    assert gradient_of_first_token("token")[0] == 0
    assert (gradient_of_first_token("token")[1:] > 0).all()
    assert (gradient_of_first_token("full") > 0).all()


def test_quality_reaches_the_whole_trunk():
    net = small().train()
    net(torch.randn(4, 3, 32, 32))[1].square().sum().backward()
    assert net.vit.blocks[0].mlp[0].weight.grad.abs().sum() > 0  # type: ignore[index, union-attr]
    assert net.vit.head[0].weight.grad is None


def test_training_masks_tokens_and_evaluation_does_not():
    net = small(mask_ratio=0.5, drop_path=0.0)
    image = torch.randn(64, 3, 32, 32)
    first, second = net(image)[1], net(image)[1]
    assert torch.equal(first, second)
    net.train()
    tokens = net.encode(image)
    hidden = (tokens == net.vit.mask_token).all(2)
    assert (hidden.sum(1) == 17 - int(17 * 0.5)).all()
    assert 0.3 < hidden[:, 0].float().mean() < 0.75  # the quality token is masked like any other


def test_conversion_is_one_to_one():
    net = small()
    published = {}
    for key, value in net.state_dict().items():
        name = key.removeprefix("vit.").replace("quality.", "head_qs.").replace("head.", "feature.")
        name = name.replace("patch.", "patch_embed.proj.").replace("positions", "pos_embed")
        name = name.replace("attention.project", "attn.proj").replace("attention.qkv", "attn.qkv")
        name = name.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2").replace("quality_token", "qs_token")
        published[name] = value
    del published["reference"]
    assert "head_qs.1.weight" in published
    assert "blocks.0.attn.proj.bias" in published
    converted = convert_published(published)
    assert set(converted) == set(net.state_dict())
    assert all(torch.equal(converted[k], v) for k, v in net.state_dict().items())


def test_import_refuses_other_checkpoints():
    with pytest.raises(WeightsError, match=r"not a ViT-FIQA checkpoint.*patch_embed"):
        import_published({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("options", "said"),
    [({"mode": "cls"}, "choose one of token, crfiqa, full"), ({"heads": 3}, "do not divide"), ({"patch": 64}, "64 px")],
)
def test_impossible_configurations_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        small(**options)


def test_wrong_crops_are_refused():
    with pytest.raises(UsageError, match="32, 32"):
        small()(torch.zeros(1, 3, 30, 30))


# --- use on photos


def test_scores_do_not_depend_on_company():
    net = small()
    crops = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    assert net.score(crops)[65:] == pytest.approx(net.score(crops[65:]), abs=1e-5)
    assert np.linalg.norm(net.embed(crops), axis=1) == pytest.approx(np.ones(70), abs=1e-5)
    assert net.score(crops[:0]).shape == (0,)


def test_calibration_survives_half_precision(tmp_path, fakes, astronaut):
    net = small()
    face = fakes.face_at((224, 120), 41.0)
    with pytest.raises(UsageError, match="calibrated"):
        net.rate(astronaut, [face])
    net.calibrate(np.linspace(-3, 3, 1000))
    loaded = ViTFIQA.from_pretrained(net.save_pretrained(tmp_path, dtype=torch.bfloat16))
    assert torch.equal(loaded.reference, net.reference)
    (quality,) = net.rate(astronaut, [face])
    assert quality.percentile == pytest.approx(50 + quality.score * 50 / 3, abs=0.1)
    assert net.rate(astronaut, []) == []


def test_rate_says_why(fakes, astronaut):
    net = small()
    net.calibrate(np.linspace(-3, 3, 1000))
    far = fakes.face_at((224, 120), 15.0)
    assert Reason.TOO_SMALL in net.rate(astronaut, [far])[0].reasons


# --- training


def test_certainty_ratio_by_hand():
    cosines = torch.tensor([[0.8, 0.5, -0.2], [0.1, 0.3, -0.4]])
    labels = torch.tensor([0, 2])
    assert certainty_ratio(cosines, labels).tolist() == pytest.approx([0.8 / 1.5, -0.4 / 1.3])
    assert certainty_ratio(cosines, labels, variant="crfiqa").tolist() == pytest.approx([0.8 / 0.5, -0.4 / 0.3])


def test_public_crfiqa_code_never_sees_a_negative_neighbour():
    cosines, labels = torch.tensor([[0.6, -0.5, -0.3]]), torch.tensor([0])
    assert certainty_ratio(cosines, labels).item() == pytest.approx(0.6 / 0.7)
    assert certainty_ratio(cosines, labels, variant="crfiqa").item() > 1e8
    with pytest.raises(UsageError, match="choose vitfiqa or crfiqa"):
        certainty_ratio(cosines, labels, variant="other")  # type: ignore[arg-type]


def test_target_carries_no_gradient():
    head = UtilityHead(8, 5)
    embeddings = torch.randn(6, 8, requires_grad=True)
    _, target = head(embeddings, torch.arange(6) % 5)
    assert not target.requires_grad


def test_ranked_right_is_the_roc_area():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.4
    scores = np.round(rng.normal(positive, 1.0), 1)  # with ties
    found = ranked_right(torch.from_numpy(scores), torch.from_numpy(positive))
    statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert found == pytest.approx(statistic / (positive.sum() * (~positive).sum()), abs=1e-12)


def test_training_learns_that_noise_is_useless():
    """Four people, half of whose pictures are noise: after a few steps the noise scores lower."""
    net = small(mask_ratio=0.0, drop_path=0.0)
    training = ViTFIQATraining(net, identities=4, scale=16.0, margin=0.1, lr=3e-3)
    optimiser = training.optimisers()["model"]
    rng = np.random.default_rng(0)
    people = rng.integers(0, 256, (4, 32, 32, 3))

    def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        labels = rng.integers(0, 4, 32)
        noisy = rng.random(32) < 0.5
        images = np.where(noisy[:, None, None, None], rng.integers(0, 256, (32, 32, 32, 3)), people[labels])
        tensors = {"image": torch.from_numpy(images.astype(np.uint8)), "label": torch.from_numpy(labels)}
        return tensors, torch.from_numpy(noisy)

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    net.train()
    for _ in range(40):
        logs = training.step(batch()[0], update, 0.0)
    assert all(torch.isfinite(torch.as_tensor(v)) for v in logs.values())
    net.eval()
    with torch.no_grad():
        pictures, noisy = batch()
        quality = net(pictures["image"].permute(0, 3, 1, 2).float() / 127.5 - 1)[1]
        metrics = training.validate(pictures)
    assert ranked_right(-quality, noisy) > 0.95
    assert metrics["auc_retained"] > metrics["auc"]
