"""The trainer on a toy system: resuming changes nothing, averages and schedules are as said, bad steps are skipped."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import Dataset

from facewright import __version__
from facewright.data.split import split_id
from facewright.errors import UsageError, WeightsError
from facewright.geometry.crop import CropSpec
from facewright.io.sources import note
from facewright.systems.base import System
from facewright.tasks import card as card_module
from facewright.tasks.card import Card, Preprocess
from facewright.training import display, made_by
from facewright.training.trainer import Ema, Recipe, Trainer, Training
from facewright.weights.store import sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from facewright.training.trainer import Batch, Update

pytest.importorskip("accelerate")


@dataclass(frozen=True)
class ToyConfig:
    width: int = 6

    @classmethod
    def compact(cls) -> ToyConfig:
        return cls(3)


class Toy(System):
    slug: ClassVar[str] = "toy"
    Config: ClassVar[type[Any]] = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        width = self.config.width
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 1, 3))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ToyTraining(Training):
    """A generator and a discriminator; draws noise, so that the state of the random numbers matters."""

    explode_at: ClassVar[int | None] = None

    def __init__(self, model: Toy, *, lr: float = 0.05, sgd: bool = False, boost: float = 1.0) -> None:
        self.model = model
        self.discriminator = nn.Linear(16, 1)
        self.lr, self.sgd, self.boost, self.calls = lr, sgd, boost, 0

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "discriminator": self.discriminator}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        kind = torch.optim.SGD if self.sgd else torch.optim.Adam
        return {
            "model": kind(self.model.parameters(), self.lr),
            "discriminator": kind(self.discriminator.parameters(), self.lr / 2),
        }

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        out = self.model(batch["x"] + 0.1 * torch.randn(batch["x"].shape))
        loss = self.boost * ((out - 1).square().mean() - 0.01 * self.discriminator(out.flatten(1)).mean())
        if self.explode_at == self.calls:
            loss = loss * float("inf")
        self.calls += 1
        update("model", loss)
        judged = self.discriminator(out.detach().flatten(1)).square().mean()
        update("discriminator", judged)
        return {"loss": loss.detach(), "d": judged.detach(), "progress": progress}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        return {"error": float((self.model(batch["x"]) - 1).abs().mean())}

    def sample(self, batch: Batch) -> np.ndarray:
        return np.full((4, 6, 3), (200, 100, 50), np.uint8)


class Numbers(Dataset[dict[str, Tensor]]):
    """Sample i is a function of (seed, i); remembers what it was asked for."""

    asked: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, split: str, seed: int, *, scale: float = 1.0) -> None:
        self.split, self.seed, self.scale = split, seed, scale

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.asked.append((self.split, index))
        values = np.random.default_rng((self.seed, index)).normal(0, self.scale, (1, 8, 8))
        return {"x": torch.from_numpy(values).float()}


class Prepared(Numbers):
    """Uses OpenCV's threads before the loader's workers are forked, and OpenCV in them."""

    def __init__(self, split: str, seed: int) -> None:
        super().__init__(split, seed)
        self.kernel = cv2.GaussianBlur(np.ones((2000, 2000), np.float32), (0, 0), 5)[:8, :8]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return {"x": item["x"] * float(cv2.blur(self.kernel, (3, 3)).mean())}


RECIPE: dict[str, Any] = {
    "system": "toy",
    "steps": 8,
    "batch_size": 3,
    "config": {"preset": "compact"},
    "training": {"entry": f"{__name__}:ToyTraining"},
    "data": {"entry": f"{__name__}:Numbers"},
    "validation_batches": 1,
    "precision": "fp32",
    "warmup": 2,
    "workers": 0,
    "validate_every": 4,
    "checkpoint_every": 3,
}


def recipe(**changes: Any) -> Recipe:
    return Recipe(**(RECIPE | changes))


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState

    text: dict[str, Any] = dict.fromkeys(
        ("name", "task", "title", "authors", "url", "summary", "faithful", "bias"), "x"
    )
    entry = Card(slug="toy", entry=f"{__name__}:Toy", year=2026, limits=("x",), **text)
    monkeypatch.setattr(card_module, "cards", lambda: {"toy": entry})
    monkeypatch.setattr(display, "_tensorboard", lambda folder: None)
    monkeypatch.setattr(ToyTraining, "explode_at", None)
    Numbers.asked.clear()
    AcceleratorState._reset_state(reset_partial_state=True)


def flat(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{path}/{key}").items()}
    if isinstance(state, list):
        return flat(dict(enumerate(state)), path)
    return {path: state}


def assert_same(a: Any, b: Any) -> None:
    left, right = flat(a), flat(b)
    assert list(left) == list(right)
    for key, value in left.items():
        same = torch.equal(value, right[key]) if isinstance(value, Tensor) else value == right[key]
        assert same, key


def last_state(folder: Path) -> Any:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


# --- resume


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, precision: str) -> None:
    Trainer(recipe(precision=precision), tmp_path / "a").run()
    straight = [i for split, i in Numbers.asked if split == "train"]
    Numbers.asked.clear()
    Trainer(recipe(precision=precision), tmp_path / "b").run(steps=5)
    Trainer(recipe(precision=precision), tmp_path / "b").run()
    assert straight == list(range(8 * 3))
    assert [i for split, i in Numbers.asked if split == "train"] == straight
    assert_same(last_state(tmp_path / "a"), last_state(tmp_path / "b"))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes()


def test_killed_training_repeats_the_steps_since_its_checkpoint(tmp_path: Path) -> None:
    """Checkpoints come every 3 steps; a run that dies in step 5 begins again after step 3."""
    Trainer(recipe(), tmp_path / "a").run()
    dying = Trainer(recipe(), tmp_path / "b")
    train_step = dying.train_step

    def until_five(batch: Batch) -> Any:
        if dying.step == 4:
            raise KeyboardInterrupt
        return train_step(batch)

    dying.train_step = until_five  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        dying.run()
    again = Trainer(recipe(), tmp_path / "b")
    again.load()
    assert again.step == 3
    Trainer(recipe(), tmp_path / "b").run()
    assert_same(last_state(tmp_path / "a"), last_state(tmp_path / "b"))


def test_finished_training_is_left_alone_and_fresh_begins_again(tmp_path: Path) -> None:
    Trainer(recipe(steps=3), tmp_path).run()
    before = (tmp_path / "model/model.safetensors").read_bytes()
    Numbers.asked.clear()
    Trainer(recipe(steps=3), tmp_path).run()
    assert Numbers.asked == []
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
    Trainer(recipe(steps=3), tmp_path).run(resume=False, steps=1)
    assert last_state(tmp_path)["step"] == 1


@pytest.mark.timeout(120)
def test_workers_start_after_a_data_set_was_prepared_with_opencv(tmp_path: Path) -> None:
    cv2.setNumThreads(4)
    Trainer(recipe(data={"entry": f"{__name__}:Prepared"}, workers=1), tmp_path).run()
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_seed_decides_everything(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        Trainer(recipe(steps=2, seed=seed), tmp_path / name).run()
    a, b, c = ((tmp_path / n / "model/model.safetensors").read_bytes() for n in "abc")
    assert a == b
    assert a != c


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Trainer(recipe(steps=1), tmp_path).run()
    with pytest.raises(WeightsError, match="another recipe"):
        Trainer(recipe(steps=2, config={"width": 5}), tmp_path).run()


def test_start_from_continues_with_other_weights(tmp_path: Path) -> None:
    Trainer(recipe(steps=3), tmp_path / "a").run()
    trainer = Trainer(recipe(start_from=str(tmp_path / "a/model")), tmp_path / "b")
    shipped = Toy.from_pretrained(tmp_path / "a/model").state_dict()
    assert all(torch.equal(v, shipped[k]) for k, v in trainer.bare["model"].state_dict().items())


class FromFile(Numbers):
    """Reads a file, and says so."""

    def __init__(self, split: str, seed: int, *, file: str) -> None:
        super().__init__(split, seed)
        note(Path(file))


def test_weights_say_what_they_were_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewright.training.made_by.code_version", lambda: "abc+")
    (tmp_path / "numbers.bin").write_bytes(b"1 2 3")
    given = recipe(steps=4, data={"entry": f"{__name__}:FromFile", "options": {"file": str(tmp_path / "numbers.bin")}})
    Trainer(given, tmp_path / "a").run(steps=3)
    monkeypatch.setattr("facewright.training.made_by.code_version", lambda: "def")
    Trainer(given, tmp_path / "a").run()
    made = Toy.from_pretrained(tmp_path / "a/model").made_by
    assert made is not None
    assert made["recipe"] == asdict(given)
    assert made["step"] == 4
    assert made["code"] == [{"from_step": 0, "version": "abc+"}, {"from_step": 3, "version": "def"}]
    assert made["data"] == {f"{tmp_path.name}/numbers.bin": hashlib.sha256(b"1 2 3").hexdigest()}
    assert made["weights"] == {}
    assert made["split"] == split_id()

    Trainer(recipe(steps=1, start_from=str(tmp_path / "a/model")), tmp_path / "b").run()
    later = Toy.from_pretrained(tmp_path / "b/model").made_by
    assert later is not None
    assert later["weights"] == {"model/model.safetensors": sha256(tmp_path / "a/model/model.safetensors")}
    assert later["began_with"] == made


def test_the_code_of_a_checkout_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def git(folder: Path, *arguments: str) -> str:
        asked.append(arguments)
        return {"rev-parse": "f" * 40, "status": " M x.py"}[arguments[0]]

    monkeypatch.setattr(made_by, "_git", git)
    assert made_by.code_version() == "f" * 40 + "+"
    assert len(asked) == 2

    def no_git(*_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(made_by, "_git", no_git)
    assert made_by.code_version() == __version__


# --- averages, schedule, optimisers


def test_ema_is_the_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    ema = Ema(layer, decay=0.25)
    expected = 2.0
    for count, value in enumerate((5.0, -1.0, 3.0, 8.0, 0.5), start=1):
        with torch.no_grad():
            layer.weight.fill_(value)
        ema.update_parameters(layer)
        decay = min(0.25, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
        assert ema.shadow["weight"].item() == pytest.approx(expected, rel=1e-6)
    with ema.applied(layer):
        assert layer.weight.item() == pytest.approx(expected, rel=1e-6)
    assert layer.weight.item() == 0.5


def test_ema_follows_buffers_and_copies_counters() -> None:
    norm = nn.BatchNorm1d(2)
    ema = Ema(norm, 0.999)
    assert "num_batches_tracked" not in ema.shadow
    norm(torch.tensor([[1.0, 2.0], [5.0, 2.0]]))
    ema.update_parameters(norm)
    assert ema.shadow["running_mean"].tolist() == pytest.approx([0.3 * 9 / 11, 0.2 * 9 / 11])
    assert ema.module.num_batches_tracked == 1


def test_ema_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    whole = Ema(layer, 0.9)
    for _ in range(3):
        nn.init.normal_(layer.weight)
        whole.update_parameters(layer)
    half = Ema(nn.Linear(3, 3), 0.9)
    half.restore(whole.shadow, whole.updates)
    nn.init.normal_(layer.weight)
    for ema in (whole, half):
        ema.update_parameters(layer)
    assert torch.equal(whole.shadow["weight"], half.shadow["weight"])
    assert half.updates == 4


def test_validated_and_shipped_weights_are_the_average(tmp_path: Path) -> None:
    trainer = Trainer(recipe(steps=4), tmp_path)
    trainer.run()
    shipped = Toy.from_pretrained(tmp_path / "model").state_dict()
    for key, value in trainer.ema.shadow.items():
        assert torch.equal(shipped[key], value)
    assert not torch.equal(shipped["layers.0.weight"], trainer.bare["model"].state_dict()["layers.0.weight"])


def test_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path) -> None:
    trainer = Trainer(recipe(steps=110, warmup=10, min_lr_ratio=0.1), tmp_path)

    def factor(step: int) -> float:
        trainer.step = step
        return trainer.lr_factor()

    assert factor(0) == pytest.approx(0.1)
    assert factor(4) == pytest.approx(0.5)
    assert factor(9) == factor(10) == pytest.approx(1.0)
    assert factor(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(60) == pytest.approx(0.55)
    assert factor(110) == pytest.approx(0.1)


def test_two_optimisers_step_with_their_own_rates(tmp_path: Path) -> None:
    trainer = Trainer(recipe(steps=4, warmup=0, min_lr_ratio=0.0), tmp_path)
    before = {n: [p.detach().clone() for p in m.parameters()] for n, m in trainer.bare.items()}
    trainer.run()
    for name, module in trainer.bare.items():
        assert all(not torch.equal(a, b) for a, b in zip(before[name], module.parameters())), name
    factor = 0.5 * (1 + math.cos(math.pi * 3 / 4))
    assert trainer.optimisers["model"].param_groups[0]["lr"] == pytest.approx(0.05 * factor)
    assert trainer.optimisers["discriminator"].param_groups[0]["lr"] == pytest.approx(0.025 * factor)
    assert trainer.ema.updates == 4


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    """With plain gradient descent the step is exactly rate · clip long when the gradient is longer."""
    options = {"lr": 1.0, "sgd": True, "boost": 1e4}
    trainer = Trainer(
        recipe(warmup=0, max_grad_norm=0.25, training=RECIPE["training"] | {"options": options}), tmp_path
    )
    before = [p.detach().clone() for p in trainer.bare["model"].parameters()]
    trainer.train_step({"x": torch.ones(3, 1, 8, 8) * torch.arange(1.0, 4)[:, None, None, None]})
    after = [p.detach() for p in trainer.bare["model"].parameters()]
    moved = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(before, after)))
    assert trainer.norms["model"] > 1
    assert moved == pytest.approx(0.25, rel=1e-3)


class PlainTraining(ToyTraining):
    """Losses that are means over samples, without noise; the model's leaves gradients on the discriminator."""

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        out = self.model.eval()(batch["x"])
        update("model", (out - 1).square().mean() - self.discriminator(out.flatten(1)).mean())
        update("discriminator", (self.discriminator(out.detach().flatten(1)) - 2).square().mean())
        return {"size": float(len(batch["x"])), "mean": batch["x"].mean()}


