"""GFPGAN's training: every term by hand or by its pull, the adversaries' turns, the prior, and the recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facewright.errors import UsageError, WeightsError
from facewright.systems.recognise.distilledface.network import DistilledFace, DistilledFaceConfig
from facewright.systems.restore.gfpgan.network import GFPGAN, GFPGANConfig
from facewright.systems.restore.gfpgan.training import GFPGANTraining, gram, load_prior, pyramid_loss
from facewright.systems.synthesise.stylegan2.network import StyleGAN2, StyleGAN2Config
from facewright.training.trainer import Recipe, Trainer, signed

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "gfpgan-compact.yaml"
TINY = GFPGANConfig(size=32, channel_multiplier=1, narrow=0.0625, style_dim=16, mapping_layers=2)


def owner(**options: Any) -> GFPGANTraining:
    torch.manual_seed(0)
    recogniser = DistilledFace(DistilledFaceConfig(16, (16, 16, 16, 16), (1, 1, 1, 1)))
    return GFPGANTraining(GFPGAN(TINY).train(), recogniser=recogniser, component_width=4, **options)


def batch(count: int = 2) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    high = torch.from_numpy(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    return {"hq": high, "lq": 255 - high, "mask": torch.ones(count, 1, 32, 32, dtype=torch.bool)}


def test_a_step_takes_every_turn_once_and_r1_at_its_rhythm() -> None:
    training = owner(r1_every=2)
    turns: list[str] = []

    def update(name: str, loss: Tensor) -> None:
        loss.backward()
        turns.append(name)

    first = training.step(batch(), update, 0.0)
    assert turns == ["model", "discriminator", "discriminator", "components"]
    later = training.step(batch(), update, 0.5)
    assert turns[4:] == ["model", "discriminator", "components"]
    always = {"l1", "features", "identity", "gan", "component", "style", "d", "d_components"}
    assert set(first) == always | {"pyramid", "r1"}
    assert set(later) == always
    assert all(torch.isfinite(torch.as_tensor(v)) for v in (*first.values(), *later.values()))


def test_what_the_network_learns_reaches_it_and_no_adversary() -> None:
    training = owner()
    training.step(batch(), lambda name, loss: loss.backward() if name == "model" else None, 0.0)
    assert all(p.grad is None for p in training.discriminator.parameters())
    assert all(p.grad is None for p in training.components.parameters())
    gradients = {k: p.grad for k, p in training.model.named_parameters() if p.requires_grad}
    missing = [k for k, g in gradients.items() if g is None or not g.any()]
    assert all("noise_strength" in k or "bias" in k for k in missing), missing


@pytest.mark.parametrize("term", ["gan", "component"])
def test_adversaries_pull_towards_what_they_take_for_real(term: str) -> None:
    training = owner(gan_weight=0.5, component_weight=0.5, style_weight=0.0)
    high = signed(batch()["hq"])
    image = high.clone().requires_grad_()
    before = training._adversarial(image, high)[term]
    before.backward()
    assert image.grad is not None
    after = training._adversarial((image - 0.02 * image.grad / image.grad.abs().max()).detach(), high)[term]
    assert float(after) < float(before.detach())


def test_components_are_judged_where_they_are() -> None:
    training = owner()
    image = torch.zeros(1, 3, 32, 32)
    x0, y0, x1, y1 = training.register["mouth"]
    image[:, :, y0:y1, x0:x1] = 1
    assert (training._crop(image, "mouth") == 1).all()
    assert training._crop(image, "left_eye").mean() < 0.2
    assert training._crop(image, "mouth").shape[-1] % 16 == 0
    assert set(training.register) == {"left_eye", "right_eye", "mouth"}


def test_style_is_zero_for_the_truth_and_blind_to_place() -> None:
    training = owner()
    high = signed(batch()["hq"])
    assert float(training._adversarial(high, high)["style"]) < 0.01  # spectral norms move a little at every look
    assert float(training._adversarial(0.2 * high, high)["style"]) > 1
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    torch.testing.assert_close(gram(maps), torch.tensor([[[5.0, 3.0], [3.0, 9.0]]]) / 4)
    torch.testing.assert_close(gram(maps.flip(3)), gram(maps))


def test_the_pyramid_is_judged_at_every_size_inside_the_photo() -> None:
    high = torch.full((1, 3, 32, 32), 0.5)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 16:] = 0
    pyramid = [torch.zeros(1, 3, side, side) for side in (8, 16, 32)]
    for image in pyramid:
        image[..., image.shape[-1] // 2 :] = 9  # outside
    assert float(pyramid_loss(pyramid, high, mask)) == pytest.approx(3 * 0.5, rel=1e-5)


def test_reconstruction_is_zero_for_the_truth() -> None:
    training = owner()
    high = signed(batch()["hq"])
    mask = batch()["mask"].float()
    assert all(float(v) == pytest.approx(0, abs=1e-5) for v in training._reconstruction(high, high, mask).values())
    away = training._reconstruction(-high, high, mask)
    assert float(away["l1"]) == pytest.approx(0.1 * 2 * float(high.abs().mean()), rel=1e-4)
    assert float(away["identity"]) > 0
    assert float(away["features"]) > 0


def test_a_prior_is_where_the_generator_begins(tmp_path: Path) -> None:
    config = StyleGAN2Config(32, 1, 0.0625, style_dim=16, mapping_layers=2, upsample="bilinear", equalised=False)
    torch.manual_seed(3)
    folder = StyleGAN2(config).save_pretrained(tmp_path / "prior")
    training = owner(prior=folder)
    state = StyleGAN2.from_pretrained(folder).generator.state_dict()
    assert torch.equal(training.model.generator.state_dict()["constant"], state["constant"])
    wider = StyleGAN2(dataclasses.replace(config, narrow=0.125)).save_pretrained(tmp_path / "wider")
    with pytest.raises(WeightsError, match="another size or width"):
        owner(prior=wider)
    with pytest.raises(UsageError, match="clean form"):
        load_prior(GFPGAN(dataclasses.replace(TINY, form="original")), folder)


class Faces(Dataset[dict[str, Tensor]]):
    """Noise in the place of faces."""

    def __init__(self, split: str, seed: int, **options: Any) -> None:
        self.items = batch(4)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[index % 4] for key, value in self.items.items()}


def test_the_recipe_starts_validates_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    from facewright.training import display

    if not RECIPE.is_file():
        pytest.skip("the recipes are not part of this installation")
    monkeypatch.setattr(display, "_tensorboard", lambda folder: None)
    written = Recipe.load(RECIPE)
    recipe = dataclasses.replace(
        written,
        config=dataclasses.asdict(TINY),
        training={**written.training, "options": written.training["options"] | {"component_width": 4}},
        data={"entry": f"{__name__}:Faces"},
        validation={},
        steps=2,
        batch_size=2,
        validation_batches=1,
        workers=0,
    )
    folder = Trainer(recipe, tmp_path).run()
    assert "val/identity" in (tmp_path / "metrics.csv").read_text()
    assert GFPGAN.from_pretrained(folder).restore(batch()["lq"].numpy()).shape == (2, 32, 32, 3)
