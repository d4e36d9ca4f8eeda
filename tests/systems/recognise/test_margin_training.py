"""Recognisers that learn from names alone: heads, pairs and posteriors as trainings, and their recipes end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facewright.errors import UsageError
from facewright.nn.iresnet import IResNet
from facewright.systems.recognise.adaface.network import AdaFace
from facewright.systems.recognise.arcface.network import ArcFace, ArcFaceConfig
from facewright.systems.recognise.margin_training import HEADS, MarginTraining
from facewright.systems.recognise.multibatch.network import Multibatch, MultibatchConfig
from facewright.systems.recognise.multibatch.training import MultibatchTraining
from facewright.systems.recognise.pfid.network import PFID, PFIDConfig
from facewright.systems.recognise.pfid.training import PFIDTraining
from facewright.training.validation import pair_auc

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
PEOPLE = 4
SMALL_PFID = PFIDConfig(backbone="thin", size=32, width=4, individuals=PEOPLE)
SMALL_MULTIBATCH = MultibatchConfig(size=32, dim=8, widths=(8,) * 5, groups=(1,) * 5)


def pictures(side: int = 112, count: int = 8) -> dict[str, Tensor]:
    """Two pictures each of four people, who differ in colour."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(PEOPLE), count // PEOPLE)
    colours = rng.integers(30, 220, (PEOPLE, 1, 1, 3))
    noisy = colours[labels] + rng.integers(-10, 11, (count, side, side, 3))
    return {"image": torch.from_numpy(noisy.astype(np.uint8)), "label": torch.from_numpy(labels)}


def small(cls: type[Any] = ArcFace) -> Any:
    """A recogniser of that class with a backbone of a few thousand weights."""
    torch.manual_seed(0)
    model = cls(replace(cls.Config.thin(), dim=16))
    model.backbone = IResNet((1, 1, 1, 1), 16, widths=(16, 16, 16, 16), patch=2, pooling="depthwise")
    return model


class Steps:
    """Makes optimiser steps and keeps the losses."""

    def __init__(self, training: Any) -> None:
        self.training, self.optimisers = training, training.optimisers()
        self.losses: list[float] = []

    def update(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        loss.backward()
        self.losses.append(float(loss.detach()))
        self.optimisers[name].step()

    def run(self, batch: dict[str, Tensor], count: int, progress: float = 0.5) -> Any:
        for number in range(count):
            logs = self.training.step(batch, self.update, progress if number else 0.0)
        return logs


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_step_moves_network_and_centres_by_the_heads_loss(head: str) -> None:
    training: Any = MarginTraining(small(), people=PEOPLE, head=head, options={"scale": 16.0}, lr=0.01)
    batch = pictures()
    centres, weight = training.head.weight.detach().clone(), training.model.backbone.fc.weight.detach().clone()
    steps = Steps(training)
    steps.run(batch, 1)
    torch.manual_seed(0)
    again = MarginTraining(small(), people=PEOPLE, head=head, options={"scale": 16.0})
    again.head.load_state_dict(training.head.state_dict() | {"weight": centres})
    for name in ("mean", "std", "t"):
        if hasattr(again.head, name):
            setattr(again.head, name, getattr(type(again.head)(PEOPLE, 16), name))
    wanted = again.head(again.model(again.model.normalise(batch["image"])), batch["label"])
    assert steps.losses == [pytest.approx(float(wanted.detach()), rel=1e-5)]
    assert not torch.equal(training.head.weight, centres)
    assert not torch.equal(training.model.backbone.fc.weight, weight)


def test_people_are_told_apart_after_some_steps() -> None:
    steps = Steps(MarginTraining(small(), people=PEOPLE, head="CosFace", options={"scale": 16.0, "m": 0.1}, lr=0.05))
    steps.run(pictures(), 12)
    assert steps.losses[-1] < 0.5 * steps.losses[0]
    steps.training.model.eval()


def test_every_network_is_fed_by_its_own_record() -> None:
    model = small(AdaFace)
    training = MarginTraining(model, people=PEOPLE, head="AdaFace")
    batch = pictures()
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    Steps(training).run(batch, 1)
    red = batch["image"][0, 0, 0, 0] / 127.5 - 1
    assert float(seen[0][0, 2, 0, 0]) == pytest.approx(float(red))  # AdaFace takes BGR


def test_biases_and_norms_do_not_decay() -> None:
    training = MarginTraining(small(), people=PEOPLE, head="ArcFace")
    decayed, free = training.optimisers()["model"].param_groups
    assert decayed["weight_decay"] == 5e-4
    assert free["weight_decay"] == 0
    assert any(p is training.head.weight for p in decayed["params"])
    assert {p.dim() for p in free["params"]} == {1}


def test_impossible_heads_and_too_many_people_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no margin head 'Cosface'.*CosFace"):
        MarginTraining(small(), people=PEOPLE, head="Cosface")
    with pytest.raises(UsageError, match="2 people, the data more"):
        Steps(MarginTraining(small(), people=2, head="CosFace")).run(pictures(), 1)
    with pytest.raises(UsageError, match="3 individuals, the data more"):
        Steps(PFIDTraining(PFID(replace(SMALL_PFID, individuals=3)))).run(pictures(32), 1)


def test_pairs_in_the_right_order() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-0.1, 3.0]])
    assert pair_auc(embeddings, torch.tensor([0, 0, 1, 1])) == 1.0
    assert pair_auc(embeddings, torch.tensor([0, 1, 0, 1])) == 0.25  # each of two beats one of four
    assert np.isnan(pair_auc(embeddings, torch.tensor([0, 0, 0, 0])))