@pytest.mark.parametrize("pieces", [2, 4])
def test_pieces_of_a_batch_are_worth_the_whole(tmp_path: Path, pieces: int) -> None:
    """By plain gradient descent, for two optimisers of which one's loss leaves gradients on the other's weights."""
    plain = {"entry": f"{__name__}:PlainTraining", "options": {"sgd": True}}
    given = recipe(batch_size=4, training=plain, warmup=0, max_grad_norm=0.5)
    whole = Trainer(given, tmp_path / "whole")
    cut = Trainer(dataclasses.replace(given, accumulate=pieces), tmp_path / "cut")
    before = {n: [p.detach().clone() for p in m.parameters()] for n, m in cut.bare.items()}
    for step in range(3):
        batch = {"x": torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))}
        logs = [trainer.train_step(batch) for trainer in (whole, cut)]
    for name in ("model", "discriminator"):
        for one, other in zip(whole.bare[name].parameters(), cut.bare[name].parameters()):
            assert torch.allclose(one, other, atol=1e-6), name
        moved = [(a - b).abs().max().item() for a, b in zip(before[name], cut.bare[name].parameters())]
        assert max(moved) > 1e-3
    assert whole.norms["model"] == pytest.approx(cut.norms["model"], rel=1e-5)
    assert [float(log["size"]) for log in logs] == [4, 4 / pieces]
    assert float(logs[0]["mean"]) == pytest.approx(float(logs[1]["mean"]), rel=1e-5)
    assert cut.ema.updates == whole.ema.updates == 3


