"""IADG: parity with the published code, dynamic kernels, styles, whitening, and batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.liveness.iadg import training
from facewright.systems.liveness.iadg.convert import import_published
from facewright.systems.liveness.iadg.network import IADG, DynamicKernels, IADGConfig, StyleAssembly


def near(found: torch.Tensor, published: object, tolerance: float = 1e-4) -> bool:
    wanted = torch.as_tensor(published)
    return bool((found.detach() - wanted).abs().max() < tolerance * wanted.abs().max())


@pytest.mark.shared
def test_equals_published(parity) -> None:
    arrays, state, _ = parity("iadg")
    model = import_published(state)
    assert model.config == IADGConfig()
    image = torch.from_numpy(arrays["in_image"])
    with torch.no_grad():
        found = model(image, return_aux=True)
        assert near(model.score(image), arrays["out_score"])
    assert near(found["logits"], arrays["out_logits"])
    assert near(found["depth"], arrays["out_depth"])
    assert near(found["features"][:, ::3, ::7, ::7], arrays["out_cat_feature"])
    del state["Classifier.fc.bias"]
    with pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)


@pytest.mark.shared
def test_styles_and_whitening_equal_published(parity) -> None:
    arrays, state, _ = parity("iadg")
    shader = import_published(state).shader
    assert shader is not None
    features = torch.from_numpy(arrays["in_shade_feature"]).requires_grad_()
    attack, weights = torch.from_numpy(arrays["in_labels"]), torch.from_numpy(arrays["in_style_weights"])
    with torch.no_grad():
        plain, shaded = shader.last(features), shader(features, attack, weights[0])
        varied = [training.style_variance(a, b) for a, b in zip(plain.chunk(2), shaded.chunk(2))]
    masks = []
    for name, variance, share in zip(("real", "fake"), varied, training.SHARES):
        assert near(variance[:, ::17], arrays[f"out_cov_variance_{name}"])
        mask = training.sensitive(variance, share)
        wanted = {tuple(row) for row in arrays[f"out_mask_matrix_{name}_rows_cols"].tolist()}
        assert {tuple(row) for row in mask.nonzero().tolist()} == wanted
        masks.append(mask)
    shaded = shader(features, attack, weights[1])
    assert near(shaded[:, ::3, ::2, ::2], arrays["out_shaded_feature"])
    original = training.whitening(shader.last(features), (masks[0], masks[1]))
    changed = training.whitening(shaded, (masks[0], masks[1]))
    (original + changed).backward()
    assert near(original, arrays["out_aiaw_original"])
    assert near(changed, arrays["out_aiaw_shaded"])
    assert near(features.grad[:, ::3, ::2, ::2], arrays["out_grad_shade_feature"])


def test_kernels_are_made_for_every_picture_by_itself() -> None:
    torch.manual_seed(0)
    layer = DynamicKernels(8, 6)
    x = torch.randn(3, 8, 7, 9)
    together = layer(x)
    alone = torch.cat([layer(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    filtered = [F.conv2d(x[1:2, c : c + 1], kernel_of(layer, x[1, c]), padding=1) for c in range(4)]
    mixed = torch.cat([*filtered, layer.static(x[1:2, 4:])], 1)
    torch.testing.assert_close(layer.fuse(mixed), together[1:2], rtol=1e-4, atol=1e-5)


def kernel_of(layer: DynamicKernels, channel: torch.Tensor) -> torch.Tensor:
    """By the definition: nine scalar maps of the channel's mean, then one more."""
    nine = layer.kernel.weight.view(9) * channel.mean() + layer.kernel.bias
    return (layer.rescale.weight.view(()) * nine + layer.rescale.bias).view(1, 1, 3, 3)


def test_styles_are_added_by_class_and_need_no_gradient_of_the_statistics() -> None:
    assembly = StyleAssembly(2, 3)
    for name, value in (("live_mean", 1.0), ("live_std", 2.0), ("attack_mean", -1.0), ("attack_std", 0.0)):
        assembly.get_buffer(name).fill_(value)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    change = assembly(x, torch.tensor([0, 1]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])) - x
    torch.testing.assert_close(change[0].mean((1, 2)), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(change[0].std((1, 2)), torch.full((3,), 2.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(change[1], torch.full_like(change[1], -1.0))


def test_farthest_points_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [9.0], [5.0]])
    assert training.farthest(points, 3).tolist() == [0, 2, 3]
    assert len(training.farthest(points, 6)) == 6


def test_whitening_of_known_covariances() -> None:
    features = torch.zeros(2, 2, 1, 2)
    features[0, :, 0] = torch.tensor([[1.0, 1.0], [2.0, 2.0]])  # its off-diagonal covariance is 4 / (2 − 1)
    mask = torch.tensor([[False, True], [False, False]])
    assert float(training.whitening(features, (mask, mask))) == pytest.approx((4.0 + 0.0) / 2)
    assert training.sensitive(torch.arange(100.0).view(10, 10), 0.03).sum() == 3


def tiny(*, unit_depth: bool = True) -> IADG:
    torch.manual_seed(0)
    return IADG(IADGConfig(size=64, width=8, styles=4, unit_depth=unit_depth))


def batch() -> dict[str, torch.Tensor]:
    depth = torch.zeros(4, 8, 8)
    depth[:2] = 0.5
    image = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    return {"image": image, "attack": torch.tensor([0, 0, 1, 1]), "depth": depth}


def test_the_first_epoch_knows_no_styles() -> None:
    task = training.IADGTraining(tiny())
    losses: list[torch.Tensor] = []
    assert set(task.step(batch(), lambda name, loss: losses.append(loss), 0.0)) == {"told"}
    task.refresh([batch(), batch()])
    assert float(task.shader.assemblies[0].get_buffer("live_std").min()) > 0
    logs = task.step(batch(), lambda name, loss: losses.append(loss), 0.5)
    assert set(logs) == {"told", "shaded", "whitening"}
    losses[-1].backward()
    assert all(p.grad is not None for p in task.model.parameters())
    wrong = batch() | {"attack": torch.tensor([1, 0, 1, 0])}
    with pytest.raises(UsageError, match="live faces first"):
        task.step(wrong, lambda name, loss: None, 0.0)


def test_the_published_depth_cannot_be_zero_everywhere() -> None:
    x = torch.randn(2, 48, 8, 8, generator=torch.Generator().manual_seed(0))
    published, ours = tiny(unit_depth=False).depth, tiny().depth
    for head in (published, ours):
        torch.nn.init.constant_(head.last.bias, -30.0)
    assert float(published(x).mean()) > 0.1
    assert float(ours(x).max()) < 1e-6


def test_an_epoch_refreshes_from_the_batches_before_it() -> None:
    torch.manual_seed(0)
    model = IADG(IADGConfig(size=64, width=8, styles=4, unit_depth=True))
    trained = training.IADGTraining(model, epoch=2)
    losses: list[set[str]] = []
    for number in range(4):
        batch = {
            "image": torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8),
            "attack": torch.tensor([0, 0, 1, 1]),
            "depth": torch.zeros(4, 8, 8),
        }
        model.train()
        losses.append(set(trained.step(batch, lambda name, loss: loss.backward(), number / 4)))
        assert model.training
    assert losses == [{"told"}, {"told"}, {"told", "shaded", "whitening"}, {"told", "shaded", "whitening"}]
    assert len(trained.seen) == 2
    with pytest.raises(UsageError, match="cannot have -1 steps"):
        training.IADGTraining(model, epoch=-1)
