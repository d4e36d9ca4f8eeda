"""Trainings of face parsers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facewright.systems.parse.easyportrait.network import EasyPortrait, EasyPortraitConfig
from facewright.systems.parse.easyportrait.training import EasyPortraitTraining
from facewright.systems.parse.rtnet.network import RTNet, RTNetConfig
from facewright.systems.parse.rtnet.training import RTNetTraining

if TYPE_CHECKING:
    from facewright.systems.parse.parser_training import ParserTraining


def halves(size: int, label: int) -> dict[str, torch.Tensor]:
    """Pictures dark on the left and bright, with `label`, on the right; the first rows do not count."""
    image = np.full((2, size, size, 3), 40, np.uint8)
    image[:, :, size // 2 :] = 210
    labels = np.zeros((2, size, size), np.uint8)
    labels[:, :, size // 2 :] = label
    labels[:, :4] = 255
    return {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}


def losses(training: ParserTraining, batch: dict[str, torch.Tensor], steps: int) -> list[float]:
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return [float(training.step(batch, update, 0.0)["loss"]) for _ in range(steps)]


@pytest.fixture
def easyportrait() -> EasyPortrait:
    torch.manual_seed(0)
    return EasyPortrait(EasyPortraitConfig(size=64, network="segformer_tiny"))


def test_easyportrait_learns_two_regions(easyportrait: EasyPortrait) -> None:
    training = EasyPortraitTraining(easyportrait, lr=1e-3)
    batch = halves(64, 2)
    course = losses(training, batch, 15)
    assert course[-1] < 0.5 * course[0]
    easyportrait.eval()
    with torch.inference_mode():
        scores = training.validate(batch)
    assert scores["miou"] > 0.5
    assert scores["f1"] > 0.8
    assert training.sample(batch).shape == (2 * 64, 3 * 64, 3)


def test_head_learns_faster_and_vectors_do_not_decay(easyportrait: EasyPortrait) -> None:
    optimiser = EasyPortraitTraining(easyportrait).optimisers()["model"]
    rates = {id(w): (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for w in g["params"]}
    found = {name: rates[id(weight)] for name, weight in easyportrait.named_parameters()}
    assert len(rates) == len(found)
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(6e-5 if name.startswith("net.encoder.") else 6e-4)
        assert decay == (0.01 if easyportrait.get_parameter(name).dim() > 1 else 0)


def test_rtnet_learns_in_the_polar_view() -> None:
    torch.manual_seed(0)
    model = RTNet(RTNetConfig(size=65, width=8))
    training = RTNetTraining(model, lr=0.02)
    batch = halves(65, 3) | {"box": torch.tensor([[0.0, 0, 10, 20]] * 2)}
    course = losses(training, batch, 25)
    assert course[-1] < 0.5 * course[0]


def test_rtnet_needs_the_boxes_ratio() -> None:
    torch.manual_seed(0)
    training = RTNetTraining(RTNet(RTNetConfig(size=65, width=8)).eval())
    batch = halves(65, 3)
    with torch.inference_mode():
        square = training.logits(batch | {"box": torch.tensor([[0.0, 0, 9, 9]] * 2)})
        large = training.logits(batch | {"box": torch.tensor([[5.0, 5, 95, 95]] * 2)})
        tall = training.logits(batch | {"box": torch.tensor([[0.0, 0, 9, 30]] * 2)})
    torch.testing.assert_close(square, large, atol=1e-6, rtol=1e-5)
    assert (square - tall).abs().max() > 1e-4
