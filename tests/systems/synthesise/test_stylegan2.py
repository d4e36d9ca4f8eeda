"""StyleGAN2 as a system and its training: samples, truncation, published layouts, masks, regularisers, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import facewright as fw
from facewright.errors import FacewrightError, UsageError, WeightsError
from facewright.io.provenance import detect_watermark
from facewright.nn import stylegan2 as s2
from facewright.systems.synthesise.stylegan2 import convert
from facewright.systems.synthesise.stylegan2.network import StyleGAN2, StyleGAN2Config
from facewright.systems.synthesise.stylegan2.training import StyleGAN2Training

if TYPE_CHECKING:
    from pathlib import Path

TINY: dict[str, Any] = {"size": 16, "widths": (12, 10, 8), "style_dim": 8, "mapping_layers": 2}


def build(**changes: Any) -> StyleGAN2:
    torch.manual_seed(0)
    model = StyleGAN2(StyleGAN2Config(**(TINY | changes))).eval()
    for conv in model.generator.convs:
        torch.nn.init.ones_(conv.noise_strength)  # type: ignore[arg-type]
    model.precision = "fp32"
    return model


def pictures(count: int = 8, side: int = 16) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "hq": torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=random),
        "mask": torch.ones(count, 1, side, side, dtype=torch.bool),
    }


class Trial:
    """A training with its optimisers; remembers the losses it was given."""

    def __init__(self, **options: Any) -> None:
        self.training = StyleGAN2Training(build().train(), **options)
        self.optimisers = self.training.optimisers()
        self.losses: list[tuple[str, float]] = []

    def update(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.losses.append((name, float(loss.detach())))
        self.optimisers[name].step()


# --- pictures


def test_samples_are_a_function_of_their_seed():
    model = build()
    a = model.sample(3, seed=4)
    assert (a.shape, a.dtype) == ((3, 16, 16, 3), np.uint8)
    assert np.array_equal(a, model.sample(3, seed=4))
    assert not np.array_equal(a, model.sample(3, seed=5))
    assert np.array_equal(model.sample(20, seed=4)[:3], model.sample(17, seed=4)[:3])


@torch.no_grad()
def test_truncation_pulls_the_styles_to_their_mean():
    model = build()
    far, near, mean = (model.latents(6, seed=2, truncation=t) for t in (1.0, 0.5, 0.0))
    torch.testing.assert_close(near, (far + mean) / 2)
    assert mean.std(0).max() == 0
    torch.testing.assert_close(mean[0], model.generator.mean_latent())
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(z, truncation=0.5), model.generator(near))


def test_pictures_are_the_images_rounded():
    model = build()
    with torch.no_grad():
        image = model(torch.randn(2, 8, generator=torch.Generator().manual_seed(7)))
    expected = ((image + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(model.sample(2, seed=7, truncation=1.0) - expected).max() == 0


def test_made_faces_carry_the_mark_unless_asked_otherwise():
    model = build(size=128, widths=(8,) * 6)
    with torch.no_grad():
        for parameter in model.generator.to_rgbs.parameters():
            parameter.mul_(0.1)  # within what a picture can show
    plain, marked = (model.sample(3, seed=1, watermark=w) for w in (False, True))
    assert [detect_watermark(face).present for face in marked] == [True] * 3
    assert [detect_watermark(face).present for face in plain] == [False] * 3
    assert np.abs(marked.astype(int) - plain).mean() < 3


def test_without_weights_the_published_ones_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No weights of this project come with it: those it had made the same few people over and over."""
    monkeypatch.setenv("FACEWRIGHT_CACHE", str(tmp_path))
    with pytest.raises(FacewrightError, match=r"stylegan2-ffhq-config-f\.pkl") as refused:
        fw.synthesise(tmp_path / "faces")
    assert "NVIDIA" in str(refused.value)
    assert not (tmp_path / "faces").exists()


def test_noise_is_drawn_in_training_only():
    model, z = build(), torch.randn(1, 8)
    assert torch.equal(model(z), model(z))
    model.train()
    assert not torch.equal(model(z), model(z))
    model.eval()
    assert torch.equal(model(z), model(z))


def test_wrong_requests_are_refused():
    model = build()
    for call, said in (
        (lambda: model.sample(0), "cannot make 0 faces"),
        (lambda: model.sample(1, truncation=1.5), "truncation 1.5"),
        (lambda: model(torch.zeros(2, 9)), r"z \(N, 8\)"),
    ):
        with pytest.raises(UsageError, match=said):
            call()


