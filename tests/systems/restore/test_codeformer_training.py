"""CodeFormer's three stages: what each learns, by which loss, and one after the other from their recipes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from facewright.errors import WeightsError
from facewright.systems.restore.codeformer.network import CodeFormer, CodeFormerConfig
from facewright.systems.restore.codeformer.training import CodebookStage, CodeLoss, CodePredictionStage, FusionStage
from facewright.training.trainer import Recipe, Trainer, signed

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
TINY = CodeFormerConfig(
    size=16,
    width=32,
    multipliers=(1, 1),
    attention_at=(8,),
    codes=8,
    code_dim=32,
    layers=1,
    heads=2,
    dim=16,
    fuse_at=(16,),
)


def build(seed: int = 0, **changes: Any) -> CodeFormer:
    torch.manual_seed(seed)
    model = CodeFormer(dataclasses.replace(TINY, **changes))
    with torch.no_grad():
        model.net.quantiser.codebook.normal_()
    return model


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    folder: Path = build(seed=1).save_pretrained(tmp_path / "dictionary")
    return folder


def batch(count: int = 3) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    high = torch.from_numpy(rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))
    return {"hq": high, "lq": 255 - high, "mask": torch.ones(count, 1, 16, 16, dtype=torch.bool)}


def stepped(training: Any, items: dict[str, Tensor], progress: float = 1.0) -> tuple[dict[str, float], set[str]]:
    """What a step logs, and the parts of the network that it moved."""
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    optimisers = training.optimisers()

    def update(name: str, loss: Tensor) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        optimisers[name].step()

    logs = training.step(items, update, progress)
    moved = {".".join(n.split(".")[:2]) for n, p in training.model.named_parameters() if not torch.equal(p, before[n])}
    return {key: float(value) for key, value in logs.items()}, moved


def test_the_first_stage_learns_the_autoencoder_alone() -> None:
    logs, moved = stepped(CodebookStage(build().train(), discriminator_width=4, gan_from=0.0), batch())
    assert moved == {"net.encoder", "net.quantiser", "net.decoder"}
    assert {"reconstruction", "code", "gan", "d", "perplexity"} == set(logs)


def test_the_second_stage_learns_encoder_and_transformer_alone(dictionary: Path) -> None:
    training = CodePredictionStage(build().train(), dictionary=dictionary, lr=1e-3)
    first = CodeFormer.from_pretrained(dictionary)
    assert torch.equal(training.model.net.quantiser.codebook, first.net.quantiser.codebook)
    _, moved = stepped(training, batch())
    assert {part.split(".")[0] for part in moved} == {"net", "embed", "position", "transformer", "norm", "classify"}
    assert {part for part in moved if part.startswith("net")} == {"net.encoder"}


def test_the_third_stage_leaves_codebook_and_decoder(dictionary: Path) -> None:
    training = FusionStage(build().train(), dictionary=dictionary, discriminator_width=4, gan_from=0.0)
    logs, moved = stepped(training, batch())
    assert not moved & {"net.quantiser", "net.decoder"}
    assert {"net.encoder", "transforms.16"} <= moved
    assert logs["code"] > 0
    assert training.last_weight is training.model.transforms["16"].shift[-1].weight  # type: ignore[union-attr, index]


def test_the_code_loss_by_hand() -> None:
    first = build(seed=1)
    loss = CodeLoss(first, token_weight=0.5)
    truth, mask = signed(batch(2)["hq"]), torch.ones(2, 1, 16, 16)
    mask[:, :, :, 8:] = 0  # of 8×8 positions the right half does not count
    codes = loss.wanted(truth)
    latents = first.net.encode(truth)[0]
    distance = torch.cdist(latents.flatten(2).transpose(1, 2).detach(), first.net.quantiser.codebook.detach())
    assert torch.equal(codes.flatten(1), distance.argmin(2))
    logits = torch.randn(2, 64, 8, requires_grad=True)
    features = (first.net.quantiser.lookup(codes) + 0.2).detach().requires_grad_()
    with torch.no_grad():
        features[..., 4:] += 5
    found = loss(logits, features, truth, mask)
    assert float(found["features"].detach()) == pytest.approx(0.04, rel=1e-4)
    each = F.cross_entropy(logits.view(2, 8, 8, 8)[:, :, :4].reshape(-1, 8), codes[:, :, :4].flatten())
    torch.testing.assert_close(found["token"], 0.5 * each)
    (found["token"] + found["features"]).backward()
    assert features.grad is not None
    assert (features.grad[..., :4] > 0).all()  # back to the codes
    assert not features.grad[..., 4:].any()


def test_wanted_are_the_codes_of_the_undamaged_face(dictionary: Path) -> None:
    training = CodePredictionStage(build().train(), dictionary=dictionary)
    items = batch()
    wanted = training.codes.wanted(signed(items["hq"]))
    with torch.no_grad():
        logits, features = training.model.predict_codes(signed(items["lq"]))
        found = training.validate(items)
    assert found["right"] == pytest.approx(float((logits.argmax(2).view(wanted.shape) == wanted).float().mean()))
    away = (features - training.codes.dictionary.net.quantiser.lookup(wanted)).square().mean()
    assert found["features"] == pytest.approx(float(away.detach()), rel=1e-4)


def test_codes_can_be_learnt(dictionary: Path) -> None:
    training = CodePredictionStage(build().train(), dictionary=dictionary, lr=5e-3)
    optimiser = training.optimisers()["model"]

    def update(_: str, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    items = batch(2)
    logs = [float(training.step(items, update, 0.0)["token"]) for _ in range(12)]
    assert logs[-1] < 0.8 * logs[0]


def test_a_dictionary_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = build(codes=16).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="another auto-encoder"):
        CodePredictionStage(build(), dictionary=folder)


class Faces(Dataset[dict[str, Tensor]]):
    """Noise in the place of faces."""

    def __init__(self, split: str, seed: int, **options: Any) -> None:
        self.items = batch(4)

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[index % 4] for key, value in self.items.items()}


def test_the_three_recipes_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    from facewright.training import display

    if not RECIPES.is_dir():
        pytest.skip("the recipes are not part of this installation")
    monkeypatch.setattr(display, "_tensorboard", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    tiny = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(TINY).items()}
    for stage in ("dictionary", "codes", "fusion"):
        written = Recipe.load(RECIPES / f"codeformer-{stage}.yaml")
        options = written.training["options"]
        small = {"discriminator_width": 4, "gan_from": 0.0} if "discriminator_width" in options else {}
        recipe = dataclasses.replace(
            written,
            config=tiny,
            training={**written.training, "options": options | small},
            data={"entry": f"{__name__}:Faces"},
            validation={},
            steps=2,
            batch_size=2,
            validation_batches=1,
            workers=0,
            precision="fp32",
        )
        Trainer(recipe, f"runs/codeformer-{stage}").run()
        said = Path(f"runs/codeformer-{stage}/metrics.csv").read_text()
        assert ("val/right" if stage == "codes" else "val/code") in said
    restored = CodeFormer.from_pretrained("runs/codeformer-fusion/model").restore(batch()["lq"].numpy())
    assert restored.shape == (3, 16, 16, 3)
