"""Maps of modules that do not learn: the same as computing them at every step, and computed once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from facewright.data import maps as kept_maps
from facewright.data.maps import KeptMaps
from facewright.systems.action_units.mlcr.network import MLCR, MLCRConfig
from facewright.systems.action_units.mlcr.training import MLCRTraining
from facewright.systems.age.fpage.network import STRIDE, FPAge, FPAgeConfig, RecogniserParser
from facewright.systems.age.fpage.training import FPAgeTraining

if TYPE_CHECKING:
    from pathlib import Path

SMALL = dataclasses.replace(FPAgeConfig.compact(), size=64, crop=64, width=16, hidden=8, blocks=1)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_maps, "data_cache", lambda: tmp_path)


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shallow(network: FPAge) -> nn.Module:
    """The stages that do not learn."""
    assert isinstance(network.parser, RecogniserParser)
    return network.parser.stages.eval()


def test_items_keep_everything_but_the_picture_and_are_made_once() -> None:
    torch.manual_seed(0)
    network = FPAge(SMALL)
    modules = shallow(network)
    images, asked = pictures(20, 64), []

    def item(number: int) -> dict[str, torch.Tensor]:
        asked.append(number)
        return {"image": images[number], "age": torch.tensor(float(number))}

    kept = KeptMaps("ages", network, modules, item, 20, "settings")
    assert asked == list(range(20))
    with torch.inference_mode(), network.picture_autocast():
        expected = modules(network.normalise(images[17:18].numpy()))[0]
    found = kept[17]
    assert set(found) == {"maps", "age"}
    assert float(found["age"]) == 17
    assert found["maps"].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.utils.data.default_collate([kept[0], kept[1]])
    assert (found["maps"] - expected).abs().max() < 2e-3 * expected.abs().max()
    KeptMaps("ages", network, modules, item, 20, "settings")
    assert len(asked) == 20
    KeptMaps("ages", network, modules, item, 20, "others")
    assert len(asked) == 40
    with torch.no_grad():
        next(modules.parameters()).mul_(1.5)
    KeptMaps("ages", network, modules, item, 20, "settings")
    assert len(asked) == 60


def test_nothing_is_kept_of_preparing_that_broke() -> None:
    network = FPAge(SMALL)
    modules = shallow(network)

    def item(number: int) -> dict[str, torch.Tensor]:
        if number == 18 and not mended:
            raise OSError("the disk is gone")
        return {"image": pictures(1, 64)[0]}

    mended = False
    with pytest.raises(OSError, match="the disk"):
        KeptMaps("ages", network, modules, item, 20, 0)
    mended = True
    kept = KeptMaps("ages", network, modules, item, 20, 0)
    assert torch.equal(kept[0]["maps"], kept[19]["maps"])


def test_training_on_maps_is_training_on_pictures() -> None:
    torch.manual_seed(0)
    images, side = pictures(4, 64), 64 // STRIDE
    ages = FPAge(SMALL).train()
    by_age = FPAgeTraining(ages)
    labels = torch.randint(0, 11, (4, side, side), dtype=torch.uint8)
    shared = {"age": torch.tensor([5.0, 20.0, 40.0, 70.0]), "labels": labels}
    actions = MLCR(MLCRConfig(64, 64, ("AU1", "AU4"), "recogniser", 8, expressions=True)).train()
    by_action = MLCRTraining(actions)
    units = {"units": torch.tensor([[1, -1], [-1, 1], [0, 0], [1, 1]]), "expression": torch.tensor([-1, 2, 3, -1])}
    losses: list[torch.Tensor] = []
    cases = (by_age, ages, shallow(ages), shared), (by_action, actions, actions.shared, units)
    for training, model, modules, rest in cases:
        with torch.no_grad():
            maps = modules.eval()(model.normalise(images.numpy()))
        for batch in ({"image": images, **rest}, {"maps": maps, **rest}):
            torch.manual_seed(1)
            training.step(batch, lambda _, loss: losses.append(loss), 0.5)
        torch.testing.assert_close(losses[-2], losses[-1], rtol=1e-5, atol=1e-5)
        losses[-1].backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained) > 0.9 * len(trained)
        assert not any(p.requires_grad for p in modules.parameters())