def test_full_size_is_configuration_f():
    with torch.device("meta"):
        full = StyleGAN2()
    assert sum(p.numel() for p in full.parameters()) / 1e6 == pytest.approx(30.37, abs=0.01)
    assert full.generator.widths[1024] == 32


# --- published layouts


def layouts(model: StyleGAN2) -> dict[str, dict[str, Tensor]]:
    state = model.generator.state_dict()
    return {"rosinality": s2.to_rosinality(state), "basicsr": s2.to_basicsr(state), "nvidia": s2.to_nvidia(state)}


@pytest.mark.parametrize("name", ["rosinality", "basicsr", "nvidia"])
@torch.no_grad()
def test_published_layouts_give_the_same_pictures(name):
    model = build()
    state = layouts(model)[name]
    assert convert.layout_of(state) == name
    read = convert.import_published(state)
    assert read.config == model.config
    z = torch.randn(2, 8)
    torch.testing.assert_close(read(z), model(z))


@torch.no_grad()
def test_clean_layout_gives_the_same_pictures():
    model = build(upsample="bilinear", equalised=False)
    read = convert.import_published(s2.to_basicsr(model.generator.state_dict(), clean=True))
    assert (read.config.upsample, read.config.equalised) == ("bilinear", False)
    z = torch.randn(2, 8)
    torch.testing.assert_close(read(z), model(z))


@pytest.mark.shared
@torch.no_grad()
def test_published_clean_checkpoint_is_recognised(parity):
    _, state, _ = parity("stylegan2-clean")
    read = convert.import_published(state)
    assert read.config == StyleGAN2Config(size=256, channel_multiplier=2, upsample="bilinear", equalised=False)


def test_partial_and_foreign_checkpoints_say_what_is_wrong():
    state = s2.to_rosinality(build().generator.state_dict())
    partial = {k: v for k, v in state.items() if k != "conv1.conv.modulation.bias"}
    said = (
        r"StyleGAN2 but is closest to a StyleGAN2 of rosinality: "
        r"1 tensors missing \['generator.convs.0.conv.modulation.bias'\], 0 unknown"
    )
    with pytest.raises(WeightsError, match=said):
        convert.import_published(partial)
    with pytest.raises(WeightsError, match=r"'backbone\.weight' is not part of a StyleGAN2 generator"):
        convert.import_published({"backbone.weight": torch.zeros(1)})


# --- training


def test_masked_pixels_of_generated_pictures_teach_nothing():
    trial = Trial(path_every=0, r1_every=0, ada_images=0)
    batch = pictures()
    batch["mask"][...] = False
    before = {k: v.clone() for k, v in trial.training.model.named_parameters()}
    trial.training.step(batch, trial.update, 0.0)
    after = dict(trial.training.model.named_parameters())
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_pictures_are_reduced_to_the_generators_size():
    training = StyleGAN2Training(build())
    batch = pictures(2, side=32)
    batch["mask"][:, :, :, :3] = False
    real, mask = training._real(batch)
    assert real.shape == (2, 3, 16, 16)
    assert mask[:, :, :, :2].sum() == 0  # half-covered cells count as outside
    assert mask[:, :, :, 2:].all()
    cell = batch["hq"][0, 4:6, 10:12].float().mean((0, 1)) / 127.5 - 1
    torch.testing.assert_close(real[0, :, 2, 5], cell, rtol=1e-4, atol=1e-4)


