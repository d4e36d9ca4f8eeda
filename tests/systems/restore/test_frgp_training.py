"""Two-stage training of FRGP: when the prior learns, what every switch adds, and that recipes reach them."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.nn.stylegan2 import Generator
from facewright.systems.restore.frgp.network import FRGP, FRGPConfig
from facewright.systems.restore.frgp.training import FRGPTwoStageTraining
from facewright.systems.synthesise.stylegan2.network import StyleGAN2, StyleGAN2Config
from facewright.training.trainer import Recipe
from facewright.weights.store import save_file

TINY = FRGPConfig(size=32, channel_multiplier=1, narrow=0.0625, style_dim=16, mapping_layers=2)
ALONE = {"gan_weight": 0.0, "perceptual_weight": 0.0, "identity_weight": 0.0}
RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("frgp-*.yaml"))


def training(**options: Any) -> FRGPTwoStageTraining:
    torch.manual_seed(0)
    return FRGPTwoStageTraining(FRGP(TINY), **(ALONE | options))


def pictures(seed: int, count: int = 4) -> torch.Tensor:
    y, x = np.mgrid[:32, :32]
    rng = np.random.default_rng(seed)
    waves = [np.sin((x * a + y * b) / 4) for a, b in rng.uniform(-1, 1, (3 * count, 2))]
    return torch.from_numpy((127 + 100 * np.stack(waves)).astype(np.uint8).reshape(count, 3, 32, 32)).permute(
        0, 2, 3, 1
    )


def batch() -> dict[str, torch.Tensor]:
    noise = torch.randint(-40, 40, (2, 4, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    hq, real = pictures(0), pictures(5)
    low, second = ((hq + n).clamp(0, 255).to(torch.uint8) for n in noise)
    mask = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    extra = {"real": real, "real_worse": (real + noise[0]).clamp(0, 255).to(torch.uint8), "real_mask": mask}
    return {"hq": hq, "lq": low, "lq_second": second, "mask": mask} | extra


class Steps:
    """Takes steps as the trainer does, and remembers who had a gradient."""

    def __init__(self, owner: FRGPTwoStageTraining) -> None:
        self.owner, self.optimisers = owner, owner.optimisers()
        self.moved: dict[str, set[str]] = {}

    def update(self, name: str, loss: torch.Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        module = self.owner.modules()[name]
        self.moved[name] = {k for k, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        self.optimisers[name].step()

    def __call__(self, progress: float, given: dict[str, torch.Tensor] | None = None) -> dict[str, float]:
        logs = self.owner.step(batch() if given is None else given, self.update, progress)
        return {name: float(value) for name, value in logs.items()}


def generator_of(owner: FRGPTwoStageTraining) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in owner.model.generator.state_dict().items()}


# The two stages


def test_prior_is_frozen_until_a_fifth_and_then_learns_at_a_tenth() -> None:
    owner = training(lr=1e-3)
    step, before = Steps(owner), generator_of(owner)
    for progress in (0.0, 0.1, 0.199):
        step(progress)
        assert not any(name.startswith("generator.") for name in step.moved["model"])
    assert all(torch.equal(v, before[k]) for k, v in generator_of(owner).items())
    step(0.2)
    moved = {name for name in step.moved["model"] if name.startswith("generator.")}
    assert any(".modulation." in name for name in moved)
    assert not any("mapping" in name for name in moved), "the mapping is bypassed"
    after = generator_of(owner)
    change = max(float((after[k] - before[k]).abs().max()) for k in before)
    assert 0 < change <= 1.01e-4, "Adam's first step is the rate itself"
    rates = [group["lr"] for group in step.optimisers["model"].param_groups]
    assert rates == pytest.approx([1e-3, 1e-4])


def test_a_prior_can_be_left_out_of_the_stages() -> None:
    owner = training(prior_from=0.0, prior_rate=1.0)
    step = Steps(owner)
    step(0.0)
    assert any(name.startswith("generator.convs") for name in step.moved["model"])
    assert {group["lr"] for group in step.optimisers["model"].param_groups} == {2e-3}


def test_every_weight_is_in_one_group_only() -> None:
    owner = training()
    grouped = [id(p) for g in owner.optimisers()["model"].param_groups for p in g["params"]]
    wanted = {id(p) for p in owner.model.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == wanted


def test_pyramid_is_asked_for_at_the_beginning_only() -> None:
    step = Steps(training())
    assert "pyramid" in step(0.059)
    assert any(name.startswith("to_rgbs") for name in step.moved["model"])
    assert "pyramid" not in step(0.06)
    assert not any(name.startswith("to_rgbs") for name in step.moved["model"])


def _stylegan2(generator: Generator) -> StyleGAN2:
    system = StyleGAN2(StyleGAN2Config(32, 1, 0.0625, style_dim=16, mapping_layers=2, upsample="bilinear"))
    system.generator.load_state_dict(generator.state_dict())
    return system


def test_prior_is_read_from_its_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {"style_dim": 16, "channel_multiplier": 1, "mapping_layers": 2, "upsample": "bilinear"}
    torch.manual_seed(4)
    prior = Generator(32, narrow=0.0625, **options)
    save_file(prior.state_dict(), tmp_path / "prior.safetensors", {})
    owner = training(prior=str(tmp_path / "prior.safetensors"))
    w = torch.randn(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(owner.model.generator(w), prior(w), rtol=1e-4, atol=1e-4)
    assert owner.model.mean_latent.abs().max() > 0
    folder = _stylegan2(prior).save_pretrained(tmp_path / "trained")
    assert torch.equal(training(prior=str(folder)).model.generator.constant, owner.model.generator.constant)
    save_file(Generator(32, narrow=0.125, **options).state_dict(), tmp_path / "wide.safetensors", {})
    with pytest.raises(WeightsError, match="width"):
        training(prior=str(tmp_path / "wide.safetensors"))


# Self-supervision


def test_teacher_that_sees_the_same_has_nothing_to_say() -> None:
    step = Steps(training(alignment_weight=0.1))
    same = batch() | {"lq": batch()["hq"]}
    assert step(0.5, same)["alignment"] == 0
    assert step(0.5, same)["alignment"] > 0, "the student has moved on"
    assert Steps(training(alignment_weight=0.1))(0.5)["alignment"] > 0


def test_teacher_gets_no_gradient_and_follows() -> None:
    owner = training(alignment_weight=0.1, teacher_decay=0.9)
    step = Steps(owner)
    name = "encoder.stem.0.weight"
    before = owner.model.state_dict()[name].clone()
    step(0.5)
    assert owner.mean_teacher is not None
    network = owner.mean_teacher.network
    assert all(p.grad is None for p in network.parameters())
    wanted = 0.9 * before + 0.1 * owner.model.state_dict()[name]
    torch.testing.assert_close(network.state_dict()[name], wanted)
    assert owner.modules()["teacher"] is network, "it is saved with the checkpoint"
    assert "teacher" not in training().modules()


def test_alignment_pulls_the_codec_towards_the_true_picture() -> None:
    owner = training(alignment_weight=1.0, latent_share=0.5)
    given = batch()
    _, aux = owner.model(given["lq"].permute(0, 3, 1, 2).float() / 127.5 - 1, return_aux=True)
    high = given["hq"].permute(0, 3, 1, 2).float() / 127.5 - 1
    owner._alignment(aux, high).backward()
    moved = {k for k, p in owner.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder.stem.0.weight", "to_latent.out.weight", "decoder.convs.0.weight"} <= moved
    assert not any(name.startswith(("generator", "condition_heads", "to_rgbs")) for name in moved)


def test_equal_views_agree_and_others_are_drawn_together() -> None:
    step = Steps(training(agreement_weight=1.0))
    assert step(0.5, batch() | {"lq_second": batch()["lq"]})["agreement"] == pytest.approx(0, abs=1e-6)
    assert step(0.5)["agreement"] > 1e-3
    with pytest.raises(UsageError, match="views: 2"):
        step(0.5, {k: v for k, v in batch().items() if k != "lq_second"})


def test_unpaired_pictures_come_late_and_their_target_stands_still() -> None:
    owner = training(unpaired_weight=0.05)
    step = Steps(owner)
    assert "unpaired" not in step(0.69)
    assert step(0.7)["unpaired"] > 0
    assert step(0.7, batch() | {"real_worse": batch()["real"]})["unpaired"] == pytest.approx(0, abs=1e-7)
    given = batch()
    real, worse = (given[k].permute(0, 3, 1, 2).float() / 127.5 - 1 for k in ("real", "real_worse"))
    owner.model.zero_grad(set_to_none=True)
    owner._unpaired(given).backward()
    got = owner.model.encoder.stem[0].weight.grad.clone()  # type: ignore[operator]
    owner.model.zero_grad(set_to_none=True)
    (owner.model(worse) - owner.model(real).detach()).abs().mean().backward()
    torch.testing.assert_close(got, owner.model.encoder.stem[0].weight.grad)
    with pytest.raises(UsageError, match="unpaired: true"):
        step(0.9, {k: v for k, v in given.items() if not k.startswith("real")})


# The other terms


def test_discriminator_and_network_learn_apart() -> None:
    owner = training(gan_weight=0.1, r1_every=1, gan_from=0.5)
    step = Steps(owner)
    before = [p.detach().clone() for p in owner.discriminator.parameters()]
    assert not {"gan", "d"} & set(step(0.49))
    assert all(torch.equal(a, b) for a, b in zip(before, owner.discriminator.parameters()))
    logs = step(0.5)
    assert {"gan", "d"} <= set(logs)
    assert "stem.weight" in step.moved["discriminator"]
    assert not all(torch.equal(a, b) for a, b in zip(before, owner.discriminator.parameters()))
    assert set(training().modules()) == {"model"}


def test_gradient_penalty_is_drawn_once_in_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from facewright.systems.restore.frgp import training as frgp_training

    asked: list[int] = []
    monkeypatch.setattr(frgp_training, "r1_penalty", lambda logits, images: asked.append(1) or logits.sum() * 0)  # type: ignore[func-returns-value]
    owner = training(gan_weight=0.1, r1_every=4)
    fixed = torch.zeros(1, 3, 32, 32)
    for number in range(48):
        torch.manual_seed(number)
        owner._discriminate(fixed, fixed, torch.ones(1, 1, 32, 32), lambda name, loss: None)
    assert 5 <= len(asked) <= 20


def test_face_terms_are_those_of_the_recogniser() -> None:
    logs = Steps(training(perceptual_weight=1.0, identity_weight=0.5))(0.5)
    assert logs["identity"] > 0
    assert logs["perceptual"] > 0
    assert "perceptual" not in Steps(training(identity_weight=0.5))(0.5)
    with pytest.raises(UsageError, match="face, lpips"):
        training(perceptual="vgg")


def test_pixels_outside_the_photo_do_not_count() -> None:
    mask = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    mask[..., :16] = False
    spoiled = batch()["hq"].clone()
    spoiled[:, :, :16] = 0
    a, b = (Steps(training())(0.5, batch() | {"mask": mask, "hq": hq}) for hq in (batch()["hq"], spoiled))
    assert a["l1"] == pytest.approx(b["l1"])


def test_it_learns() -> None:
    step = Steps(training(lr=5e-3, agreement_weight=0.1, alignment_weight=0.1, prior_from=0.0))
    logs = [step(0.5)["l1"] for _ in range(15)]
    assert logs[-1] < 0.7 * logs[0]


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_options_of_the_recipes_exist(path: Path) -> None:
    recipe = Recipe.load(path)
    for part, positional in ((recipe.training, 1), (recipe.data, 0)):
        module, _, name = part["entry"].partition(":")
        entry = getattr(importlib.import_module(module), name)
        inspect.signature(entry).bind(*[None] * positional, **part.get("options", {}))
    inspect.signature(entry).bind(**(recipe.data.get("options", {}) | recipe.validation))
