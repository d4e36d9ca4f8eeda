"""Template inversion: the published mapping by its formula, its losses, its training, and pictures with a mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.geometry.resample import recut
from facewright.systems.attack.embedding import embedding_of
from facewright.systems.attack.template_inversion.convert import convert_published, import_published
from facewright.systems.attack.template_inversion.network import (
    TemplateInversion,
    TemplateInversionConfig,
    recut_crop,
    second_moment_1,
)
from facewright.systems.attack.template_inversion.prior import prior_of
from facewright.systems.attack.template_inversion.training import (
    CLIP,
    TemplateInversionTraining,
    critic_loss,
    reconstruction_terms,
)
from facewright.systems.latents.eigenfaces.network import Eigenfaces
from facewright.systems.recognise.distilledface.network import DistilledFace
from facewright.systems.synthesise.stylegan2.network import StyleGAN2, StyleGAN2Config

if TYPE_CHECKING:
    from collections.abc import Mapping


def published() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {"embed": (6, 5), "fc0": (6, 8), "fc1": (6, 6)}  # noise of 2
    state = {f"{name}.weight": torch.randn(shape, generator=rng) * 10 for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.randn(6, generator=rng) for name in shapes}
    return state | {"w_avg": torch.zeros(6)}


@torch.inference_mode()
def test_the_mapping_is_the_papers_formula() -> None:
    """Equalised layers written out: weights times multiplier / √fan-in, biases times multiplier, gain √2."""
    state = published()
    model = import_published(state)
    assert (model.config.template_dim, model.config.noise_dim, model.config.style_dim) == (5, 2, 6)
    template, noise = torch.randn(3, 5), torch.randn(3, 2)
    y = F.linear(template, state["embed.weight"] / 5**0.5, state["embed.bias"])
    x = torch.cat([v / (v.square().mean(1, keepdim=True) + 1e-8).sqrt() for v in (noise, y)], 1)
    for name, fan_in in (("fc0", 8), ("fc1", 6)):
        x = F.linear(x, state[f"{name}.weight"] * 0.01 / fan_in**0.5, 0.01 * state[f"{name}.bias"])
        x = 2**0.5 * F.leaky_relu(x, 0.2)
    assert torch.allclose(model(template, noise).style, x, atol=1e-6)


def test_size_at_full_scale() -> None:
    with torch.device("meta"):
        model = TemplateInversion()
    assert sum(p.numel() for p in model.mapping.parameters()) == 512 * 513 + 512 * 521 + 512 * 513
    assert [layer.in_features for layer in model.critic if isinstance(layer, nn.Linear)] == [8192, 256, 256, 256]


def test_other_checkpoints_are_refused() -> None:
    state = published()
    del state["fc1.bias"]
    with pytest.raises(WeightsError, match=r"fc1|layers"):
        import_published(state)
    with pytest.raises(KeyError):
        convert_published({"synthesis.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="templates"):
        TemplateInversion(TemplateInversionConfig.compact())(torch.zeros(2, 512))


def test_second_moments_are_one() -> None:
    x = torch.randn(4, 7) * 9
    assert torch.allclose(second_moment_1(x).square().mean(1), torch.ones(4), atol=1e-5)


def test_the_fixed_crop_is_the_one_of_recognisers_and_lets_gradients_pass() -> None:
    rng = np.random.default_rng(0)
    crop = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float().requires_grad_()
    cut = recut_crop(image)
    expected = recut(crop[None], "arcface", 112)[0].astype(np.float32)
    difference = np.abs(cut[0].permute(1, 2, 0).detach().numpy() - expected)
    assert np.median(difference) < 2  # bicubic there, bilinear here
    cut.mean().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_losses_by_hand() -> None:
    made, truth = torch.full((1, 3, 128, 128), 3.0), torch.zeros(1, 3, 128, 128)
    terms = reconstruction_terms(made, truth, lambda crop: crop.mean((2, 3)) * 10)
    assert float(terms["pixel"]) == pytest.approx(0.25)  # clamped to 1, so 1 against 1/2
    assert float(terms["identity"]) == pytest.approx(25.0, rel=1e-3)
    assert float(critic_loss(torch.tensor([[1.0]]), torch.tensor([[3.0]]))) == -2.0  # real low, made high


@pytest.fixture(scope="module")
def parts() -> Mapping[str, nn.Module]:
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(size=32, widths=(8, 8, 8, 8), style_dim=16, mapping_layers=2)).eval()
    recogniser = DistilledFace.from_pretrained()
    return {"generator": generator, "recogniser": recogniser}


def test_training_moves_the_mapping_towards_the_picture(parts: Mapping[str, nn.Module]) -> None:
    torch.manual_seed(0)
    model = TemplateInversion(TemplateInversionConfig(template_dim=8, style_dim=16, styles=8, critic=8))
    frozen = {name: p.clone() for name, p in parts["generator"].named_parameters()}
    training = TemplateInversionTraining(model, parts["generator"], parts["recogniser"], identity=0.0)  # type: ignore[arg-type]
    optimisers = training.optimisers()
    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(60, 200, (2, 1, 1, 3)), 32, 1).repeat(32, 2).astype(np.uint8)
    batch = {"image": torch.from_numpy(image), "template": torch.randn(2, 8)}
    calls: list[str] = []

    def update(name: str, loss: Tensor) -> None:
        calls.append(name)
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    losses = [float(training.step(batch, update, 0.0)["pixel"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert (calls.count("model"), calls.count("adversarial"), calls.count("critic")) == (8, 4, 2)
    assert max(float(p.abs().max()) for p in model.critic.parameters()) <= CLIP + 1e-3
    assert all(torch.equal(p, frozen[name]) for name, p in parts["generator"].named_parameters())


def test_a_recogniser_as_a_function_is_the_recogniser(parts: Mapping[str, nn.Module]) -> None:
    recogniser = parts["recogniser"]
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    image = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = recogniser(recogniser.normalise(crops))  # type: ignore[operator]
        assert torch.allclose(embedding_of(recogniser)(image), expected, atol=1e-4)  # type: ignore[arg-type]


def test_reconstructions_are_marked_and_repeatable() -> None:
    from facewright.io.provenance import detect_watermark

    torch.manual_seed(0)
    generator = Eigenfaces.from_pretrained()
    model = TemplateInversion(TemplateInversionConfig.for_prior(prior_of(generator), 128)).eval()
    templates = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
    first = model.reconstruct(templates, generator)
    assert first.shape == (1, 64, 64, 3)
    assert (model.reconstruct(templates, generator) == first).all()
    assert (model.reconstruct(templates, generator, seed=1) != first).any()
    assert detect_watermark(first[0]).present