def test_validation_is_over_pairs() -> None:
    training = MarginTraining(small().eval(), people=PEOPLE, head="CosFace")
    with torch.no_grad():
        found = training.validate(pictures())
        embeddings = training.model(training.model.normalise(pictures()["image"]))
    assert found == {"auc": pair_auc(embeddings, pictures()["label"])}


def test_multibatch_learns_its_threshold_from_the_first_batch_on() -> None:
    torch.manual_seed(0)
    model = Multibatch(SMALL_MULTIBATCH)
    training = MultibatchTraining(model, lr=0.01)
    batch = pictures(32)
    steps = Steps(training)
    with torch.no_grad():
        signatures = model(model.normalise(batch["image"]))  # in training mode, as the step sees it
    distances = torch.pdist(signatures).square()
    steps.run(batch, 1)
    assert float(model.threshold.detach()) == pytest.approx(float(distances.median()), rel=0.5)
    first = float(model.threshold.detach())
    steps.run(batch, 12)
    assert float(model.threshold.detach()) != first
    assert steps.losses[-1] < steps.losses[0]
    decayed, _ = steps.optimisers["model"].param_groups
    assert not any(p is model.theta for p in decayed["params"])
    with torch.no_grad():
        found = training.validate(batch)
    assert set(found) == {"auc", "error"}


def test_pfid_adds_the_loss_on_pairs() -> None:
    def losses(weight: float) -> tuple[float, Any]:
        torch.manual_seed(0)
        steps = Steps(PFIDTraining(PFID(SMALL_PFID), pair_weight=weight))
        logs = steps.run(pictures(32), 1)
        return steps.losses[0], logs

    alone, _ = losses(0.0)
    both, logs = losses(2.0)
    assert alone == pytest.approx(float(logs["classification"]), rel=1e-5)
    assert both == pytest.approx(alone + 2 * float(logs["pairs"]), rel=1e-5)
    assert float(logs["pairs"]) > 0


class People(Dataset[dict[str, Tensor]]):
    """Coloured squares of four people; stands for the photos of a recipe."""

    def __init__(self, split: str, seed: int, size: int = 112, **options: Any) -> None:
        self.batch = pictures(size)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[index % 8] for key, value in self.batch.items()}


RECIPE_NAMES = ("sface-thin", "arcface-thin", "cosface-thin", "adaface-thin", "magface-thin", "multibatch", "pfid")


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_recipes_start_validate_and_save(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    from facewright.systems.base import system_class
    from facewright.training import display
    from facewright.training.trainer import Recipe, Trainer

    path = next(RECIPES.glob(f"{name}*.yaml"), None)
    if path is None:
        pytest.skip("the recipes are not part of this installation")
    monkeypatch.setattr(display, "_tensorboard", lambda folder: None)
    written = Recipe.load(path)
    options = written.training["options"]
    training = {**written.training, "options": options | ({"people": PEOPLE} if "people" in options else {})}
    data = {"entry": f"{__name__}:People", "options": written.data["options"]}
    tiny: dict[str, dict[str, Any]] = {"multibatch": {"size": 32}, "pfid": {"size": 32, "individuals": PEOPLE}}
    if name in tiny:
        data["options"] = data["options"] | {"size": 32}
    recipe = replace(
        written,
        config={**written.config, **tiny.get(name, {})},
        training=training,
        data=data,
        steps=2,
        batch_size=8,
        validation_batches=1,
        workers=0,
        warmup=1,
    )
    folder = Trainer(recipe, tmp_path).run()
    saved = (tmp_path / "metrics.csv").read_text()
    assert "val/auc" in saved
    crops = pictures(32 if name in tiny else 112)["image"].numpy()
    model: Any = system_class(written.system).from_pretrained(folder)
    assert np.allclose(np.linalg.norm(model.embed(crops), axis=1), 1, atol=1e-5)


def test_the_thin_network_is_small() -> None:
    assert sum(p.numel() for p in ArcFace(ArcFaceConfig.thin()).parameters()) == 332_896