def test_styles_change_at_one_layer_in_the_mixed_share():
    training = StyleGAN2Training(build(), mixing=0.5)
    styles = training.styles(400).detach()
    changes = (styles[:, 1:] != styles[:, :-1]).any(2).sum(1)
    assert set(changes.tolist()) == {0, 1}
    assert float((changes == 1).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert not (StyleGAN2Training(build(), mixing=0.0).styles(20).diff(dim=1)).any()


def test_regularisers_keep_their_rhythm():
    trial = Trial(r1_every=3, path_every=2, ada_images=0)
    names = [sorted(trial.training.step(pictures(4), trial.update, 0.0)) for _ in range(4)]
    assert [("r1" in n, "path" in n) for n in names] == [(True, True), (False, False), (False, True), (True, False)]
    order = [name for name, _ in trial.losses]
    assert order[:4] == ["discriminator", "discriminator", "model", "model"]
    assert len(order) == 4 * 2 + 2 + 2
    assert int(trial.training.count.steps) == 4


def test_regularisers_reach_every_parameter_twice_differentiated():
    trial = Trial(ada_images=0)
    training = trial.training
    real, _ = training._real(pictures(4))
    training._penalise(real, lambda name, loss: loss.backward())
    training._straighten(4, lambda name, loss: loss.backward())
    # behind the last statistics the slope is piecewise constant in the biases
    assert all(p.grad.any() for k, p in training.discriminator.named_parameters() if k.endswith("weight"))
    gradients = {k: p.grad for k, p in training.model.named_parameters()}
    assert gradients["generator.constant"].abs().max() > 0
    assert all(g is None or torch.isfinite(g).all() for g in gradients.values())


def test_lazy_steps_are_weighted_for_the_steps_between():
    trial = Trial(r1_every=16, r1_gamma=2.0, ada_images=0)
    real, _ = trial.training._real(pictures(4))
    weighted: list[float] = []
    penalty = trial.training._penalise(real, lambda name, loss: weighted.append(float(loss.detach())))
    assert weighted == [pytest.approx(16 * float(penalty), rel=1e-5)]
    lr, betas = (trial.optimisers["discriminator"].param_groups[0][k] for k in ("lr", "betas"))
    assert lr == pytest.approx(2e-3 * 16 / 17)
    assert betas == (0.0, pytest.approx(0.99 ** (16 / 17)))


def test_discriminator_learns_to_tell_and_generator_to_deceive():
    trial = Trial(path_every=0, r1_every=0, ada_images=0, lr=5e-3)
    for _ in range(25):
        logs = trial.training.step(pictures(), trial.update, 0.0)
    assert float(logs["d"]) < 1.2  # 2·ln 2 knows nothing
    training = trial.training
    z = torch.randn(16, 8)
    fooled = float(training.discriminator(training.model(z)).mean().detach())
    optimiser = torch.optim.Adam(training.model.parameters(), 5e-3, betas=(0.0, 0.99))
    for _ in range(10):
        loss = torch.nn.functional.softplus(-training.discriminator(training.model(z))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(training.discriminator(training.model(z)).mean().detach()) > fooled + 0.1


def test_augmentation_follows_the_discriminator():
    trial = Trial(path_every=0, r1_every=0, ada_images=64, ada_target=-1.1)
    for _ in range(4):
        logs = trial.training.step(pictures(), trial.update, 0.0)
    assert logs["p"] == pytest.approx(0.5)


def test_sheet_and_validation():
    training = StyleGAN2Training(build())
    assert training.sample(pictures()).shape == (36, 96, 3)
    with torch.no_grad():
        found = training.validate(pictures())
    assert set(found) == {"logit_real", "logit_fake"}


def test_impossible_settings_are_refused():
    with pytest.raises(UsageError, match="intervals"):
        StyleGAN2Training(build(), r1_every=-1)


class Photos(Dataset[dict[str, Tensor]]):
    def __init__(self, split: str, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        values = np.random.default_rng((self.seed, index)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return {"hq": torch.from_numpy(values), "mask": torch.ones(1, 16, 16, dtype=torch.bool)}


def test_resumed_training_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("accelerate")
    from facewright.training import display
    from facewright.training.trainer import Recipe, Trainer

    monkeypatch.setattr(display, "_tensorboard", lambda folder: None)
    options = {"r1_every": 3, "path_every": 2, "ada_images": 40, "ada_target": -1.1}
    recipe = Recipe(
        system="stylegan2",
        steps=10,
        batch_size=4,
        config={k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()},
        training={"entry": f"{StyleGAN2Training.__module__}:StyleGAN2Training", "options": options},
        data={"entry": f"{__name__}:Photos"},
        validation_batches=1,
        workers=0,
        max_grad_norm=1e6,
        validate_every=20,
        checkpoint_every=5,
    )
    Trainer(recipe, tmp_path / "a").run()
    Trainer(recipe, tmp_path / "b").run(steps=5)
    Trainer(recipe, tmp_path / "b").run()
    a, b = (torch.load(tmp_path / x / "checkpoint.pt", weights_only=True) for x in "ab")
    assert float(a["modules"]["augment"]["p"]) > 0
    for part in ("modules", "ema"):
        for key, value in a[part].items():
            for name, tensor in value.items() if isinstance(value, dict) else [(key, value)]:
                other = b[part][key][name] if isinstance(value, dict) else b[part][key]
                assert torch.equal(tensor, other), (part, key, name)
    assert StyleGAN2.from_pretrained(tmp_path / "a/model").sample(1).shape == (1, 16, 16, 3)
