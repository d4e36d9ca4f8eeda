"""PrintScan: tiles agree with the whole, any size works, the loss falls on what it should learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.systems.damage.printscan.network import PrintScan, PrintScanConfig
from facewright.systems.damage.printscan.training import PrintScanTraining, dice_loss

TINY = PrintScanConfig(widths=(4, 6, 8))


@pytest.fixture
def model() -> PrintScan:
    torch.manual_seed(0)
    return PrintScan(TINY).eval()


def test_compact_is_what_ships() -> None:
    assert 0.3e6 < sum(p.numel() for p in PrintScan(PrintScanConfig.compact()).parameters()) < 0.4e6


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (33, 50), (64, 1)])
def test_any_size_is_answered(model: PrintScan, shape: tuple[int, int]) -> None:
    found = model.find(np.zeros((*shape, 3), np.uint8))
    assert found.shape == shape
    assert ((found >= 0) & (found <= 1)).all()


def test_tiles_agree_with_the_whole(model: PrintScan, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    whole = model.find(image)
    monkeypatch.setattr(PrintScan, "tile", 112)
    np.testing.assert_allclose(model.find(image), whole, atol=1e-4)


def test_grey_tensors_are_refused(model: PrintScan) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        model(torch.zeros(1, 1, 12, 16))


def test_dice_of_known_masks() -> None:
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    sure = (2 * target - 1) * 50
    assert float(dice_loss(sure, target)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(-sure, target)) == pytest.approx(1 - 1 / 17, abs=1e-6)


def test_it_learns_a_line() -> None:
    torch.manual_seed(0)
    model = PrintScan(TINY)
    training = PrintScanTraining(model, lr=5e-3)
    image = torch.full((2, 32, 32, 3), 90, dtype=torch.uint8)
    image[:, :, 15:17] = 250
    batch = {"image": image, "lost": (image[..., 0] > 200)[:, None]}
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(60):
        training.step(batch, update, 0.0)
    with torch.no_grad():
        assert training.validate(batch)["f1"] > 0.9