def test_batches_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 pieces do not divide batches of 4"):
        recipe(batch_size=4, accumulate=3)
    trainer = Trainer(recipe(batch_size=4, accumulate=2), tmp_path)
    with pytest.raises(UsageError, match="cannot be cut into pieces"):
        trainer.train_step({"x": torch.zeros(4, 1, 8, 8), "boxes": torch.zeros(9, 5)})


def test_step_with_infinite_gradients_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyTraining, "explode_at", 0)
    trainer = Trainer(recipe(), tmp_path)
    before = [p.detach().clone() for p in trainer.bare["model"].parameters()]
    batch = {"x": torch.randn(3, 1, 8, 8)}
    trainer.train_step(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.bare["model"].parameters()))
    assert trainer.ema.updates == 0
    assert not math.isfinite(trainer.norms["model"])
    trainer.train_step(batch)
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.bare["model"].parameters()))
    assert all(torch.isfinite(p).all() for p in trainer.bare["model"].parameters())
    assert trainer.ema.updates == 1


# --- what is written


def test_metrics_and_sample_sheets_are_written(tmp_path: Path) -> None:
    Trainer(recipe(), tmp_path).run(steps=5, log_every=2)
    Trainer(recipe(), tmp_path).run(log_every=2)
    with open(tmp_path / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["step", "seconds", "name", "value"]
    assert sorted({int(r["step"]) for r in rows if r["name"] == "loss"}) == [2, 4, 6, 8]
    assert sorted({int(r["step"]) for r in rows if r["name"] == "val/error"}) == [4, 5, 8]
    progress = {int(r["step"]): float(r["value"]) for r in rows if r["name"] == "progress"}
    assert progress == {2: 1 / 8, 4: 3 / 8, 6: 5 / 8, 8: 7 / 8}
    assert {r["name"] for r in rows} >= {"gradient/model", "gradient/discriminator", "d"}
    sheet = cv2.imread(str(tmp_path / "samples" / "0000004.png"))
    assert sheet.shape == (4, 6, 3)
    assert tuple(sheet[0, 0]) == (50, 100, 200)


def test_recipe_lies_beside_the_checkpoints(tmp_path: Path) -> None:
    Trainer(recipe(ema=0.9), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text()) == asdict(recipe(ema=0.9))


def test_validation_has_its_own_data_and_options(tmp_path: Path) -> None:
    trainer = Trainer(recipe(data=RECIPE["data"] | {"options": {"scale": 2.0}}, validation={"scale": 0.5}), tmp_path)
    assert (trainer.dataset("train").scale, trainer.dataset("val").scale) == (2.0, 0.5)  # type: ignore[attr-defined]
    trainer.validate()
    assert Numbers.asked == [("val", 0), ("val", 1), ("val", 2)]


# --- recipes


def test_data_without_a_validation_side_are_never_asked_for_it(tmp_path: Path) -> None:
    entry = f"{OnlyToTrain.__module__}:{OnlyToTrain.__qualname__}"
    trainer = Trainer(recipe(validation_batches=0, data={"entry": entry}), tmp_path)
    trainer.run()
    assert trainer.validate() == {}
    with pytest.raises(UsageError, match="no val"):
        Trainer(recipe(validation_batches=1, data={"entry": entry}), tmp_path / "other").run()


class OnlyToTrain(Numbers):
    """Numbers without a validation side."""

    def __init__(self, split: str, seed: int) -> None:
        if split != "train":
            raise UsageError(f"no {split}")
        super().__init__(split, seed)


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return path


def test_recipe_is_read_whole(tmp_path: Path) -> None:
    assert asdict(Recipe.load(write(tmp_path, ema=0.5))) == asdict(recipe(ema=0.5))


def test_recipe_config_overrides_its_preset(tmp_path: Path) -> None:
    assert Trainer(recipe(), tmp_path).bare["model"].config.width == 3
    assert Trainer(recipe(config={}), tmp_path).bare["model"].config.width == 6
    assert Trainer(recipe(config={"preset": "compact", "width": 4}), tmp_path).bare["model"].config.width == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stepz": 1}, "unknown entry 'stepz'; did you mean 'steps'"),
        ({"bogus": 1}, "unknown entry 'bogus'; it has system, steps"),
        ({"precision": "fp16"}, "precision 'fp16' is not possible: input should be 'fp32' or 'bf16'"),
        ({"batch_size": 0}, "batch_size 0 is not possible: input should be greater than or equal to 1"),
        ({"ema": 1.0}, "ema 1.0 is not possible: input should be less than 1"),
        ({"system": "nosuch"}, "unknown model 'nosuch'"),
        ({"config": {"preset": "huge"}}, "no preset 'huge'; choose from compact"),
        ({"config": {"depth": 3}}, "config does not fit toy"),
        ({"training": {}}, "is not a 'module:Class'"),
        ({"training": {"entry": "no.such.module:X"}}, "is not a 'module:Class'"),
        ({"training": {"entry": f"{__name__}:Nothing"}}, "is not a 'module:Class'"),
        ({"training": {"entry": f"{__name__}:ToyTraining", "options": {"speed": 9}}}, "do not fit ToyTraining"),
    ],
)
def test_mistakes_in_recipes_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Trainer(Recipe.load(write(tmp_path, **changes)), tmp_path / "run")


def test_mistakes_in_data_options_are_named(tmp_path: Path) -> None:
    trainer = Trainer(recipe(validation={"sharpness": 1}), tmp_path)
    with pytest.raises(UsageError, match="do not fit Numbers"):
        trainer.validate()


def test_incomplete_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("system: toy\nsteps: 3\n")
    with pytest.raises(UsageError, match=r"recipe .*recipe\.yaml: batch_size is missing; training is missing; data is"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_shipped_recipes_are_valid() -> None:
    from pathlib import Path as RealPath

    folder = RealPath(__file__).parents[2] / "recipes"
    found = sorted(folder.glob("*.yaml"))
    if not found:
        pytest.skip("the recipes are not here")
    for path in found:
        Recipe.load(path)
