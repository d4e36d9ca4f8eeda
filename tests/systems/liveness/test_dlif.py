"""DLIF: parity with the published code, the order of batches, and what its losses pull at."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.liveness.dlif import training
from facewright.systems.liveness.dlif.convert import import_published
from facewright.systems.liveness.dlif.network import (
    DLIF,
    DLIFConfig,
    cross_collections,
    cross_liveness,
    style_cross,
)


def near(found: torch.Tensor, published: object, tolerance: float = 1e-4) -> bool:
    wanted = torch.as_tensor(published)
    return bool((found.detach() - wanted).abs().max() < tolerance * wanted.abs().max())


@pytest.mark.shared
def test_equals_published(parity) -> None:
    arrays, state, _ = parity("dlif")
    model = import_published(state)
    assert model.config == DLIFConfig()
    small = torch.from_numpy(arrays["in_small"])
    with torch.no_grad():
        found = model(torch.from_numpy(arrays["in_image"]), return_aux=True)
        assert near(found["liveness"][..., ::4], arrays["out_fu"])
        assert near(found["identity"][..., ::4], arrays["out_fv"])
        assert near(found["logits"], arrays["out_liveness_logits"])
        assert near(found["identities"], arrays["out_identity_logits"])
        crossing = partial(cross_collections, collections=3)
        for name, encoder, cross in (("u", model.liveness, crossing), ("v", model.identity, cross_liveness)):
            assert encoder is not None
            assert near(encoder(small)[..., ::2], arrays[f"out_small_{name}_q"])
            assert near(encoder(small, cross, "high")[..., ::2], arrays[f"out_small_{name}_high"])
            assert near(encoder(small, cross, "low")[..., ::2], arrays[f"out_small_{name}_low"])
    del state["u_encoder.cwsa1.fc.0.weight"]
    with pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)


@pytest.mark.shared
def test_losses_equal_published(parity) -> None:
    arrays, _, _ = parity("dlif")
    scores = torch.from_numpy(arrays["in_scores"]).requires_grad_()
    loss = training.am_softmax(scores, torch.from_numpy(arrays["in_labels"]))
    loss.backward()
    assert near(loss, arrays["out_loss_am_softmax"])
    assert near(scores.grad, arrays["out_grad_am_softmax"])
    for name in ("cluster", "identity"):
        views = torch.from_numpy(arrays["in_emb"]).requires_grad_()
        loss = training.contrast(F.normalize(views, dim=-1), torch.from_numpy(arrays[f"in_{name}"]))
        loss.backward()
        assert near(loss, arrays[f"out_loss_supcon_{name}"])
        assert near(views.grad, arrays[f"out_grad_supcon_{name}"])
    views = torch.from_numpy(arrays["in_emb"]).requires_grad_()
    unit = F.normalize(views, dim=-1)
    loss = training.orthogonality(unit[:, 0], unit[:, 1])
    loss.backward()
    assert near(loss, arrays["out_loss_orthogonal"])
    assert near(views.grad, arrays["out_grad_orthogonal"])


def test_crossed_styles_are_those_of_the_partner() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 4, 5, 6) * torch.arange(1.0, 13)[:, None, None, None] + torch.arange(12.0)[:, None, None, None]
    crossed = style_cross(x, x.flip(0))
    torch.testing.assert_close(crossed.mean((2, 3)), x.flip(0).mean((2, 3)))
    torch.testing.assert_close(crossed.std((2, 3)), x.flip(0).std((2, 3)), rtol=1e-4, atol=1e-4)
    # three collections of two pictures in each half: the partner is of the same half and of another collection
    means = cross_collections(x, 3).mean((2, 3))[:, 0]
    partners = [int((means[i] - x.mean((2, 3))[:, 0]).abs().argmin()) for i in range(12)]
    assert all((i < 6) == (j < 6) and i % 6 // 2 != j % 6 // 2 for i, j in enumerate(partners))
    # the same picture's place in the other half
    means = cross_liveness(x).mean((2, 3))[:, 0]
    assert [int((means[i] - x.mean((2, 3))[:, 0]).abs().argmin()) for i in range(12)] == [*range(6, 12), *range(6)]
    with pytest.raises(UsageError, match="as many live pictures as attacks"):
        cross_liveness(x[:3])


def test_margins_are_larger_for_live_faces() -> None:
    scores = torch.zeros(1, 2)
    attack, live = (float(training.am_softmax(scores, torch.tensor([label]))) for label in (0, 1))
    assert attack == pytest.approx(float(torch.tensor(3.0).exp().add(1).log()))  # log(1 + e^(30 · 0.1))
    assert live == pytest.approx(float(torch.tensor(12.0).exp().add(1).log()))  # log(1 + e^(30 · 0.4))


def test_live_faces_are_one_cluster_and_attacks_are_not() -> None:
    live = torch.tensor([1, 1, 0, 0])
    assert training.clusters_of(live).tolist() == [0, 0, 3, 4]
    views = F.normalize(torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    training.contrast(views, training.clusters_of(live)).backward()
    assert views.grad is not None
    step = F.normalize(views.detach() - 0.01 * views.grad, dim=-1)
    before, after = views.detach(), step
    assert (after[0, 0] @ after[1, 0]) > (before[0, 0] @ before[1, 0])  # live faces attract each other
    assert (after[2, 0] @ after[3, 0]) < (before[2, 0] @ before[3, 0])  # two attacks do not
    alone = F.normalize(torch.randn(3, 1, 8), dim=-1)
    assert float(training.contrast(alone, torch.tensor([1, 2, 3]))) == 0.0  # nothing to attract


def test_orthogonality_and_ambiguity_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert float(training.orthogonality(a, b)) == pytest.approx(0.5)  # one of two pairs is parallel
    assert float(training.ambiguity(torch.tensor([[0.5, 1.0]]), 0.5)) == pytest.approx(0.125)


def tiny() -> DLIF:
    torch.manual_seed(0)
    return DLIF(DLIFConfig(size=64, width=4, identities=3))


def batch(model: DLIF) -> dict[str, torch.Tensor]:
    people = torch.tensor([0, 1, 2, 0, 1, 2])
    image = torch.randint(0, 256, (6, 64, 64, 3), dtype=torch.uint8)
    return {"image": image, "live": torch.tensor([1, 1, 1, 0, 0, 0]), "identity": people}


def test_every_optimiser_moves_its_own_encoder() -> None:
    model = tiny()
    task = training.DLIFTraining(model)
    moved: dict[str, set[str]] = {}

    def update(name: str, loss: torch.Tensor) -> None:
        model.zero_grad()
        loss.backward()
        moved[name] = {key.split(".")[0] for key, p in model.named_parameters() if p.grad is not None}
        chosen = {id(p) for group in task.optimisers()[name].param_groups for p in group["params"]}
        own = {key.split(".")[0] for key, p in model.named_parameters() if id(p) in chosen}
        assert own <= moved[name]

    logs = task.step(batch(model), update, 0.0)
    assert set(logs) == {"liveness", "contrast", "identity"}
    assert "identity" not in moved["model"]  # the other encoder is held
    assert "liveness" not in moved["identity"]


def test_another_order_is_refused() -> None:
    model = tiny()
    wrong = batch(model)
    wrong["live"] = wrong["live"].flip(0)
    with pytest.raises(UsageError, match="live faces, then attacks"):
        training.DLIFTraining(model).step(wrong, lambda name, loss: None, 0.0)
    with pytest.raises(UsageError, match="from 64, not 32"):
        DLIF(DLIFConfig(size=32))
    with pytest.raises(UsageError, match="trained with identities"):
        training.DLIFTraining(DLIF(DLIFConfig(size=64, width=4, identities=0)))


def test_votes_are_the_scaled_classifiers(fakes) -> None:
    model = tiny().eval()
    photo, face = fakes.textured(200, 240), fakes.face_at((90, 80), 20.0)
    vote = model.live(photo, [face])
    crop = model.preprocess.crop.cut(photo, face).image[None]
    with torch.no_grad():
        wanted = (30 * model(model.normalise(crop))).softmax(1)[:, 1]
    assert vote == pytest.approx(wanted.numpy(), abs=1e-5)
    assert model.live(photo, []).shape == (0,)
